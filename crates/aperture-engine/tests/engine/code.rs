//! Policies in code: they decide as their printed files do, and work beside files.

use std::time::Duration;

use proptest::prelude::*;
use tower_aperture::FlowParams;
use tower_aperture::engine::{CheckInput, Engine, EngineBuilder, ManualClock};
use tower_aperture::policy::{
    ConcurrencyLimit, LabelMatcher, Policy, RateLimit, Sampler, Scheduler, Selector, Signal,
};

use crate::support::{HERE, at_most_cases};

const KEYS: [&str; 4] = ["ann", "bob", "cem", ""];

fn check(engine: &Engine, key: &str, tier: &str) -> bool {
    let params = FlowParams::new().label("user", key).label("tier", tier);
    engine.check(&CheckInput::new(HERE, &params)).accepted()
}

/// Returns a bare policy of a bucket of `capacity` tokens that is filled within an hour.
fn file(capacity: u32) -> String {
    format!(
        "circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{{control_point: {HERE}}}]
        in_ports:
          bucket_capacity: {{constant_signal: {{value: {capacity}}}}}
          fill_amount: {{constant_signal: {{value: 1}}}}
        parameters: {{interval: 3600s, limit_by_label_key: user}}
"
    )
}

fn per_user(name: &str, requests: u32) -> Policy {
    Policy::new(name)
        .at(HERE)
        .limit(RateLimit::per_hour(1).burst(requests).by("user"))
}

/// Returns how many of ten requests of a user are accepted.
fn accepted_of_ten(engine: &Engine, user: &str) -> usize {
    (0..10).filter(|_| check(engine, user, "free")).count()
}

fn policy() -> impl Strategy<Value = Policy> {
    let rate = (1..8_u32, 1..8_u32, 1..5_u64, any::<bool>()).prop_map(
        |(tokens, burst, seconds, continuous)| {
            RateLimit::within(Duration::from_secs(seconds), tokens)
                .burst(burst)
                .continuous_fill(continuous)
        },
    );
    let concurrency = (1..9_u32, 1..20_u64).prop_map(|(slots, seconds)| {
        ConcurrencyLimit::slots(slots).max_inflight_duration(Duration::from_secs(seconds))
    });
    let tiers = prop::collection::btree_map("gold|free|[0-9]", 1.0..300.0, 0..3);
    let selector = any::<bool>().prop_map(|gold| {
        let gold_only = LabelMatcher::new().equals("tier", "gold");
        match gold {
            true => Selector::control_point(HERE).when(gold_only),
            false => Selector::control_point(HERE),
        }
    });
    let percent = (0..100_u32).prop_map(|percent| Sampler::percent(percent + 1).by("user"));
    (
        selector,
        rate,
        concurrency,
        tiers,
        percent,
        any::<[bool; 4]>(),
    )
        .prop_map(|(selector, rate, concurrency, tiers, sampler, parts)| {
            let mut policy = Policy::new("p").at(selector).limit(rate.clone().by("user"));
            if parts[0] {
                policy = policy.limit(concurrency.by("user"));
            }
            if parts[1] {
                let scheduler = Scheduler::new(rate).by("tier").fair_by("user");
                let scheduler = scheduler.priority_from("tier", tiers);
                policy = policy.schedule(scheduler.queue_for(Duration::from_millis(200)));
            }
            if parts[2] {
                policy = policy.sample(sampler);
            }
            policy
        })
}

proptest! {
    // Each case is a long sequence.
    #![proptest_config(at_most_cases(1000))]

    #[test]
    fn a_policy_decides_as_its_printed_file(
        policy in policy(),
        checks in prop::collection::vec((0..3_000_u64, 0..KEYS.len(), any::<bool>()), 1..60),
    ) {
        let (clock, other_clock) = (ManualClock::new(), ManualClock::new());
        let text = policy.to_yaml().expect("the policy is valid");
        let in_code = Engine::builder().policy(policy).clock(clock.clone());
        let in_code = in_code.build().expect("the policy loads");
        let in_file = Engine::builder().policy_text("other.yaml", text.as_str());
        let in_file = in_file.clock(other_clock.clone()).build().expect("the file loads");
        prop_assert_eq!(in_code.describe(), in_file.describe());
        let mut accepted = 0;
        for (pause, key, gold) in checks {
            clock.advance(Duration::from_millis(pause));
            other_clock.advance(Duration::from_millis(pause));
            let tier = if gold { "gold" } else { "free" };
            let decision = check(&in_code, KEYS[key], tier);
            prop_assert_eq!(decision, check(&in_file, KEYS[key], tier), "{}", &text);
            accepted += u64::from(decision);
        }
        prop_assert_eq!(in_code.stats().accepted, accepted);
        prop_assert_eq!(in_file.stats().accepted, accepted);
    }
}

