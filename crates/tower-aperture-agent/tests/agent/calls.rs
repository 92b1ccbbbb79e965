//! The gRPC calls of an agent: checks, ends, caches and health.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use prost::Message;
use tonic::Code;
use tonic::codec::CompressionEncoding;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tower_aperture::pb::check::check_response::{DecisionType, RejectReason};
use tower_aperture::pb::check::{CacheEntry, CacheUpsertRequest};
use tower_aperture::pb::checkhttp::CheckHttpRequest;
use tower_aperture::pb::checkhttp::flow_control_service_http_client::FlowControlServiceHttpClient;
use tower_aperture::{ApertureClient, FlowDecision, FlowParams};
use tower_aperture_agent::Agent;
use tower_service::Service;

use crate::caller::{Caller, SERVICE, bytes, code, grpc};
use crate::support::{ONE_AT_A_TIME, Served, TWO, end_of, engine, request};

#[tokio::test]
async fn the_answer_to_a_check_follows_the_policy() {
    let served = Served::start(TWO).await;
    let mut checks = served.checks().await;
    for expected in [
        DecisionType::Accepted,
        DecisionType::Accepted,
        DecisionType::Rejected,
    ] {
        let answer = checks.check(request("checkout")).await;
        let answer = answer.expect("an answer").into_inner();
        assert_eq!(answer.decision_type(), expected);
        assert!(answer.start.is_some() && answer.end.is_some());
        assert!(answer.expect_end);
        if expected == DecisionType::Rejected {
            assert_eq!(answer.reject_reason(), RejectReason::RateLimited);
            assert_eq!(answer.denied_response_status_code, 429);
            assert!(answer.wait_time.is_some());
        }
    }
    assert_eq!(served.metric("flowcontrol_requests_total"), 3.0);
    assert_eq!(served.metric("flowcontrol_reject_reasons_total"), 1.0);
    served.stopped().await;
}

#[tokio::test]
async fn a_compressed_call_is_decided_as_any_other() {
    let served = Served::start(TWO).await;
    let mut checks = served
        .checks()
        .await
        .send_compressed(CompressionEncoding::Gzip);
    for expected in [
        DecisionType::Accepted,
        DecisionType::Accepted,
        DecisionType::Rejected,
    ] {
        let answer = checks.check(request("checkout")).await.expect("an answer");
        assert_eq!(answer.get_ref().decision_type(), expected);
    }
}

#[tokio::test]
async fn a_call_with_no_message_or_with_two_is_refused_without_a_decision() {
    let served = Served::start(TWO).await;
    let mut caller = Caller::connect(&served, 1 << 16).await;
    let one = grpc(&bytes(&request("checkout")));
    let path = format!("{SERVICE}Check");
    for body in [
        Bytes::new(),
        one.repeat(2).into(),
        one.slice(..one.len() - 1),
    ] {
        let answer = caller.request("POST", &path, body).await;
        let answer = answer.expect("an answer");
        assert_eq!(code(answer.headers()), Some(Code::Internal));
    }
    assert_eq!(
        caller.call(&path, bytes(&request("checkout"))).await.0,
        Code::Ok
    );
    assert_eq!(served.metric("flowcontrol_requests_total"), 1.0);
}

#[tokio::test]
async fn a_waiting_flow_holds_up_no_other_call_of_its_connection() {
    let served = Served::start(ONE_AT_A_TIME).await;
    let mut checks = served.checks().await;
    let first = checks.check(request("render")).await.expect("an answer");
    let mut waiting = checks.clone();
    let waiting = tokio::spawn(async move { waiting.check(request("render")).await });
    served.until_waiting(1.0).await;
    let other = checks.check(request("elsewhere")).await.expect("an answer");
    assert_eq!(other.get_ref().decision_type(), DecisionType::Accepted);
    let end = end_of(first.get_ref());
    checks.flow_end(end).await.expect("an answer");
    let waited = waiting.await.expect("no panic").expect("an answer");
    assert_eq!(waited.get_ref().decision_type(), DecisionType::Accepted);
}

