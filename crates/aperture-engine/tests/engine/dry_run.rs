//! Dry-run policies: they decide and report, and are not enforced.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tower_aperture::engine::{CheckInput, EngineBuilder, LimiterDetails, ManualClock};
use tower_aperture::{
    Check, Decider, Engine, FlowOutcome, FlowParams, FlowStatus, RejectReason, Ticket, Verdict,
};

fn rate(name: &str, capacity: u32) -> String {
    format!(
        "
blueprint: rate-limiting/base
policy:
  policy_name: {name}
  rate_limiter:
    bucket_capacity: {capacity}
    fill_amount: 1
    parameters: {{interval: 3600s}}
    selectors: [{{control_point: here}}]
"
    )
}

const QUEUES: &str = "
circuit:
  components:
  - flow_control:
      concurrency_scheduler:
        selectors: [{control_point: here}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        concurrency_limiter: {max_inflight_duration: 3600s}
        scheduler: {default_workload_parameters: {queue_timeout: 60s}}
  - flow_control:
      quota_scheduler:
        selectors: [{control_point: here}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 2}}
          fill_amount: {constant_signal: {value: 1}}
        rate_limiter: {interval: 3600s}
        scheduler: {default_workload_parameters: {queue_timeout: 60s}}
";

fn builder(policies: &[(&str, &str)]) -> EngineBuilder {
    let mut builder = Engine::builder().clock(ManualClock::new());
    for (name, text) in policies {
        builder = builder.policy_text(*name, *text);
    }
    builder
}

fn built(builder: EngineBuilder) -> Engine {
    builder.build().expect("the policies are valid")
}

fn check(engine: &Engine) -> tower_aperture::engine::CheckReport {
    engine.check(&CheckInput::new("here", &FlowParams::new()))
}

/// Decides a flow that must not wait, ends it, and returns whether it was accepted.
fn decide(engine: &Engine) -> bool {
    match engine.decide("here", &FlowParams::new()) {
        Check::Ready(Verdict::Accepted(ticket)) => {
            ticket.end(FlowOutcome::new(FlowStatus::Ok));
            true
        }
        Check::Ready(Verdict::Rejected(..)) => false,
        other => panic!("the flow is not decided: {other:?}"),
    }
}

#[test]
fn a_dry_run_limiter_reports_its_rejections_and_accepts_the_flow() {
    let engine = built(builder(&[("p", &rate("dry", 1))]).dry_run("dry"));
    for dropped in [false, true, true] {
        let report = check(&engine);
        assert!(report.accepted());
        assert_eq!(
            (report.wait_time, report.denied_response_status_code),
            (None, 0)
        );
        let decision = &report.limiter_decisions[0];
        assert_eq!((decision.dropped, decision.dry_run), (dropped, true));
        assert_eq!(decision.wait_time.is_zero(), !dropped);
    }
    assert!(decide(&engine));
    let stats = engine.stats();
    assert_eq!((stats.accepted, stats.rejected), (4, 0));
    assert_eq!(stats.dry_run_rejections, 3);
}

#[test]
fn enforced_policies_reject_beside_a_dry_run_policy() {
    let policies = [("a", rate("dry", 1)), ("b", rate("enforced", 2))];
    let policies = policies
        .each_ref()
        .map(|(name, text)| (*name, text.as_str()));
    let engine = built(builder(&policies).dry_run("dry"));
    assert!(decide(&engine) && decide(&engine));
    let report = check(&engine);
    assert_eq!(report.reject_reason, Some(RejectReason::RateLimited));
    let mut decisions = report.limiter_decisions.iter();
    assert!(decisions.all(|decision| decision.dropped));
    assert_eq!(engine.stats().dry_run_rejections, 2);

    // If the enforced policy rejects a flow, the dry-run limiter gets its tokens back too.
    let policies = [("a", rate("dry", 2)), ("b", rate("enforced", 1))];
    let policies = policies
        .each_ref()
        .map(|(name, text)| (*name, text.as_str()));
    let engine = built(builder(&policies).dry_run("dry"));
    assert!(decide(&engine) && !decide(&engine));
    let report = check(&engine);
    let tokens = report.limiter_decisions.iter().find_map(|decision| {
        let LimiterDetails::RateLimiter { tokens, .. } = &decision.details else {
            panic!("a rate limiter")
        };
        (&*decision.policy_name == "dry").then_some(tokens.remaining)
    });
    assert_eq!(
        tokens,
        Some(0.0),
        "the rejected flow returned its token; the last check took it"
    );
}