#[test]
fn policies_in_code_and_in_files_decide_together() {
    let engine = Engine::builder()
        .policy(per_user("code", 3))
        .policy_text("file.yaml", file(5))
        .build()
        .expect("both load");
    assert_eq!(accepted_of_ten(&engine, "ann"), 3);
    assert_eq!(accepted_of_ten(&engine, "bob"), 3);
}

#[test]
fn names_are_unique_in_code_and_files() {
    let message = |builder: EngineBuilder| builder.build().expect_err("one name twice").to_string();
    let rest = "rename one of them, because names of policies must be unique";
    assert_eq!(
        message(
            Engine::builder()
                .policy(per_user("shop", 3))
                .policy_text("shop.yaml", file(5))
        ),
        format!("shop.yaml: the name `shop` is taken by policy `shop`: {rest}")
    );
    assert_eq!(
        message(
            Engine::builder()
                .policy_text("shop.yaml", file(5))
                .policy(per_user("shop", 3))
        ),
        format!("policy `shop`: the name `shop` is taken by shop.yaml: {rest}")
    );
    assert_eq!(
        message(
            Engine::builder()
                .policy(per_user("shop", 3))
                .policy(per_user("shop", 4))
        ),
        format!("policy `shop`: the name `shop` is taken by policy `shop`: {rest}")
    );
}

#[test]
fn a_reload_of_files_keeps_policies_from_code_and_their_state() {
    let folder = std::env::temp_dir().join(format!("code-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("file.yaml");
    std::fs::write(&path, file(2)).expect("a file");
    let engine = Engine::builder()
        .policy_folder(&folder)
        .policy(per_user("code", 4))
        .clock(ManualClock::new())
        .build()
        .expect("both load");
    assert_eq!(accepted_of_ten(&engine, "ann"), 2);

    std::fs::write(&path, file(1000)).expect("a file");
    engine.reload().expect("the file is valid");
    // Of the four tokens in code, two are spent at least.
    let left = accepted_of_ten(&engine, "ann");
    assert!(left <= 2, "{left}");
    assert_eq!(accepted_of_ten(&engine, "bob"), 4, "now code limits first");
    std::fs::remove_dir_all(&folder).expect("the folder goes");
}

#[test]
fn a_dry_run_in_code_rejects_no_flow() {
    let engine = Engine::builder()
        .policy(per_user("trial", 1).dry_run(true))
        .build()
        .expect("the policy loads");
    assert_eq!(accepted_of_ten(&engine, "ann"), 10);
    assert_eq!(engine.stats().dry_run_rejections, 9);
}

#[test]
fn dynamic_configuration_sets_a_limit_in_code() {
    let limit = RateLimit::per_hour(1)
        .burst(Signal::config("burst", 2))
        .by("user");
    let engine = Engine::builder()
        .policy(Policy::new("shop").at(HERE).limit(limit))
        .clock(ManualClock::new())
        .build()
        .expect("the policy loads");
    assert_eq!(accepted_of_ten(&engine, "ann"), 2);
    let set = engine.set_dynamic_config("shop", "burst: {value: 6}");
    assert_eq!(set, Ok(true));
    assert_eq!(accepted_of_ten(&engine, "bob"), 6);
    engine.reload().expect("nothing changed");
    assert_eq!(accepted_of_ten(&engine, "cem"), 6);
}

#[test]
fn an_invalid_policy_in_code_is_an_error_of_build() {
    let policy = Policy::new("shop").at(HERE).limit(RateLimit::per_second(0));
    let error = Engine::builder().policy(policy).build().expect_err("zero");
    assert_eq!(
        error.to_string(),
        "policy `shop`: components[0].tokens: must be more than zero, not 0: without tokens, no \
         flow would run once the bucket is empty"
    );
}
