//! A flow that leaves a queue, by whatever way, leaves it as if it had not come.

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

const KINDS: [&str; 4] = [
    "",
    ", continuous_fill: false",
    ", lazy_sync: {enabled: true, num_sync: 4}",
    ", limit_by_label_key: user",
];

/// Waits for tokens, for as long as it is let.
fn wait(engine: &Engine, tokens: &str) -> PendingReport {
    let mut starting = start(engine, &[("tokens", tokens), ("user", "ann")]);
    assert!(poll(&mut starting).is_none(), "{tokens} are not there");
    starting
}

fn accepted_at_once(engine: &Engine, tokens: &str) -> bool {
    let mut starting = start(engine, &[("tokens", tokens), ("user", "ann")]);
    poll(&mut starting).is_some_and(|(report, _)| report.accepted())
}

/// The ways in which a flow leaves.
const WAYS: [fn(&Engine); 4] = [
    // The caller hangs up.
    |engine| drop(wait(engine, "1")),
    |engine| {
        let params = params(&[("tokens", "1"), ("user", "ann")]);
        match engine.decide(HERE, &params) {
            Check::Pending(pending) => drop(pending),
            other => panic!("its token is not there: {other:?}"),
        }
    },
    // It waits no longer.
    |engine| {
        let mut starting = wait(engine, "1");
        starting.give_up();
        let (report, _) = poll(&mut starting).expect("it gave up");
        assert_eq!(report.reject_reason, Some(RejectReason::NoTokens));
    },
    // It does not wait.
    |engine| {
        let params = params(&[("tokens", "1"), ("user", "ann")]);
        assert!(!engine.check(&CheckInput::new(HERE, &params)).accepted());
    },
];

#[test]
fn row_41_a_waiter_that_leaves_gives_its_tokens_back_whatever_is_remembered() {
    for kind in KINDS {
        for way in WAYS {
            for millis in [0, 30, 500, 900] {
                let (engine, clock) = engine_of(&[bucket(1.0, 1.0, kind)]);
                assert!(accepted_at_once(&engine, "1"));
                clock.advance(Duration::from_millis(millis));
                for _ in 0..5 {
                    way(&engine);
                }
                let mut next = wait(&engine, "1");
                // With lazy sync a bucket fills from when it was charged.
                let charged = if kind.contains("lazy") { millis } else { 0 };
                clock.advance_to(Duration::from_millis(charged + 999));
                assert!(poll(&mut next).is_none(), "{kind} after {millis} ms");
                clock.advance_to(Duration::from_millis(charged + 1000));
                let (report, _) = poll(&mut next).expect("its token is there");
                assert!(report.accepted(), "{kind} after {millis} ms");
            }
        }
    }
}

#[test]
fn a_waiter_that_leaves_after_a_while_gives_its_tokens_back() {
    for kind in KINDS {
        for millis in [1, 30, 500, 999] {
            let (engine, clock) = engine_of(&[bucket(1.0, 1.0, kind)]);
            assert!(accepted_at_once(&engine, "1"));
            let ghost = wait(&engine, "1");
            let mut behind = wait(&engine, "1");
            clock.advance(Duration::from_millis(millis));
            drop(ghost);
            assert!(poll(&mut behind).is_none());
            clock.advance_to(secs(1.0));
            let (report, _) = poll(&mut behind).expect("its token is there");
            assert!(report.accepted(), "{kind}: {report:?}");
        }
    }
}

/// Two schedulers of one step: what one has granted comes back when the other one's queue is left.
#[test]
fn tokens_granted_beside_a_queue_that_is_left_come_back() {
    let (engine, clock) = engine_of(&[bucket(2.0, 1.0, ""), bucket(1.0, 0.25, "")]);
    assert!(accepted_at_once(&engine, "1"));
    // The second one is refused, and remembered, by both; the third waits in the other one only.
    drop(wait(&engine, "2"));
    clock.advance(secs(0.5));
    drop(wait(&engine, "1"));
    let (report, _) = {
        clock.advance(secs(3.5));
        now(start(&engine, &[("tokens", "1")]))
    };
    assert!(report.accepted());
    assert_eq!(seen(&report, "root.0").0.remaining, 1.0);
}

#[test]
fn a_grant_that_nobody_took_comes_back() {
    for kind in KINDS {
        let (engine, clock) = engine_of(&[bucket(1.0, 1.0, kind)]);
        assert!(accepted_at_once(&engine, "1"));
        let granted = wait(&engine, "1");
        let mut behind = wait(&engine, "1");
        // Polling the one behind grants the token of the one before.
        clock.advance(secs(1.0));
        assert!(poll(&mut behind).is_none());
        drop(granted);
        drop(behind);
        clock.advance(secs(1.001));
        assert!(accepted_at_once(&engine, "1"), "{kind}");
    }
}

