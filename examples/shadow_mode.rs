//! What would these limits do? A layer in shadow mode decides and rejects nobody; a policy in a dry
//! run is tried beside those that are enforced.
//!
//! `cargo run --example shadow_mode` asserts what it says and ends.
#![allow(clippy::print_stdout)]

use axum::body::Body;
use axum::{Extension, Router, routing::get};
use http::{Request, StatusCode};
use tower::ServiceExt;
use tower_aperture::{ApertureClient, ApertureLayer, Engine, FlowDecision, Rejection};

fn policy(name: &str, requests: u32) -> String {
    format!(
        "
blueprint: rate-limiting/base
policy:
  policy_name: {name}
  rate_limiter:
    bucket_capacity: {requests}
    fill_amount: 1
    parameters: {{interval: 60s, limit_by_label_key: user_id}}
    selectors: [{{control_point: checkout}}]
"
    )
}

/// Answers with what was decided about it.
async fn checkout(decision: Extension<FlowDecision>, no: Option<Extension<Rejection>>) -> String {
    let reason = no.map_or("", |no| no.reason().as_str());
    format!("{:?} {reason}", decision.0)
}

/// Five requests of one user.
async fn five(client: &ApertureClient, shadow: bool) -> Vec<StatusCode> {
    let layer = ApertureLayer::new(client.clone(), "checkout")
        .label_from_header("user_id", "x-user-id")
        .insert_decision(true)
        .shadow_mode(shadow);
    let app = Router::new().route("/", get(checkout).route_layer(layer));
    let mut statuses = Vec::new();
    for _ in 0..5 {
        let request = Request::get("/").header("x-user-id", "ann");
        let request = request.body(Body::empty()).expect("a request");
        let response = app.clone().oneshot(request).await.expect("infallible");
        statuses.push(response.status());
        let said = axum::body::to_bytes(response.into_body(), 1024).await;
        println!(
            "  {} {:?}",
            statuses[statuses.len() - 1],
            said.expect("text")
        );
    }
    statuses
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("two requests a minute, in shadow mode:");
    let engine = Engine::builder()
        .policy_text("new", policy("new", 2))
        .build()?;
    let client = ApertureClient::embedded(engine);
    assert_eq!(five(&client, true).await, [200; 5]);
    let stats = client.stats();
    assert_eq!((stats.accepted, stats.rejected, stats.shadowed), (2, 3, 3));

    println!("four, enforced, and two in a dry run:");
    let engine = Engine::builder()
        .policy_text("now", policy("now", 4))
        .policy_text("new", policy("new", 2))
        .dry_run("new")
        .build()?;
    print!("{}", engine.describe());
    let client = ApertureClient::embedded(engine.clone());
    assert_eq!(five(&client, false).await, [200, 200, 200, 200, 429]);
    assert_eq!(engine.stats().dry_run_rejections, 3);
    Ok(())
}
