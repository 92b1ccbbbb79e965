//! Waiters in queues: they are woken when a slot or tokens are free, and return everything when
//! they leave.

use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};
use std::time::Duration;

use proptest::prelude::*;
use tower_aperture::engine::{CheckInput, CheckReport, Clock, Engine, EngineTicket, PendingReport};
use tower_aperture::{Check, Decider, FlowParams, RejectReason, Verdict};

use crate::queues::*;
use crate::support::{HERE, params, secs};

fn is_send_and_unpin<T: Send + Unpin + 'static>(_: &T) {}

#[test]
fn a_returned_slot_goes_to_the_head_of_the_queue_at_once() {
    let (engine, _) = engine_of(&[slots(1.0, "", QUEUE_TIMEOUT_5S)]);
    let (_, first) = decided(start(&engine, &[]));
    let mut low = start(&engine, &[("priority", "1")]);
    let mut queued = [
        start(&engine, &[("priority", "1")]),
        start(&engine, &[("priority", "9")]),
    ];
    is_send_and_unpin(&low);
    let counters: [Arc<WakeCounter>; 2] = Default::default();
    assert!(poll(&mut low).is_none());
    for (pending, counter) in queued.iter_mut().zip(&counters) {
        assert!(poll_with(pending, &Arc::clone(counter).into()).is_none());
    }
    drop(first);
    let (report, second) = poll(&mut low).expect("the waiter that opened the queue is its head");
    assert!(report.accepted());
    assert_eq!(counters.each_ref().map(|counter| counter.wakes()), [0, 0]);
    drop(second);
    // The waiter with the higher priority is next.
    let (report, _third) = poll(&mut queued[1]).expect("the waiter is the head of the queue");
    assert_eq!(tokens_and_slot(&report, "root.0").0.remaining, 1.0);
    assert!(counters[1].wakes() > 0);
    assert!(poll(&mut queued[0]).is_none());
}

#[test]
fn an_expired_slot_goes_to_the_head_of_the_queue() {
    let long = ", default_workload_parameters: {queue_timeout: 60s}";
    let (engine, clock) = engine_of(&[slots(1.0, "", long)]);
    let (_, ticket) = decided(start(&engine, &[]));
    clock.advance(secs(1.0));
    let mut waiter = start(&engine, &[]);
    let counter: Arc<WakeCounter> = Arc::default();
    assert!(poll_with(&mut waiter, &Arc::clone(&counter).into()).is_none());
    clock.advance(secs(9.0));
    assert_eq!(counter.wakes(), 0);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(counter.wakes(), 1);
    assert!(poll(&mut waiter).expect("a slot is free").0.accepted());
    drop(ticket);
}

/// An Agent gives up earlier, by the delay that it announces.
#[test]
fn a_flow_waits_for_a_slot_until_ten_milliseconds_before_its_deadline() {
    let (engine, clock) = engine_of(&[slots(1.0, "", ""), quota(0.0, 1.0, "")]);
    let (_, _held) = {
        let params = params(&[("tokens", "1")]);
        let input = CheckInput::new(HERE, &params).deadline(Some(secs(9.0)));
        let mut pending = engine.start(&input);
        assert!(poll(&mut pending).is_none());
        clock.advance(secs(1.0));
        poll(&mut pending).expect("the token is available")
    };
    // The flow waits for 520 ms, less the margin of 10 ms, less 10 ms.
    let mut waiter = start_within(&engine, &[], 520);
    clock.advance(Duration::from_millis(499));
    assert!(poll(&mut waiter).is_none());
    clock.advance(Duration::from_millis(1));
    let (report, _) = poll(&mut waiter).expect("the flow has waited to its deadline");
    assert_eq!(report.reject_reason, Some(RejectReason::NoTokens));
    let (tokens, slot) = tokens_and_slot(&report, "root.0");
    assert_eq!((tokens.remaining, tokens.current, slot), (0.0, 0.0, false));
    // Within the margin, a flow is rejected whether or not a slot is free.
    let (report, _) = decided(start_within(&engine, &[], 20));
    assert_eq!(tokens_and_slot(&report, "root.0").0.current, 0.0);
    // A flow without a deadline does not wait.
    let (report, _) = decided(start(&engine, &[]));
    assert_eq!(tokens_and_slot(&report, "root.0").0.current, 1.0);
}

