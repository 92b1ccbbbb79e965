//! Only requests that are served from the cache skip schedulers.

use http::Method;
use tower_aperture::engine::CacheEntry;
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

use crate::origin::{Fields, MINUTE, origin, request};
use crate::site::Cache;

/// Returns an engine with a quota scheduler that accepts two requests, and never more.
fn engine() -> Engine {
    const POLICY: &str = "
circuit:
  components:
  - flow_control:
      quota_scheduler:
        in_ports:
          bucket_capacity: {constant_signal: {value: 2}}
          fill_amount: {constant_signal: {value: 1}}
        rate_limiter: {interval: 3600s}
        scheduler: {default_workload_parameters: {queue_timeout: 0.05s}}
        selectors: [{control_point: shop}]
";
    let engine = Engine::builder().policy_text("quota", POLICY).build();
    engine.expect("a valid policy")
}

fn layer(engine: &Engine) -> Cache {
    ApertureLayer::new(ApertureClient::embedded(engine.clone()), "shop")
        .check_timeout(MINUTE)
        .result_cache(|head| head.uri().path().into(), MINUTE)
}

#[tokio::test]
async fn no_lookup_is_made_whose_result_the_request_could_refuse() {
    const REFUSING: [Fields; 12] = [
        &[("cache-control", "max-age=0")],
        &[("cache-control", "max-age=59")],
        &[("cache-control", "Max-Age=3600")],
        &[("cache-control", "max-age=\"60\"")],
        &[("cache-control", "max-age=5, max-age=6")],
        &[("cache-control", "max-age")],
        &[("cache-control", "max-stale, max-age=0")],
        &[("cache-control", "only-if-cached, min-fresh=1")],
        &[("cache-control", "min-fresh=x")],
        &[("cache-control", "no-cache")],
        &[("cache-control", "x=1"), ("cache-control", "no-cache")],
        &[("pragma", "x, No-Cache")],
    ];
    for fields in REFUSING {
        let (layer, origin) = (layer(&engine()), origin(&[]));
        assert!(
            !origin
                .send(&layer, request(Method::GET, "/a", &[]))
                .await
                .stored
        );
        let mut statuses = Vec::new();
        for _ in 0..4 {
            let response = origin
                .send(&layer, request(Method::GET, "/a", fields))
                .await;
            assert!(!response.stored, "{fields:?}");
            statuses.push(response.status);
        }
        // The first request took one of the two tokens, so one is left.
        assert_eq!(origin.runs(), 2, "{fields:?} {statuses:?}");
        assert_eq!(statuses[0], 200, "{fields:?}");
        // The stored response still serves other requests.
        assert!(
            origin
                .send(&layer, request(Method::GET, "/a", &[]))
                .await
                .stored
        );
    }
}

#[tokio::test]
async fn a_request_that_is_served_from_the_cache_skips_schedulers() {
    const ACCEPTING: [Fields; 5] = [
        &[],
        &[("cache-control", "max-stale")],
        &[("cache-control", "only-if-cached")],
        &[("cache-control", "min-fresh=0")],
        &[("cache-control", "no-transform"), ("pragma", "no-cache")],
    ];
    for fields in ACCEPTING {
        let (layer, origin) = (layer(&engine()), origin(&[]));
        assert!(
            !origin
                .send(&layer, request(Method::GET, "/a", &[]))
                .await
                .stored
        );
        for _ in 0..8 {
            let response = origin
                .send(&layer, request(Method::GET, "/a", fields))
                .await;
            assert!(response.stored, "{fields:?}");
        }
    }
}

#[tokio::test]
async fn a_request_with_an_unusable_stored_response_does_not_skip_schedulers() {
    let engine = engine();
    let (layer, origin) = (layer(&engine), origin(&[("cache-control", "max-age=0")]));
    for _ in 0..8 {
        let entry = CacheEntry::new("GET 2:/a", b"of another program").ttl(Some(MINUTE));
        let change = engine.cache_upsert("shop", Some(entry), []);
        change.result.expect("a key").expect("it fits");
        assert!(
            !origin
                .send(&layer, request(Method::GET, "/a", &[]))
                .await
                .stored
        );
    }
    assert_eq!(origin.runs(), 2);
}
