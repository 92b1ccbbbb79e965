//! Limits the calls to a third-party service that allows bursts of two and ten calls a second. A
//! quota scheduler queues further calls. Shown with the client of hyper-util and with reqwest.
//!
//! `cargo run --example outgoing` asserts the results and exits.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

use axum::{Router, routing::get};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::layer::ClientError;
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

type Error = Box<dyn std::error::Error + Send + Sync>;

const POLICY: &str = "
blueprint: quota-scheduling/base
policy:
  policy_name: geocoder
  quota_scheduler:
    bucket_capacity: 2
    fill_amount: 10
    rate_limiter: {interval: 1s}
    scheduler: {default_workload_parameters: {queue_timeout: 10s}}
    selectors: [{control_point: geocoder}]
";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let api = Router::new().route("/", get(|| async { "52.5 N, 13.4 E" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, api).await });

    let engine = Engine::builder().policy_text("geocoder", POLICY).build()?;
    // The same as the queue timeout of the policy. The default is 200 ms.
    let check_timeout = Duration::from_secs(10);
    let client = ApertureClient::embedded_with_check_timeout(engine, check_timeout);
    let layer = ApertureLayer::new(client, "geocoder");

    // hyper-util: two calls are sent at once, and each of the other four waits for a token.
    let http = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let geocoder = layer.clone().into_client().layer(http);
    let start = Instant::now();
    for _ in 0..6 {
        let request = Request::get(&url).body(Empty::new())?;
        let position = geocoder.clone().oneshot(request).await?.into_body();
        assert_eq!(position.collect().await?.to_bytes(), "52.5 N, 13.4 E");
    }
    assert!(
        start.elapsed() >= Duration::from_millis(390),
        "the last four calls waited"
    );

    // reqwest has its own request type: this service converts from and to the types of `http`.
    let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::new();
    let http = service_fn(move |request: Request<reqwest::Body>| {
        let http = http.clone();
        async move {
            let response = http.execute(request.try_into()?).await?;
            Ok::<Response<reqwest::Body>, reqwest::Error>(response.into())
        }
    });
    let request = || Request::get(&url).body(reqwest::Body::default());
    let geocoder = layer.clone().into_client().layer(http.clone());
    let position = geocoder.oneshot(request()?).await?.into_body();
    assert_eq!(position.collect().await?.to_bytes(), "52.5 N, 13.4 E");

    // With a short check timeout, calls are rejected before they are sent.
    let short_timeout = layer.check_timeout(Duration::from_millis(20)).into_client();
    let calls = (0..10).map(|_| Ok(short_timeout.layer(http.clone()).oneshot(request()?)));
    let calls = join_all(calls.collect::<Result<Vec<_>, http::Error>>()?).await;
    let mut rejected = calls.iter().filter_map(|call| match call {
        Err(ClientError::Rejected(rejection)) => Some(rejection),
        _ => None,
    });
    println!(
        "with a short check timeout: {}",
        rejected.next().ok_or("no call was rejected")?
    );
    Ok(())
}