#[test]
fn a_waiter_that_leaves_lets_the_next_one_get_tokens_earlier() {
    let (engine, clock) = engine_of(&[quota(1.0, 1.0, "")]);
    drop(decided(start_within(&engine, &[], 9_000)));
    let [mut first, mut big, mut last] =
        ["1", "3", "1"].map(|tokens| start_within(&engine, &[("tokens", tokens)], 9_000));
    for pending in [&mut first, &mut big, &mut last] {
        assert!(poll(pending).is_none());
    }
    clock.advance(secs(1.0));
    assert!(
        poll(&mut first)
            .expect("the token is available")
            .0
            .accepted()
    );
    clock.advance(Duration::from_millis(500));
    // The big flow has waited half a second for its tokens. They go to the next waiter.
    drop(big);
    clock.advance(Duration::from_millis(499));
    assert!(poll(&mut last).is_none());
    clock.advance(Duration::from_millis(2));
    assert!(
        poll(&mut last)
            .expect("the token is available")
            .0
            .accepted()
    );
}

#[test]
fn a_returned_slot_wakes_at_most_two_of_many_waiters() {
    const MANY: usize = 10_000;
    let (engine, _) = engine_of(&[slots(1.0, "", QUEUE_TIMEOUT_5S)]);
    let (_, mut ticket) = decided(start(&engine, &[]));
    let counters: Vec<Arc<WakeCounter>> = (0..MANY).map(|_| Arc::default()).collect();
    let mut waiters: Vec<PendingReport> = (0..MANY).map(|_| start(&engine, &[])).collect();
    for (waiter, counter) in waiters.iter_mut().zip(&counters) {
        assert!(poll_with(waiter, &Arc::clone(counter).into()).is_none());
    }
    let wakes = || {
        counters
            .iter()
            .map(|counter| counter.wakes())
            .sum::<usize>()
    };
    for (at, waiter) in waiters.iter_mut().take(20).enumerate() {
        let before = wakes();
        drop(ticket);
        // The waiter that gets the slot, and the next head, which has to set a timer.
        assert!(wakes() - before <= 2);
        let (report, next) = poll(waiter).unwrap_or_else(|| panic!("waiter {at} is next"));
        assert!(report.accepted());
        ticket = next;
    }
}

#[tokio::test(start_paused = true)]
async fn the_default_clock_of_an_engine_is_that_of_tokio() {
    let engine = Engine::builder()
        .policy_text("quota", policy_of(&[quota(1.0, 1.0, "")]))
        .build()
        .expect("the policy is valid");
    let begun = tokio::time::Instant::now();
    assert!(start_within(&engine, &[], 9_000).await.0.accepted());
    assert!(start_within(&engine, &[], 9_000).await.0.accepted());
    let took = begun.elapsed().as_millis();
    assert!((1000..=1002).contains(&took), "{took}");
    // A flow whose tokens come after its deadline is rejected at once.
    let rejected = start_within(&engine, &[("tokens", "20")], 9_000).await.0;
    assert_eq!(rejected.reject_reason, Some(RejectReason::NoTokens));
    assert_eq!(begun.elapsed().as_millis(), took);
    let waiting = start_within(&engine, &[("tokens", "2")], 9_000);
    assert!(tokio::time::timeout(secs(1.0), waiting).await.is_err());
    assert_eq!(begun.elapsed().as_millis(), took + 1000);
}

