//! Callers that are killed, never read, or send what nobody should; reloads meanwhile.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tower_aperture::Engine;
use tower_aperture::engine::ManualClock;
use tower_aperture::pb::check::check_response::{DecisionType, RejectReason};
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;
use tower_aperture::pb::check::{CheckRequest, CheckResponse};
use tower_aperture::pb::checkhttp::CheckHttpRequest;
use tower_aperture::pb::checkhttp::check_http_request::HttpRequest;
use tower_aperture::pb::checkhttp::flow_control_service_http_client::FlowControlServiceHttpClient;

use crate::support::{ONE_AT_A_TIME, Served, TWO, end_of, request};

const PATIENCE: Duration = Duration::from_secs(60);
const SLOTS: usize = 1000;

/// So many flows at once, each for a minute at most.
fn slots(most: usize) -> String {
    format!(
        "
blueprint: concurrency-limiting/base
policy:
  policy_name: slots
  concurrency_limiter:
    max_concurrency: {most}
    parameters: {{max_inflight_duration: 60s, limit_by_label_key: user_id}}
    selectors: [{{control_point: slots}}]
"
    )
}

async fn is_accepted(checks: &mut FlowControlServiceClient<Channel>, control_point: &str) -> bool {
    let answer = checks.check(request(control_point)).await;
    answer.expect("an answer").get_ref().decision_type() == DecisionType::Accepted
}

const HELD_AT: &str = "TOWER_APERTURE_TEST_HOLDS_SLOTS_AT";

/// The client that is killed.
#[test]
#[ignore = "runs as a process of its own, which another test kills"]
#[allow(clippy::print_stdout)]
fn holds_slots_until_it_is_killed() {
    let address = std::env::var(HELD_AT).expect("only the other test starts it");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let endpoint = Endpoint::from_shared(address).expect("an address");
        let checks = FlowControlServiceClient::new(endpoint.connect().await.expect("it listens"));
        let held = join_all((0..SLOTS).map(|_| {
            let mut checks = checks.clone();
            async move { is_accepted(&mut checks, "slots").await }
        }));
        assert!(held.await.into_iter().all(|held| held));
        println!("\nholding");
        std::future::pending::<()>().await;
    });
}

#[tokio::test]
async fn a_client_that_is_killed_holds_its_slots_no_longer_than_the_policy_says() {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("slots.yaml", slots(SLOTS))
        .clock(clock.clone())
        .build();
    let served = Served::over(engine.expect("a sound policy"), |agent| agent, None).await;
    let mut client = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "faults::holds_slots_until_it_is_killed"])
        .args(["--ignored", "--nocapture"])
        .env(HELD_AT, served.url(""))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a process");
    let mut lines = BufReader::new(client.stdout.take().expect("piped")).lines();
    let holds = async {
        while let Some(line) = lines.next_line().await.expect("text") {
            if line == "holding" {
                return;
            }
        }
        panic!("the client ended");
    };
    let held = tokio::time::timeout(PATIENCE, holds).await;
    held.expect("it gets its slots");

    let mut checks = served.checks().await;
    assert!(!is_accepted(&mut checks, "slots").await, "all are held");
    client.kill().await.expect("SIGKILL");
    clock.advance(Duration::from_secs(59));
    assert!(
        !is_accepted(&mut checks, "slots").await,
        "nobody ended them"
    );
    clock.advance(Duration::from_secs(2));
    for _ in 0..SLOTS {
        assert!(is_accepted(&mut checks, "slots").await);
    }
    assert!(
        !is_accepted(&mut checks, "slots").await,
        "no more than there are"
    );
}

/// A connection whose client lets in no byte of any answer's body.
struct Unread {
    send: SendRequest<Full<Bytes>>,
    socket: std::net::TcpStream,
}

impl Unread {
    async fn connect(served: &Served, window: u32) -> Self {
        let stream = std::net::TcpStream::connect(served.address).expect("it listens");
        stream.set_nonblocking(true).expect("a socket can be so");
        stream.set_nodelay(true).expect("a socket can be so");
        let socket = stream.try_clone().expect("another handle");
        let stream = TokioIo::new(TcpStream::from_std(stream).expect("it is registered"));
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(stream)
            .await
            .expect("HTTP/2");
        // Ends with the test, or with the socket.
        tokio::spawn(connection);
        Self { send, socket }
    }

    /// A check with the bytes of a message as they are; the head of the answer.
    async fn check(
        &mut self,
        served: &Served,
        message: &[u8],
        timeout: Option<&[u8]>,
    ) -> http::Response<Incoming> {
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).expect("a small message"));
        body.put_slice(message);
        let path = "/aperture.flowcontrol.check.v1.FlowControlService/Check";
        let mut call = http::Request::post(served.url(path))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        if let Some(timeout) = timeout {
            call = call.header("grpc-timeout", timeout);
        }
        let call = call.body(Full::new(body.freeze())).expect("a call");
        self.send.send_request(call).await.expect("an answer")
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_up_nobody_and_keeps_nothing() {
    let served = Served::start(ONE_AT_A_TIME).await;
    let mut unread = Unread::connect(&served, 0).await;
    let granted = unread
        .check(&served, &request("render").encode_to_vec(), None)
        .await;
    let mut others = Vec::new();
    for _ in 0..500 {
        let message = request("elsewhere").encode_to_vec();
        others.push(unread.check(&served, &message, None).await);
    }
    let mut checks = served.checks().await;
    assert!(is_accepted(&mut checks, "elsewhere").await);
    let mut second = checks.clone();
    let waits = tokio::spawn(async move { is_accepted(&mut second, "render").await });
    served.until_waiting(1.0).await;
    assert!(is_accepted(&mut checks, "elsewhere").await);
    let cut = unread.socket.shutdown(std::net::Shutdown::Both);
    cut.expect("it was open");
    let answered = tokio::time::timeout(PATIENCE, waits).await;
    assert!(answered.expect("the slot comes back").expect("no panic"));
    assert_eq!(served.metric("tower_aperture_agent_undelivered_total"), 1.0);
    drop((granted, others));
}

