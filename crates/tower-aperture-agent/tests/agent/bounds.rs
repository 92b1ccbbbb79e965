//! Bounds on messages, labels, connections, waiting flows and memory of one caller.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use tower_aperture::LabelLimits;
use tower_aperture::pb::check::CheckRequest;
use tower_aperture::pb::check::check_response::{DecisionType, RejectReason};

use crate::support::{ONE_AT_A_TIME, Served, TWO, request};

#[tokio::test]
async fn a_message_that_is_too_large_is_refused_and_its_connection_stays_open() {
    let served = Served::start(TWO).await;
    let mut checks = served.checks().await;
    let large = CheckRequest {
        labels: [("big".into(), "x".repeat(10 << 20))].into(),
        ..request("checkout")
    };
    let refusal = checks
        .check(large)
        .await
        .expect_err("the message is too large");
    assert_eq!(refusal.code(), Code::ResourceExhausted, "{refusal:?}");
    checks.check(request("checkout")).await.expect("an answer");
}

#[tokio::test]
async fn a_check_with_too_many_labels_fails_and_decides_nothing() {
    let limits = LabelLimits {
        count: 3,
        bytes: 100,
    };
    let served = Served::with(TWO, |agent| agent.max_labels(limits), None).await;
    let mut checks = served.checks().await;
    let many: HashMap<String, String> = (0..4).map(|at| (at.to_string(), String::new())).collect();
    for labels in [many, [("a".into(), "x".repeat(100))].into()] {
        let flow = CheckRequest {
            labels,
            ..request("checkout")
        };
        let refusal = checks.check(flow).await.expect_err("too many labels");
        assert_eq!(refusal.code(), Code::ResourceExhausted);
        assert!(
            refusal.message().contains("a flow may have 3"),
            "{refusal:?}"
        );
    }
    assert_eq!(served.agent.engine().stats().accepted, 0);
}

#[tokio::test]
async fn metadata_that_is_not_text_is_ignored() {
    let served = Served::start(TWO).await;
    let mut checks = served.checks().await;
    let mut call = Request::new(request("checkout"));
    let odd = MetadataValue::try_from(&b"\xff\xfe\x80"[..]).expect("a header may have that");
    call.metadata_mut().insert("x-odd", odd);
    checks.check(call).await.expect("an answer");
}

#[tokio::test]
async fn garbage_closes_only_its_own_connection() {
    let served = Served::start(TWO).await;
    let mut checks = served.checks().await;
    for garbage in [
        &b"\0\0\0garbage\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff",
    ] {
        let mut stream = TcpStream::connect(served.address)
            .await
            .expect("the agent listens");
        stream.write_all(garbage).await.expect("the agent reads");
        let mut rest = Vec::new();
        let read = stream.read_to_end(&mut rest);
        let over = timeout(Duration::from_secs(60), read).await;
        // The agent closes or resets the connection.
        let _ = over.expect("the agent closes the connection");
    }
    checks.check(request("checkout")).await.expect("an answer");
}

#[tokio::test]
async fn connections_beyond_the_maximum_are_closed_immediately() {
    let served = Served::with(TWO, |agent| agent.max_connections(1), None).await;
    let mut checks = served.checks().await;
    checks.check(request("checkout")).await.expect("an answer");
    let mut stream = TcpStream::connect(served.address)
        .await
        .expect("the agent listens");
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    let over = timeout(Duration::from_secs(60), read).await;
    let _ = over.expect("the agent closes the connection");
    checks.check(request("checkout")).await.expect("an answer");
    let counted = "tower_aperture_agent_connections_turned_away_total";
    assert_eq!(served.metric(counted), 1.0);
}

#[tokio::test]
async fn a_flow_is_rejected_when_too_many_flows_wait() {
    let served = Served::with(ONE_AT_A_TIME, |agent| agent.max_waiting(1), None).await;
    let mut checks = served.checks().await;
    checks.check(request("render")).await.expect("an answer");
    let mut second = checks.clone();
    let waits = tokio::spawn(async move { second.check(request("render")).await });
    served.until_waiting(1.0).await;
    let answer = checks
        .check(request("render"))
        .await
        .expect("an answer")
        .into_inner();
    assert_eq!(answer.decision_type(), DecisionType::Rejected);
    assert_eq!(answer.reject_reason(), RejectReason::NoTokens);
    assert_eq!(served.metric("tower_aperture_agent_crowded_out_total"), 1.0);
    waits.abort();
}

#[tokio::test]
async fn calls_that_arrive_slowly_share_one_memory_budget() {
    let set = |agent: tower_aperture_agent::AgentBuilder| {
        agent.max_message_size(1 << 20).max_buffered(1 << 20)
    };
    let served = Served::with(TWO, set, None).await;
    // Sends the first half of a call and then stops.
    let half_a_call = async || {
        let mut slow = TcpStream::connect(served.address)
            .await
            .expect("the agent listens");
        let head =
            "POST /v1/flowcontrol/check HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
        // If the agent refuses the call meanwhile, it answers or resets the connection.
        let _ = slow.write_all(head.as_bytes()).await;
        let _ = slow.write_all(&vec![b' '; 900_000]).await;
        slow
    };
    let large = " ".repeat(900_000) + r#"{"controlPoint": "checkout"}"#;
    let is_accepted = async || {
        let answer = served
            .http("/v1/flowcontrol/check", &[], Some(&large))
            .await;
        answer.is_ok_and(|(status, _)| status == 200)
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut slow = half_a_call().await;
    while is_accepted().await {
        assert!(Instant::now() < deadline, "the large call is never refused");
        // The agent reads both calls at once. If the whole call took the budget first, the agent
        // refuses the half call, which is then sent again.
        if let Ok(_answered) = timeout(Duration::ZERO, slow.read(&mut [0])).await {
            slow = half_a_call().await;
        }
    }
    drop(slow);
    while !is_accepted().await {
        assert!(Instant::now() < deadline, "the budget is not returned");
    }
}
