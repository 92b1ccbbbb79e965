//! After a change no older response is served or stored (RFC 9111, section 4.4).

use std::time::Duration;

use http::Method;
use http_body_util::BodyExt;
use tower::{Layer, ServiceExt};
use tower_aperture::engine::CacheEntry;
use tower_aperture::{ApertureClient, ApertureLayer};

use crate::origin::{MINUTE, layer};
use crate::site::{Broken, Cache, Site, engine, request_with};

fn embedded() -> Cache {
    layer(&ApertureClient::embedded(engine()))
}

/// Requests a page twice and returns whether the second response was stored.
async fn is_stored(site: &Site, layer: &Cache, path: &str) -> bool {
    site.get(layer, path).await;
    site.get(layer, path).await.1
}

#[tokio::test]
async fn a_read_that_began_before_a_change_is_not_stored() {
    let (site, layer) = (Site::new(), embedded());
    let early = tokio::spawn({
        let (site, layer) = (site.clone(), layer.clone());
        async move {
            site.send(&layer, request_with(Method::GET, "/a", &[("x-held", "1")]))
                .await
        }
    });
    site.wait_for_requests(1).await;
    site.post(&layer, "/a").await;
    site.release();
    assert_eq!(early.await.expect("no panic"), (0, false));
    assert_eq!(site.get(&layer, "/a").await, (1, false));
    assert_eq!(site.get(&layer, "/a").await, (1, true));
}

#[tokio::test]
async fn a_read_whose_body_ends_after_a_change_is_not_stored() {
    let (site, layer) = (Site::new(), embedded());
    let get = request_with(Method::GET, "/a", &[]);
    let early = layer
        .layer(site.service())
        .oneshot(get)
        .await
        .expect("a response");
    site.post(&layer, "/a").await;
    early.into_body().collect().await.expect("a body");
    assert_eq!(site.get(&layer, "/a").await, (1, false));
}

#[tokio::test]
async fn a_response_stored_during_a_change_is_not_served_after_it() {
    let (site, layer) = (Site::new(), embedded());
    let post = request_with(Method::POST, "/a", &[]);
    let change = layer
        .layer(site.service())
        .oneshot(post)
        .await
        .expect("a response");
    // This response is stored between the head and the end of the response to the change.
    assert_eq!(site.get(&layer, "/a").await, (1, false));
    site.change();
    change.into_body().collect().await.expect("a body");
    assert_eq!(site.get(&layer, "/a").await, (2, false));
    assert_eq!(site.get(&layer, "/a").await, (2, true));
}

#[tokio::test]
async fn an_old_response_that_is_written_late_is_not_served() {
    let (site, engine) = (Site::new(), engine());
    let layer = layer(&ApertureClient::embedded(engine.clone()));
    site.get(&layer, "/a").await;
    let found = engine.cache_lookup("shop", "GET 2:/a", []);
    let old = found.result_value().expect("it is stored").clone();
    site.post(&layer, "/a").await;
    let entry = CacheEntry::new("GET 2:/a", &old).ttl(Some(MINUTE));
    let change = engine.cache_upsert("shop", Some(entry), []);
    change.result.expect("a key").expect("it fits");
    assert_eq!(site.get(&layer, "/a").await, (1, false));
    assert_eq!(site.get(&layer, "/a").await, (1, true));
}

#[tokio::test]
async fn layers_over_one_engine_see_each_others_changes() {
    let (site, engine) = (Site::new(), engine());
    let (reading, changing) = (
        layer(&ApertureClient::embedded(engine.clone())),
        layer(&ApertureClient::embedded(engine)),
    );
    let early = tokio::spawn({
        let (site, layer) = (site.clone(), reading.clone());
        async move {
            site.send(&layer, request_with(Method::GET, "/a", &[("x-held", "1")]))
                .await
        }
    });
    site.wait_for_requests(1).await;
    site.post(&changing, "/a").await;
    site.release();
    early.await.expect("no panic");
    assert_eq!(site.get(&reading, "/a").await, (1, false));
}

/// The service may have made the change although its response is lost.
#[tokio::test]
async fn an_aborted_change_invalidates_the_stored_response() {
    for how in ["error", "panic", "dropped"] {
        let (site, layer) = (Site::new(), embedded());
        assert!(is_stored(&site, &layer, "/a").await);
        let field = if how == "dropped" {
            "x-held"
        } else {
            "x-broken"
        };
        let post = request_with(Method::POST, "/a", &[(field, how)]);
        let change = tokio::spawn(layer.layer(site.service()).oneshot(post));
        site.wait_for_requests(2).await;
        match how {
            "dropped" => change.abort(),
            _ => assert!(!matches!(change.await, Ok(Ok(_)))),
        }
        // The runtime drops an aborted task later.
        let invalidated = async {
            while site.get(&layer, "/a").await.0 == 0 {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), invalidated).await;
        assert!(waited.is_ok(), "{how}");
    }
}

