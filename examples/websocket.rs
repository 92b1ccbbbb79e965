//! An axum server that limits the number of open WebSockets.
//!
//! The response to a WebSocket request is over with its head. The handler takes a hold of the flow,
//! so that the flow keeps its concurrency slot until the socket is closed.
//!
//! `cargo run --example websocket --features axum` starts a server, opens sockets, asserts what it
//! prints, and exits.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::Response;
use axum::routing::any;
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::connect_async;
use tokio_tungstenite::tungstenite::{self, Message};
use tower_aperture::layer::{FlowHandle, FlowHold};
use tower_aperture::{ApertureClient, ApertureLayer, Engine, FlowStatus};

/// At most two open sockets. A slot is returned after a day at the latest.
const POLICY: &str = "
blueprint: concurrency-limiting/base
policy:
  policy_name: open-chats
  concurrency_limiter:
    max_concurrency: 2
    parameters: {max_inflight_duration: 86400s}
    selectors: [{control_point: chat}]
";

async fn chat(flow: FlowHandle, upgrade: WebSocketUpgrade) -> Response {
    let hold = flow.hold();
    upgrade.on_upgrade(move |socket| echo(socket, hold))
}

/// Echoes messages. The flow ends when `hold` is dropped: when the task returns, panics or is
/// aborted.
async fn echo(mut socket: WebSocket, hold: FlowHold) {
    while let Some(message) = socket.recv().await {
        let sent = match message {
            Ok(message) => socket.send(message).await,
            Err(error) => Err(error),
        };
        if sent.is_err() {
            hold.flow().set_status(FlowStatus::Error);
            return;
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::builder()
        .policy_text("open-chats.yaml", POLICY)
        .build()?;
    let client = ApertureClient::embedded(engine);
    let app = Router::new()
        .route("/chat", any(chat))
        .route_layer(ApertureLayer::new(client.clone(), "chat").expose_flow());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("ws://{}/chat", listener.local_addr()?);
    let server = tokio::spawn(async move { axum::serve(listener, app).await });

    let (mut first, _) = connect_async(&url).await?;
    let (mut second, _) = connect_async(&url).await?;
    for socket in [&mut first, &mut second] {
        socket.send(Message::text("hello")).await?;
        let echo = socket
            .next()
            .await
            .ok_or("the server closed the connection")??;
        assert_eq!(echo.into_text()?, "hello");
    }
    println!("two sockets are open");

    match connect_async(&url).await {
        Err(tungstenite::Error::Http(response)) => {
            assert_eq!(response.status(), 429);
            println!("the third socket is rejected with {}", response.status());
        }
        other => return Err(format!("the third socket was not rejected: {other:?}").into()),
    }

    second.close(None).await?;
    // The server needs a moment to notice the close.
    let third = loop {
        match connect_async(&url).await {
            Ok((socket, _)) => break socket,
            Err(tungstenite::Error::Http(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => return Err(error.into()),
        }
    };
    println!("after one socket is closed, the next one gets its slot");

    drop((first, third));
    server.abort();
    client.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
