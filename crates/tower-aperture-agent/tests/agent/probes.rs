//! `/livez` and `/readyz`, while the agent serves and while it shuts down.

use std::net::Ipv4Addr;

use axum::Router;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower_aperture_agent::Agent;

use crate::caller::{Caller, TIMEOUT, frame};
use crate::support::{Served, TWO, engine};

#[tokio::test]
async fn a_serving_agent_is_live_and_ready() {
    let served = Served::start(TWO).await;
    for (path, word) in [("/livez", "live\n"), ("/readyz", "ready\n")] {
        let answer = served.http(path, &[], None).await;
        assert_eq!(answer, Ok((200, word.to_owned())), "{path}");
        let (status, _) = served.http(path, &[], Some("")).await.expect("an answer");
        assert_eq!(status, 405, "{path} is read only");
        let mut caller = Caller::connect(&served, 1 << 20).await;
        let answer = caller.request("GET", path, Bytes::new()).await;
        assert_eq!(answer.expect("an answer over HTTP/2").status(), 200);
    }
}

#[tokio::test]
async fn an_agent_that_shuts_down_is_live_but_not_ready() {
    let agent = Agent::builder(engine(TWO)).build();
    let app: Router = Router::new().fallback_service(agent.service());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
    let listener = listener.expect("a port");
    let address = listener.local_addr().expect("its address");
    let server = tokio::spawn(async move { axum::serve(listener, app).await });
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let get = async |path: &str| {
        let url = format!("http://{address}{path}").parse().expect("a URL");
        let answer = client.get(url).await.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a whole answer");
        (status, body.to_bytes())
    };
    assert_eq!(get("/readyz").await, (200, "ready\n".into()));
    agent.shutdown();
    assert_eq!(get("/readyz").await, (503, "ending\n".into()));
    assert_eq!(get("/livez").await, (200, "live\n".into()));
    server.abort();
}

/// Returns the header block of a GET, for HTTP/2.
fn get(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).expect("a short path");
    // `:method: GET`, `:scheme: http`, `:path`, `:authority: a`.
    [
        &[0x82, 0x86, 0x04, length][..],
        path.as_bytes(),
        &[0x01, 1],
        b"a",
    ]
    .concat()
}

/// Reads frames until the body of the stream `id`, or `None` if the connection is closed.
async fn body_of(stream: &mut TcpStream, id: u32) -> Option<Vec<u8>> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.ok()?;
        let of = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        if head[3] == 0 && of == id {
            return Some(payload);
        }
    }
}

#[tokio::test]
async fn during_shutdown_an_open_connection_is_told_and_a_new_one_is_refused() {
    let mut served = Served::start(TWO).await;
    let mut stream = TcpStream::connect(served.address)
        .await
        .expect("the agent listens");
    let mut send = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    send.extend(frame(4, 0, 0, &[]));
    // HEADERS that end the stream.
    send.extend(frame(1, 0x05, 1, &get("/readyz")));
    // A call that never ends: a POST of `/v1/flowcontrol/check` without its body.
    let check = [&[0x83][..], &get("/v1/flowcontrol/check")[1..]].concat();
    send.extend(frame(1, 0x04, 3, &check));
    stream.write_all(&send).await.expect("the agent reads");
    let ready = tokio::time::timeout(TIMEOUT, body_of(&mut stream, 1)).await;
    assert_eq!(ready.expect("in time").expect("an answer"), b"ready\n");

    served.begin_shutdown();
    let refused = async {
        while TcpStream::connect(served.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    let refused = tokio::time::timeout(TIMEOUT, refused).await;
    refused.expect("new connections are refused");
    // The agent waits for the acknowledgement of its PING before it refuses streams.
    send.clear();
    send.extend(frame(1, 0x05, 5, &get("/readyz")));
    send.extend(frame(1, 0x05, 7, &get("/livez")));
    stream.write_all(&send).await.expect("the agent reads");
    for (id, word) in [(5, &b"ending\n"[..]), (7, b"live\n")] {
        let body = tokio::time::timeout(TIMEOUT, body_of(&mut stream, id)).await;
        assert_eq!(body.expect("in time").expect("an answer"), word);
    }
}

#[tokio::test]
async fn probes_count_as_connections_and_return_their_memory() {
    let served = Served::with(TWO, |agent| agent.max_connections(1), None).await;
    let mut only = Caller::connect(&served, 1 << 20).await;
    let answer = only.request("GET", "/livez", Bytes::new()).await;
    assert_eq!(answer.expect("an answer").status(), 200);
    let probe = served.http("/readyz", &[], None).await;
    assert!(probe.is_err(), "{probe:?}");
    let counted = "tower_aperture_agent_connections_turned_away_total";
    assert_eq!(served.metric(counted), 1.0);
    // More probes than the memory of one connection would hold at once.
    for _ in 0..3000 {
        let answer = only.request("GET", "/readyz", Bytes::new()).await;
        let body = answer.expect("an answer").into_body().collect().await;
        assert_eq!(body.expect("a whole answer").to_bytes(), "ready\n");
    }
    assert_eq!(
        served.metric("tower_aperture_agent_over_budget_total"),
        0.0,
        "{}",
        served.agent.metrics()
    );
}
