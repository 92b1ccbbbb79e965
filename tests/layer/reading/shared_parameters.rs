//! Requests that share the parameters of their layer are decided like those that have parameters of
//! their own, and each version of the policies applies at once.

use std::fs;
use std::path::PathBuf;

use http::{HeaderMap, Request};
use proptest::prelude::*;
use tower::{Layer, ServiceExt};
use tower_aperture::engine::ManualClock;
use tower_aperture::policy::{ConcurrencyLimit, Policy, RateLimit, Sampler, Scheduler};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};

use super::Inner;

type Layers = ApertureLayer<ApertureClient>;

/// Returns the status and the headers of the response.
async fn send(layer: &Layers, user: &str, timeout: Option<&str>) -> (u16, HeaderMap) {
    let mut request = Request::post("/").header("x-user-id", user);
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let request = request.body(()).expect("a valid request");
    let service = layer.layer(Inner::default());
    let response = service.oneshot(request).await.expect("a response");
    (response.status().as_u16(), response.headers().clone())
}

fn layer(policy: Policy, clock: &ManualClock) -> Layers {
    let engine = Engine::builder().policy(policy).clock(clock.clone());
    let client = ApertureClient::embedded(engine.build().expect("a valid policy"));
    ApertureLayer::new(client, "checkout").label_from_header("user", "x-user-id")
}

fn policies() -> Vec<Policy> {
    let bucket = || RateLimit::per_second(1).burst(2).by("user");
    vec![
        Policy::new("elsewhere").at("render").limit(bucket()),
        Policy::new("rate").at("checkout").limit(bucket()),
        Policy::new("two")
            .at("checkout")
            .limit(bucket())
            .limit(RateLimit::per_second(1).burst(4)),
        Policy::new("slots")
            .at("checkout")
            .limit(ConcurrencyLimit::slots(1).by("user")),
        Policy::new("quota")
            .at("checkout")
            .schedule(Scheduler::new(bucket())),
        Policy::new("sample")
            .at("checkout")
            .sample(Sampler::percent(0.0001)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn requests_with_shared_and_with_own_parameters_are_decided_alike(
        users in prop::collection::vec((0..3_u8, prop::option::weighted(0.2, Just("5S"))), 1..12),
        at in 0..policies().len(),
        fields in any::<bool>(),
        shadow in any::<bool>(),
    ) {
        let clock = ManualClock::new();
        let set = |layer: Layers| layer.rate_limit_headers(fields).shadow_mode(shadow);
        let shared = set(layer(policies().swap_remove(at), &clock));
        // A hook that reads the request gives each request parameters of its own.
        let own = set(layer(policies().swap_remove(at), &clock)).skip(|_| false);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            for (user, timeout) in users {
                let user = user.to_string();
                let expected = send(&own, &user, timeout).await;
                assert_eq!(send(&shared, &user, timeout).await, expected);
            }
        });
    }
}

/// A folder of policies that is removed in the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn limit(&self, control_point: &str, capacity: u32) {
        let text = format!(
            "blueprint: rate-limiting/base
policy:
  policy_name: a
  rate_limiter:
    bucket_capacity: {capacity}
    fill_amount: {capacity}
    parameters: {{interval: 3600s, limit_by_label_key: user}}
    selectors: [{{control_point: {control_point}}}]
"
        );
        fs::write(self.0.join("policy.yaml"), text).expect("written");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[tokio::test]
async fn a_policy_takes_effect_at_once_at_a_control_point_that_had_none_and_ends_at_once() {
    let folder = Folder::new("shared-parameters");
    folder.limit("render", 1);
    let engine = Engine::builder().policy_folder(&folder.0).build();
    let engine = engine.expect("a valid policy");
    let layer = ApertureLayer::new(ApertureClient::embedded(engine.clone()), "checkout")
        .label_from_header("user", "x-user-id");
    // The keys of a component that keeps its id outlive its selectors, so each round has its own.
    for user in ["1", "2"] {
        for expected in [200, 200, 200] {
            assert_eq!(send(&layer, user, None).await.0, expected);
        }
        folder.limit("checkout", 1);
        engine.reload().expect("a valid policy");
        for expected in [200, 429, 429] {
            assert_eq!(send(&layer, user, None).await.0, expected);
        }
        folder.limit("render", 1);
        engine.reload().expect("a valid policy");
    }
}

#[tokio::test]
async fn the_fields_of_quotas_show_the_limit_in_force() {
    let folder = Folder::new("quota-fields");
    folder.limit("checkout", 3);
    let engine = Engine::builder().policy_folder(&folder.0).build();
    let engine = engine.expect("a valid policy");
    let layer = ApertureLayer::new(ApertureClient::embedded(engine.clone()), "checkout")
        .label_from_header("user", "x-user-id")
        .rate_limit_headers(true);
    for capacity in [3, 7, 7, 2] {
        folder.limit("checkout", capacity);
        engine.reload().expect("a valid policy");
        let (_, headers) = send(&layer, "42", None).await;
        let policy = headers["ratelimit-policy"].to_str().expect("ASCII");
        assert_eq!(policy, format!("\"a/root.0\";q={capacity};w=3600"));
    }
}
