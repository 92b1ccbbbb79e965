//! Callers that leave, and the end of the node.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tonic::transport::Endpoint;
use tower_aperture::agent::Agent;
use tower_aperture::pb::check::check_response::{DecisionType, RejectReason};
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;
use tower_service::Service;

use crate::support::{ONE_AT_A_TIME, Served, end_of, engine, request};

#[tokio::test]
async fn who_hangs_up_leaves_the_queue_at_once() {
    let served = Served::start(ONE_AT_A_TIME).await;
    let mut checks = served.checks().await;
    let first = checks
        .check(request("render"))
        .await
        .expect("an answer")
        .into_inner();
    let waits: Vec<_> = (0..20)
        .map(|_| {
            let mut checks = checks.clone();
            tokio::spawn(async move { checks.check(request("render")).await })
        })
        .collect();
    served.until_waiting(20.0).await;
    for call in waits {
        call.abort();
    }
    served.until_waiting(0.0).await;
    checks.flow_end(end_of(&first)).await.expect("an answer");
    let next = checks.check(request("render")).await.expect("an answer");
    assert_eq!(next.get_ref().decision_type(), DecisionType::Accepted);
}

#[tokio::test]
async fn a_connection_that_breaks_takes_its_waiters_along() {
    let served = Served::start(ONE_AT_A_TIME).await;
    let mut checks = served.checks().await;
    let first = checks
        .check(request("render"))
        .await
        .expect("an answer")
        .into_inner();
    // A runtime of its own, which goes with all its connections.
    let other = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let address = served.url("");
    for _ in 0..10 {
        let address = address.clone();
        other.spawn(async move {
            let channel = Endpoint::from_shared(address).expect("an address");
            let channel = channel.connect().await.expect("it listens");
            let mut checks = FlowControlServiceClient::new(channel);
            checks.check(request("render")).await
        });
    }
    served.until_waiting(10.0).await;
    other.shutdown_background();
    served.until_waiting(0.0).await;
    checks.flow_end(end_of(&first)).await.expect("an answer");
    let next = checks.check(request("render")).await.expect("an answer");
    assert_eq!(next.get_ref().decision_type(), DecisionType::Accepted);
}

#[tokio::test]
async fn at_the_end_waiters_are_told_and_calls_are_answered() {
    let mut served = Served::start(ONE_AT_A_TIME).await;
    let mut checks = served.checks().await;
    checks.check(request("render")).await.expect("an answer");
    let mut second = checks.clone();
    let waits = tokio::spawn(async move { second.check(request("render")).await });
    served.until_waiting(1.0).await;
    served.tell_to_stop();
    let answer = waits
        .await
        .expect("no panic")
        .expect("an answer")
        .into_inner();
    assert_eq!(answer.decision_type(), DecisionType::Rejected);
    assert_eq!(answer.reject_reason(), RejectReason::NoTokens);
    let address = served.address;
    served.stopped().await;
    let late = tokio::net::TcpStream::connect(address).await;
    assert!(late.is_err(), "nobody listens");
}

/// Asks the service itself, and does with the body of the answer what a server would not.
#[tokio::test]
async fn what_an_answer_grants_that_nobody_takes_is_free_again() {
    let agent = Agent::builder(engine(ONE_AT_A_TIME)).build();
    let mut service = agent.service();
    let mut ask = || {
        let body = Full::new(Bytes::from_static(br#"{"controlPoint": "render"}"#));
        let call = http::Request::post("/v1/flowcontrol/check").header("grpc-timeout", "500m");
        service.call(call.body(body).expect("a call"))
    };
    let accepted = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        text.contains("DECISION_TYPE_ACCEPTED")
    };
    for _ in 0..3 {
        let Ok(answer) = ask().await;
        drop(answer);
    }
    let Ok(answer) = ask().await;
    let text = answer
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert!(accepted(&text), "{text:?}");
    let Ok(answer) = ask().await;
    let text = answer
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert!(!accepted(&text), "the slot belongs to who took the answer");
}
