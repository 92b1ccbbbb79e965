//! Connections on which nothing is asked, and clients that cancel all that they asked.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_aperture::agent::AgentBuilder;

use crate::caller::{Caller, PATIENCE, grpc};
use crate::support::{ONE_AT_A_TIME, Served, TWO, end_of, request};

const IDLE: Duration = Duration::from_millis(500);
const CLOSED: &str = "tower_aperture_agent_connections_idle_closed_total";

fn soon(agent: AgentBuilder) -> AgentBuilder {
    agent.idle_timeout(IDLE)
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_is_closed_over_http_2_too() {
    let served = Served::with(TWO, soon, None).await;
    // A client that answers pings: hyper's does.
    let silent = Caller::connect(&served, 1 << 20).await;
    let mut asked = Caller::connect(&served, 1 << 20).await;
    let health = asked.ask("GET", "/health", Bytes::new()).await;
    assert!(health.is_some());
    drop(health);
    // A watch goes on for ever, and asks nothing.
    let mut watches = Caller::connect(&served, 1 << 20).await;
    let watch = watches
        .ask("POST", "/grpc.health.v1.Health/Watch", grpc(&[]))
        .await;
    assert!(watch.is_some());
    for caller in [silent, asked, watches] {
        caller.closed().await;
    }
    assert_eq!(served.metric(CLOSED), 3.0);
    drop(watch);
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_is_closed_over_http_1_too() {
    let served = Served::with(TWO, soon, None).await;
    for sent in [
        "",
        "GET /hea",
        "GET /health HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: a\r\n\r\nGET /metrics HTTP/1.1\r\nhost: a\r\n\r\nGET",
    ] {
        let mut stream = TcpStream::connect(served.address).await;
        let stream = stream.as_mut().expect("it listens");
        stream.write_all(sent.as_bytes()).await.expect("it reads");
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        let over = tokio::time::timeout(PATIENCE, read).await;
        let _ = over.expect("it is closed");
    }
}

#[tokio::test]
async fn a_connection_with_a_flow_that_waits_is_not_idle() {
    let served = Served::with(ONE_AT_A_TIME, soon, None).await;
    let mut checks = served.checks().await;
    let holder = checks.check(request("render")).await.expect("an answer");
    let mut second = checks.clone();
    let waits = tokio::spawn(async move { second.check(request("render")).await });
    served.until_waiting(1.0).await;
    // A connection that is idle meanwhile is closed.
    for _ in 0..3 {
        Caller::connect(&served, 1 << 20).await.closed().await;
    }
    served.until_waiting(1.0).await;
    let end = end_of(holder.get_ref());
    checks.flow_end(end).await.expect("an answer");
    let answer = tokio::time::timeout(PATIENCE, waits).await;
    let answer = answer.expect("in time").expect("no panic");
    answer.expect("an answer");
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn a_client_that_cancels_all_its_calls_at_once_keeps_its_connection() {
    const CALLS: u32 = 1000;
    // `:method: GET`, `:scheme: http`, `:path: /health`, `:authority: a`.
    let head = [&[0x82, 0x86, 0x04, 7][..], b"/health", &[0x01, 1], b"a"].concat();
    let served = Served::start(TWO).await;
    let mut stream = TcpStream::connect(served.address)
        .await
        .expect("it listens");
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    for call in 0..CALLS {
        let id = 2 * call + 1;
        // Headers that end the stream, and the end of it: CANCEL.
        sent.extend(frame(1, 0x05, id, &head));
        sent.extend(frame(3, 0, id, &8_u32.to_be_bytes()));
    }
    let last = 2 * CALLS + 1;
    sent.extend(frame(1, 0x05, last, &head));
    // All of it at once, so that most are cancelled before the agent has taken them.
    stream.write_all(&sent).await.expect("it reads");
    let answered = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("it stays open");
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.expect("a frame");
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            assert_ne!(head[3], 7, "the connection is given up: {payload:?}");
            if head[3] == 0 && id == last {
                return payload;
            }
        }
    };
    let answer = tokio::time::timeout(PATIENCE, answered).await;
    assert_eq!(answer.expect("an answer"), b"serving\n");
}
