//! Limits also apply to responses from the cache.

use std::convert::Infallible;
use std::future::ready;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

use crate::origin::{MINUTE, layer, origin, request};

/// Returns a client that accepts two requests, and never more.
fn limited() -> ApertureClient {
    const POLICY: &str = "
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{control_point: shop}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 2}}
          fill_amount: {constant_signal: {value: 0}}
        parameters: {interval: 1s}
";
    let engine = Engine::builder().policy_text("limit", POLICY).build();
    ApertureClient::embedded(engine.expect("a valid policy"))
}

#[tokio::test]
async fn limits_apply_to_responses_from_the_cache() {
    let client = limited();
    let (layer, origin) = (layer(&client), origin(&[]));
    let get = || request(Method::GET, "/a", &[]);
    assert!(!origin.send(&layer, get()).await.stored);
    assert!(origin.send(&layer, get()).await.stored);
    let refused = origin.send(&layer, get()).await;
    assert_eq!((refused.status, origin.runs()), (429, 1));
    assert_eq!(client.stats().cache_answers, 1);
}

#[tokio::test]
async fn each_stored_response_has_the_current_rate_limit_headers() {
    let client = limited();
    let layer = ApertureLayer::new(client, "shop")
        .rate_limit_headers(true)
        .result_cache(|_| "k".into(), MINUTE);
    for (left, stored) in [("r=1", false), ("r=0", true)] {
        let service = layer.layer(service_fn(|_: Request<()>| {
            ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
                "a page",
            ))))
        }));
        let get = request(Method::GET, "/a", &[]);
        let response = service.oneshot(get).await.expect("infallible");
        let (head, body) = response.into_parts();
        assert_eq!(head.headers.contains_key("age"), stored);
        let headers: Vec<_> = head.headers.get_all("ratelimit").iter().collect();
        let text = headers.first().and_then(|value| value.to_str().ok());
        assert!(
            headers.len() == 1 && text.is_some_and(|text| text.contains(left)),
            "{headers:?}"
        );
        http_body_util::BodyExt::collect(body)
            .await
            .expect("a body");
    }
}
