//! Callers that are killed, never read their answers, or send invalid bytes; reloads under load.

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

const TIMEOUT: Duration = Duration::from_secs(60);
const SLOTS: usize = 1000;

/// A policy that allows `most` flows at once, each for at most a minute.
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

const ADDRESS_VARIABLE: &str = "TOWER_APERTURE_TEST_HOLDS_SLOTS_AT";

/// The client that another test starts as a process and kills.
#[test]
#[ignore = "runs as a separate process that another test starts and kills"]
#[allow(clippy::print_stdout)]
fn client_that_holds_slots_until_it_is_killed() {
    let address = std::env::var(ADDRESS_VARIABLE).expect("only the other test sets the variable");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let endpoint = Endpoint::from_shared(address).expect("an address");
        let checks =
            FlowControlServiceClient::new(endpoint.connect().await.expect("the agent listens"));
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
async fn the_slots_of_a_killed_client_expire_after_max_inflight_duration() {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("slots.yaml", slots(SLOTS))
        .clock(clock.clone())
        .build();
    let served = Served::with_engine(engine.expect("a valid policy"), |agent| agent, None).await;
    let mut client = Command::new(std::env::current_exe().expect("this test"))
        .args([
            "--exact",
            "faults::client_that_holds_slots_until_it_is_killed",
        ])
        .args(["--ignored", "--nocapture"])
        .env(ADDRESS_VARIABLE, served.url(""))
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
    let held = tokio::time::timeout(TIMEOUT, holds).await;
    held.expect("the client gets its slots");

    let mut checks = served.checks().await;
    assert!(
        !is_accepted(&mut checks, "slots").await,
        "the client holds all slots"
    );
    client.kill().await.expect("SIGKILL");
    clock.advance(Duration::from_secs(59));
    assert!(
        !is_accepted(&mut checks, "slots").await,
        "the slots expire only after a minute"
    );
    clock.advance(Duration::from_secs(2));
    for _ in 0..SLOTS {
        assert!(is_accepted(&mut checks, "slots").await);
    }
    assert!(
        !is_accepted(&mut checks, "slots").await,
        "all slots are taken again"
    );
}

/// A connection whose client reads no answer unless a test does.
struct UnreadConnection {
    send: SendRequest<Full<Bytes>>,
    socket: std::net::TcpStream,
}

impl UnreadConnection {
    async fn connect(served: &Served, window: u32) -> Self {
        let stream = std::net::TcpStream::connect(served.address).expect("the agent listens");
        stream
            .set_nonblocking(true)
            .expect("the socket option is set");
        stream.set_nodelay(true).expect("the socket option is set");
        let socket = stream.try_clone().expect("another handle");
        let stream =
            TokioIo::new(TcpStream::from_std(stream).expect("the runtime registers the socket"));
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(stream)
            .await
            .expect("HTTP/2");
        // The task ends with the test or with the socket.
        tokio::spawn(connection);
        Self { send, socket }
    }

    /// Sends a check with the given bytes as its message. Returns the response, its body unread.
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
async fn a_client_that_reads_no_answers_delays_no_caller_and_its_slot_is_returned() {
    let served = Served::start(ONE_AT_A_TIME).await;
    let mut unread = UnreadConnection::connect(&served, 0).await;
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
    cut.expect("the socket was open");
    let answered = tokio::time::timeout(TIMEOUT, waits).await;
    assert!(answered.expect("the slot is returned").expect("no panic"));
    assert_eq!(served.metric("tower_aperture_agent_undelivered_total"), 1.0);
    drop((granted, others));
}

#[tokio::test]
async fn a_check_with_a_hundred_thousand_labels_fails_and_decides_nothing() {
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
async fn bytes_that_are_not_utf_8_fail_only_their_own_call() {
    let served = Served::start(TWO).await;
    let mut client = UnreadConnection::connect(&served, 65_535).await;
    let good = request("checkout").encode_to_vec();
    // A control point of two bytes that are not UTF-8.
    let bad = [0x0a, 2, 0xff, 0xfe];
    for (message, timeout, code) in [
        (&bad[..], None, Code::Internal),
        (&good, Some(&b"\xff\xfe"[..]), Code::InvalidArgument),
        (&good, None, Code::Ok),
    ] {
        let answer = client.check(&served, message, timeout).await;
        let (head, body) = answer.into_parts();
        let rest = body.collect().await.expect("a whole answer");
        let status = head.headers.get("grpc-status");
        let status = status.or_else(|| rest.trailers().and_then(|rest| rest.get("grpc-status")));
        let status = status.map(|status| Code::from_bytes(status.as_bytes()));
        assert_eq!(status, Some(code), "{message:?} {timeout:?}");
    }
}

#[tokio::test]
async fn a_check_whose_deadline_has_passed_does_not_wait_and_takes_no_slot() {
    let served = Served::start(ONE_AT_A_TIME).await;
    let mut checks = served.checks().await;
    let holder = checks.check(request("render")).await.expect("an answer");
    let mut client = UnreadConnection::connect(&served, 65_535).await;
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
async fn no_slot_is_lost_when_policies_are_reloaded_under_load() {
    const MOST: usize = 8;
    // Only the other policy changes, so the hash of the policy with the slots stays the same.
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
    engine.reload_with(policies(2)).expect("valid policies");
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
                .expect("valid policies");
            tokio::task::yield_now().await;
        }
        stop.send_replace(true);
    };
    let (held, ()) = tokio::join!(join_all(callers), reloads);
    assert!(held.into_iter().sum::<u32>() > 0);
    let mut checks = served.checks().await;
    for free in 0..MOST {
        assert!(
            is_accepted(&mut checks, "slots").await,
            "only {free} slots were free"
        );
    }
    assert!(!is_accepted(&mut checks, "slots").await);
}
