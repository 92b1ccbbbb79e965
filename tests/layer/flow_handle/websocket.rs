//! WebSockets of axum under a concurrency limit.

use ::axum::Router;
use ::axum::extract::ws::{WebSocket, WebSocketUpgrade};
use ::axum::response::Response as AxumResponse;
use ::axum::routing::any;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tower_aperture::layer::FlowHold;
use tower_aperture::{ApertureClient, Engine, FlowParams};

use super::*;
use crate::layer_support::HANG;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

const TWO: &str = "
blueprint: concurrency-limiting/base
policy:
  policy_name: two
  concurrency_limiter:
    max_concurrency: 2
    parameters: {max_inflight_duration: 3600s}
    selectors: [{control_point: chat}]
";

async fn chat(flow: FlowHandle, upgrade: WebSocketUpgrade) -> AxumResponse {
    let hold = flow.hold();
    upgrade.on_upgrade(move |socket| echo(socket, hold))
}

/// Echoes each message; panics at `panic`.
async fn echo(mut socket: WebSocket, hold: FlowHold) {
    assert!(hold.is_open());
    while let Some(Ok(message)) = socket.recv().await {
        let text = message.into_text().expect("text");
        assert_ne!(
            text.as_str(),
            "panic",
            "the task panics, as the test intends"
        );
        if socket.send(text.as_str().into()).await.is_err() {
            return;
        }
    }
}

async fn serve() -> (String, ApertureClient) {
    let engine = Engine::builder().policy_text("two.yaml", TWO).build();
    let client = ApertureClient::embedded(engine.expect("a policy"));
    let layer = ApertureLayer::new(client.clone(), "chat").expose_flow();
    let app: Router = Router::new().route("/chat", any(chat)).route_layer(layer);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let listener = listener.expect("loopback");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move { ::axum::serve(listener, app).await });
    (format!("ws://{address}/chat"), client)
}

async fn connect(url: &str) -> Result<Socket, u16> {
    match connect_async(url).await {
        Ok((socket, response)) => {
            assert_eq!(response.status(), 101);
            Ok(socket)
        }
        Err(WsError::Http(response)) => Err(response.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

async fn send_and_expect_echo(socket: &mut Socket, text: &'static str) {
    socket.send(Message::text(text)).await.expect("sent");
    let echo = socket.next().await.expect("an echo").expect("no error");
    assert_eq!(echo.into_text().expect("text"), text);
}

/// Waits until a slot is free.
async fn wait_for_free_slot(client: &ApertureClient) {
    let free = async {
        loop {
            let flow = client.start_flow("chat", FlowParams::new()).await;
            if flow.should_run() {
                return;
            }
            drop(flow);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let freed = tokio::time::timeout(HANG, free).await;
    assert!(freed.is_ok(), "the slot is not returned");
}

#[tokio::test]
async fn a_websocket_holds_a_slot_until_it_ends_in_any_way() {
    let (url, client) = serve().await;
    let mut first = connect(&url).await.expect("a slot");
    send_and_expect_echo(&mut first, "one").await;
    // A clean close, a lost connection, and a task that panics.
    for way in 0..3 {
        let mut second = connect(&url).await.expect("a slot");
        send_and_expect_echo(&mut second, "two").await;
        assert_eq!(connect(&url).await.err(), Some(429), "both slots are taken");
        send_and_expect_echo(&mut first, "still here").await;
        match way {
            0 => second.close(None).await.expect("closed"),
            1 => drop(second),
            _ => {
                let panic = Message::text("panic");
                second.send(panic).await.expect("sent");
                assert!(!matches!(second.next().await, Some(Ok(Message::Text(_)))));
            }
        }
        wait_for_free_slot(&client).await;
    }
    send_and_expect_echo(&mut first, "to the end").await;
}
