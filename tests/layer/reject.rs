//! Responses to rejected and to unreachable requests.

use std::convert::Infallible;
use std::future::ready;
use std::time::Duration;

use crate::layer_support::{Answer, Recorder};
use axum::body::Body;
use axum::response::IntoResponse;
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::layer::{AgentReject, DefaultReject, OnReject, ProblemDetails};
use tower_aperture::{
    ApertureLayer, Denial, FailureMode, FlowError, FlowErrorKind, HttpExtras, RejectReason,
    Rejection, RequestHead,
};

async fn send<R>(layer: &ApertureLayer<Recorder, R>, request: Request<()>) -> Response<Body>
where
    R: OnReject<Body> + Send + Sync + 'static,
    R::Body: Send + 'static,
{
    let inner =
        service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(Response::new(Body::from("inner")))));
    let response = layer
        .layer(inner)
        .oneshot(request)
        .await
        .expect("a response");
    response.map(Body::new)
}

async fn text(response: Response<Body>) -> String {
    let body = response.into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().into()).expect("text")
}

fn plain() -> Request<()> {
    Request::new(())
}

fn grpc() -> Request<()> {
    let request = Request::post("/shop.Cart/Add").header("content-type", "application/grpc+proto");
    request.body(()).expect("a request")
}

fn rejecting(denial: Denial) -> (Recorder, ApertureLayer<Recorder>) {
    let recorder = Recorder::rejecting(denial);
    (recorder.clone(), ApertureLayer::new(recorder, "checkout"))
}

#[tokio::test]
async fn the_response_has_the_status_of_the_reason() {
    for (reason, status) in [
        (RejectReason::RateLimited, 429),
        (RejectReason::NoTokens, 503),
        (RejectReason::NotSampled, 403),
        (RejectReason::NoMatchingRamp, 403),
        (RejectReason::DeadlineExceeded, 504),
        (RejectReason::Unknown, 403),
    ] {
        let (recorder, layer) = rejecting(Denial::new(reason));
        let response = send(&layer, plain()).await;
        assert_eq!(response.status(), status);
        assert_eq!(
            response.headers().len(),
            1,
            "without a wait, only one header"
        );
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.body().size_hint().exact(), Some(0));
        assert!(response.body().is_end_stream());
        assert_eq!(recorder.end(), (Unset, Some(status)));
        assert_eq!(text(response).await, "");
    }
}

#[tokio::test]
async fn the_response_has_the_status_of_the_policy_if_http_knows_it() {
    for (code, status) in [
        (0, 429),
        (100, 429),
        (199, 429),
        (200, 200),
        (418, 418),
        (599, 599),
        (600, 429),
    ] {
        let (_, layer) = rejecting(Denial::new(RejectReason::RateLimited).denied_code(code));
        assert_eq!(send(&layer, plain()).await.status(), status, "{code}");
    }
}

#[tokio::test]
async fn retry_after_is_in_seconds_and_rounded_up() {
    for (wait, header) in [
        (Duration::ZERO, None),
        (Duration::from_nanos(1), Some("1")),
        (Duration::from_millis(400), Some("1")),
        (Duration::from_secs(1), Some("1")),
        (Duration::from_millis(1001), Some("2")),
        (Duration::MAX, Some("18446744073709551615")),
    ] {
        let (_, layer) = rejecting(Denial::new(RejectReason::RateLimited).wait(wait));
        let response = send(&layer, plain()).await;
        let found = response.headers().get("retry-after");
        assert_eq!(found.map(|value| value.to_str().expect("text")), header);
    }
}