#[test]
fn flows_do_not_wait_in_the_queue_of_a_dry_run_policy() {
    let engine = built(builder(&[("queues", QUEUES)]).dry_run_all(true));
    let params = FlowParams::new();
    let hold = |engine: &Engine| match engine.decide("here", &params) {
        Check::Ready(Verdict::Accepted(ticket)) => ticket,
        other => panic!("the flow is not accepted at once: {other:?}"),
    };
    let first = hold(&engine);
    assert_eq!(engine.stats().dry_run_rejections, 0);
    let second = hold(&engine);
    assert_eq!(engine.stats().dry_run_rejections, 1, "the slot is taken");
    let third = hold(&engine);
    assert_eq!(
        engine.stats().dry_run_rejections,
        3,
        "the quota is used up as well"
    );
    drop((second, third));
    drop(first);
    let report = check(&engine);
    let dropped = report.limiter_decisions.iter().map(|decision| {
        let is_concurrency = matches!(
            decision.details,
            LimiterDetails::ConcurrencyScheduler { .. }
        );
        (is_concurrency, decision.dropped)
    });
    let mut dropped: Vec<_> = dropped.collect();
    dropped.sort_unstable();
    assert_eq!(
        dropped,
        [(false, true), (true, false)],
        "the slot is free again"
    );
}

#[test]
fn a_flow_in_an_enforced_queue_is_not_rejected_by_a_dry_run_queue() {
    let enforced = QUEUES.replace("value: 2", "value: 1");
    let enforced = enforced.replace(
        "rate_limiter: {interval: 3600s}",
        "rate_limiter: {interval: 10s}",
    );
    let policies = [
        ("dry", QUEUES.replace("value: 2", "value: 1")),
        ("enforced", enforced),
    ];
    let policies = policies
        .each_ref()
        .map(|(name, text)| (*name, text.as_str()));
    let clock = ManualClock::new();
    let engine = built(builder(&policies).clock(clock.clone()).dry_run("dry"));
    assert!(decide(&engine), "both policies have a token");
    let params = FlowParams::new();
    let Check::Pending(pending) = engine.decide("here", &params) else {
        panic!("the enforced policy has no token yet");
    };
    let mut pending = pin!(pending);
    let mut context = Context::from_waker(Waker::noop());
    assert!(pending.as_mut().poll(&mut context).is_pending());
    assert_eq!(
        engine.stats().dry_run_rejections,
        0,
        "the flow is not decided yet"
    );
    clock.advance(Duration::from_secs(10));
    let verdict = pending.as_mut().poll(&mut context);
    assert!(matches!(verdict, Poll::Ready(Verdict::Accepted(_))));
    assert_eq!(engine.stats().dry_run_rejections, 1);
}

#[test]
fn a_dry_run_ramp_accepts_flows_in_ramp_mode() {
    let ramp = "
circuit:
  components:
  - flow_control:
      sampler:
        in_ports: {accept_percentage: {constant_signal: {value: 0}}}
        parameters: {ramp_mode: true, selectors: [{control_point: here}]}
";
    let params = FlowParams::new().ramp_mode(true);
    let input = CheckInput::new("here", &params);
    assert!(!built(builder(&[("ramp", ramp)])).check(&input).accepted());
    let engine = built(builder(&[("ramp", ramp)]).dry_run("ramp"));
    assert!(engine.check(&input).accepted());
    assert_eq!(engine.stats().dry_run_rejections, 1);
}

#[test]
fn a_dry_run_of_an_unknown_policy_is_refused_by_name() {
    let none = builder(&[]).dry_run("missing").build();
    let none = none.expect_err("the engine has no policies");
    assert_eq!(
        none.message(),
        "no policy is named `missing`: there are no policies"
    );
    let other = builder(&[("p", &rate("per-user", 1))]).dry_run("per-users");
    let error = other.build().expect_err("the policy has another name");
    assert_eq!(
        error.to_string(),
        "EngineBuilder::dry_run: no policy is named `per-users`: the policies are `per-user`"
    );
}

#[test]
fn a_dry_run_continues_after_a_reload_and_cannot_lose_its_policy() {
    let engine = built(builder(&[("p", &rate("dry", 1))]).dry_run("dry"));
    assert!(decide(&engine) && decide(&engine));
    engine
        .reload_with([("p", rate("dry", 1)), ("q", rate("enforced", 1))])
        .expect("the policies are valid");
    assert!(decide(&engine) && !decide(&engine));
    assert_eq!(
        engine.stats().dry_run_rejections,
        3,
        "the bucket is still empty"
    );
    let error = engine.reload_with([("p", rate("renamed", 1))]);
    let error = error.expect_err("the renamed policy would be enforced");
    assert!(error.message().contains("`dry`"), "{error}");
    let description = engine.describe();
    assert!(
        description.contains("policy `dry` (dry run"),
        "{description}"
    );
    assert!(description.contains("policy `enforced`\n"), "{description}");
}
