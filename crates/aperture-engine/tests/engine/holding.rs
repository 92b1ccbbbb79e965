//! Slots of concurrency limiters and schedulers: which flows hold them, and how they are returned.
//! Ramps and samplers are tested here as well.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use proptest::prelude::*;
use tower_aperture::engine::{CheckInput, Engine, EngineTicket};
use tower_aperture::{FlowOutcome, FlowStatus, RejectReason, Ticket};

use crate::queues::*;
use crate::support::{HERE, Limiter, check, decision_of, params, policy, secs};

fn remaining(engine: &Engine) -> f64 {
    let report = check(engine, &[("tokens", "0")]);
    tokens_and_slot(&report, "root.0").0.remaining
}

#[test]
fn ending_dropping_or_panicking_returns_the_slots_of_a_flow() {
    let (engine, _) = engine_of(&[limiter(3.0, "")]);
    let take = || -> EngineTicket { decided(start(&engine, &[])).1 };
    take().end(FlowOutcome::new(FlowStatus::Ok));
    assert_eq!(remaining(&engine), 3.0);
    let held = (take(), take());
    assert_eq!(remaining(&engine), 1.0);
    drop(held);
    let ticket = take();
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _held = ticket;
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    assert!(panicked.is_err());
    assert_eq!(remaining(&engine), 3.0);
}

#[test]
fn a_flow_whose_ticket_is_left_open_ends_by_its_slot_references() {
    let (engine, clock) = engine_of(&[limiter(1.0, ", limit_by_label_key: user")]);
    let (report, ticket) = decided(start(&engine, &[("user", "a")]));
    ticket.leave_open();
    let rejected = decided(start(&engine, &[("user", "a")])).0;
    assert_eq!(rejected.reject_reason, Some(RejectReason::RateLimited));
    // A rejected flow has a slot reference too, and holds no slot under it.
    let returns = engine.flow_end(&rejected.slots(), None);
    assert_eq!((returns[0].returned, returns[0].error), (false, None));

    let slots = report.slots();
    let late = engine.flow_end(&slots, Some(Duration::from_millis(10)));
    assert_eq!(late[0].error, Some("deadline exceeded"));
    let twice = [slots[0].clone(), slots[0].clone()];
    let returns = engine.flow_end(&twice, Some(Duration::from_millis(11)));
    assert_eq!((returns[0].returned, returns[1].returned), (true, false));

    let (report, ticket) = decided(start(&engine, &[("user", "a")]));
    ticket.leave_open();
    clock.advance(secs(10.0) + Duration::from_nanos(1));
    assert!(!engine.flow_end(&report.slots(), None)[0].returned);
}

/// Unlike the engine, an Agent does not limit keys of 256 bytes or more.
#[test]
fn long_keys_hold_slots_like_short_ones() {
    let (engine, _) = engine_of(&[limiter(1.0, ", limit_by_label_key: user")]);
    let user = "u".repeat(300);
    let (report, ticket) = decided(start(&engine, &[("user", &user)]));
    assert!(!decided(start(&engine, &[("user", &user)])).0.accepted());
    ticket.leave_open();
    assert!(engine.flow_end(&report.slots(), None)[0].returned);
    let again = engine.flow_end(&report.slots(), None);
    assert_eq!(again[0].error, Some("key too large"));
}

#[test]
fn a_rejected_batch_returns_its_slots_and_an_earlier_batch_keeps_them_until_the_end() {
    let strict = Limiter::new(1.0, 0.0).by("strict");
    let text = policy("limits", &[strict]);
    let engine = Engine::builder()
        .policy_text("slots", policy_of(&[limiter(5.0, ""), slots(1.0, "", "")]))
        .policy_text("limits", text)
        .build()
        .expect("the policies are valid");
    let start_decided = |labels: &[(&str, &str)]| decided(start(&engine, labels));
    let in_flight = || {
        let report = check(&engine, &[("tokens", "0")]);
        let decisions = report.limiter_decisions.iter();
        let own = decisions.filter(|one| &*one.policy_name == "slots");
        own.filter_map(|one| match &one.details {
            tower_aperture::engine::LimiterDetails::ConcurrencyLimiter { tokens, .. } => {
                Some(tokens.current)
            }
            _ => None,
        })
        .sum::<f64>()
    };
    let first = start_decided(&[("strict", "x"), ("tokens", "1")]);
    assert!(first.0.accepted());
    assert_eq!(in_flight(), 1.0);
    // The rate limiter and the concurrency limiter decide in the same batch.
    let rejected = start_decided(&[("strict", "x"), ("tokens", "1")]);
    assert_eq!(rejected.0.reject_reason, Some(RejectReason::RateLimited));
    assert_eq!(in_flight(), 1.0);
    // The concurrency scheduler decides in a later batch, so the limiter's slot is held until the
    // flow ends.
    let rejected = start_decided(&[("strict", "y")]);
    assert_eq!(rejected.0.reject_reason, Some(RejectReason::NoTokens));
    assert_eq!(in_flight(), 2.0);
    drop(rejected);
    assert_eq!(in_flight(), 1.0);
    drop(first);
}