#[tokio::test]
async fn a_hundred_thousand_labels_are_refused_and_decide_nothing() {
    let served = Served::start(TWO).await;
    let mut checks = served.checks().await;
    let many: HashMap<_, _> = (0..100_000)
        .map(|at| (at.to_string(), String::new()))
        .collect();
    let flow = CheckRequest {
        labels: many.clone(),
        ..request("checkout")
    };
    let refusal = checks.check(flow).await.expect_err("too many labels");
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    let mut http = FlowControlServiceHttpClient::new(served.channel().await);
    let flow = CheckHttpRequest {
        control_point: "checkout".into(),
        request: Some(HttpRequest {
            headers: many,
            ..HttpRequest::default()
        }),
        ..CheckHttpRequest::default()
    };
    let refusal = http.check_http(flow).await.expect_err("too many headers");
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    let stats = served.agent.engine().stats();
    assert_eq!((stats.accepted, stats.rejected), (0, 0));
    assert!(is_accepted(&mut checks, "checkout").await);
}

#[tokio::test]
async fn what_is_no_text_is_an_error_of_its_own_call() {
    let served = Served::start(TWO).await;
    let mut client = Unread::connect(&served, 65_535).await;
    let good = request("checkout").encode_to_vec();
    // A control point of two bytes that are no UTF-8.
    let bad = [0x0a, 2, 0xff, 0xfe];
    for (message, timeout, code) in [
        (&bad[..], None, Code::Internal),
        (&good, Some(&b"\xff\xfe"[..]), Code::InvalidArgument),
        (&good, None, Code::Ok),
    ] {
        let answer = client.check(&served, message, timeout).await;
        let (head, body) = answer.into_parts();
        let rest = body.collect().await.expect("a whole answer");
        let told = head.headers.get("grpc-status");
        let told = told.or_else(|| rest.trailers().and_then(|rest| rest.get("grpc-status")));
        let told = told.map(|told| Code::from_bytes(told.as_bytes()));
        assert_eq!(told, Some(code), "{message:?} {timeout:?}");
    }
}

#[tokio::test]
async fn a_deadline_that_has_passed_waits_for_nothing_and_takes_nothing() {
    let served = Served::start(ONE_AT_A_TIME).await;
    let mut checks = served.checks().await;
    let holder = checks.check(request("render")).await.expect("an answer");
    let mut client = Unread::connect(&served, 65_535).await;
    let message = request("render").encode_to_vec();
    for _ in 0..100 {
        let answer = client.check(&served, &message, Some(b"0m")).await;
        let body = answer.into_body().collect().await.expect("a whole answer");
        let answer = CheckResponse::decode(&body.to_bytes()[5..]).expect("a message");
        assert_eq!(answer.reject_reason(), RejectReason::NoTokens);
    }
    served.until_waiting(0.0).await;
    let end = end_of(holder.get_ref());
    checks.flow_end(end).await.expect("an answer");
    assert!(is_accepted(&mut checks, "render").await);
}

#[tokio::test]
async fn reloads_under_load_lose_no_slot() {
    const MOST: usize = 8;
    // A component beside the slots changes, and with it the hash of nothing else.
    let policies = |tokens: usize| {
        [
            ("slots.yaml", slots(MOST)),
            (
                "two.yaml",
                TWO.replace("bucket_capacity: 2", &format!("bucket_capacity: {tokens}")),
            ),
        ]
    };
    let served = Served::start(TWO).await;
    let engine = served.agent.engine().clone();
    engine.reload_with(policies(2)).expect("sound policies");
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let callers = (0..MOST * 2).map(|_| {
        let (checks, stopped) = (served.checks(), stopped.clone());
        async move {
            let mut checks = checks.await;
            let mut held = 0_u32;
            while !*stopped.borrow() {
                let answer = checks.check(request("slots")).await.expect("an answer");
                let end = end_of(answer.get_ref());
                held += u32::try_from(end.inflight_requests.len()).expect("one");
                if !end.inflight_requests.is_empty() {
                    let ended = checks.flow_end(end).await.expect("an answer");
                    assert!(
                        ended
                            .get_ref()
                            .token_return_statuses
                            .iter()
                            .all(|one| one.returned)
                    );
                }
            }
            held
        }
    });
    let reloads = async {
        for tokens in 3..100 {
            engine
                .reload_with(policies(tokens))
                .expect("sound policies");
            tokio::task::yield_now().await;
        }
        stop.send_replace(true);
    };
    let (held, ()) = tokio::join!(join_all(callers), reloads);
    assert!(held.into_iter().sum::<u32>() > 0);
    let mut checks = served.checks().await;
    for free in 0..MOST {
        assert!(is_accepted(&mut checks, "slots").await, "{free} were free");
    }
    assert!(!is_accepted(&mut checks, "slots").await);
}