#[tokio::test]
async fn a_grpc_request_gets_a_grpc_status_and_no_body() {
    for (denied, code) in [
        (200, "2"),
        (400, "3"),
        (401, "16"),
        (403, "7"),
        (404, "5"),
        (408, "4"),
        (409, "10"),
        (412, "9"),
        (429, "8"),
        (500, "13"),
        (501, "12"),
        (503, "14"),
        (504, "4"),
        (418, "2"),
    ] {
        let denial = Denial::new(RejectReason::NoTokens)
            .denied_code(denied)
            .wait(Duration::from_micros(1_200_001));
        let (recorder, layer) = rejecting(denial);
        let response = send(&layer, grpc()).await;
        assert_eq!(response.status(), 200);
        assert!(response.body().is_end_stream(), "the response has no body");
        let headers = response.headers();
        assert_eq!(headers["content-type"], "application/grpc");
        assert_eq!(headers["grpc-status"], code, "{denied}");
        assert_eq!(headers["grpc-message"], "rejected: no capacity in time");
        assert_eq!(headers["retry-after"], "2");
        assert_eq!(headers["grpc-retry-pushback-ms"], "1201");
        assert_eq!(recorder.end(), (Unset, Some(200)));
    }
}

#[tokio::test]
async fn without_a_status_of_the_policy_the_reason_sets_the_grpc_status() {
    for (reason, code) in [
        (RejectReason::RateLimited, "8"),
        (RejectReason::NoTokens, "14"),
        (RejectReason::NotSampled, "7"),
    ] {
        let (_, layer) = rejecting(Denial::new(reason));
        let response = send(&layer, grpc()).await;
        assert_eq!(response.headers()["grpc-status"], code);
        assert!(!response.headers().contains_key("grpc-retry-pushback-ms"));
    }
}

#[tokio::test]
async fn only_a_post_with_a_grpc_media_type_is_a_grpc_request() {
    for (method, content_type, answered) in [
        ("POST", "application/grpc", Some("application/grpc")),
        ("POST", "application/grpc+proto", Some("application/grpc")),
        ("POST", "application/grpc+json", Some("application/grpc")),
        ("POST", "application/grpc ; v=1", Some("application/grpc")),
        (
            "POST",
            "Application/gRPC;charset=utf-8",
            Some("application/grpc"),
        ),
        ("POST", "application/grpc-web", Some("application/grpc-web")),
        (
            "POST",
            "application/grpc-web+proto",
            Some("application/grpc-web+proto"),
        ),
        (
            "POST",
            "APPLICATION/GRPC-WEB-TEXT",
            Some("APPLICATION/GRPC-WEB-TEXT"),
        ),
        (
            "POST",
            "application/grpc-web-text+proto;q=1",
            Some("application/grpc-web-text+proto;q=1"),
        ),
        ("POST", "application/grpcish", None),
        ("POST", "application/grpc-webby", None),
        ("POST", "application/grpc-web-texts", None),
        ("POST", "application/grpc-text", None),
        ("POST", "application/json", None),
        ("POST", "", None),
        ("GET", "application/grpc", None),
        ("HEAD", "application/grpc-web", None),
        ("PUT", "application/grpc-web-text", None),
    ] {
        let (_, layer) = rejecting(Denial::new(RejectReason::RateLimited));
        let request = Request::builder().method(method).uri("/shop.Cart/Add");
        let request = request.header("content-type", content_type);
        let response = send(&layer, request.body(()).expect("a request")).await;
        let headers = response.headers();
        let found = headers.get("content-type").map(http::HeaderValue::as_bytes);
        let case = format!("{method} {content_type:?}");
        assert_eq!(found, answered.map(str::as_bytes), "{case}");
        let status = if answered.is_some() { 200 } else { 429 };
        assert_eq!(response.status(), status, "{case}");
        let code = headers.get("grpc-status").map(http::HeaderValue::as_bytes);
        assert_eq!(code, answered.map(|_| &b"8"[..]), "{case}");
    }
}

#[tokio::test]
async fn a_reject_hook_determines_the_whole_response() {
    let denial = Denial::new(RejectReason::RateLimited).wait(Duration::from_millis(1500));
    let (recorder, layer) = rejecting(denial);
    let layer = layer.on_reject(|rejection: &Rejection, head: RequestHead<'_>| {
        assert_eq!(rejection.control_point(), "checkout");
        assert_eq!(rejection.reason(), RejectReason::RateLimited);
        assert_eq!(rejection.retry_after(), Some(Duration::from_millis(1500)));
        (
            StatusCode::IM_A_TEAPOT,
            [("x-path", head.uri().path().to_owned())],
            "slow down",
        )
            .into_response()
    });
    let request = Request::get("/cart").body(()).expect("a request");
    let response = send(&layer, request).await;
    assert_eq!(response.status(), 418);
    assert_eq!(response.headers()["x-path"], "/cart");
    assert!(
        !response.headers().contains_key("retry-after"),
        "the layer adds no header"
    );
    assert_eq!(recorder.end(), (Unset, Some(418)));
    assert_eq!(text(response).await, "slow down");
}