#[tokio::test]
async fn an_error_of_a_change_is_returned_to_its_caller() {
    let (site, layer) = (Site::new(), embedded());
    let post = request_with(Method::POST, "/a", &[("x-broken", "error")]);
    let response = layer.layer(site.service()).oneshot(post).await;
    assert_eq!(response.err(), Some(Broken));
}

#[tokio::test]
async fn a_failed_change_invalidates_no_stored_response() {
    for status in ["400", "404", "409", "500", "503"] {
        let (site, layer) = (Site::new(), embedded());
        assert!(is_stored(&site, &layer, "/a").await);
        let post = request_with(Method::POST, "/a", &[("x-status", status)]);
        site.send(&layer, post).await;
        assert_eq!(site.get(&layer, "/a").await, (0, true), "{status}");
    }
}

#[tokio::test]
async fn a_change_without_flow_control_invalidates_the_stored_response() {
    let client = ApertureClient::embedded(engine());
    let site = Site::new();
    let rest = |layer: ApertureLayer<ApertureClient>| {
        layer.result_cache(|head| head.uri().path().into(), MINUTE)
    };
    let skipping = ApertureLayer::new(client.clone(), "shop").skip(|head| !head.method().is_safe());
    let layer = rest(skipping);
    assert!(is_stored(&site, &layer, "/a").await);
    site.post(&layer, "/a").await;
    assert_eq!(site.get(&layer, "/a").await, (1, false));
}

#[tokio::test]
async fn location_and_content_location_of_the_same_origin_are_invalidated() {
    for (name, value, invalidated) in [
        ("x-set-location", "/b", true),
        ("x-set-location", "b", true),
        ("x-set-location", "../b?x=1#y", true),
        ("x-set-location", "//shop.example/b", true),
        ("x-set-location", "http://Shop.Example:80/./b", true),
        ("x-set-content-location", "/b", true),
        ("x-set-content-location", "https://shop.example/b", true),
        ("x-set-location", "http://other.example/b", false),
        ("x-set-location", "//other.example/b", false),
        ("x-set-content-location", "http://shop.example:81/b", false),
        (
            "x-set-content-location",
            "http://shop.example@other.example/b",
            false,
        ),
        ("x-set-location", "/c", false),
        ("x-set-location", "http://[", false),
    ] {
        let (site, layer) = (Site::new(), embedded());
        assert!(is_stored(&site, &layer, "/b").await);
        assert!(is_stored(&site, &layer, "/a").await);
        let fields = [("host", "shop.example"), (name, value)];
        let post = |status| {
            let fields = [&fields[..], &[("x-status", status)]].concat();
            request_with(Method::POST, "/a", &fields)
        };
        // The locations of an error are not invalidated.
        site.send(&layer, post("404")).await;
        assert!(site.get(&layer, "/b").await.1);
        site.send(&layer, post("201")).await;
        assert_eq!(
            site.get(&layer, "/b").await.1,
            !invalidated,
            "{name}: {value}"
        );
        assert!(!site.get(&layer, "/a").await.1, "the target of the change");
    }
}

#[tokio::test]
async fn a_location_is_invalidated_at_its_own_control_point() {
    let client = ApertureClient::embedded(engine());
    let layer = ApertureLayer::with_control_point(client, |head| {
        let first = head.uri().path().split('/').nth(1).unwrap_or_default();
        first.to_owned().into()
    })
    .known_names(["orders", "carts"])
    .result_cache(|head| head.uri().path().into(), MINUTE);
    let site = Site::new();
    assert!(is_stored(&site, &layer, "/orders/1").await);
    let post = request_with(Method::POST, "/carts/7", &[("x-set-location", "/orders/1")]);
    site.send(&layer, post).await;
    assert_eq!(site.get(&layer, "/orders/1").await, (1, false));
}

/// With an Agent, which stores and deletes in the background.
#[cfg(feature = "remote")]
mod agent {
    use tonic::Status;

    use super::*;
    use crate::support::agent::{FakeAgent, Gate, Reply, answer};

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

    /// Waits until `count` writes and deletes of the cache have finished.
    async fn wait_for_cache_writes(agent: &FakeAgent, client: &ApertureClient, count: u64) {
        let over = |_: &FakeAgent| {
            let stats = client.stats();
            stats.cache_writes + stats.cache_writes_failed >= count
        };
        agent.until("changes to the cache", over).await;
    }

