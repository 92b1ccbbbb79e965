//! Settling a flow corrects the tokens that its check took to what the flow costs.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tower_aperture::engine::{Engine, EngineTicket, LimiterDetails, ManualClock};
use tower_aperture::{
    Check, Decider, FlowOutcome, FlowParams, FlowStatus, SettleError, Ticket, Verdict,
};

use crate::queues::{WakeCounter, decided, engine_of, poll, poll_with, quota, start};
use crate::support::*;

/// The ways in which the buckets of a rate limiter or quota scheduler are kept.
const KINDS: [&str; 4] = [
    "",
    ", limit_by_label_key: user",
    ", lazy_sync: {enabled: true, num_sync: 4}",
    ", limit_by_label_key: user, lazy_sync: {enabled: true, num_sync: 1}",
];

/// A limiter of 100 tokens that fills in a token a second.
fn hundred(kind: &str) -> (Engine, ManualClock) {
    let mut limiter = Limiter::new(100.0, 1.0);
    limiter.parameters = kind.to_owned();
    limiter.engine()
}

fn ask(engine: &Engine, tokens: &str) -> Option<EngineTicket> {
    let params = params(&[("tokens", tokens), ("user", "ann")]);
    match engine.decide(HERE, &params) {
        Check::Ready(Verdict::Accepted(ticket)) => Some(ticket),
        Check::Ready(Verdict::Rejected(..)) => None,
        other => panic!("the flow is decided at once: {other:?}"),
    }
}

fn accepted(engine: &Engine, tokens: &str) -> EngineTicket {
    ask(engine, tokens).unwrap_or_else(|| panic!("{tokens} tokens are available"))
}

/// Takes the tokens that are left, one by one, and returns how many they were.
fn drain(engine: &Engine) -> usize {
    (0..1000).take_while(|_| ask(engine, "1").is_some()).count()
}

/// Returns the tokens that a lazy account grants less after a sync that came due: as on an Agent, its
/// first grant counts twice.
fn counted_twice(kind: &str) -> usize {
    usize::from(kind.contains("lazy"))
}

fn end(ticket: EngineTicket) {
    ticket.end(FlowOutcome::new(FlowStatus::Ok));
}

#[test]
fn a_bucket_is_charged_with_the_actual_tokens_whether_less_more_or_equal() {
    for kind in KINDS {
        for (actual, left) in [(0.0, 100), (10.0, 90), (30.0, 70), (60.0, 40)] {
            let (engine, _) = hundred(kind);
            let mut ticket = accepted(&engine, "30");
            ticket.settle(actual).expect("the engine settles flows");
            end(ticket);
            assert_eq!(drain(&engine), left, "{kind}: {actual} of 30");
        }
    }
}

#[test]
fn a_flow_that_is_never_settled_keeps_its_estimate() {
    for kind in ["", ", limit_by_label_key: user"] {
        let (engine, _) = hundred(kind);
        end(accepted(&engine, "30"));
        drop(accepted(&engine, "20"));
        assert_eq!(drain(&engine), 50);
    }
}

#[test]
fn a_later_settlement_replaces_an_earlier_one() {
    for kind in KINDS {
        let (engine, _) = hundred(kind);
        let mut ticket = accepted(&engine, "30");
        for actual in [50.0, 5.0, 0.0, 12.0] {
            ticket.settle(actual).expect("the engine settles flows");
        }
        assert_eq!(drain(&engine), 88, "{kind}");
    }
}

#[test]
fn a_dropped_flow_keeps_what_was_settled() {
    let (engine, _) = hundred("");
    let mut ticket = accepted(&engine, "30");
    ticket.settle(10.0).expect("the engine settles flows");
    drop(ticket);
    assert_eq!(drain(&engine), 90);
}

#[test]
fn a_settlement_clears_a_remembered_rejection() {
    for kind in KINDS {
        let (engine, _) = hundred(kind);
        let mut ticket = accepted(&engine, "60");
        assert!(ask(&engine, "50").is_none(), "{kind}");
        ticket.settle(10.0).expect("the engine settles flows");
        assert!(ask(&engine, "50").is_some(), "{kind}");
    }
}

#[test]
fn a_bucket_never_holds_more_than_its_capacity() {
    for kind in KINDS {
        let (engine, clock) = hundred(kind);
        let mut ticket = accepted(&engine, "30");
        clock.advance(secs(60.0));
        ticket.settle(0.0).expect("the engine settles flows");
        assert_eq!(drain(&engine), 100, "{kind}");
    }
}

