//! Tests the result and global caches of a remote client: a missing part of a response is neither a
//! hit nor a success.
#![cfg(feature = "remote")]

use std::time::Duration;

use crate::support::agent::{FakeAgent, Reply, answer};
use bytes::Bytes;
use tower_aperture::cache::CacheError;
use tower_aperture::pb::check::check_response::RejectReason as Reason;
use tower_aperture::pb::check::{
    CacheLookupResponse, CacheOperationStatus, CacheUpsertResponse, CheckResponse,
    KeyLookupResponse, KeyUpsertResponse,
};
use tower_aperture::{ApertureClient, Flow, FlowParams};

const MINUTE: Duration = Duration::from_secs(60);

fn client(agent: &FakeAgent) -> ApertureClient {
    ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .connect_timeout(MINUTE)
        .check_timeout(MINUTE)
        .end_timeout(MINUTE)
        .build()
        .expect("a client")
}

async fn start_keyed_flow(client: &ApertureClient) -> Flow {
    let params = FlowParams::new()
        .result_cache_key("result")
        .global_cache_key("global");
    client.start_flow("mail", params).await
}

#[tokio::test]
async fn the_next_flow_finds_the_stored_bytes_unchanged() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let value = Bytes::from_static(&[0, 0x80, 0xff, b'{']);

    let flow = start_keyed_flow(&client).await;
    assert_eq!(
        flow.result_cache().get(),
        Ok(None),
        "a miss is not an error"
    );
    assert_eq!(flow.global_cache("global").get(), Ok(None));
    assert_eq!(flow.result_cache().set(value.clone(), MINUTE).await, Ok(()));
    assert_eq!(flow.global_cache("global").set("", MINUTE).await, Ok(()));
    assert_eq!(
        flow.result_cache().get(),
        Ok(None),
        "a flow keeps the lookup that was made when it started"
    );
    flow.end().await;

    let flow = start_keyed_flow(&client).await;
    assert_eq!(flow.result_cache().get(), Ok(Some(value.clone())));
    assert_eq!(
        flow.global_cache("global").get(),
        Ok(Some(Bytes::new())),
        "an empty value is a hit"
    );
    assert_eq!(
        client.result_cache("mail", "result").get().await,
        Ok(Some(value))
    );
    assert_eq!(client.result_cache("other", "result").get().await, Ok(None));
    assert_eq!(
        client.global_cache("global").get().await,
        Ok(Some(Bytes::new()))
    );

    assert_eq!(flow.result_cache().delete().await, Ok(()));
    assert_eq!(flow.global_cache("global").delete().await, Ok(()));
    assert_eq!(client.result_cache("mail", "result").get().await, Ok(None));
    assert_eq!(client.global_cache("global").get().await, Ok(None));
    flow.end().await;
}

#[tokio::test]
async fn the_client_sends_the_exact_time_to_live_and_refuses_zero() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let ttl = Duration::from_nanos(1_500_000_001);
    let stored = client.result_cache("mail", "k").set("v", ttl).await;
    assert_eq!(stored, Ok(()));
    let refused = client.global_cache("k").set("v", Duration::ZERO).await;
    assert_eq!(refused, Err(CacheError::NoTtl));

    let upserts = agent.upserts();
    assert_eq!(
        upserts.len(),
        1,
        "the client does not send the refused write"
    );
    let entry = upserts[0].result_cache_entry.as_ref().expect("the entry");
    let sent = entry.ttl.expect("a time to live");
    assert_eq!((sent.seconds, sent.nanos), (1, 500_000_001));
}

#[tokio::test]
async fn a_missing_part_of_a_response_is_neither_a_hit_nor_a_success() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    agent.on_check(|request| {
        Reply::Now(CheckResponse {
            cache_lookup_response: Some(CacheLookupResponse::default()),
            ..answer::accepted(request)
        })
    });
    agent.answer_upserts(CacheUpsertResponse::default());

    let flow = start_keyed_flow(&client).await;
    assert_eq!(flow.result_cache().get(), Err(CacheError::NotRequested));
    assert_eq!(
        flow.global_cache("global").get(),
        Err(CacheError::UnknownKey)
    );
    let stored = flow.result_cache().set("v", MINUTE).await;
    assert_eq!(stored, Err(CacheError::MissingInReply));
    let stored = flow.global_cache("global").set("v", MINUTE).await;
    assert_eq!(stored, Err(CacheError::MissingInReply));
    flow.end().await;
}

#[tokio::test]
async fn cache_errors_of_the_agent_reach_the_caller() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    agent.on_check(|request| {
        let failed = KeyLookupResponse {
            lookup_status: 1,
            operation_status: CacheOperationStatus::Error as i32,
            error: "cache is not ready".to_owned(),
            ..KeyLookupResponse::default()
        };
        Reply::Now(CheckResponse {
            cache_lookup_response: Some(CacheLookupResponse {
                result_cache_response: Some(failed),
                ..CacheLookupResponse::default()
            }),
            ..answer::accepted(request)
        })
    });
    agent.answer_upserts(CacheUpsertResponse {
        result_cache_response: Some(KeyUpsertResponse {
            operation_status: CacheOperationStatus::Error as i32,
            error: "key too large".to_owned(),
        }),
        ..CacheUpsertResponse::default()
    });

    let flow = start_keyed_flow(&client).await;
    let not_ready = CacheError::Refused("cache is not ready".to_owned());
    assert_eq!(flow.result_cache().get(), Err(not_ready));
    let stored = flow.result_cache().set("v", MINUTE).await;
    assert_eq!(stored, Err(CacheError::Refused("key too large".to_owned())));
    flow.end().await;
}

#[tokio::test]
async fn a_flow_without_a_key_sends_no_cache_write() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let flow = client.start_flow("mail", FlowParams::new()).await;
    assert_eq!(flow.result_cache().get(), Err(CacheError::NotRequested));
    assert_eq!(flow.global_cache("any").get(), Err(CacheError::UnknownKey));
    assert_eq!(
        flow.result_cache().set("v", MINUTE).await,
        Err(CacheError::NoKey)
    );
    assert_eq!(flow.result_cache().delete().await, Err(CacheError::NoKey));
    assert!(agent.upserts().is_empty());
    flow.end().await;
}

#[tokio::test]
async fn cache_reads_of_rejected_and_unreachable_flows_are_errors() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    agent.on_check(|request| Reply::Now(answer::rejected(request, Reason::RateLimited)));
    let flow = start_keyed_flow(&client).await;
    assert_eq!(flow.result_cache().get(), Err(CacheError::FlowRejected));
    assert_eq!(
        flow.global_cache("global").get(),
        Err(CacheError::FlowRejected)
    );
    flow.end().await;

    agent.kill();
    let flow = start_keyed_flow(&client).await;
    assert!(matches!(
        flow.result_cache().get(),
        Err(CacheError::Unreachable(_))
    ));
    let stored = flow.result_cache().set("v", MINUTE).await;
    assert!(matches!(stored, Err(CacheError::Call(error)) if error.is_unavailable()));
}
