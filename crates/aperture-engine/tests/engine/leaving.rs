//! A flow that leaves a queue returns everything, as if it had never arrived. A number in a test's
//! name is its row in the register of quirks.

use std::time::Duration;

use proptest::prelude::*;
use tower_aperture::engine::{CheckInput, Engine, ManualClock, PendingReport};
use tower_aperture::{Check, Decider, RejectReason};

use crate::queues::*;
use crate::support::{HERE, params, secs};

/// A quota scheduler whose bucket has these parameters.
fn bucket(capacity: f64, fill: f64, parameters: &str) -> String {
    quota(capacity, fill, "").replace("interval: 1s", &format!("interval: 1s{parameters}"))
}

/// The ways in which a bucket fills, and one bucket per user.
const KINDS: [&str; 4] = [
    "",
    ", continuous_fill: false",
    ", lazy_sync: {enabled: true, num_sync: 4}",
    ", limit_by_label_key: user",
];

/// Starts a flow that has to wait for its tokens.
fn wait(engine: &Engine, tokens: &str) -> PendingReport {
    let mut pending = start(engine, &[("tokens", tokens), ("user", "ann")]);
    assert!(
        poll(&mut pending).is_none(),
        "{tokens} tokens are available"
    );
    pending
}

fn accepted_at_once(engine: &Engine, tokens: &str) -> bool {
    let mut pending = start(engine, &[("tokens", tokens), ("user", "ann")]);
    poll(&mut pending).is_some_and(|(report, _)| report.accepted())
}

/// The ways in which a flow leaves a queue.
const WAYS_TO_LEAVE: [fn(&Engine); 4] = [
    // The caller drops the pending check.
    |engine| drop(wait(engine, "1")),
    |engine| {
        let params = params(&[("tokens", "1"), ("user", "ann")]);
        match engine.decide(HERE, &params) {
            Check::Pending(pending) => drop(pending),
            other => panic!("the flow does not wait: {other:?}"),
        }
    },
    // The caller gives up.
    |engine| {
        let mut pending = wait(engine, "1");
        pending.give_up();
        let (report, _) = poll(&mut pending).expect("a flow that gave up is decided");
        assert_eq!(report.reject_reason, Some(RejectReason::NoTokens));
    },
    // The caller does not wait at all.
    |engine| {
        let params = params(&[("tokens", "1"), ("user", "ann")]);
        assert!(!engine.check(&CheckInput::new(HERE, &params)).accepted());
    },
];

#[test]
fn row_41_a_waiter_that_leaves_returns_its_tokens_despite_a_remembered_rejection() {
    for kind in KINDS {
        for leave in WAYS_TO_LEAVE {
            for millis in [0, 30, 500, 900] {
                let (engine, clock) = engine_of(&[bucket(1.0, 1.0, kind)]);
                assert!(accepted_at_once(&engine, "1"));
                clock.advance(Duration::from_millis(millis));
                for _ in 0..5 {
                    leave(&engine);
                }
                let mut next = wait(&engine, "1");
                // With lazy sync, a bucket fills from the time at which it was charged.
                let charged = if kind.contains("lazy") { millis } else { 0 };
                clock.advance_to(Duration::from_millis(charged + 999));
                assert!(poll(&mut next).is_none(), "{kind} after {millis} ms");
                clock.advance_to(Duration::from_millis(charged + 1000));
                let (report, _) = poll(&mut next).expect("the token is available");
                assert!(report.accepted(), "{kind} after {millis} ms");
            }
        }
    }
}

#[test]
fn a_waiter_that_leaves_after_a_while_returns_its_tokens() {
    for kind in KINDS {
        for millis in [1, 30, 500, 999] {
            let (engine, clock) = engine_of(&[bucket(1.0, 1.0, kind)]);
            assert!(accepted_at_once(&engine, "1"));
            let leaver = wait(&engine, "1");
            let mut behind = wait(&engine, "1");
            clock.advance(Duration::from_millis(millis));
            drop(leaver);
            assert!(poll(&mut behind).is_none());
            clock.advance_to(secs(1.0));
            let (report, _) = poll(&mut behind).expect("the token is available");
            assert!(report.accepted(), "{kind}: {report:?}");
        }
    }
}