#[test]
fn a_debt_is_at_most_one_capacity() {
    for kind in KINDS {
        let (engine, clock) = hundred(kind);
        let mut ticket = accepted(&engine, "30");
        ticket.settle(f64::MAX).expect("the engine settles flows");
        end(ticket);
        clock.advance_to(secs(100.0));
        assert!(ask(&engine, "1").is_none(), "{kind}: the debt is just paid");
        clock.advance_to(secs(110.0));
        assert_eq!(drain(&engine), 10 - counted_twice(kind), "{kind}");
    }
}

#[test]
fn a_debt_delays_flows_until_it_is_paid() {
    for kind in KINDS {
        let (engine, clock) = hundred(kind);
        let mut ticket = accepted(&engine, "90");
        ticket.settle(120.0).expect("the engine settles flows");
        clock.advance_to(secs(19.0));
        assert!(ask(&engine, "1").is_none(), "{kind}");
        clock.advance_to(secs(25.0));
        assert_eq!(drain(&engine), 5 - counted_twice(kind), "{kind}");
    }
}

#[test]
fn only_finite_numbers_from_zero_on_settle_a_flow() {
    let (engine, _) = hundred("");
    let mut ticket = accepted(&engine, "30");
    for tokens in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
        assert_eq!(ticket.settle(tokens), Err(SettleError::InvalidTokens));
    }
    assert_eq!(drain(&engine), 70);
}

#[test]
fn a_limiter_of_requests_is_not_settled_beside_one_of_tokens() {
    let mut requests = Limiter::new(3.0, 3.0).interval(secs(60.0));
    requests.tokens_label = false;
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("requests.yaml", policy("requests", &[requests]))
        .policy_text("tokens.yaml", policy("tokens", &[Limiter::new(100.0, 1.0)]))
        .clock(clock)
        .build()
        .expect("the policies are valid");
    for actual in [10.0, 20.0] {
        let mut ticket = accepted(&engine, "1");
        ticket.settle(actual).expect("the engine settles flows");
    }
    let report = take(&engine, "0");
    let remaining = |policy: &str| {
        let mut decisions = report.limiter_decisions.iter();
        let decision = decisions.find(|decision| *decision.policy_name == *policy);
        match &decision.expect("it decided").details {
            LimiterDetails::RateLimiter { tokens, .. } => tokens.remaining,
            other => panic!("not a rate limiter: {other:?}"),
        }
    };
    assert_eq!(remaining("tokens"), 70.0);
    assert_eq!(remaining("requests"), 0.0);
    assert!(ask(&engine, "0").is_none(), "three requests a minute");
}

#[test]
fn all_buckets_of_a_flow_are_corrected_by_the_same_tokens() {
    let other = Limiter::new(200.0, 1.0);
    let (engine, _) = engine(&[Limiter::new(100.0, 1.0), other]);
    let mut ticket = accepted(&engine, "30");
    ticket.settle(80.0).expect("the engine settles flows");
    let report = take(&engine, "0");
    assert_eq!(tokens(&report, "root.0").remaining, 20.0);
    assert_eq!(tokens(&report, "root.1").remaining, 120.0);
}

#[test]
fn a_flow_without_an_estimate_can_be_settled() {
    for estimate in ["0", "unknown"] {
        let (engine, _) = hundred("");
        let mut ticket = accepted(&engine, estimate);
        ticket.settle(40.0).expect("the engine settles flows");
        assert_eq!(drain(&engine), 60, "{estimate}");
    }
    let (engine, _) = engine_of(&[quota(100.0, 1.0, "")]);
    let mut ticket = accepted(&engine, "0");
    ticket.settle(40.0).expect("the engine settles flows");
    assert_eq!(drain_waiting(&engine), 60);
}

#[test]
fn a_settlement_follows_the_limit_of_a_changed_policy() {
    let folder = std::env::temp_dir().join(format!("settling-{}", std::process::id()));
    let file = folder.with_extension("yaml");
    let write = |capacity| {
        let text = policy("test", &[Limiter::new(capacity, 1.0)]);
        std::fs::write(&file, text).expect("the file is written");
    };
    write(100.0);
    let clock = ManualClock::new();
    let engine = Engine::builder().policy_file(&file).clock(clock.clone());
    let engine = engine.build().expect("the policy is valid");
    let mut ticket = accepted(&engine, "30");
    write(40.0);
    engine.reload().expect("the policy is valid");
    std::fs::remove_file(&file).expect("the file is removed");
    ticket.settle(0.0).expect("the engine settles flows");
    assert_eq!(drain(&engine), 40);
}

