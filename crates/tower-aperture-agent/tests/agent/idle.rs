//! Idle connections are closed, and a client that cancels many calls keeps its connection.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_aperture_agent::AgentBuilder;

use crate::caller::{Caller, TIMEOUT, frame, grpc};
use crate::support::{ONE_AT_A_TIME, Served, TWO, end_of, request};

const IDLE: Duration = Duration::from_millis(500);
const CLOSED: &str = "tower_aperture_agent_connections_idle_closed_total";

fn short_idle_timeout(agent: AgentBuilder) -> AgentBuilder {
    agent.idle_timeout(IDLE)
}

#[tokio::test]
async fn an_http_2_connection_without_calls_is_closed() {
    let served = Served::with(TWO, short_idle_timeout, None).await;
    // The client, hyper's, answers pings.
    let no_request = Caller::connect(&served, 1 << 20).await;
    let mut one_request = Caller::connect(&served, 1 << 20).await;
    let health = one_request.request("GET", "/health", Bytes::new()).await;
    assert!(health.is_some());
    drop(health);
    // A health watch is a call that never ends. It does not keep its connection open.
    let mut watching = Caller::connect(&served, 1 << 20).await;
    let watch = watching
        .request("POST", "/grpc.health.v1.Health/Watch", grpc(&[]))
        .await;
    assert!(watch.is_some());
    for caller in [no_request, one_request, watching] {
        caller.closed().await;
    }
    assert_eq!(served.metric(CLOSED), 3.0);
    drop(watch);
}

#[tokio::test]
async fn an_http_1_connection_without_calls_is_closed() {
    let served = Served::with(TWO, short_idle_timeout, None).await;
    for sent in [
        "",
        "GET /hea",
        "GET /health HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /health HTTP/1.1\r\nhost: a\r\n\r\nGET /metrics HTTP/1.1\r\nhost: a\r\n\r\nGET",
    ] {
        let mut stream = TcpStream::connect(served.address).await;
        let stream = stream.as_mut().expect("the agent listens");
        stream
            .write_all(sent.as_bytes())
            .await
            .expect("the agent reads");
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        let over = tokio::time::timeout(TIMEOUT, read).await;
        let _ = over.expect("the agent closes the connection");
    }
}

#[tokio::test]
async fn a_connection_with_a_flow_that_waits_is_not_idle() {
    let served = Served::with(ONE_AT_A_TIME, short_idle_timeout, None).await;
    let mut checks = served.checks().await;
    let holder = checks.check(request("render")).await.expect("an answer");
    let mut second = checks.clone();
    let waits = tokio::spawn(async move { second.check(request("render")).await });
    served.until_waiting(1.0).await;
    // Other connections, which are idle meanwhile, are closed.
    for _ in 0..3 {
        Caller::connect(&served, 1 << 20).await.closed().await;
    }
    served.until_waiting(1.0).await;
    let end = end_of(holder.get_ref());
    checks.flow_end(end).await.expect("an answer");
    let answer = tokio::time::timeout(TIMEOUT, waits).await;
    let answer = answer.expect("in time").expect("no panic");
    answer.expect("an answer");
}

#[tokio::test]
async fn a_client_that_cancels_a_thousand_calls_at_once_keeps_its_connection() {
    const CALLS: u32 = 1000;
    // `:method: GET`, `:scheme: http`, `:path: /health`, `:authority: a`.
    let headers = [&[0x82, 0x86, 0x04, 7][..], b"/health", &[0x01, 1], b"a"].concat();
    let served = Served::start(TWO).await;
    let mut stream = TcpStream::connect(served.address)
        .await
        .expect("the agent listens");
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    sent.extend(frame(4, 0, 0, &[]));
    for call in 0..CALLS {
        let id = 2 * call + 1;
        // HEADERS that end the stream, then RST_STREAM with CANCEL.
        sent.extend(frame(1, 0x05, id, &headers));
        sent.extend(frame(3, 0, id, &8_u32.to_be_bytes()));
    }
    let last = 2 * CALLS + 1;
    sent.extend(frame(1, 0x05, last, &headers));
    // One write, so that most calls are cancelled before the agent has read them.
    stream.write_all(&sent).await.expect("the agent reads");
    let answered = async {
        loop {
            let mut frame_head = [0; 9];
            stream
                .read_exact(&mut frame_head)
                .await
                .expect("the connection stays open");
            let length = u32::from_be_bytes([0, frame_head[0], frame_head[1], frame_head[2]]);
            let mut payload = vec![0; length as usize];
            stream.read_exact(&mut payload).await.expect("a frame");
            let id =
                u32::from_be_bytes([frame_head[5], frame_head[6], frame_head[7], frame_head[8]]);
            assert_ne!(
                frame_head[3], 7,
                "the agent closes the connection: {payload:?}"
            );
            if frame_head[3] == 0 && id == last {
                return payload;
            }
        }
    };
    let answer = tokio::time::timeout(TIMEOUT, answered).await;
    assert_eq!(answer.expect("an answer"), b"serving\n");
}
