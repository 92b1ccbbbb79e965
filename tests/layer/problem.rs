//! Responses to rejected requests as RFC 9457 problem details, with real servers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use crate::layer_support::Recorder;
use crate::layer_support::inner::hello;
use crate::layer_support::server::{BOTH, Client, Version, serve};
use axum::{Router, routing::get};
use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::FlowStatus::Unset;
use tower_aperture::layer::{DefaultReject, OnReject, ProblemDetails, RequestHead};
use tower_aperture::{ApertureLayer, Denial, RejectReason, Rejection};

const JSON: &str = "application/problem+json";

async fn start(version: Version, recorder: Recorder) -> SocketAddr {
    let layer = ApertureLayer::new(recorder, "checkout").problem_details();
    let inner = service_fn(async |_| Ok::<_, Infallible>(hello()));
    serve(version, layer.layer(inner)).await
}

async fn send(version: Version, address: SocketAddr, method: &str) -> (u16, HeaderMap, String) {
    let mut client = Client::connect(version, address).await;
    let uri = match version {
        Version::Http1 => "/",
        Version::Http2 => "http://shop.example/",
    };
    let request = Request::builder().method(method).uri(uri);
    let response = client.send(request.header("host", "shop.example")).await;
    let (head, body) = response.expect("a response").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let text = String::from_utf8(body.into()).expect("text");
    (head.status.as_u16(), head.headers, text)
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

#[tokio::test]
async fn a_rejection_is_sent_as_problem_details() {
    for version in BOTH {
        let denial = Denial::new(RejectReason::RateLimited).wait(Duration::from_millis(1200));
        let recorder = Recorder::rejecting(denial);
        let address = start(version, recorder.clone()).await;
        let (status, headers, text) = send(version, address, "GET").await;
        assert_eq!(status, 429);
        assert_eq!(headers["content-type"], JSON);
        assert_eq!(headers["retry-after"], "2");
        assert_eq!(
            parse(&text),
            json!({
                "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
                "title": "Quota Exceeded",
                "status": 429,
                "detail": "rejected: rate limited",
                "reason": "rate_limited",
                "control_point": "checkout",
                "retry_after": 2,
            })
        );
        assert_eq!(recorder.end(), (Unset, Some(429)));
    }
}

#[tokio::test]
async fn a_head_request_gets_the_same_head_without_a_body() {
    for version in BOTH {
        let recorder = Recorder::rejecting(Denial::new(RejectReason::NoTokens));
        let address = start(version, recorder).await;
        let (status, headers, text) = send(version, address, "GET").await;
        assert_eq!(status, 503);
        assert_eq!(
            headers["content-length"].to_str().expect("ASCII"),
            text.len().to_string()
        );
        let (status, alone, text) = send(version, address, "HEAD").await;
        assert_eq!((status, text.as_str()), (503, ""));
        for name in ["content-type", "content-length"] {
            assert_eq!(alone[name], headers[name], "{version:?}");
        }
    }
}

#[tokio::test]
async fn accepted_requests_are_answered_by_the_service() {
    let address = start(Version::Http1, Recorder::accepting()).await;
    let (status, headers, text) = send(Version::Http1, address, "GET").await;
    assert_eq!((status, text.as_str()), (200, "hello"));
    assert!(!headers.contains_key("content-type"));
}

/// Returns the headers and the body of a rejection by a layer around a router.
async fn problem(denial: Denial, hook: ProblemDetails, content_type: &str) -> (HeaderMap, String) {
    let recorder = Recorder::rejecting(denial);
    let layer = ApertureLayer::new(recorder, "checkout").reject_with(hook);
    let app: Router = Router::new().route("/", get(|| async {})).layer(layer);
    let request = Request::post("/").header("content-type", content_type);
    let request = request.body(axum::body::Body::empty());
    let response = app.oneshot(request.expect("a request")).await;
    let (head, body) = response.expect("a response").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let text = String::from_utf8(body.into()).expect("text");
    (head.headers, text)
}

#[tokio::test]
async fn a_problem_has_the_registered_type_of_its_status_and_reason() {
    let iana = |name| format!("https://iana.org/assignments/http-problem-types#{name}");
    let blank = || "about:blank".to_owned();
    for (reason, code, about, title) in [
        (
            RejectReason::RateLimited,
            0,
            iana("quota-exceeded"),
            "Quota Exceeded",
        ),
        (
            RejectReason::RateLimited,
            503,
            blank(),
            "Service Unavailable",
        ),
        (
            RejectReason::NoTokens,
            0,
            iana("temporary-reduced-capacity"),
            "Temporary Reduced Capacity",
        ),
        (RejectReason::NoTokens, 418, blank(), "I'm a teapot"),
        (RejectReason::NotSampled, 0, blank(), "Forbidden"),
        (RejectReason::NoMatchingRamp, 599, blank(), "Rejected"),
    ] {
        let denial = Denial::new(reason).denied_code(code);
        let (_, text) = problem(denial, ProblemDetails::new(), "text/plain").await;
        let problem = parse(&text);
        assert_eq!(problem["type"], about);
        assert_eq!(problem["title"], title);
        assert_eq!(problem["status"], denial.status().as_u16());
        assert_eq!(problem["reason"], reason.as_str());
        assert_eq!(problem.get("retry_after"), None, "the wait is unknown");
    }
}

#[tokio::test]
async fn grpc_clients_get_a_grpc_status_instead_of_problem_details() {
    let hook = ProblemDetails::over(DefaultReject::new().already_exists(true));
    let denial = Denial::new(RejectReason::RateLimited).denied_code(409);
    let (headers, text) = problem(denial, hook, "application/grpc").await;
    assert_eq!(headers["grpc-status"], "6");
    assert_eq!(headers["content-type"], "application/grpc");
    assert_eq!(text, "");
}

#[tokio::test]
async fn a_status_that_allows_no_body_gets_no_problem_details() {
    for code in [204, 205, 304] {
        let denial = Denial::new(RejectReason::RateLimited).denied_code(code);
        let (headers, text) = problem(denial, ProblemDetails::new(), "text/plain").await;
        assert_eq!(text, "");
        assert!(!headers.contains_key("content-type"), "{code}");
    }
}

proptest! {
    #[test]
    fn every_control_point_is_valid_json(name in any::<String>()) {
        let denial = Denial::new(RejectReason::RateLimited);
        let rejection = Rejection::new(name.as_str(), denial);
        let request = Request::new(());
        let response = OnReject::<axum::body::Body>::on_reject(
            &ProblemDetails::new(),
            &rejection,
            RequestHead::new(&request),
        );
        prop_assert_eq!(&parse(response.body().text())["control_point"], &json!(name));
    }
}
