//! The layer on axum: whole routers, routes and single handlers, over real HTTP.

use std::time::Duration;

use crate::layer_support::Recorder;
use crate::layer_support::server::{BOTH, Client, Version, serve};
use axum::Router;
use axum::extract::{MatchedPath, Path};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::layer::extension_str;
use tower_aperture::{ApertureLayer, Denial, Labels, RejectReason, Rejection, RequestHead};

async fn checkout(Path(id): Path<String>) -> String {
    format!("bought {id}")
}

async fn panicking() -> String {
    panic!("the handler ran and panicked")
}

async fn send_post(client: &mut Client, path: &str) -> (u16, String) {
    let uri = format!("http://shop.example{path}");
    let request = Request::post(uri).header("host", "shop.example");
    let response = client
        .send(request.header("x-user-id", "42"))
        .await
        .expect("a response");
    let status = response.status().as_u16();
    let body: Incoming = response.into_body();
    let body = body.collect().await.expect("a body").to_bytes();
    (status, String::from_utf8(body.into()).expect("text"))
}

async fn start(version: Version, app: Router) -> Client {
    Client::connect(version, serve(version, app).await).await
}

fn tier_of(head: RequestHead<'_>) -> &str {
    head.header("x-tier").unwrap_or("free")
}

/// A layer with every kind of setting, written as users write it: without lifetimes where the
/// compiler allows that.
#[allow(elided_lifetimes_in_paths)]
fn layer_with_every_setting(
    recorder: &Recorder,
) -> ApertureLayer<Recorder, impl Fn(&Rejection, RequestHead<'_>) -> axum::response::Response + use<>>
{
    ApertureLayer::new(recorder.clone(), "checkout")
        .label("service", "shop")
        .label_from_header("user_id", "x-user-id")
        .labels(|head: RequestHead<'_>, labels: &mut Labels| {
            labels.insert("tier", tier_of(head));
        })
        .check_timeout(Duration::from_millis(200))
        .ramp_mode(false)
        .skip(|head: RequestHead<'_>| head.uri().path() == "/health")
        .on_reject(|rejection: &Rejection, _: RequestHead<'_>| {
            (rejection.status(), "slow down").into_response()
        })
}

#[tokio::test]
async fn a_route_layer_protects_routes() {
    for version in BOTH {
        let recorder = Recorder::accepting();
        let app = Router::new()
            .route("/checkout/{id}", post(checkout))
            .route("/health", post(|| async { "fine" }))
            .route_layer(layer_with_every_setting(&recorder));
        let mut client = start(version, app).await;
        assert_eq!(
            send_post(&mut client, "/health").await,
            (200, "fine".into())
        );
        assert_eq!(send_post(&mut client, "/nowhere").await.0, 404);
        assert!(recorder.asked().is_empty());

        let answer = send_post(&mut client, "/checkout/7").await;
        assert_eq!(answer, (200, "bought 7".into()));
        let asked = recorder.question();
        assert_eq!(asked.label("service"), Some("shop"));
        assert_eq!(asked.label("user_id"), Some("42"));
        assert_eq!(asked.label("tier"), Some("free"));
        assert_eq!(recorder.ended().await, (Fine, Some(200)), "{version:?}");
    }
}

#[tokio::test]
async fn a_rejected_request_never_reaches_its_handler() {
    for version in BOTH {
        let recorder = Recorder::rejecting(Denial::new(RejectReason::RateLimited));
        let app = Router::new()
            .route("/checkout/{id}", post(panicking))
            .route_layer(layer_with_every_setting(&recorder));
        let mut client = start(version, app).await;
        let answer = send_post(&mut client, "/checkout/7").await;
        assert_eq!(answer, (429, "slow down".into()));
        assert_eq!(recorder.ended().await, (Unset, Some(429)), "{version:?}");
    }
}

#[tokio::test]
async fn a_layer_protects_a_whole_router_and_its_fallback() {
    let recorder = Recorder::accepting();
    let app = Router::new()
        .route("/checkout/{id}", post(checkout))
        .layer(ApertureLayer::new(recorder.clone(), "shop"));
    let mut client = start(Version::Http1, app).await;
    assert_eq!(send_post(&mut client, "/nowhere").await.0, 404);
    assert_eq!(recorder.ended().await, (Fine, Some(404)));
}