#[tokio::test]
async fn a_reject_hook_responds_to_a_late_rejection() {
    let recorder = Recorder::by_hand();
    let layer =
        ApertureLayer::with_control_point(recorder.clone(), |head| head.uri().path().into())
            .on_reject(|rejection, head: RequestHead<'_>| {
                assert_eq!(rejection.control_point(), head.uri().path());
                Response::new(Body::from("later"))
            });
    let request = Request::get("/cart").body(()).expect("a request");
    let response = tokio::spawn(async move { send(&layer, request).await });
    recorder.asked_once().await;
    recorder.answer(Answer::Reject(Denial::new(RejectReason::NoTokens)));
    assert_eq!(text(response.await.expect("no panic")).await, "later");
    assert_eq!(recorder.end(), (Unset, Some(200)));
}

#[tokio::test]
async fn a_reject_hook_can_fall_back_to_the_default() {
    struct Html;

    impl OnReject<Body> for Html {
        type Body = Body;

        fn on_reject(&self, rejection: &Rejection, head: RequestHead<'_>) -> Response<Body> {
            if head.header("accept") == Some("text/html") {
                return (rejection.status(), "<p>later</p>").into_response();
            }
            let response = OnReject::<Body>::on_reject(&DefaultReject::new(), rejection, head);
            response.map(|_| Body::empty())
        }
    }

    let (_, layer) = rejecting(Denial::new(RejectReason::RateLimited));
    let layer = layer.reject_with(Html);
    let html = Request::get("/").header("accept", "text/html");
    let response = send(&layer, html.body(()).expect("a request")).await;
    assert_eq!(text(response).await, "<p>later</p>");
    assert_eq!(text(send(&layer, plain()).await).await, "");
}

#[tokio::test]
async fn an_unreachable_request_runs_unless_the_layer_fails_closed() {
    let error = || FlowError::new(FlowErrorKind::Timeout, "no response");
    let new = || {
        let recorder = Recorder::unreachable(error());
        (recorder.clone(), ApertureLayer::new(recorder, "checkout"))
    };

    let runs = async |(recorder, layer): (Recorder, ApertureLayer<Recorder>)| {
        let response = send(&layer, plain()).await;
        assert!(recorder.ends().is_empty(), "an unreachable flow has no end");
        match response.status().as_u16() {
            200 => true,
            503 => false,
            other => panic!("status {other}"),
        }
    };
    let with = |change: fn(ApertureLayer<Recorder>) -> ApertureLayer<Recorder>| {
        let (recorder, layer) = new();
        (recorder, change(layer))
    };
    assert!(runs(new()).await);
    assert!(!runs(with(|layer| layer.ramp_mode(true))).await);
    assert!(!runs(with(|layer| layer.on_unreachable(FailureMode::Closed))).await);
    let open = with(|layer| layer.on_unreachable(FailureMode::Open).ramp_mode(true));
    assert!(
        runs(open).await,
        "a configured failure mode prevails over ramp mode"
    );
    let chosen = with(|layer| {
        layer.on_unreachable_with(|error, head| {
            assert!(error.is_timeout() && head.uri().path() == "/");
            FailureMode::Closed
        })
    });
    assert!(!runs(chosen).await);
}

