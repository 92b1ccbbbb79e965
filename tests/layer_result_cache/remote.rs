//! The same with an Agent: stored by the client's background worker.

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
async fn a_response_is_stored_in_the_background_and_answers_the_next_request() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let (layer, origin) = (layer(&client), origin(&[("cache-control", "max-age=30")]));
    assert!(!origin.ask(&layer, get()).await.stored);
    until(&agent, &client, |stats| stats.cache_writes == 1).await;
    let upserts = agent.upserts();
    assert_eq!(upserts[0].control_point, "shop");
    let entry = upserts[0].result_cache_entry.as_ref().expect("an entry");
    assert_eq!(entry.key, "GET 2:/a");
    assert_eq!(entry.ttl.map(|ttl| (ttl.seconds, ttl.nanos)), Some((30, 0)));

    let came = origin.ask(&layer, get()).await;
    assert_eq!((came.stored, &*came.body), (true, "some text"));
    let asked = agent.checks()[1].cache_lookup_request.clone();
    assert_eq!(asked.expect("a lookup").result_cache_key, "GET 2:/a");
    assert_eq!(client.stats().cache_answers, 1);

    // What was changed is deleted, and what was not asked for is not looked up.
    origin.ask(&layer, request(Method::POST, "/a", &[])).await;
    let asked = agent.checks()[2].cache_lookup_request.clone();
    assert!(asked.is_none_or(|asked| asked.result_cache_key.is_empty()));
    until(&agent, &client, |stats| stats.cache_writes == 3).await;
    assert!(!origin.ask(&layer, get()).await.stored);
}

#[tokio::test]
async fn shutting_down_stores_what_waits() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let origin = origin(&[]);
    for at in 0..20 {
        let request = request(Method::GET, &format!("/{at}"), &[]);
        origin.ask(&layer(&client), request).await;
    }
    assert!(client.shutdown(MINUTE).await);
    assert_eq!(
        (agent.upserts().len(), client.stats().cache_writes),
        (20, 20)
    );
}

#[tokio::test]
async fn what_the_agent_refuses_or_does_not_answer_is_counted() {
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
    assert!(!origin.ask(&layer, get()).await.stored);
    until(&agent, &client, |stats| stats.cache_writes_failed == 1).await;
    // An answer without a part for the key is no success either.
    agent.answer_upserts(CacheUpsertResponse::default());
    assert!(!origin.ask(&layer, get()).await.stored);
    until(&agent, &client, |stats| stats.cache_writes_failed == 2).await;
    assert_eq!((origin.runs(), client.stats().cache_writes), (2, 0));
    assert!(!client.shutdown(Duration::from_secs(60)).await || client.stats().cache_writes == 0);
}

#[tokio::test]
async fn after_the_shutdown_nothing_is_stored_in_silence() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let (layer, origin) = (layer(&client), origin(&[]));
    let held = {
        use tower::{Layer, ServiceExt, service_fn};
        let service = layer.layer(service_fn(|_: http::Request<()>| {
            let response = http::Response::new(crate::origin::text());
            std::future::ready(Ok::<_, std::convert::Infallible>(response))
        }));
        service.oneshot(get()).await.expect("it never fails")
    };
    assert!(
        !client.shutdown(Duration::ZERO).await,
        "the flow of the body is open"
    );
    http_body_util::BodyExt::collect(held.into_body())
        .await
        .expect("a body");
    assert_eq!(client.stats().cache_writes_dropped, 1);
    // And nobody is asked any more.
    assert!(!origin.ask(&layer, get()).await.stored);
    assert!(agent.upserts().is_empty());
}
