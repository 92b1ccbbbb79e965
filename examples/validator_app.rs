//! The service that the SDK conformance checks of Aperture test.
//!
//! `/super` is under flow control, `/connected` reports whether the Agent responds, and `/health`
//! always returns 200. Environment variables, with their defaults: `APERTURE_AGENT_ADDRESS`
//! (`localhost:8089`), `APERTURE_AGENT_INSECURE` (`true`), `APERTURE_API_KEY` (none) and
//! `APERTURE_APP_PORT` (8080).
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::StatusCode;
use tower_aperture::{ApertureClient, ApertureLayer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let setting = |name: &str, default: &str| std::env::var(name).unwrap_or(default.to_owned());
    let client = ApertureClient::builder()
        .address(setting("APERTURE_AGENT_ADDRESS", "localhost:8089"))
        .insecure(setting("APERTURE_AGENT_INSECURE", "true").parse()?)
        .api_key(setting("APERTURE_API_KEY", ""))
        .build()?;

    let app = Router::new()
        .route("/super", get(|| async { StatusCode::ACCEPTED }))
        .route_layer(
            ApertureLayer::new(client.clone(), "awesomeFeature")
                .label("user", "kenobi")
                .labels(|head, labels| labels.insert("http.target", head.uri().path())),
        )
        .route("/health", get(|| async { "Healthy" }))
        .route("/connected", get(connected))
        .with_state(client.clone());

    let port: u16 = setting("APERTURE_APP_PORT", "8080").parse()?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown_signal())
        .await?;
    client.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// Reports whether the Agent is ready. Opens the connection if there is none yet.
async fn connected(State(client): State<ApertureClient>) -> (StatusCode, &'static str) {
    if client.wait_ready(Duration::from_millis(500)).await {
        (StatusCode::OK, "Connected")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "Unavailable")
    }
}

/// Completes on SIGTERM or Ctrl-C.
async fn shutdown_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = tokio::signal::ctrl_c() => return,
            }
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