#[tokio::test]
async fn the_reject_hook_responds_to_unreachable_requests() {
    let recorder = Recorder::unreachable(FlowError::new(FlowErrorKind::Unavailable, ""));
    let layer = ApertureLayer::new(recorder.clone(), "checkout")
        .on_unreachable(FailureMode::Closed)
        .on_reject(|rejection, _| {
            assert_eq!(rejection.reason(), RejectReason::Unreachable);
            (rejection.status(), "try later").into_response()
        });
    let response = send(&layer, plain()).await;
    assert_eq!(response.status(), 503);
    assert_eq!(text(response).await, "try later");

    let layer = ApertureLayer::new(recorder, "checkout").on_unreachable(FailureMode::Closed);
    let response = send(&layer, grpc()).await;
    assert_eq!(response.headers()["grpc-status"], "14");
}

#[tokio::test]
async fn a_request_with_a_late_unreachable_decision_runs() {
    let recorder = Recorder::by_hand();
    let layer = ApertureLayer::new(recorder.clone(), "checkout");
    let response = tokio::spawn(async move { send(&layer, plain()).await });
    recorder.asked_once().await;
    let error = FlowError::new(FlowErrorKind::Unavailable, "");
    recorder.answer(Answer::Unreachable(error));
    assert_eq!(text(response.await.expect("no panic")).await, "inner");
    assert!(recorder.ends().is_empty());
}

#[tokio::test]
async fn an_accepted_request_gets_the_inner_response_unchanged() {
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "checkout");
    let response = send(&layer, plain()).await;
    assert!(response.headers().is_empty());
    assert_eq!(text(response).await, "inner");
    let (status, code) = recorder.end();
    assert_ne!(status, Error);
    assert_eq!((status, code), (Fine, Some(200)));
}

#[test]
fn two_headers_of_one_name_stay_two_in_every_response() {
    let extras = HttpExtras::new(
        [
            ("set-cookie", "a=1"),
            ("Set-Cookie", "b=2; Path=/"),
            ("SET-COOKIE", "a=1"),
            ("www-authenticate", "Basic"),
            ("www-authenticate", "Bearer"),
            ("x-own", "1"),
            ("x-own", "2"),
        ],
        "no",
    );
    let all = |headers: &http::HeaderMap, name: &str| {
        let values = headers.get_all(name).iter();
        let text = values.map(|value| value.to_str().expect("text").to_owned());
        text.collect::<Vec<_>>()
    };
    let check = |headers: &http::HeaderMap| {
        let cookies = all(headers, "set-cookie");
        assert_eq!(cookies, ["a=1", "b=2; Path=/", "a=1"]);
        assert_eq!(all(headers, "www-authenticate"), ["Basic", "Bearer"]);
        assert_eq!(all(headers, "x-own"), ["1", "2"]);
    };
    check(extras.headers());
    let denial = Denial::new(RejectReason::RateLimited).wait(Duration::from_secs(3));
    let rejection = Rejection::new("checkout", denial).with_extras(extras);
    check(rejection.headers().expect("some"));
    for request in [plain(), grpc()] {
        let head = RequestHead::new(&request);
        check(OnReject::<Body>::on_reject(&DefaultReject::new(), &rejection, head).headers());
        check(OnReject::<Body>::on_reject(&AgentReject, &rejection, head).headers());
        let problem = OnReject::<Body>::on_reject(&ProblemDetails::new(), &rejection, head);
        check(problem.headers());
    }
    #[cfg(feature = "axum")]
    check(rejection.clone().into_response().headers());
    #[cfg(feature = "remote")]
    check(tonic::Status::from(rejection).metadata().as_ref());
}

#[test]
fn a_single_valued_header_keeps_the_last_value_and_protocol_headers_stay() {
    let extras = HttpExtras::new(
        [
            ("content-type", "text/html"),
            ("Content-Type", "text/plain"),
            ("location", "/a"),
            ("location", "/b"),
            ("retry-after", "7"),
            ("grpc-status", "0"),
        ],
        "",
    );
    let denial = Denial::new(RejectReason::RateLimited).wait(Duration::from_secs(3));
    let rejection = Rejection::new("checkout", denial).with_extras(extras);
    let all = |request: &Request<()>, name: &str| {
        let head = RequestHead::new(request);
        let response = OnReject::<Body>::on_reject(&DefaultReject::new(), &rejection, head);
        let values = response.headers().get_all(name).iter();
        let text = values.map(|value| value.to_str().expect("text").to_owned());
        text.collect::<Vec<_>>()
    };
    assert_eq!(all(&plain(), "content-type"), ["text/plain"]);
    assert_eq!(all(&plain(), "location"), ["/b"]);
    assert_eq!(all(&plain(), "retry-after"), ["3"]);
    assert_eq!(all(&grpc(), "content-type"), ["application/grpc"]);
    assert_eq!(all(&grpc(), "grpc-status"), ["8"]);
}