#[test]
fn outside_a_tokio_runtime_a_flow_that_would_wait_is_rejected() {
    let engine = Engine::builder()
        .policy_text("quota", policy_of(&[quota(1.0, 1.0, "")]))
        .build()
        .expect("the policy is valid");
    assert!(decided(start(&engine, &[])).0.accepted());
    let (report, _) = decided(start(&engine, &[]));
    assert_eq!(report.reject_reason, Some(RejectReason::NoTokens));
}

#[test]
fn decide_waits_in_queues_like_start() {
    let (engine, clock) = engine_of(&[quota(1.0, 1.0, "")]);
    let decide = || engine.decide(HERE, &FlowParams::new());
    assert!(matches!(decide(), Check::Ready(Verdict::Accepted(_))));
    let Check::Pending(mut pending) = decide() else {
        panic!("the flow does not wait");
    };
    is_send_and_unpin(&pending);
    let mut context = std::task::Context::from_waker(Waker::noop());
    let mut poll = || std::pin::Pin::new(&mut pending).poll(&mut context);
    assert!(poll().is_pending());
    clock.advance(secs(1.0));
    assert!(matches!(
        poll(),
        std::task::Poll::Ready(Verdict::Accepted(_))
    ));
    assert_eq!(engine.stats().accepted, 2);
}

#[test]
fn a_flow_that_leaves_a_queue_returns_the_tokens_of_other_schedulers() {
    let (engine, _) = engine_of(&[quota(5.0, 0.0, ""), quota(1.0, 1.0, "")]);
    let remaining = |report: &CheckReport| tokens_and_slot(report, "root.0").0.remaining;
    assert_eq!(
        remaining(&decided(start_within(&engine, &[], 9_000)).0),
        4.0
    );
    let mut unpolled = start_within(&engine, &[], 9_000);
    drop(start_within(&engine, &[], 9_000));
    assert!(poll(&mut unpolled).is_none());
    drop(unpolled);
    let (report, _) = decided(start_within(&engine, &[("tokens", "2")], 500));
    assert_eq!(report.reject_reason, Some(RejectReason::NoTokens));
    assert_eq!(remaining(&report), 2.0);
}

/// A waker that owns a flow, like the waker with the last reference to a task.
struct OwningWaker(#[allow(dead_code)] Mutex<Option<PendingReport>>);

impl Wake for OwningWaker {
    fn wake(self: Arc<Self>) {}
}

/// A clock that stands still and keeps no waker.
#[derive(Debug)]
struct StoppedClock;

impl Clock for StoppedClock {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn wake_at(&self, _: Duration, _: &Waker) -> bool {
        true
    }
}

#[test]
fn dropping_a_waker_may_drop_a_flow_in_the_same_queue() {
    let engine = Engine::builder()
        .policy_text("slots", policy_of(&[slots(1.0, "", QUEUE_TIMEOUT_5S)]))
        .clock(StoppedClock)
        .build()
        .expect("the policy is valid");
    let (_, ticket) = decided(start(&engine, &[]));
    let owning_waker = || {
        let own = start(&engine, &[]);
        Waker::from(Arc::new(OwningWaker(Mutex::new(Some(own)))))
    };
    let mut moved = start(&engine, &[]);
    assert!(poll_with(&mut moved, &owning_waker()).is_none());
    assert!(poll_with(&mut moved, &owning_waker()).is_none());
    let mut left = start(&engine, &[]);
    assert!(poll_with(&mut left, &owning_waker()).is_none());
    drop(left);
    drop(ticket);
    assert!(
        poll(&mut moved)
            .expect("the waiter is the head of the queue")
            .0
            .accepted()
    );
}

#[test]
fn an_unpolled_head_does_not_hold_up_the_waiters_behind_it() {
    for arrives in [true, false] {
        let (engine, clock) = engine_of(&[quota(1.0, 1.0, "")]);
        drop(decided(start_within(&engine, &[], 60_000)));
        let unpolled = start_within(&engine, &[], 60_000);
        let mut behind = start_within(&engine, &[], 60_000);
        let counter: Arc<WakeCounter> = Arc::default();
        assert!(poll_with(&mut behind, &Arc::clone(&counter).into()).is_none());
        clock.advance(secs(5.0));
        if arrives {
            drop(start_within(&engine, &[], 60_000));
            assert_eq!(counter.wakes(), 1);
        }
        assert!(
            poll(&mut behind)
                .expect("tokens are available")
                .0
                .accepted()
        );
        drop(unpolled);
    }
}

/// More tokens than all flows of a test take.
const PLENTY: f64 = 1e6;

/// An event of the flows in a queue. Numbers of `Poll`, `Leave` and `End` choose the flow; times
/// are in milliseconds.
#[derive(Clone, Copy, Debug)]
enum Event {
    Start {
        priority: u32,
        tokens: u32,
        millis: u64,
    },
    Poll(usize),
    Leave(usize),
    End(usize),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..10_u32, 1..4_u32, 20..3_000_u64)
            .prop_map(|(priority, tokens, millis)| Event::Start { priority, tokens, millis }),
        3 => (0..64_usize).prop_map(Event::Poll),
        2 => (0..64_usize).prop_map(Event::Leave),
        2 => (0..64_usize).prop_map(Event::End),
        2 => (0..700_u64).prop_map(Event::Wait),
    ]
}

