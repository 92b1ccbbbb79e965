//! Two ways to observe limits without enforcing them: shadow mode, in which a layer runs rejected
//! requests, and a dry run, in which a single policy decides without effect beside enforced ones.
//!
//! `cargo run --example shadow_mode` asserts what it prints, and exits.
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

/// Responds with the decision about the request.
async fn checkout(
    decision: Extension<FlowDecision>,
    rejection: Option<Extension<Rejection>>,
) -> String {
    let reason = rejection.map_or("", |rejection| rejection.reason().as_str());
    format!("{:?} {reason}", decision.0)
}

/// Sends five requests of one user.
async fn send_five(client: &ApertureClient, shadow: bool) -> Vec<StatusCode> {
    let layer = ApertureLayer::new(client.clone(), "checkout")
        .label_from_header("user_id", "x-user-id")
        .insert_decision(true)
        .shadow_mode(shadow);
    let app = Router::new().route("/", get(checkout).route_layer(layer));
    let mut statuses = Vec::new();
    for _ in 0..5 {
        let request = Request::get("/").header("x-user-id", "ann");
        let request = request.body(Body::empty()).expect("a valid request");
        let response = app.clone().oneshot(request).await.expect("infallible");
        statuses.push(response.status());
        let body = axum::body::to_bytes(response.into_body(), 1024).await;
        println!(
            "  {} {:?}",
            statuses[statuses.len() - 1],
            body.expect("a text")
        );
    }
    statuses
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("a limit of two requests a minute, in shadow mode:");
    let engine = Engine::builder()
        .policy_text("new", policy("new", 2))
        .build()?;
    let client = ApertureClient::embedded(engine);
    assert_eq!(send_five(&client, true).await, [200; 5]);
    let stats = client.stats();
    assert_eq!((stats.accepted, stats.rejected, stats.shadowed), (2, 3, 3));

    println!("an enforced limit of four, and a limit of two in a dry run:");
    let engine = Engine::builder()
        .policy_text("now", policy("now", 4))
        .policy_text("new", policy("new", 2))
        .dry_run("new")
        .build()?;
    print!("{}", engine.describe());
    let client = ApertureClient::embedded(engine.clone());
    assert_eq!(send_five(&client, false).await, [200, 200, 200, 200, 429]);
    assert_eq!(engine.stats().dry_run_rejections, 3);
    Ok(())
}
