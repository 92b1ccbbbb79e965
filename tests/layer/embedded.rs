//! Layers from a policy in code.
#![cfg(feature = "embedded")]

use std::convert::Infallible;
use std::time::Duration;

use crate::layer_support::inner::{Body, hello};
use http::{Request, Response};
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::policy::{ConcurrencyLimit, Policy, RateLimit, Scheduler};
use tower_aperture::{ApertureClient, ApertureLayer, PolicyError};

fn layer(policy: Policy) -> Result<ApertureLayer<ApertureClient>, PolicyError> {
    ApertureLayer::embedded(policy)
}

async fn send(
    layer: &ApertureLayer<ApertureClient>,
    user: Option<&str>,
) -> Response<impl Sized + use<>> {
    let inner = service_fn(async |_: Request<()>| Ok::<Response<Body>, Infallible>(hello()));
    let mut request = Request::get("/");
    if let Some(user) = user {
        request = request.header("x-user-id", user);
    }
    let request = request.body(()).expect("a request");
    let response = layer.layer(inner).oneshot(request).await;
    response.expect("the inner service does not fail")
}

#[tokio::test]
async fn a_policy_in_code_limits_requests_at_its_control_point() {
    let limit = RateLimit::per_hour(2).by("user_id");
    let layer = layer(Policy::new("per-user").at("api").limit(limit))
        .expect("the policy is valid")
        .label_from_header("user_id", "x-user-id");
    for status in [200, 200, 429] {
        assert_eq!(send(&layer, Some("ann")).await.status(), status);
    }
    assert_eq!(send(&layer, Some("bob")).await.status(), 200);
    for _ in 0..5 {
        let response = send(&layer, None).await;
        assert_eq!(response.status(), 200, "no key, no limit");
    }
}

#[tokio::test(start_paused = true)]
async fn requests_wait_as_long_as_the_policy_queues_them() {
    let scheduler = Scheduler::slots(1).queue_for(Duration::from_secs(2));
    let layer = layer(Policy::new("one").at("api").schedule(scheduler));
    let layer = layer.expect("the policy is valid");
    let first = send(&layer, None).await;
    let second = tokio::spawn({
        let layer = layer.clone();
        async move { send(&layer, None).await }
    });
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!second.is_finished(), "the default of 200 ms is over");
    drop(first);
    let second = second.await.expect("no panic");
    assert_eq!(second.status(), 200);

    let start = tokio::time::Instant::now();
    let third = send(&layer, None).await;
    assert_eq!(third.status(), 503);
    assert!(start.elapsed() > Duration::from_secs(1), "not only 200 ms");
}

#[test]
fn a_policy_without_one_control_point_makes_no_layer() {
    let several = Policy::new("several")
        .at("api")
        .limit(RateLimit::per_second(5))
        .limit(ConcurrencyLimit::slots(2).at("search"));
    let error = layer(several).expect_err("two control points");
    assert_eq!((error.file(), error.field()), ("policy `several`", "at"));
    assert!(error.message().contains("`api` and `search`"), "{error}");
    for policy in [
        Policy::new("none").limit(RateLimit::per_second(5)),
        Policy::new("empty").at("").limit(RateLimit::per_second(5)),
        Policy::new("nothing").at("api"),
        Policy::new("zero")
            .at("api")
            .limit(RateLimit::per_second(0)),
    ] {
        assert!(layer(policy).is_err());
    }
}