/// Two schedulers decide in one batch. A flow that leaves the queue of one returns the tokens that
/// the other has granted.
#[test]
fn leaving_the_queue_of_one_scheduler_returns_the_tokens_of_another() {
    let (engine, clock) = engine_of(&[bucket(2.0, 1.0, ""), bucket(1.0, 0.25, "")]);
    assert!(accepted_at_once(&engine, "1"));
    // Both schedulers reject and remember the second flow; the third waits in the second queue
    // only.
    drop(wait(&engine, "2"));
    clock.advance(secs(0.5));
    drop(wait(&engine, "1"));
    let (report, _) = {
        clock.advance(secs(3.5));
        decided(start(&engine, &[("tokens", "1")]))
    };
    assert!(report.accepted());
    assert_eq!(tokens_and_slot(&report, "root.0").0.remaining, 1.0);
}

#[test]
fn a_grant_that_its_flow_never_took_is_returned() {
    for kind in KINDS {
        let (engine, clock) = engine_of(&[bucket(1.0, 1.0, kind)]);
        assert!(accepted_at_once(&engine, "1"));
        let granted = wait(&engine, "1");
        let mut behind = wait(&engine, "1");
        // Polling the second waiter grants the token of the first.
        clock.advance(secs(1.0));
        assert!(poll(&mut behind).is_none());
        drop(granted);
        drop(behind);
        clock.advance(secs(1.001));
        assert!(accepted_at_once(&engine, "1"), "{kind}");
    }
}

#[test]
fn a_flow_of_huge_cost_that_leaves_returns_its_tokens() {
    for kind in KINDS {
        // The waits are days for some costs, and longer than the clock can count for others.
        for fill in [1.0, 1e6] {
            for cost in ["1e12", "1e15", "1e17", "1.7e308"] {
                let (engine, clock) = engine_of(&[bucket(10.0, fill, kind)]);
                for _ in 0..3 {
                    drop(start(&engine, &[("tokens", cost), ("user", "ann")]));
                }
                let taken = (0..20).filter(|_| accepted_at_once(&engine, "1")).count();
                // With lazy sync, the first grant of a period counts twice.
                let least = if kind.contains("lazy") { 9 } else { 10 };
                assert!(
                    (least..=10).contains(&taken),
                    "{kind} {fill} {cost}: {taken}"
                );
                clock.advance(secs(3600.0));
                assert!(accepted_at_once(&engine, "1"), "{kind} {fill} {cost}");
            }
        }
    }
}

#[test]
fn a_flow_whose_wait_exceeds_the_clock_is_rejected_instead_of_accepted_at_once() {
    for (capacity, fill) in [
        ("{value: 10}", "1"),
        ("{special_value: -Inf}", "1"),
        ("{value: 10}", "-1"),
    ] {
        let text = policy_of(&[bucket(10.0, 1.0, "")])
            .replacen("{value: 10}", capacity, 1)
            .replacen("{value: 1}", &format!("{{value: {fill}}}"), 1);
        let engine = Engine::builder().policy_text("test.yaml", text);
        let engine = engine.clock(ManualClock::new()).build();
        let engine = engine.expect("the policy is valid");
        for cost in ["1e12", "1.7e308", "1.7e308"] {
            let (report, _) = decided(start(&engine, &[("tokens", cost)]));
            assert!(!report.accepted(), "{capacity} {fill} {cost}");
        }
        let accepted = (0..1000).filter(|_| accepted_at_once(&engine, "1")).count();
        assert!(accepted <= 10, "{capacity} {fill}: {accepted}");
    }
}