#[test]
fn a_settlement_of_a_key_that_expired_charges_its_new_bucket() {
    let limiter = Limiter::new(100.0, 0.001).with("max_idle_time: 5s");
    let (engine, clock) = limiter.by("user").engine();
    let mut ticket = accepted(&engine, "30");
    clock.advance(secs(6.0));
    ticket.settle(50.0).expect("the engine settles flows");
    assert_eq!(drain(&engine), 80);
}

#[test]
fn a_flow_that_was_left_open_is_not_settled() {
    let (engine, _) = hundred("");
    accepted(&engine, "30").leave_open();
    assert_eq!(drain(&engine), 70);
}

#[test]
fn a_flow_of_a_quota_scheduler_is_settled_also_if_it_waited() {
    let (engine, clock) = engine_of(&[quota(100.0, 1.0, "")]);
    end(accepted(&engine, "100"));
    let mut waiting = start(&engine, &[("tokens", "10")]);
    assert!(poll(&mut waiting).is_none());
    clock.advance(secs(10.0));
    let (report, mut ticket) = poll(&mut waiting).expect("the tokens are available");
    assert!(report.accepted());
    ticket.settle(3.0).expect("the engine settles flows");
    assert_eq!(drain_waiting(&engine), 7);
}

/// Like [`drain`], for flows that would have to wait at last.
fn drain_waiting(engine: &Engine) -> usize {
    let labels = [("tokens", "1"), ("user", "ann")];
    (0..1000)
        .take_while(|_| check(engine, &labels).accepted())
        .count()
}

#[test]
fn a_flow_that_waits_for_tokens_is_woken_by_returned_ones() {
    for kind in KINDS {
        let policy = quota(100.0, 1.0, "").replace("interval: 1s", &format!("interval: 1s{kind}"));
        let (engine, _) = engine_of(&[policy]);
        let mut ticket = accepted(&engine, "100");
        let labels = [("tokens", "40"), ("user", "ann")];
        let mut waiting = start(&engine, &labels);
        let wakes = Arc::new(WakeCounter::default());
        assert!(poll_with(&mut waiting, &Arc::clone(&wakes).into()).is_none());
        ticket.settle(70.0).expect("the engine settles flows");
        assert!(poll_with(&mut waiting, &Arc::clone(&wakes).into()).is_none());
        let before = wakes.wakes();
        ticket.settle(50.0).expect("the engine settles flows");
        assert!(wakes.wakes() > before, "{kind}");
        let (report, _held) = poll(&mut waiting).expect("40 of the 50 tokens are available");
        assert!(report.accepted(), "{kind}");
        assert_eq!(drain_waiting(&engine), 10, "{kind}");
    }
}

#[test]
fn a_head_whose_tokens_come_back_waits_only_for_the_rest() {
    let (engine, clock) = engine_of(&[quota(100.0, 1.0, "")]);
    let mut ticket = accepted(&engine, "100");
    let mut waiting = start(&engine, &[("tokens", "40")]);
    assert!(poll(&mut waiting).is_none());
    ticket.settle(70.0).expect("the engine settles flows");
    clock.advance_to(secs(9.0));
    assert!(poll(&mut waiting).is_none());
    clock.advance_to(secs(10.0));
    assert!(poll(&mut waiting).is_some_and(|(report, _)| report.accepted()));
}

#[test]
fn a_flow_that_leaves_a_queue_after_a_settlement_returns_what_it_had_reserved() {
    for kind in KINDS {
        let policy = quota(100.0, 1.0, "").replace("interval: 1s", &format!("interval: 1s{kind}"));
        let (engine, _) = engine_of(&[policy]);
        let mut ticket = accepted(&engine, "100");
        let waiting = start(&engine, &[("tokens", "40"), ("user", "ann")]);
        ticket.settle(70.0).expect("the engine settles flows");
        drop(waiting);
        assert_eq!(drain_waiting(&engine), 30, "{kind}");
    }
}

#[test]
fn the_tokens_of_a_workload_are_settled_unless_they_are_one() {
    for (workload_tokens, left) in [(20, 90), (1, 99)] {
        let parameters = format!(", default_workload_parameters: {{tokens: {workload_tokens}}}");
        let policy = quota(100.0, 1.0, &parameters).replace("tokens_label_key: tokens, ", "");
        let (engine, _) = engine_of(&[policy]);
        let (report, mut ticket) = decided(start(&engine, &[]));
        assert!(report.accepted());
        ticket.settle(10.0).expect("the engine settles flows");
        let (_, _held) = decided(start(&engine, &[]));
        let (report, _) = decided(start(&engine, &[]));
        let (tokens, _) = crate::queues::tokens_and_slot(&report, "root.0");
        assert_eq!(tokens.remaining, f64::from(left - 2 * workload_tokens));
    }
}