proptest! {
    /// After any events, all slots and tokens are available again without waiting. A quota that
    /// never runs out has granted one token per accepted flow.
    #[test]
    fn no_slots_or_tokens_leak_when_flows_leave_at_random(
        concurrency: bool,
        events in prop::collection::vec(event(), 1..120),
    ) {
        let component = if concurrency { slots(3.0, "", "") } else { quota(3.0, 2.0, "") };
        let one_each = quota(PLENTY, 0.0, "").replace("tokens_label_key: tokens, ", "");
        let (engine, clock) = engine_of(&[one_each, component]);
        let mut waiting: Vec<PendingReport> = Vec::new();
        let mut held: Vec<EngineTicket> = Vec::new();
        let take = |pending: &mut PendingReport, held: &mut Vec<EngineTicket>| match poll(pending) {
            Some((report, ticket)) => {
                if report.accepted() {
                    held.push(ticket);
                }
                true
            }
            None => false,
        };
        for event in events {
            match event {
                Event::Start { priority, tokens, millis } => {
                    let labels = [
                        ("priority", &*priority.to_string()),
                        ("tokens", &*tokens.to_string()),
                    ];
                    let mut pending = start_within(&engine, &labels, millis);
                    // Some flows are not polled when they start.
                    if priority > 2 && take(&mut pending, &mut held) {
                        continue;
                    }
                    waiting.push(pending);
                }
                Event::Poll(at) if !waiting.is_empty() => {
                    let at = at % waiting.len();
                    if take(&mut waiting[at], &mut held) {
                        drop(waiting.swap_remove(at));
                    }
                }
                Event::Leave(at) if !waiting.is_empty() => {
                    let at = at % waiting.len();
                    drop(waiting.swap_remove(at));
                }
                Event::End(at) if !held.is_empty() => {
                    let at = at % held.len();
                    drop(held.swap_remove(at));
                }
                Event::Wait(millis) => {
                    clock.advance(Duration::from_millis(millis));
                    waiting.retain_mut(|pending| !take(pending, &mut held));
                }
                _ => {}
            }
        }
        drop(waiting);
        held.clear();
        if !concurrency {
            // This pays back the debts of accepted flows.
            clock.advance(secs(600.0));
        }
        let (report, _ticket) = decided(start_within(&engine, &[], 1_000));
        prop_assert!(report.accepted());
        let granted = PLENTY - tokens_and_slot(&report, "root.0").0.remaining;
        prop_assert_eq!(granted, engine.stats().accepted as f64);
        let (tokens, _) = tokens_and_slot(&report, "root.1");
        let all = if concurrency { 3.0 } else { 2.0 };
        prop_assert_eq!(tokens.remaining, all);
    }
}
