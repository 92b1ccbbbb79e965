//! Serves all metrics of the dashboard in `examples/grafana`: those of the example `metrics`, and
//! those of an agent at `/agent`, whose `/agent/metrics` shows the effect of its priorities.
//!
//! `cargo run -p tower-aperture-agent --example dashboard` sends requests and exits. With
//! `-- --serve 127.0.0.1:9464` it listens there and keeps sending requests.
#![allow(clippy::print_stdout)]

#[path = "../../../examples/metrics.rs"]
#[allow(dead_code)]
pub(crate) mod flows;

use axum::{BoxError, Router, body::Body};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower_aperture::Engine;
use tower_aperture_agent::{Agent, AgentService};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut args = std::env::args().skip_while(|arg| arg != "--serve");
    let stay = args.next().is_some();
    let base = serve(args.next().as_deref().unwrap_or("127.0.0.1:0")).await?;
    println!("serving {base}/metrics");
    traffic(&base).await?;
    while stay && traffic(&base).await.is_ok() {}
    Ok(())
}

/// Serves the routes of the example `metrics`, and an agent at `/agent`.
pub(crate) async fn serve(address: &str) -> Result<String, BoxError> {
    let agent = Router::new().nest_service("/agent", agent_service()?);
    flows::serve(address, agent).await
}

/// Sends the requests of the example `metrics`, and five checks to the agent, of which some wait.
pub(crate) async fn traffic(base: &str) -> Result<(), BoxError> {
    flows::traffic(base).await?;
    let tiers = ["bronze", "bronze", "bronze", "gold", "gold"];
    futures_util::future::try_join_all(tiers.map(|tier| render(base, tier))).await?;
    Ok(())
}

/// Returns an agent with a scheduler that gives gold the highest priority.
fn agent_service() -> Result<AgentService, BoxError> {
    let policy = include_str!("../../../examples/grafana/priorities.yaml");
    let engine = Engine::builder().policy_text("render", policy).build()?;
    Ok(Agent::builder(engine).build().service())
}

/// Sends a JSON check to the agent, like an SDK without gRPC, and waits for a token.
async fn render(base: &str, tier: &str) -> Result<(), BoxError> {
    let body =
        format!(r#"{{"control_point": "render", "labels": {{"tier": "{tier}", "tenant": "a"}}}}"#);
    let call =
        hyper::Request::post(format!("{base}/agent/v1/flowcontrol/check")).body(body.into())?;
    let http = Client::builder(TokioExecutor::new()).build_http::<Body>();
    http.request(call).await?.into_body().collect().await?;
    Ok(())
}