#[test]
fn a_huge_cost_that_hangs_up_leaves_nothing_behind() {
    for kind in KINDS {
        // Some of them wait for days, some for longer than there is time.
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
fn a_debt_beyond_all_clocks_is_refused_instead_of_being_granted_at_once() {
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
        let engine = engine.expect("the policy is right");
        for cost in ["1e12", "1.7e308", "1.7e308"] {
            let (report, _) = now(start(&engine, &[("tokens", cost)]));
            assert!(!report.accepted(), "{capacity} {fill} {cost}");
        }
        let passed = (0..1000).filter(|_| accepted_at_once(&engine, "1")).count();
        assert!(passed <= 10, "{capacity} {fill}: {passed}");
    }
}

/// One that is big, but not too big to wait for, is let in when its time has come.
#[test]
fn a_request_larger_than_the_bucket_waits_into_debt() {
    let (engine, clock) = engine_of(&[bucket(100.0, 10.0, "")]);
    let mut big = wait(&engine, "200");
    clock.advance(secs(9.999));
    assert!(poll(&mut big).is_none());
    clock.advance(secs(0.001));
    let (report, _) = poll(&mut big).expect("it has waited for them");
    assert!(report.accepted());
    assert_eq!(seen(&report, "root.0").0.remaining, -100.0);
}

#[derive(Clone, Debug)]
enum Step {
    Pass(u64),
    /// Asks, and takes what there is or goes.
    Honest(u32),
    /// Comes with such a cost and goes after so many milliseconds.
    Ghost(f64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let cost = prop_oneof![
        0.1..20.0_f64,
        (0..300).prop_map(|digits| 10_f64.powi(digits))
    ];
    prop_oneof![
        (0..3000_u64).prop_map(Step::Pass),
        (1..12_u32).prop_map(Step::Honest),
        (cost, 0..2000_u64).prop_map(|(cost, millis)| Step::Ghost(cost, millis)),
    ]
}

/// What one that does not wait sees; `None` when it would have had to.
fn look(engine: &Engine, tokens: f64) -> Option<(bool, f64)> {
    let mut starting = start(engine, &[("tokens", &tokens.to_string())]);
    let (report, _) = poll(&mut starting)?;
    Some((report.accepted(), seen(&report, "root.0").0.remaining))
}

proptest! {
    /// What flows see that take their tokens, or go, is what they would see without ghosts.
    #[test]
    fn ghosts_change_nothing(
        capacity in 1..50_u32,
        fill in prop_oneof![0.1..50.0_f64, 1e3..1e12_f64],
        continuous: bool,
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let kind = format!(", continuous_fill: {continuous}");
        let component = || bucket(f64::from(capacity), fill, &kind);
        let (haunted, clock) = engine_of(&[component()]);
        let (quiet, other_clock) = engine_of(&[component()]);
        let mut passed = 0;
        let both_look = |tokens: f64, passed: u64| {
            clock.advance_to(Duration::from_millis(passed));
            other_clock.advance_to(Duration::from_millis(passed));
            let (haunted, quiet) = (look(&haunted, tokens), look(&quiet, tokens));
            // Rounding depends on when a bucket was filled, which each look at it does.
            let close = match (haunted, quiet) {
                (Some((_, left)), Some((_, right))) => (left - right).abs() < 1e-6,
                _ => true,
            };
            let same = haunted.map(|(accepted, _)| accepted) == quiet.map(|(accepted, _)| accepted);
            prop_assert!(same && close, "{haunted:?} instead of {quiet:?}");
            Ok(())
        };
        // Discrete fills count from the first flow on.
        both_look(1.0, passed)?;
        for step in steps {
            match step {
                Step::Pass(millis) => passed += millis,
                Step::Honest(tokens) => both_look(f64::from(tokens), passed)?,
                Step::Ghost(cost, millis) => {
                    clock.advance_to(Duration::from_millis(passed));
                    let mut ghost = start(&haunted, &[("tokens", &cost.to_string())]);
                    match poll(&mut ghost) {
                        // It is none: the other engine has it, too.
                        Some((report, _)) => {
                            other_clock.advance_to(Duration::from_millis(passed));
                            let other = look(&quiet, cost).map(|(accepted, _)| accepted);
                            prop_assert_eq!(Some(report.accepted()), other);
                        }
                        None => {
                            passed += millis;
                            clock.advance_to(Duration::from_millis(passed));
                            drop(ghost);
                        }
                    }
                }
            }
        }
    }
}
