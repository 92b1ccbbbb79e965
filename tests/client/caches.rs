//! Tests the result cache and the global cache of an embedded client, through flows and through the
//! client's own calls.
#![cfg(feature = "embedded")]

use std::time::Duration;

use tower_aperture::cache::CacheError;
use tower_aperture::engine::ManualClock;
use tower_aperture::{ApertureClient, Engine, FlowParams};

const POLICY: &str = "
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{control_point: profile}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 2}}
          fill_amount: {constant_signal: {value: 0}}
        parameters: {interval: 1s}
";
const MINUTE: Duration = Duration::from_secs(60);

fn client() -> (ApertureClient, ManualClock) {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("limit", POLICY)
        .clock(clock.clone())
        .build()
        .expect("the policy is valid");
    (ApertureClient::embedded(engine), clock)
}

#[tokio::test]
async fn a_flow_finds_the_values_that_an_earlier_flow_stored() {
    let (client, clock) = client();
    let params = || {
        FlowParams::new()
            .result_cache_key("42")
            .global_cache_key("g")
    };

    let flow = client.start_flow("profile", params()).await;
    assert_eq!(flow.result_cache().get(), Ok(None));
    assert_eq!(flow.global_cache("g").get(), Ok(None));
    assert_eq!(
        flow.global_cache("other").get(),
        Err(CacheError::UnknownKey)
    );
    flow.result_cache()
        .set("ann", MINUTE)
        .await
        .expect("the cache has room");
    flow.global_cache("g")
        .set("all", MINUTE)
        .await
        .expect("the cache has room");
    // The flow keeps the lookup that was made when it started.
    assert_eq!(flow.result_cache().get(), Ok(None));
    flow.end().await;

    let flow = client.start_flow("profile", params()).await;
    assert_eq!(flow.result_cache().get(), Ok(Some("ann".into())));
    assert_eq!(flow.global_cache("g").get(), Ok(Some("all".into())));
    flow.result_cache()
        .delete()
        .await
        .expect("the entry exists");
    flow.global_cache("g")
        .delete()
        .await
        .expect("the entry exists");
    flow.end().await;
    assert_eq!(client.result_cache("profile", "42").get().await, Ok(None));
    assert_eq!(client.global_cache("g").get().await, Ok(None));

    let flow = client.start_flow("profile", params()).await;
    assert!(!flow.should_run());
    assert_eq!(flow.result_cache().get(), Err(CacheError::FlowRejected));
    clock.advance(MINUTE);
}

#[tokio::test]
async fn a_cache_access_without_a_key_is_an_error() {
    let (client, _) = client();
    let flow = client.start_flow("profile", FlowParams::new()).await;
    assert_eq!(flow.result_cache().get(), Err(CacheError::NotRequested));
    assert_eq!(flow.global_cache("g").get(), Err(CacheError::NotRequested));
    assert_eq!(
        flow.result_cache().set("v", MINUTE).await,
        Err(CacheError::NoKey)
    );
    flow.end().await;
    let flow = client
        .start_flow("profile", FlowParams::new().global_cache_key("g"))
        .await;
    assert_eq!(flow.result_cache().get(), Err(CacheError::NotRequested));
    assert_eq!(flow.global_cache("g").get(), Ok(None));
}

#[tokio::test]
async fn the_client_reads_and_writes_the_caches_without_a_flow() {
    let (client, clock) = client();
    client
        .result_cache("profile", "1")
        .set("one", MINUTE)
        .await
        .expect("the cache has room");
    client
        .global_cache("1")
        .set("everywhere", MINUTE)
        .await
        .expect("the cache has room");
    assert_eq!(
        client.result_cache("profile", "1").get().await,
        Ok(Some("one".into()))
    );
    assert_eq!(client.result_cache("elsewhere", "1").get().await, Ok(None));
    assert_eq!(
        client.global_cache("1").get().await,
        Ok(Some("everywhere".into()))
    );
    client
        .global_cache("1")
        .delete()
        .await
        .expect("the entry exists");
    client
        .global_cache("1")
        .delete()
        .await
        .expect("deleting a missing entry succeeds");
    assert_eq!(client.global_cache("1").get().await, Ok(None));
    clock.advance(MINUTE);
    assert_eq!(client.result_cache("profile", "1").get().await, Ok(None));
}

#[tokio::test]
async fn invalid_keys_and_times_to_live_are_errors() {
    let (client, _) = client();
    assert_eq!(
        client.result_cache("profile", "").get().await,
        Err(CacheError::NoKey)
    );
    let error = client.global_cache("k").set("v", Duration::ZERO).await;
    assert_eq!(error, Err(CacheError::NoTtl));
    for (control_point, key, text) in [
        ("", "k".to_owned(), "cache control_point cannot be empty"),
        ("profile", "k".repeat(300), "key too large"),
    ] {
        let error = client
            .result_cache(control_point, &key)
            .set("v", MINUTE)
            .await;
        assert_eq!(error, Err(CacheError::Refused(text.to_owned())));
    }
    assert_eq!(
        ApertureClient::disabled().global_cache("k").get().await,
        Err(CacheError::Unsupported)
    );
}

#[cfg(feature = "remote")]
#[tokio::test]
async fn the_check_response_of_an_embedded_flow_reports_cache_lookups_as_an_agent_does() {
    use tower_aperture::pb::check::{CacheLookupStatus, CacheOperationStatus};

    let (client, _) = client();
    client
        .result_cache("profile", "1")
        .set("one", MINUTE)
        .await
        .expect("the cache has room");
    let params = FlowParams::new()
        .result_cache_key("1")
        .global_cache_key("g")
        .global_cache_key("");
    let flow = client.start_flow("profile", params).await;
    let response = flow.check_response().expect("the check has a response");
    let lookup = response
        .cache_lookup_response
        .as_ref()
        .expect("the flow asked for the lookup");
    let result = lookup
        .result_cache_response
        .as_ref()
        .expect("the flow asked for the lookup");
    assert_eq!(result.lookup_status(), CacheLookupStatus::Hit);
    assert_eq!(&result.value[..], b"one");
    let global = |key: &str| {
        let mut entries = lookup.global_cache_responses.iter();
        let entry = entries.find(|entry| entry.key == key);
        entry
            .and_then(|entry| entry.value.clone())
            .expect("the flow asked for the lookup")
    };
    let missed = global("g");
    assert_eq!(missed.lookup_status(), CacheLookupStatus::Miss);
    assert_eq!(missed.operation_status(), CacheOperationStatus::Success);
    let refused = global("");
    assert_eq!(refused.lookup_status(), CacheLookupStatus::Miss);
    assert_eq!(refused.operation_status(), CacheOperationStatus::Error);
    assert_eq!(refused.error, "cache key cannot be empty");
}
