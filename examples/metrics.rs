//! Exports metrics of flows at `/metrics`, for Prometheus and the dashboard in `examples/grafana`.
//!
//! `cargo run --features metrics --example metrics` starts a server, sends requests, asserts the
//! scraped metrics and exits. With `-- --serve 127.0.0.1:9464` it listens there and keeps sending
//! requests. The example `dashboard` of `tower-aperture-agent` adds an agent to it.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use axum::{BoxError, Router, body::Body, routing::get};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tower_aperture::policy::{ConcurrencyLimit, Policy};
use tower_aperture::{ApertureClient, ApertureLayer, Engine, metrics};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut args = std::env::args().skip_while(|arg| arg != "--serve");
    let stay = args.next().is_some();
    let address = args.next();
    let base = serve(address.as_deref().unwrap_or("127.0.0.1:0"), Router::new()).await?;
    println!("serving {base}/metrics");
    traffic(&base).await?;
    let scrape = ask(&base, "metrics").await?;
    for line in [
        r#"flows_total{control_point="checkout",decision="accepted",reason="none"} 5"#,
        r#"flows_total{control_point="checkout",decision="rejected",reason="rate_limited"} 3"#,
        r#"flows_total{control_point="profile",decision="unreachable",reason="unavailable"} 8"#,
        r#"queue_duration_seconds_count{control_point="report"} 1"#,
        "checks_spared_total 3\n", // After five failures the breaker stops the checks.
    ] {
        assert!(scrape.contains(line), "{line} is not in {scrape}");
    }
    while stay && traffic(&base).await.is_ok() {}
    Ok(())
}

/// Serves two routes with limits in process, one route whose Agent is not reachable, and `more`.
pub(crate) async fn serve(address: &str, more: Router) -> Result<String, BoxError> {
    // Installed before the first flow. Without buckets, the exporter makes summaries instead of
    // histograms.
    let scrape = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &metrics::BUCKETS)?
        .install_recorder()?;
    let policy = include_str!("grafana/policy.yaml");
    // Limits no request: it only shows its limit on the dashboard.
    let found = Policy::new("found")
        .at("thumbnail")
        .limit(ConcurrencyLimit::adaptive());
    let engine = Engine::builder()
        .policy_text("limits", policy)
        .policy(found)
        .build()?;
    let closed = tokio::net::TcpSocket::new_v4()?; // Bound, but not listening.
    closed.bind("127.0.0.1:0".parse()?)?;
    let agent = ApertureClient::builder().address(closed.local_addr()?.to_string());
    let profile = ApertureLayer::new(agent.insecure(true).build()?, "profile");
    let local = ApertureClient::embedded(engine.clone());
    let checkout = ApertureLayer::new(local.clone(), "checkout").result_cache_key(|_| "me".into());
    // As long as the scheduler's queue timeout: with the default of 200 ms, few reports would wait.
    let report = ApertureLayer::new(local, "report").check_timeout(Duration::from_secs(5));
    let metrics = move || {
        metrics::record_engine(&engine);
        std::future::ready(scrape.render())
    };
    let app = Router::new()
        .route("/checkout", get(async || "thanks").layer(checkout))
        .route("/report", get(async || "done").layer(report))
        .route("/profile", get(async || "me").layer(profile))
        .route("/metrics", get(metrics))
        .merge(more);
    let listener = tokio::net::TcpListener::bind(address).await?;
    let base = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { (axum::serve(listener, app).await, closed) });
    Ok(base)
}

/// Sends eight checkouts, of which five are accepted, eight profiles, and two reports, of which one
/// waits.
pub(crate) async fn traffic(base: &str) -> Result<(), BoxError> {
    for path in ["checkout", "profile"].repeat(8) {
        ask(base, path).await?;
    }
    tokio::try_join!(ask(base, "report"), ask(base, "report"))?;
    Ok(())
}

pub(crate) async fn ask(base: &str, path: &str) -> Result<String, BoxError> {
    let http = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let url = format!("{base}/{path}").parse()?;
    let body = http.get(url).await?.into_body().collect().await?;
    Ok(String::from_utf8(body.to_bytes().into())?)
}