/// An Agent crashes when it reverts such a decision.
#[test]
fn a_rejected_flow_reverts_a_scheduler_in_pass_through_without_harm() {
    let open = slots(1.0, "", "").replace(
        "in_ports: {",
        "in_ports: {pass_through: {constant_signal: {value: 1}}, ",
    );
    let (engine, _) = engine_of(&[open, slots(1.0, "", "")]);
    let first = decided(start(&engine, &[]));
    assert!(first.0.accepted());
    let second = decided(start(&engine, &[]));
    assert_eq!(second.0.reject_reason, Some(RejectReason::NoTokens));
    assert!(!decision_of(&second.0, "root.0").dropped);
}

#[test]
fn ramps_decide_only_flows_in_ramp_mode() {
    let sampler = |percentage: u32, ramp: bool, more: &str| {
        format!(
            "sampler: {{in_ports: {{accept_percentage: {{constant_signal: {{value: \
             {percentage}}}}}}}, parameters: {{ramp_mode: {ramp}, selectors: [{{control_point: \
             {HERE}{more}}}]}}}}"
        )
    };
    let label = ", label_matcher: {match_labels: {ramp: \"1\"}}";
    let components = [sampler(0, true, label), sampler(100, false, "")];
    let (engine, _) = engine_of(&components);
    let check_ramp = |engine: &Engine, ramp: &str, ramp_mode: bool| {
        let params = params(&[("ramp", ramp)]).ramp_mode(ramp_mode);
        engine.check(&CheckInput::new(HERE, &params))
    };
    assert!(check_ramp(&engine, "1", false).accepted());
    let rejected = check_ramp(&engine, "1", true);
    assert_eq!(rejected.reject_reason, Some(RejectReason::NoMatchingRamp));
    assert_eq!(rejected.denied_response_status_code, 403);
    let unmatched = check_ramp(&engine, "0", true);
    assert_eq!(unmatched.reject_reason, Some(RejectReason::NoMatchingRamp));
    assert_eq!(unmatched.denied_response_status_code, 0);

    let open = [sampler(100, true, "")];
    assert!(check_ramp(&engine_of(&open).0, "1", true).accepted());
    let upstream = Engine::builder()
        .policy_text("test.yaml", policy_of(&components))
        .upstream_ramp_mode(true)
        .build()
        .expect("the policy is valid");
    assert!(
        check_ramp(&upstream, "1", true)
            .limiter_decisions
            .is_empty()
    );
    let sampled = check_ramp(&upstream, "1", false);
    assert_eq!(sampled.reject_reason, Some(RejectReason::NotSampled));
}

/// An Agent applies the list only after an unrelated event.
#[test]
fn a_sampler_accepts_its_pass_through_label_values() {
    let (engine, _) = engine_of(&[format!(
        "sampler: {{in_ports: {{accept_percentage: {{constant_signal: {{value: -1}}}}}}, \
         parameters: {{session_label_key: user, selectors: [{{control_point: {HERE}}}]}}, \
         pass_through_label_values: [staff, \"\"]}}"
    )]);
    assert!(check(&engine, &[("user", "staff")]).accepted());
    assert!(check(&engine, &[]).accepted());
    assert!(!check(&engine, &[("user", "me")]).accepted());
}

#[test]
fn a_sampler_accepts_its_percentage_of_flows() {
    let (engine, _) = engine_of(&[format!(
        "sampler: {{in_ports: {{accept_percentage: {{constant_signal: {{value: 30}}}}}}, \
         parameters: {{selectors: [{{control_point: {HERE}}}]}}}}"
    )]);
    let accepted = (0..10_000)
        .filter(|_| check(&engine, &[]).accepted())
        .count();
    // The bounds are six standard deviations away.
    assert!((2720..3280).contains(&accepted), "{accepted}");
}

proptest! {
    #[test]
    fn tokens_in_flight_never_exceed_the_capacity_plus_one_request(
        capacity in 0..20_u32,
        scheduler: bool,
        steps in prop::collection::vec((0..4_u8, 1..6_u32, 0..4_000_u64), 1..150),
    ) {
        let capacity = f64::from(capacity);
        let component = if scheduler { slots(capacity, "", "") } else { limiter(capacity, "") };
        let (engine, clock) = engine_of(&[component]);
        let mut held: Vec<(EngineTicket, f64, u64)> = Vec::new();
        let mut time = 0;
        for (action, tokens, millis) in steps {
            let in_flight = |held: &[(EngineTicket, f64, u64)]| -> f64 {
                held.iter().map(|(_, tokens, _)| tokens).sum()
            };
            match action {
                0 | 1 => {
                    let before = in_flight(&held);
                    let pending = start(&engine, &[("tokens", &tokens.to_string())]);
                    let (report, ticket) = decided(pending);
                    prop_assert_eq!(report.accepted(), before < capacity);
                    prop_assert_eq!(tokens_and_slot(&report, "root.0").0.current, before);
                    if report.accepted() {
                        held.push((ticket, f64::from(tokens), time + 10_000));
                        prop_assert!(in_flight(&held) < capacity + f64::from(tokens));
                    }
                }
                2 if !held.is_empty() => {
                    let (ticket, ..) = held.swap_remove(millis as usize % held.len());
                    drop(ticket);
                }
                _ => {
                    clock.advance(Duration::from_millis(millis));
                    time += millis;
                    held.retain(|(_, _, until)| *until >= time);
                }
            }
        }
    }
}
