//! The layer sends the attributes of requests with the check, and classifiers in the policy make
//! labels from them.
//!
//! `cargo run --example check_http` starts a server, sends requests, asserts the responses and
//! exits.
#![allow(clippy::print_stdout)]

use axum::{Router, body::Body, http::HeaderMap, routing::post};
use http::Request;
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::ServiceBuilder;
use tower_aperture::layer::CaptureBody;
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

/// Two requests an hour per user. The user is in the body, and the device in a header.
const POLICY: &str = "
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{control_point: graphql, label_matcher: {match_labels: {http.method: POST}}}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 2}}
          fill_amount: {constant_signal: {value: 2}}
        parameters: {interval: 3600s, limit_by_label_key: user}
resources:
  flow_control:
    classifiers:
    - selectors: [{control_point: graphql}]
      rules:
        user: {extractor: {json: {from: request.http.body, pointer: /user}}}
        device: {extractor: {from: request.http.headers.x-device}}
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().policy_text("graphql", POLICY).build()?;
    let layer = ApertureLayer::http(ApertureClient::embedded(engine), "graphql")
        .send_header("x-device")
        .label("service", "shop");

    // Handlers get the labels as members of `baggage`.
    let handler = async |headers: HeaderMap, body: String| {
        let baggage = headers.get("baggage").and_then(|value| value.to_str().ok());
        format!("{} for {body}", baggage.unwrap_or("nothing"))
    };
    let app: Router = Router::new().route("/graphql", post(handler)).route_layer(
        // Policies and the handler get bodies of up to 4 KiB; longer ones are rejected with 413.
        ServiceBuilder::new()
            .layer(CaptureBody::new(4096))
            .layer(layer),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/graphql", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });

    let http = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let send = async |body: &'static str| {
        let request = Request::post(&url).header("x-device", "phone");
        let response = http.request(request.body(Body::from(body))?).await?;
        let (head, body) = response.into_parts();
        let body = String::from_utf8(body.collect().await?.to_bytes().into())?;
        Ok::<_, Box<dyn std::error::Error>>((head, body))
    };

    let (head, body) = send(r#"{"user": "ann"}"#).await?;
    assert_eq!(head.status, 200);
    assert_eq!(
        body,
        r#"service=shop,device=phone,user=ann for {"user": "ann"}"#
    );
    assert_eq!(send(r#"{"user": "ann"}"#).await?.0.status, 200);
    let (head, _) = send(r#"{"user": "ann"}"#).await?;
    assert_eq!(head.status, 429);
    assert!(head.headers.contains_key("retry-after"));
    assert_eq!(send(r#"{"user": "bob"}"#).await?.0.status, 200);
    println!("limited to two requests an hour per user in the body");
    Ok(())
}