    #[tokio::test]
    async fn the_next_read_after_a_change_is_current() {
        let agent = FakeAgent::start();
        let (client, site) = (client(&agent), Site::new());
        let layer = layer(&client);
        for round in 0..40 {
            assert_eq!(site.get(&layer, "/a").await.0, round);
            if round % 2 == 0 {
                // The response is stored, or its write is pending.
                let writes = client.stats().cache_writes;
                wait_for_cache_writes(&agent, &client, writes.max(1)).await;
            }
            site.post(&layer, "/a").await;
            assert_eq!(site.get(&layer, "/a").await, (round + 1, false));
        }
    }

    #[tokio::test]
    async fn a_key_is_not_served_from_the_cache_until_its_deletion_succeeds() {
        let agent = FakeAgent::start();
        let (client, site) = (client(&agent), Site::new());
        let layer = layer(&client);
        site.get(&layer, "/a").await;
        wait_for_cache_writes(&agent, &client, 1).await;
        assert_eq!(site.get(&layer, "/a").await, (0, true));

        let gate = Gate::new();
        let held = gate.clone();
        agent.on_delete(move |_| Reply::When(held.clone(), ()));
        site.post(&layer, "/a").await;
        for _ in 0..3 {
            assert_eq!(site.get(&layer, "/a").await, (1, false));
        }
        // Other clients of the Agent in this process know of the deletion as well.
        let other = super::layer(&self::client(&agent));
        assert_eq!(site.get(&other, "/a").await, (1, false));
        assert_eq!(
            agent.upserts().len(),
            1,
            "the client stores no response meanwhile"
        );

        gate.open();
        wait_for_cache_writes(&agent, &client, 3).await;
        assert_eq!(site.get(&layer, "/a").await, (1, false));
        wait_for_cache_writes(&agent, &client, 4).await;
        assert_eq!(site.get(&layer, "/a").await, (1, true));
    }

    #[tokio::test]
    async fn a_failed_deletion_keeps_the_key_out_of_the_cache() {
        let agent = FakeAgent::start();
        let (client, site) = (client(&agent), Site::new());
        let layer = layer(&client);
        site.get(&layer, "/a").await;
        wait_for_cache_writes(&agent, &client, 1).await;
        agent.on_delete(|_| Reply::Status(Status::internal("the cache is broken")));
        site.post(&layer, "/a").await;
        wait_for_cache_writes(&agent, &client, 3).await;
        assert_eq!(client.stats().cache_writes_failed, 2);
        for _ in 0..3 {
            assert_eq!(site.get(&layer, "/a").await, (1, false));
        }
        assert_eq!(agent.upserts().len(), 1);
    }

    #[tokio::test]
    async fn an_unreachable_change_invalidates_the_stored_response() {
        let agent = FakeAgent::start();
        agent.on_check(|request| match request.labels.get("lost") {
            Some(_) => Reply::Status(Status::internal("no decision")),
            None => Reply::Now(answer::accepted(request)),
        });
        let (client, site) = (client(&agent), Site::new());
        let layer = ApertureLayer::new(client.clone(), "shop")
            .label_from_header("lost", "x-lost")
            .result_cache(|head| head.uri().path().into(), MINUTE);
        site.get(&layer, "/a").await;
        wait_for_cache_writes(&agent, &client, 1).await;
        let post = request_with(Method::POST, "/a", &[("x-lost", "1")]);
        site.send(&layer, post).await;
        assert_eq!(client.stats().unreachable, 1);
        assert_eq!(site.get(&layer, "/a").await, (1, false));
        // A read without a decision is not stored, because the Agent did not look its key up.
        let get = request_with(Method::GET, "/b", &[("x-lost", "1")]);
        site.send(&layer, get).await;
        assert!(agent.upserts().iter().all(|upsert| {
            let entry = upsert.result_cache_entry.as_ref();
            entry.is_some_and(|entry| entry.key == "GET 2:/a")
        }));
    }

    #[tokio::test]
    async fn a_change_while_the_agent_is_down_invalidates_its_stored_response() {
        let agent = FakeAgent::start();
        let client = ApertureClient::builder()
            .address(agent.address())
            .insecure(true)
            .check_timeout(Duration::from_secs(2))
            .build()
            .expect("a client");
        let (site, layer) = (Site::new(), layer(&client));
        site.get(&layer, "/a").await;
        wait_for_cache_writes(&agent, &client, 1).await;
        agent.kill();
        site.post(&layer, "/a").await;
        agent.restart();
        // The deletion is lost or is retried; in both cases the old response must not be served.
        let reached = async {
            while client.stats().accepted < 3 {
                assert_eq!(site.get(&layer, "/a").await.0, 1);
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(60), reached).await;
        assert!(waited.is_ok(), "the agent is back");
    }
}