/// One step of a caller.
#[derive(Clone, Debug)]
enum Step {
    /// A check for tokens.
    Check(i64),
    /// A settlement of one of the flows so far.
    Settle(usize, i64),
    /// A pause in seconds.
    Pause(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0..130_i64).prop_map(Step::Check),
        3 => (any::<usize>(), 0..250_i64).prop_map(|(flow, actual)| Step::Settle(flow, actual)),
        1 => (0..60_i64).prop_map(Step::Pause),
    ];
    prop::collection::vec(step, 1..60)
}

/// A bucket that fills in one token a second, in whole numbers.
struct ModelBucket {
    capacity: i64,
    available: i64,
    now: i64,
    /// The tokens of the last rejection, and the time until which it is remembered.
    rejected: Option<(i64, i64)>,
}

impl ModelBucket {
    fn pause(&mut self, seconds: i64) {
        self.now += seconds;
        self.available = (self.available + seconds).min(self.capacity);
    }

    fn check(&mut self, want: i64) -> bool {
        if want > self.capacity {
            return false;
        }
        if self
            .rejected
            .is_some_and(|(most, until)| want <= most && self.now < until)
        {
            return false;
        }
        // A flow without tokens is accepted by a bucket in debt.
        if want == 0 || want <= self.available {
            self.available -= want;
            return true;
        }
        self.rejected = Some((want, self.now + want - self.available));
        false
    }

    fn correct(&mut self, more: i64) {
        self.rejected = None;
        let corrected = (self.available - more).max(-self.capacity);
        self.available = corrected.min(self.capacity);
    }
}

proptest! {
    #[test]
    fn any_sequence_of_checks_and_settlements_equals_a_model_bucket(
        capacity in 1..120_i64,
        steps in steps(),
    ) {
        let (engine, clock) = Limiter::new(capacity as f64, 1.0).engine();
        let mut model = ModelBucket { capacity, available: capacity, now: 0, rejected: None };
        let mut flows: Vec<(EngineTicket, i64)> = Vec::new();
        for step in steps {
            match step {
                Step::Pause(seconds) => {
                    clock.advance(Duration::from_secs(seconds as u64));
                    model.pause(seconds);
                }
                Step::Check(tokens) => {
                    let ticket = ask(&engine, &tokens.to_string());
                    prop_assert_eq!(ticket.is_some(), model.check(tokens), "{} tokens", tokens);
                    flows.extend(ticket.map(|ticket| (ticket, tokens)));
                }
                Step::Settle(flow, actual) if !flows.is_empty() => {
                    let flow = flow % flows.len();
                    let (ticket, consumed) = &mut flows[flow];
                    prop_assert_eq!(ticket.settle(actual as f64), Ok(()));
                    model.correct(actual - *consumed);
                    *consumed = actual;
                }
                Step::Settle(..) => {}
            }
        }
    }

    /// Whatever its end, a flow costs what it was settled for.
    #[test]
    fn settled_flows_cost_their_actual_tokens_with_lazy_sync(
        flows in prop::collection::vec((1..30_u32, 0..30_u32), 1..10),
        syncs in 1..10_u32,
    ) {
        let lazy = format!("lazy_sync: {{enabled: true, num_sync: {syncs}}}");
        let (engine, clock) = Limiter::new(1000.0, 0.001).with(&lazy).engine();
        let mut cost = 0;
        for (estimate, actual) in flows {
            let mut ticket = accepted(&engine, &estimate.to_string());
            clock.advance(Duration::from_millis(100));
            ticket.settle(f64::from(actual)).expect("the engine settles flows");
            cost += actual;
        }
        clock.advance(Duration::from_secs(5));
        // The flow without tokens lets the account sync.
        let probe = take(&engine, "0.001");
        prop_assert!(probe.accepted());
        let remaining = tokens(&take(&engine, "0"), "root.0").remaining;
        prop_assert!((remaining - (1000.0 - f64::from(cost))).abs() < 0.1, "{remaining} left");
    }
}

#[test]
fn flows_that_no_limiter_of_tokens_selects_are_settled_without_effect() {
    let engine = Engine::builder().build().expect("there is no policy");
    let params = FlowParams::new();
    let Check::Ready(Verdict::Accepted(mut ticket)) = engine.decide("elsewhere", &params) else {
        panic!("nothing limits the flow");
    };
    assert!(ticket.settles());
    assert_eq!(ticket.settle(5.0), Ok(()));
}
