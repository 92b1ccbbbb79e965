//! Callers that leave while they wait, and the shutdown of the agent.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tonic::transport::Endpoint;
use tower_aperture::pb::check::check_response::{DecisionType, RejectReason};
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;
use tower_aperture_agent::Agent;
use tower_service::Service;

use crate::support::{ONE_AT_A_TIME, Served, end_of, engine, request};

#[tokio::test]
async fn a_caller_that_cancels_leaves_the_queue_immediately() {
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
async fn waiters_leave_the_queue_when_their_connection_breaks() {
    let served = Served::start(ONE_AT_A_TIME).await;
    let mut checks = served.checks().await;
    let first = checks
        .check(request("render"))
        .await
        .expect("an answer")
        .into_inner();
    // A separate runtime, so that its shutdown breaks all of its connections.
    let callers_runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let address = served.url("");
    for _ in 0..10 {
        let address = address.clone();
        callers_runtime.spawn(async move {
            let channel = Endpoint::from_shared(address).expect("an address");
            let channel = channel.connect().await.expect("the agent listens");
            let mut checks = FlowControlServiceClient::new(channel);
            checks.check(request("render")).await
        });
    }
    served.until_waiting(10.0).await;
    callers_runtime.shutdown_background();
    served.until_waiting(0.0).await;
    checks.flow_end(end_of(&first)).await.expect("an answer");
    let next = checks.check(request("render")).await.expect("an answer");
    assert_eq!(next.get_ref().decision_type(), DecisionType::Accepted);
}

#[tokio::test]
async fn shutdown_rejects_waiters_and_answers_their_calls() {
    let mut served = Served::start(ONE_AT_A_TIME).await;
    let mut checks = served.checks().await;
    checks.check(request("render")).await.expect("an answer");
    let mut second = checks.clone();
    let waits = tokio::spawn(async move { second.check(request("render")).await });
    served.until_waiting(1.0).await;
    served.begin_shutdown();
    let answer = waits
        .await
        .expect("no panic")
        .expect("an answer")
        .into_inner();
    assert_eq!(answer.decision_type(), DecisionType::Rejected);
    assert_eq!(answer.reject_reason(), RejectReason::NoTokens);
    let address = served.address;
    served.stopped().await;
    let refused = tokio::net::TcpStream::connect(address).await;
    assert!(refused.is_err(), "the agent no longer listens");
}

/// Calls the service directly, because a server would read the body of every answer.
#[tokio::test]
async fn a_slot_in_an_answer_that_is_not_read_is_free_again() {
    let agent = Agent::builder(engine(ONE_AT_A_TIME)).build();
    let mut service = agent.service();
    let mut send_check = || {
        let body = Full::new(Bytes::from_static(br#"{"controlPoint": "render"}"#));
        let call = http::Request::post("/v1/flowcontrol/check").header("grpc-timeout", "500m");
        service.call(call.body(body).expect("a call"))
    };
    let accepted = |text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        text.contains("DECISION_TYPE_ACCEPTED")
    };
    for _ in 0..3 {
        let Ok(answer) = send_check().await;
        drop(answer);
    }
    let Ok(answer) = send_check().await;
    let text = answer
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert!(accepted(&text), "{text:?}");
    let Ok(answer) = send_check().await;
    let text = answer
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert!(
        !accepted(&text),
        "the flow whose answer was read has the slot"
    );
}
