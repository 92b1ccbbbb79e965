//! Calls to a third party that allows two at once and ten a second: a quota scheduler makes them
//! wait for their turn, over hyper-util's client and over reqwest.
//!
//! `cargo run --example outgoing` asserts what it says and ends.
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
    // As long as the policy lets a call wait. The default is 200 ms.
    let patience = Duration::from_secs(10);
    let client = ApertureClient::embedded_with_check_timeout(engine, patience);
    let layer = ApertureLayer::new(client, "geocoder");

    // hyper-util: two calls go at once, each of the other four waits for a token.
    let http = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let geocoder = layer.clone().into_client().layer(http);
    let start = Instant::now();
    for _ in 0..6 {
        let request = Request::get(&url).body(Empty::new())?;
        let place = geocoder.clone().oneshot(request).await?.into_body();
        assert_eq!(place.collect().await?.to_bytes(), "52.5 N, 13.4 E");
    }
    assert!(start.elapsed() >= Duration::from_millis(390), "paced");

    // reqwest has requests of its own: this makes it a service of `http`'s.
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
    let place = geocoder.oneshot(request()?).await?.into_body();
    assert_eq!(place.collect().await?.to_bytes(), "52.5 N, 13.4 E");

    // Who has no time to wait is told so before anything is sent.
    let impatient = layer.check_timeout(Duration::from_millis(20)).into_client();
    let calls = (0..10).map(|_| Ok(impatient.layer(http.clone()).oneshot(request()?)));
    let calls = join_all(calls.collect::<Result<Vec<_>, http::Error>>()?).await;
    let mut rejected = calls.iter().filter_map(|call| match call {
        Err(ClientError::Rejected(rejection)) => Some(rejection),
        _ => None,
    });
    println!("in a hurry: {}", rejected.next().ok_or("all got through")?);
    Ok(())
}
