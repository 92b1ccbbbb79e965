//! A tonic server under flow control: the methods of its services are control points, metadata
//! become labels, and rejected clients get a retry delay.
//!
//! `cargo run --example tonic_server` asserts what it prints, and exits.
#![allow(clippy::print_stdout)]

use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Endpoint, Server};
use tonic::{Code, Request};
use tonic_health::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt;
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

// The health service takes the place of your own service.
const POLICY: &str = "
blueprint: rate-limiting/base
policy:
  policy_name: per-user
  rate_limiter:
    bucket_capacity: 2
    fill_amount: 1
    parameters: {interval: 60s, limit_by_label_key: user_id}
    selectors: [{control_point: grpc.health.v1.Health/Check}]
";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder().policy_text("users", POLICY).build()?;
    let client = ApertureClient::embedded(engine);
    // `/package.Service/Method` without the leading slash.
    let layer = ApertureLayer::with_control_point(client.clone(), |head| {
        head.uri().path().trim_start_matches('/').into()
    })
    .label_from_header("user_id", "x-user-id");

    let (reporter, health) = tonic_health::server::health_reporter();
    let serving = ServingStatus::Serving;
    reporter.set_service_status("shop", serving).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let server = Server::builder().layer(layer).add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));

    let channel = Endpoint::from_shared(address)?.connect().await?;
    let mut health = HealthClient::new(channel);
    let request = |user: &'static str| {
        let service = "shop".to_owned();
        let mut request = Request::new(HealthCheckRequest { service });
        let metadata = request.metadata_mut();
        metadata.insert("x-user-id", user.parse().expect("ASCII"));
        request
    };
    for _ in 0..2 {
        health.check(request("ann")).await?;
    }
    let status = health
        .check(request("ann"))
        .await
        .expect_err("the limit is two a minute");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let details = status.get_error_details();
    let wait = details.retry_info().and_then(|info| info.retry_delay);
    assert!(wait.is_some_and(|wait| wait.as_secs() <= 60));
    println!(
        "ann is rejected: {}; retry delay {wait:?}",
        status.message()
    );

    health.check(request("ben")).await?;
    // A stream is a flow too, here at a control point without a limit.
    let mut watch = health.watch(request("ann")).await?.into_inner();
    let current = watch.message().await?.expect("the current status");
    assert_eq!(
        current.status,
        tonic_health::pb::health_check_response::ServingStatus::Serving as i32
    );
    let stats = client.stats();
    assert_eq!((stats.accepted, stats.rejected), (4, 1));
    Ok(())
}