#[tokio::test]
async fn a_layer_protects_a_single_handler() {
    let recorder = Recorder::rejecting(Denial::new(RejectReason::NoTokens));
    let layer = ApertureLayer::new(recorder.clone(), "checkout");
    let app = Router::new()
        .route("/checkout/{id}", post(checkout).layer(layer))
        .route("/open", post(|| async { "open" }));
    let mut client = start(Version::Http1, app).await;
    assert_eq!(send_post(&mut client, "/open").await, (200, "open".into()));
    assert_eq!(
        send_post(&mut client, "/checkout/7").await,
        (503, String::new())
    );
    assert_eq!(recorder.ended().await, (Unset, Some(503)));
}

#[tokio::test]
async fn the_matched_path_becomes_control_point_and_label() {
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::with_control_point(
        recorder.clone(),
        extension_str::<MatchedPath>(MatchedPath::as_str),
    )
    .label_from("route", extension_str::<MatchedPath>(MatchedPath::as_str));
    let app = Router::new()
        .route("/checkout/{id}", post(checkout))
        .route_layer(layer);
    let mut client = start(Version::Http1, app).await;
    send_post(&mut client, "/checkout/7").await;
    let asked = recorder.question();
    assert_eq!(asked.control_point, "/checkout/{id}");
    assert_eq!(asked.label("route"), Some("/checkout/{id}"));
}

#[tokio::test]
async fn a_panic_of_the_handler_ends_the_flow_as_error() {
    let recorder = Recorder::accepting();
    let app = Router::new()
        .route("/", get(panicking))
        .layer(ApertureLayer::new(recorder.clone(), "shop"));
    let mut client = start(Version::Http1, app).await;
    assert!(client.get().await.is_err());
    assert_eq!(recorder.ended().await, (Error, None));
}

#[tokio::test]
async fn a_head_request_to_a_get_route_ends_the_flow_as_ok() {
    for version in BOTH {
        let recorder = Recorder::accepting();
        let app = Router::new()
            .route("/", get(|| async { "hello" }))
            .layer(ApertureLayer::new(recorder.clone(), "shop"));
        let mut client = start(version, app).await;
        let request = Request::head("http://shop.example/").header("host", "shop.example");
        client.send(request).await.expect("a response");
        assert_eq!(recorder.ended().await, (Fine, Some(200)), "{version:?}");
    }
}

/// A `Rejection` that a handler returns becomes the response that the layer sends.
#[cfg(feature = "axum")]
#[tokio::test]
async fn a_rejection_that_a_handler_returns_becomes_its_response() {
    use std::collections::HashMap;
    use tower_aperture::HttpExtras;

    async fn reject_with(Path(kind): Path<String>) -> Result<&'static str, Rejection> {
        let denial = Denial::new(RejectReason::RateLimited).wait(Duration::from_millis(1500));
        let plain = Rejection::new("export", denial);
        let html = [("content-type", "text/html"), ("x-policy", "per-user")];
        Err(match &*kind {
            "plain" => plain,
            "text" => plain.with_extras(HttpExtras::new([("x-policy", "per-user")], "not today")),
            "html" => plain.with_extras(HttpExtras::new(html, "<p>no</p>")),
            "code" => Rejection::new("export", denial.denied_code(402)),
            _ => return Ok("done"),
        })
    }

    for version in BOTH {
        let app = Router::new().route("/{kind}", post(reject_with));
        let mut client = start(version, app).await;
        let mut send_post = async |kind: &str| {
            let uri = format!("http://shop.example/{kind}");
            let request = Request::post(uri).header("host", "shop.example");
            let response = client.send(request).await.expect("a response");
            let status = response.status().as_u16();
            let fields = response.headers().iter();
            let fields: HashMap<_, _> = fields
                .map(|(name, value)| (name.to_string(), value.to_str().expect("text").to_owned()))
                .collect();
            let body = response.into_body().collect().await.expect("a body");
            let text = String::from_utf8(body.to_bytes().into()).expect("text");
            (status, fields, text)
        };
        let (status, fields, text) = send_post("plain").await;
        assert_eq!((status, &*text), (429, ""));
        assert_eq!(fields["retry-after"], "2");
        assert!(!fields.contains_key("content-type"));
        let (status, fields, text) = send_post("text").await;
        assert_eq!((status, &*text), (429, "not today"));
        assert_eq!(fields["content-type"], "text/plain; charset=utf-8");
        assert_eq!(fields["x-policy"], "per-user");
        let (_, fields, text) = send_post("html").await;
        assert_eq!(
            (&*fields["content-type"], &*text),
            ("text/html", "<p>no</p>")
        );
        assert_eq!(send_post("code").await.0, 402);
        assert_eq!(send_post("go").await.2, "done");
    }
}