#[test]
fn a_flow_larger_than_the_bucket_waits_and_leaves_the_bucket_in_debt() {
    let (engine, clock) = engine_of(&[bucket(100.0, 10.0, "")]);
    let mut big = wait(&engine, "200");
    clock.advance(secs(9.999));
    assert!(poll(&mut big).is_none());
    clock.advance(secs(0.001));
    let (report, _) = poll(&mut big).expect("the flow has waited long enough");
    assert!(report.accepted());
    assert_eq!(tokens_and_slot(&report, "root.0").0.remaining, -100.0);
}

#[derive(Clone, Debug)]
enum Step {
    /// Lets this many milliseconds pass.
    Pass(u64),
    /// A flow takes this many tokens, or leaves if it would have to wait.
    Take(u32),
    /// A flow of this cost waits, and leaves after this many milliseconds.
    WaitAndLeave(f64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let cost = prop_oneof![
        0.1..20.0_f64,
        (0..300).prop_map(|digits| 10_f64.powi(digits))
    ];
    prop_oneof![
        (0..3000_u64).prop_map(Step::Pass),
        (1..12_u32).prop_map(Step::Take),
        (cost, 0..2000_u64).prop_map(|(cost, millis)| Step::WaitAndLeave(cost, millis)),
    ]
}

/// Starts a flow, and returns whether it was accepted and the tokens that remain; `None` if it
/// would have to wait.
fn take_without_waiting(engine: &Engine, tokens: f64) -> Option<(bool, f64)> {
    let mut pending = start(engine, &[("tokens", &tokens.to_string())]);
    let (report, _) = poll(&mut pending)?;
    Some((
        report.accepted(),
        tokens_and_slot(&report, "root.0").0.remaining,
    ))
}

proptest! {
    /// Flows that leave a queue do not change the decisions on other flows.
    #[test]
    fn flows_that_leave_change_nothing(
        capacity in 1..50_u32,
        fill in prop_oneof![0.1..50.0_f64, 1e3..1e12_f64],
        continuous: bool,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let kind = format!(", continuous_fill: {continuous}");
        let component = || bucket(f64::from(capacity), fill, &kind);
        let (with_leavers, clock) = engine_of(&[component()]);
        let (without_leavers, other_clock) = engine_of(&[component()]);
        let mut passed = 0;
        let take_in_both = |tokens: f64, passed: u64| {
            clock.advance_to(Duration::from_millis(passed));
            other_clock.advance_to(Duration::from_millis(passed));
            let disturbed = take_without_waiting(&with_leavers, tokens);
            let undisturbed = take_without_waiting(&without_leavers, tokens);
            // Each take fills the bucket, and rounding depends on when it is filled.
            let close = match (disturbed, undisturbed) {
                (Some((_, left)), Some((_, right))) => (left - right).abs() < 1e-6,
                _ => true,
            };
            let same = disturbed.map(|(accepted, _)| accepted)
                == undisturbed.map(|(accepted, _)| accepted);
            prop_assert!(same && close, "{disturbed:?} instead of {undisturbed:?}");
            Ok(())
        };
        // Discrete fills count from the first flow on.
        take_in_both(1.0, passed)?;
        for step in steps {
            match step {
                Step::Pass(millis) => passed += millis,
                Step::Take(tokens) => take_in_both(f64::from(tokens), passed)?,
                Step::WaitAndLeave(cost, millis) => {
                    clock.advance_to(Duration::from_millis(passed));
                    let mut leaver = start(&with_leavers, &[("tokens", &cost.to_string())]);
                    match poll(&mut leaver) {
                        // The flow did not wait, so the other engine gets it, too.
                        Some((report, _)) => {
                            other_clock.advance_to(Duration::from_millis(passed));
                            let other = take_without_waiting(&without_leavers, cost);
                            let other = other.map(|(accepted, _)| accepted);
                            prop_assert_eq!(Some(report.accepted()), other);
                        }
                        None => {
                            passed += millis;
                            clock.advance_to(Duration::from_millis(passed));
                            drop(leaver);
                        }
                    }
                }
            }
        }
    }
}