/// RFC 6585, section 4; policies may set a status that caches store by default.
#[tokio::test]
async fn no_rejection_may_be_cached() {
    fn check(response: &Response<Body>, context: &str) {
        let values: Vec<_> = response.headers().get_all("cache-control").iter().collect();
        assert_eq!(values, ["no-store"], "{context}");
    }
    // Statuses of policies, over HTTP and gRPC, with each kind of response.
    for code in [0, 200, 204, 301, 304, 404, 410, 429, 451, 503] {
        for request in [plain, grpc] {
            let denial = || Denial::new(RejectReason::RateLimited).denied_code(code);
            let (_, layer) = rejecting(denial());
            check(&send(&layer, request()).await, "default");
            let (_, layer) = rejecting(denial());
            check(
                &send(&layer.reject_with(AgentReject), request()).await,
                "agent",
            );
            let (_, layer) = rejecting(denial());
            check(&send(&layer.problem_details(), request()).await, "problem");
            #[cfg(feature = "axum")]
            check(
                &Rejection::new("checkout", denial()).into_response(),
                "axum",
            );
        }
    }
    // The cache headers of a decider are replaced.
    let values = [
        ("cache-control", "public, max-age=60"),
        ("cache-control", "x"),
    ];
    let rejection = || {
        let denial = Denial::new(RejectReason::Unknown);
        Rejection::new("checkout", denial).with_extras(HttpExtras::new(values, "no"))
    };
    let request = plain();
    let head = RequestHead::new(&request);
    let response = OnReject::<Body>::on_reject(&DefaultReject::new(), &rejection(), head);
    check(&response.map(|_| Body::empty()), "extras");
    let response = OnReject::<Body>::on_reject(&AgentReject, &rejection(), head);
    check(&response.map(|_| Body::empty()), "extras");
    let response = OnReject::<Body>::on_reject(&ProblemDetails::new(), &rejection(), head);
    check(&response.map(|_| Body::empty()), "extras");
    // Unreachable requests.
    let error = || FlowError::new(FlowErrorKind::Unavailable, "");
    let unreachable = || ApertureLayer::new(Recorder::unreachable(error()), "checkout");
    let closed = unreachable().on_unreachable(FailureMode::Closed);
    check(&send(&closed, plain()).await, "unreachable");
    check(&send(&closed, grpc()).await, "unreachable");
    check(
        &send(&unreachable().ramp_mode(true), plain()).await,
        "ramp mode",
    );
    // Requests without a required label.
    let strict = ApertureLayer::new(Recorder::accepting(), "checkout").require_label("user_id");
    let strict = strict.label_from_header("user_id", "x-user-id");
    check(&send(&strict, plain()).await, "label");
    check(&send(&strict, grpc()).await, "label");
}

#[tokio::test]
async fn a_reject_hook_decides_whether_its_response_may_be_cached() {
    for (own, expected) in [
        (None, "no-store"),
        (Some("max-age=5"), "max-age=5"),
        (Some("private"), "private"),
    ] {
        let (_, layer) = rejecting(Denial::new(RejectReason::RateLimited));
        let layer = layer.on_reject(move |_: &Rejection, _: RequestHead<'_>| {
            let mut response = Response::new(Body::from("slow down"));
            if let Some(own) = own {
                let value = http::HeaderValue::from_static(own);
                response.headers_mut().insert("cache-control", value);
            }
            response
        });
        let response = send(&layer, plain()).await;
        let values: Vec<_> = response.headers().get_all("cache-control").iter().collect();
        assert_eq!(values, [expected]);
    }
}
