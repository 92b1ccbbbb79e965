//! Requests under policies in process: what a decision of each kind allocates, with the end of its
//! flow.

use http::Request;
use tower::Layer;
use tower_aperture::policy::{ConcurrencyLimit, Policy, RateLimit, Sampler, Scheduler};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

use super::{allocations_of, inner};

/// Returns the allocations of a request and its status, once its key exists.
fn under(policy: Policy, set: impl Fn(Layers) -> Layers) -> (usize, u16) {
    let engine = Engine::builder().policy(policy).build();
    let client = ApertureClient::embedded(engine.expect("a valid policy"));
    let layer = ApertureLayer::new(client, "checkout").label_from_header("user", "x-user-id");
    let mut service = set(layer).layer(inner());
    // The first requests make room for the key.
    for _ in 0..3 {
        allocations_of(&mut service, Request::post("/"));
    }
    allocations_of(&mut service, Request::post("/"))
}

type Layers = ApertureLayer<ApertureClient>;

fn at_checkout(name: &str) -> Policy {
    Policy::new(name).at("checkout")
}

fn unchanged(layer: Layers) -> Layers {
    layer
}

#[test]
fn an_accepted_request_allocates_nothing_whatever_decides() {
    let limit = || RateLimit::per_second(1_000_000).burst(1_000_000).by("user");
    let policies = [
        Policy::new("elsewhere").at("render").limit(limit()),
        at_checkout("rate").limit(limit()),
        at_checkout("concurrency").limit(ConcurrencyLimit::slots(100).by("user")),
        at_checkout("quota").schedule(Scheduler::new(limit())),
        at_checkout("slots").schedule(Scheduler::slots(100).by("user")),
        at_checkout("sample").sample(Sampler::percent(100.0)),
    ];
    for policy in policies {
        let shown = format!("{policy:?}");
        assert_eq!(under(policy, unchanged), (0, 200), "{shown}");
    }
}

#[test]
fn rate_limit_fields_make_at_most_four_allocations() {
    let limit = RateLimit::per_second(1_000_000).burst(1_000_000).by("user");
    let policy = at_checkout("rate").limit(limit);
    let (allocations, status) = under(policy, |layer| layer.rate_limit_headers(true));
    assert_eq!(status, 200);
    // The quota with its ticket, the text, and the two parts of the map of headers, which the
    // response of the inner service lacks.
    assert!(allocations <= 4, "{allocations} allocations");
}

#[test]
fn a_rejected_request_makes_at_most_two_allocations_whatever_rejects_it() {
    let policies = [
        at_checkout("rate").limit(RateLimit::per_minute(1).by("user")),
        at_checkout("sample").sample(Sampler::percent(0.0001)),
    ];
    for policy in policies {
        let shown = format!("{policy:?}");
        let (allocations, status) = under(policy, unchanged);
        assert!(status == 429 || status == 403, "{status} by {shown}");
        assert!(allocations <= 2, "{allocations} allocations by {shown}");
    }
    // The digits of a wait of 100 seconds or more are a text of their own.
    let an_hour = at_checkout("rate").limit(RateLimit::per_hour(1).by("user"));
    assert_eq!(under(an_hour, unchanged), (3, 429));
}