#[tokio::test]
async fn the_clients_flows_are_accepted_and_return_their_slots() {
    let served = Served::start(ONE_AT_A_TIME).await;
    let client = ApertureClient::builder()
        .address(served.address.to_string())
        .insecure(true)
        .build()
        .expect("a client");
    for _ in 0..3 {
        let params = FlowParams::new().check_timeout(std::time::Duration::from_secs(30));
        let flow = client.start_flow("render", params).await;
        assert_eq!(flow.decision(), FlowDecision::Accepted);
        let ended = flow.end().await;
        assert_eq!(ended.error(), None);
        assert!(ended.token_returns().iter().all(|one| one.returned));
    }
}

#[tokio::test]
async fn check_accepts_an_empty_control_point_and_check_http_refuses_it() {
    let served = Served::start(TWO).await;
    let mut checks = served.checks().await;
    let answer = checks.check(request("")).await.expect("an answer");
    assert_eq!(answer.get_ref().decision_type(), DecisionType::Accepted);
    let mut checks = FlowControlServiceHttpClient::new(served.channel().await);
    let refusal = checks.check_http(CheckHttpRequest::default()).await;
    let refusal = refusal.expect_err("the control point is empty");
    assert_eq!(
        (refusal.code(), refusal.message()),
        (Code::InvalidArgument, "missing control-point")
    );
}

#[tokio::test]
async fn a_slot_is_returned_once() {
    let served = Served::start(ONE_AT_A_TIME).await;
    let mut checks = served.checks().await;
    let answer = checks.check(request("render")).await.expect("an answer");
    let end = end_of(answer.get_ref());
    for returned in [true, false] {
        let ended = checks.flow_end(end.clone()).await.expect("an answer");
        let [status] = &ended.get_ref().token_return_statuses[..] else {
            panic!("the end has one slot");
        };
        assert_eq!((status.returned, &*status.error), (returned, ""));
        assert_eq!(
            status.inflight_request_ref,
            end.inflight_requests.first().cloned()
        );
    }
}

#[tokio::test]
async fn health_serves_the_service_names_of_an_agent_and_the_real_ones() {
    let served = Served::start(TWO).await;
    let mut health = HealthClient::new(served.channel().await);
    let health_request = |service: &str| HealthCheckRequest {
        service: service.into(),
    };
    for service in [
        "",
        "aperture.flowcontrol.v1.FlowControlService",
        "aperture.flowcontrol.v1.FlowControlServiceHTTP",
        "aperture.flowcontrol.check.v1.FlowControlService",
    ] {
        let answer = health
            .check(health_request(service))
            .await
            .expect("a known name");
        assert_eq!(answer.get_ref().status(), ServingStatus::Serving);
    }
    let unknown = health.check(health_request("nothing")).await;
    assert_eq!(
        unknown.expect_err("no service has that name").code(),
        Code::NotFound
    );

    let mut changes = health
        .watch(health_request(""))
        .await
        .expect("a stream")
        .into_inner();
    let first = changes.message().await.expect("a message").expect("one");
    assert_eq!(first.status(), ServingStatus::Serving);
    served.agent.shutdown();
    let last = changes.message().await.expect("a message").expect("one");
    assert_eq!(last.status(), ServingStatus::NotServing);
}

/// The entry has a value, because some protobuf libraries read a map entry without one as null.
#[tokio::test]
async fn a_successful_cache_upsert_returns_an_entry_for_each_key() {
    let mut service = Agent::builder(engine(TWO)).build().service();
    let upsert = CacheUpsertRequest {
        global_cache_entries: [("g".to_owned(), CacheEntry::default())].into(),
        ..CacheUpsertRequest::default()
    };
    let message = upsert.encode_to_vec();
    let mut body = vec![
        0,
        0,
        0,
        0,
        u8::try_from(message.len()).expect("a small one"),
    ];
    body.extend(message);
    let call = http::Request::post("/aperture.flowcontrol.check.v1.FlowControlService/CacheUpsert")
        .header("content-type", "application/grpc")
        .body(Full::new(Bytes::from(body)));
    let Ok(answer) = service.call(call.expect("a call")).await;
    let answer = answer.into_body().collect().await.expect("a body");
    // Field 2 with 5 bytes: 1 is the key, 2 is an empty message.
    let expected = [0x12, 5, 0x0a, 1, b'g', 0x12, 0];
    assert_eq!(answer.to_bytes()[5..], expected);
}
