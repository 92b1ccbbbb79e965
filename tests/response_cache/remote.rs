//! The response cache with an Agent, to which the client's background worker writes.

use std::time::Duration;

use http::Method;
use tower_aperture::pb::check::{CacheOperationStatus, CacheUpsertResponse, KeyUpsertResponse};
use tower_aperture::{ApertureClient, ClientStats};

use crate::origin::{MINUTE, layer, origin, request};
use crate::support::agent::FakeAgent;

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

fn get() -> http::Request<()> {
    request(Method::GET, "/a", &[])
}

async fn until(agent: &FakeAgent, client: &ApertureClient, done: impl Fn(ClientStats) -> bool) {
    agent.until("counts", |_| done(client.stats())).await;
}

#[tokio::test]
async fn a_response_is_stored_in_the_background_and_serves_the_next_request() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let (layer, origin) = (layer(&client), origin(&[("cache-control", "max-age=30")]));
    assert!(!origin.send(&layer, get()).await.stored);
    until(&agent, &client, |stats| stats.cache_writes == 1).await;
    let upserts = agent.upserts();
    assert_eq!(upserts[0].control_point, "shop");
    let entry = upserts[0].result_cache_entry.as_ref().expect("an entry");
    assert_eq!(entry.key, "GET 2:/a");
    assert_eq!(entry.ttl.map(|ttl| (ttl.seconds, ttl.nanos)), Some((30, 0)));

    let received = origin.send(&layer, get()).await;
    assert_eq!((received.stored, &*received.body), (true, "some text"));
    let asked = agent.checks()[1].cache_lookup_request.clone();
    assert_eq!(asked.expect("a lookup").result_cache_key, "GET 2:/a");
    assert_eq!(client.stats().cache_answers, 1);

    // A change deletes the entry, and its check looks no key up.
    origin.send(&layer, request(Method::POST, "/a", &[])).await;
    let asked = agent.checks()[2].cache_lookup_request.clone();
    assert!(asked.is_none_or(|asked| asked.result_cache_key.is_empty()));
    until(&agent, &client, |stats| stats.cache_writes == 3).await;
    assert!(!origin.send(&layer, get()).await.stored);
}

#[tokio::test]
async fn shutdown_completes_pending_cache_writes() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let origin = origin(&[]);
    for at in 0..20 {
        let request = request(Method::GET, &format!("/{at}"), &[]);
        origin.send(&layer(&client), request).await;
    }
    assert!(client.shutdown(MINUTE).await);
    assert_eq!(
        (agent.upserts().len(), client.stats().cache_writes),
        (20, 20)
    );
}

#[tokio::test]
async fn failed_cache_writes_are_counted() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let (layer, origin) = (layer(&client), origin(&[]));
    agent.answer_upserts(CacheUpsertResponse {
        result_cache_response: Some(KeyUpsertResponse {
            operation_status: CacheOperationStatus::Error as i32,
            error: "cache is not ready".to_owned(),
        }),
        ..CacheUpsertResponse::default()
    });
    assert!(!origin.send(&layer, get()).await.stored);
    until(&agent, &client, |stats| stats.cache_writes_failed == 1).await;
    // A response without a result for the key counts as a failure as well.
    agent.answer_upserts(CacheUpsertResponse::default());
    assert!(!origin.send(&layer, get()).await.stored);
    until(&agent, &client, |stats| stats.cache_writes_failed == 2).await;
    // Neither write is repeated, and neither delays the shutdown.
    assert!(client.shutdown(MINUTE).await);
    let stats = client.stats();
    assert_eq!(
        (
            stats.cache_writes,
            stats.cache_writes_failed,
            stats.cache_writes_dropped
        ),
        (0, 2, 0)
    );
    assert_eq!((origin.runs(), agent.upserts().len()), (2, 2));
    for upsert in agent.upserts() {
        let entry = upsert.result_cache_entry.expect("an entry");
        assert_eq!((&*entry.key, &*upsert.control_point), ("GET 2:/a", "shop"));
    }
}

#[tokio::test]
async fn cache_writes_after_the_shutdown_are_counted_as_dropped() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let (layer, origin) = (layer(&client), origin(&[]));
    let held = {
        use tower::{Layer, ServiceExt, service_fn};
        let service = layer.layer(service_fn(|_: http::Request<()>| {
            let response = http::Response::new(crate::origin::text());
            std::future::ready(Ok::<_, std::convert::Infallible>(response))
        }));
        service.oneshot(get()).await.expect("infallible")
    };
    assert!(
        !client.shutdown(Duration::ZERO).await,
        "the flow of the body is open"
    );
    http_body_util::BodyExt::collect(held.into_body())
        .await
        .expect("a body");
    assert_eq!(client.stats().cache_writes_dropped, 1);
    // The client makes no more checks.
    assert!(!origin.send(&layer, get()).await.stored);
    assert!(agent.upserts().is_empty());
}
