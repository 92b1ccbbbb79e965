//! Slots: who holds them, and who gives them back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use proptest::prelude::*;
use tower_aperture::engine::{CheckInput, Engine, EngineTicket};
use tower_aperture::{FlowOutcome, FlowStatus, RejectReason, Ticket};

use crate::queues::*;
use crate::support::{HERE, Limiter, check, of, params, policy, secs};

fn remaining(engine: &Engine) -> f64 {
    let report = check(engine, &[("tokens", "0")]);
    seen(&report, "root.0").0.remaining
}

#[test]
fn slots_are_given_back_by_end_drop_and_panic() {
    let (engine, _) = engine_of(&[limiter(3.0, "")]);
    let take = || -> EngineTicket { now(start(&engine, &[])).1 };
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
fn a_flow_that_leaves_its_ticket_open_ends_by_its_references() {
    let (engine, clock) = engine_of(&[limiter(1.0, ", limit_by_label_key: user")]);
    let (report, ticket) = now(start(&engine, &[("user", "a")]));
    ticket.leave_open();
    let refused = now(start(&engine, &[("user", "a")])).0;
    assert_eq!(refused.reject_reason, Some(RejectReason::RateLimited));
    // Even a refused flow has a name, under which nothing is held.
    let returns = engine.flow_end(&refused.slots(), None);
    assert_eq!((returns[0].returned, returns[0].error), (false, None));

    let slots = report.slots();
    let late = engine.flow_end(&slots, Some(Duration::from_millis(10)));
    assert_eq!(late[0].error, Some("deadline exceeded"));
    let twice = [slots[0].clone(), slots[0].clone()];
    let returns = engine.flow_end(&twice, Some(Duration::from_millis(11)));
    assert_eq!((returns[0].returned, returns[1].returned), (true, false));

    let (report, ticket) = now(start(&engine, &[("user", "a")]));
    ticket.leave_open();
    clock.advance(secs(10.0) + Duration::from_nanos(1));
    assert!(!engine.flow_end(&report.slots(), None)[0].returned);
}

/// An Agent never limits keys of 256 bytes or more.
#[test]
fn long_keys_hold_slots_like_any() {
    let (engine, _) = engine_of(&[limiter(1.0, ", limit_by_label_key: user")]);
    let user = "u".repeat(300);
    let (report, ticket) = now(start(&engine, &[("user", &user)]));
    assert!(!now(start(&engine, &[("user", &user)])).0.accepted());
    ticket.leave_open();
    assert!(engine.flow_end(&report.slots(), None)[0].returned);
    let again = engine.flow_end(&report.slots(), None);
    assert_eq!(again[0].error, Some("key too large"));
}

#[test]
fn a_batch_that_is_turned_away_gives_its_slots_back_and_an_earlier_batch_keeps_them() {
    let strict = Limiter::new(1.0, 0.0).by("strict");
    let text = policy("limits", &[strict]);
    let engine = Engine::builder()
        .policy_text("slots", policy_of(&[limiter(5.0, ""), slots(1.0, "", "")]))
        .policy_text("limits", text)
        .build()
        .expect("the policies are right");
    let ask = |labels: &[(&str, &str)]| now(start(&engine, labels));
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
    let first = ask(&[("strict", "x"), ("tokens", "1")]);
    assert!(first.0.accepted());
    assert_eq!(in_flight(), 1.0);
    // The rate limiter is of the same batch as the concurrency limiter.
    let refused = ask(&[("strict", "x"), ("tokens", "1")]);
    assert_eq!(refused.0.reject_reason, Some(RejectReason::RateLimited));
    assert_eq!(in_flight(), 1.0);
    // The concurrency scheduler is not: that slot is held until the flow ends.
    let refused = ask(&[("strict", "y")]);
    assert_eq!(refused.0.reject_reason, Some(RejectReason::NoTokens));
    assert_eq!(in_flight(), 2.0);
    drop(refused);
    assert_eq!(in_flight(), 1.0);
    drop(first);
}

/// An Agent crashes when such a decision is reverted.
#[test]
fn a_scheduler_that_lets_all_pass_is_reverted_without_harm() {
    let open = slots(1.0, "", "").replace(
        "in_ports: {",
        "in_ports: {pass_through: {constant_signal: {value: 1}}, ",
    );
    let (engine, _) = engine_of(&[open, slots(1.0, "", "")]);
    let first = now(start(&engine, &[]));
    assert!(first.0.accepted());
    let second = now(start(&engine, &[]));
    assert_eq!(second.0.reject_reason, Some(RejectReason::NoTokens));
    assert!(!of(&second.0, "root.0").dropped);
}

#[test]
fn ramps_decide_about_flows_in_ramp_mode_only() {
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
    let ask = |engine: &Engine, ramp: &str, ramp_mode: bool| {
        let params = params(&[("ramp", ramp)]).ramp_mode(ramp_mode);
        engine.check(&CheckInput::new(HERE, &params))
    };
    assert!(ask(&engine, "1", false).accepted());
    let refused = ask(&engine, "1", true);
    assert_eq!(refused.reject_reason, Some(RejectReason::NoMatchingRamp));
    assert_eq!(refused.denied_response_status_code, 403);
    let unmatched = ask(&engine, "0", true);
    assert_eq!(unmatched.reject_reason, Some(RejectReason::NoMatchingRamp));
    assert_eq!(unmatched.denied_response_status_code, 0);

    let open = [sampler(100, true, "")];
    assert!(ask(&engine_of(&open).0, "1", true).accepted());
    let upstream = Engine::builder()
        .policy_text("test.yaml", policy_of(&components))
        .upstream_ramp_mode(true)
        .build()
        .expect("the policy is right");
    assert!(ask(&upstream, "1", true).limiter_decisions.is_empty());
    let sampled = ask(&upstream, "1", false);
    assert_eq!(sampled.reject_reason, Some(RejectReason::NotSampled));
}

/// An Agent uses the list only after an event that has nothing to do with it.
#[test]
fn values_that_a_sampler_is_told_to_let_pass_do_pass() {
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
fn draws_come_to_the_percentage() {
    let (engine, _) = engine_of(&[format!(
        "sampler: {{in_ports: {{accept_percentage: {{constant_signal: {{value: 30}}}}}}, \
         parameters: {{selectors: [{{control_point: {HERE}}}]}}}}"
    )]);
    let accepted = (0..10_000)
        .filter(|_| check(&engine, &[]).accepted())
        .count();
    // Six standard deviations.
    assert!((2720..3280).contains(&accepted), "{accepted}");
}

proptest! {
    #[test]
    fn never_is_more_in_flight_than_the_capacity_and_one_request(
        capacity in 0..20_u32,
        scheduler: bool,
        steps in prop::collection::vec((0..4_u8, 1..6_u32, 0..4_000_u64), 1..150),
    ) {
        let capacity = f64::from(capacity);
        let component = if scheduler { slots(capacity, "", "") } else { limiter(capacity, "") };
        let (engine, clock) = engine_of(&[component]);
        let mut held: Vec<(EngineTicket, f64, u64)> = Vec::new();
        let mut time = 0;
        for (what, tokens, millis) in steps {
            let in_flight = |held: &[(EngineTicket, f64, u64)]| -> f64 {
                held.iter().map(|(_, tokens, _)| tokens).sum()
            };
            match what {
                0 | 1 => {
                    let before = in_flight(&held);
                    let (report, ticket) = now(start(&engine, &[("tokens", &tokens.to_string())]));
                    prop_assert_eq!(report.accepted(), before < capacity);
                    prop_assert_eq!(seen(&report, "root.0").0.current, before);
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
