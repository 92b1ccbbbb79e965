//! Waiting: woken when there is something, gone when it goes.

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
fn a_slot_that_is_given_back_goes_to_the_head_at_once() {
    let (engine, _) = engine_of(&[slots(1.0, "", PATIENT)]);
    let (_, first) = now(start(&engine, &[]));
    let mut low = start(&engine, &[("priority", "1")]);
    let mut queued = [
        start(&engine, &[("priority", "1")]),
        start(&engine, &[("priority", "9")]),
    ];
    is_send_and_unpin(&low);
    let alarms: [Arc<Alarm>; 2] = Default::default();
    assert!(poll(&mut low).is_none());
    for (starting, alarm) in queued.iter_mut().zip(&alarms) {
        assert!(poll_with(starting, &Arc::clone(alarm).into()).is_none());
    }
    drop(first);
    let (report, second) = poll(&mut low).expect("it opened the queue");
    assert!(report.accepted());
    assert_eq!(alarms.each_ref().map(|alarm| alarm.rung()), [0, 0]);
    drop(second);
    // The other one weighs more.
    let (report, _third) = poll(&mut queued[1]).expect("it is the head");
    assert_eq!(seen(&report, "root.0").0.remaining, 1.0);
    assert!(alarms[1].rung() > 0);
    assert!(poll(&mut queued[0]).is_none());
}

#[test]
fn a_slot_that_expires_goes_to_the_head() {
    let long = ", default_workload_parameters: {queue_timeout: 60s}";
    let (engine, clock) = engine_of(&[slots(1.0, "", long)]);
    let (_, ticket) = now(start(&engine, &[]));
    clock.advance(secs(1.0));
    let mut waiter = start(&engine, &[]);
    let alarm: Arc<Alarm> = Arc::default();
    assert!(poll_with(&mut waiter, &Arc::clone(&alarm).into()).is_none());
    clock.advance(secs(9.0));
    assert_eq!(alarm.rung(), 0);
    clock.advance(Duration::from_nanos(1));
    assert_eq!(alarm.rung(), 1);
    assert!(poll(&mut waiter).expect("there is room").0.accepted());
    drop(ticket);
}

/// An Agent gives up earlier, by the delay it announces.
#[test]
fn who_waits_for_a_slot_does_so_until_ten_milliseconds_before_its_deadline() {
    let (engine, clock) = engine_of(&[slots(1.0, "", ""), quota(0.0, 1.0, "")]);
    let (_, _held) = {
        let params = params(&[("tokens", "1")]);
        let input = CheckInput::new(HERE, &params).deadline(Some(secs(9.0)));
        let mut starting = engine.start(&input);
        assert!(poll(&mut starting).is_none());
        clock.advance(secs(1.0));
        poll(&mut starting).expect("its token is there")
    };
    // 520 ms less the margin of 10 ms, less 10 ms.
    let mut waiter = start_within(&engine, &[], 520);
    clock.advance(Duration::from_millis(499));
    assert!(poll(&mut waiter).is_none());
    clock.advance(Duration::from_millis(1));
    let (report, _) = poll(&mut waiter).expect("its time is over");
    assert_eq!(report.reject_reason, Some(RejectReason::NoTokens));
    let (tokens, slot) = seen(&report, "root.0");
    assert_eq!((tokens.remaining, tokens.current, slot), (0.0, 0.0, false));
    // Within the margin nothing is looked at, free or not.
    let (report, _) = now(start_within(&engine, &[], 20));
    assert_eq!(seen(&report, "root.0").0.current, 0.0);
    // Without a deadline nobody waits.
    let (report, _) = now(start(&engine, &[]));
    assert_eq!(seen(&report, "root.0").0.current, 1.0);
}

#[test]
fn tokens_are_waited_for_and_a_waiter_who_leaves_lets_the_next_one_come_earlier() {
    let (engine, clock) = engine_of(&[quota(1.0, 1.0, "")]);
    drop(now(start_within(&engine, &[], 9_000)));
    let [mut first, mut big, mut last] =
        ["1", "3", "1"].map(|tokens| start_within(&engine, &[("tokens", tokens)], 9_000));
    for starting in [&mut first, &mut big, &mut last] {
        assert!(poll(starting).is_none());
    }
    clock.advance(secs(1.0));
    assert!(poll(&mut first).expect("its token is there").0.accepted());
    clock.advance(Duration::from_millis(500));
    // It has waited for its tokens for half a second: those are for who comes next.
    drop(big);
    clock.advance(Duration::from_millis(499));
    assert!(poll(&mut last).is_none());
    clock.advance(Duration::from_millis(2));
    assert!(poll(&mut last).expect("its token is there").0.accepted());
}

#[test]
fn one_slot_wakes_one_of_many() {
    const MANY: usize = 10_000;
    let (engine, _) = engine_of(&[slots(1.0, "", PATIENT)]);
    let (_, mut ticket) = now(start(&engine, &[]));
    let alarms: Vec<Arc<Alarm>> = (0..MANY).map(|_| Arc::default()).collect();
    let mut waiters: Vec<PendingReport> = (0..MANY).map(|_| start(&engine, &[])).collect();
    for (waiter, alarm) in waiters.iter_mut().zip(&alarms) {
        assert!(poll_with(waiter, &Arc::clone(alarm).into()).is_none());
    }
    let rung = || alarms.iter().map(|alarm| alarm.rung()).sum::<usize>();
    for (at, waiter) in waiters.iter_mut().take(20).enumerate() {
        let before = rung();
        drop(ticket);
        // The one that has it, and the next head, which has a timer to set.
        assert!(rung() - before <= 2);
        let (report, next) = poll(waiter).unwrap_or_else(|| panic!("{at} is next"));
        assert!(report.accepted());
        ticket = next;
    }
}

#[tokio::test(start_paused = true)]
async fn the_clock_of_an_engine_is_the_one_of_tokio() {
    let engine = Engine::builder()
        .policy_text("quota", policy_of(&[quota(1.0, 1.0, "")]))
        .build()
        .expect("the policy is right");
    let begun = tokio::time::Instant::now();
    assert!(start_within(&engine, &[], 9_000).await.0.accepted());
    assert!(start_within(&engine, &[], 9_000).await.0.accepted());
    let took = begun.elapsed().as_millis();
    assert!((1000..=1002).contains(&took), "{took}");
    // Nobody can wait for what comes after the deadline.
    let refused = start_within(&engine, &[("tokens", "20")], 9_000).await.0;
    assert_eq!(refused.reject_reason, Some(RejectReason::NoTokens));
    assert_eq!(begun.elapsed().as_millis(), took);
    let waiting = start_within(&engine, &[("tokens", "2")], 9_000);
    assert!(tokio::time::timeout(secs(1.0), waiting).await.is_err());
    assert_eq!(begun.elapsed().as_millis(), took + 1000);
}

#[test]
fn outside_of_a_runtime_who_would_have_to_wait_is_turned_away() {
    let engine = Engine::builder()
        .policy_text("quota", policy_of(&[quota(1.0, 1.0, "")]))
        .build()
        .expect("the policy is right");
    assert!(now(start(&engine, &[])).0.accepted());
    let (report, _) = now(start(&engine, &[]));
    assert_eq!(report.reject_reason, Some(RejectReason::NoTokens));
}

#[test]
fn a_decider_waits_like_the_rest() {
    let (engine, clock) = engine_of(&[quota(1.0, 1.0, "")]);
    let decide = || engine.decide(HERE, &FlowParams::new());
    assert!(matches!(decide(), Check::Ready(Verdict::Accepted(_))));
    let Check::Pending(mut pending) = decide() else {
        panic!("there is no token");
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
fn who_leaves_a_queue_gives_back_what_other_schedulers_granted_it() {
    let (engine, _) = engine_of(&[quota(5.0, 0.0, ""), quota(1.0, 1.0, "")]);
    let left = |report: &CheckReport| seen(report, "root.0").0.remaining;
    assert_eq!(left(&now(start_within(&engine, &[], 9_000)).0), 4.0);
    let mut unasked = start_within(&engine, &[], 9_000);
    drop(start_within(&engine, &[], 9_000));
    assert!(poll(&mut unasked).is_none());
    drop(unasked);
    let (report, _) = now(start_within(&engine, &[("tokens", "2")], 500));
    assert_eq!(report.reject_reason, Some(RejectReason::NoTokens));
    assert_eq!(left(&report), 2.0);
}

/// A waker that has a flow of its own, as one does of a task that nobody else holds.
struct Owner(#[allow(dead_code)] Mutex<Option<PendingReport>>);

impl Wake for Owner {
    fn wake(self: Arc<Self>) {}
}

/// A clock that stands still and keeps no waker.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Duration {
        Duration::ZERO
    }

    fn wake_at(&self, _: Duration, _: &Waker) -> bool {
        true
    }
}

#[test]
fn a_waker_that_is_dropped_may_leave_the_same_queue() {
    let engine = Engine::builder()
        .policy_text("slots", policy_of(&[slots(1.0, "", PATIENT)]))
        .clock(Still)
        .build()
        .expect("the policy is right");
    let (_, ticket) = now(start(&engine, &[]));
    let owner = || {
        let own = start(&engine, &[]);
        Waker::from(Arc::new(Owner(Mutex::new(Some(own)))))
    };
    let mut moved = start(&engine, &[]);
    assert!(poll_with(&mut moved, &owner()).is_none());
    assert!(poll_with(&mut moved, &owner()).is_none());
    let mut left = start(&engine, &[]);
    assert!(poll_with(&mut left, &owner()).is_none());
    drop(left);
    drop(ticket);
    assert!(poll(&mut moved).expect("it is the head").0.accepted());
}

#[test]
fn a_head_that_nobody_polls_holds_up_nobody() {
    for arrives in [true, false] {
        let (engine, clock) = engine_of(&[quota(1.0, 1.0, "")]);
        drop(now(start_within(&engine, &[], 60_000)));
        let unasked = start_within(&engine, &[], 60_000);
        let mut behind = start_within(&engine, &[], 60_000);
        let alarm: Arc<Alarm> = Arc::default();
        assert!(poll_with(&mut behind, &Arc::clone(&alarm).into()).is_none());
        clock.advance(secs(5.0));
        if arrives {
            drop(start_within(&engine, &[], 60_000));
            assert_eq!(alarm.rung(), 1);
        }
        assert!(poll(&mut behind).expect("there are tokens").0.accepted());
        drop(unasked);
    }
}

/// More than all flows of a test take.
const PLENTY: f64 = 1e6;

/// What happens to the flows of a queue.
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
    /// Whatever comes and goes: in the end everything is there again, and nobody waits for it; and
    /// a quota that never runs out has granted as many tokens as flows were let in.
    #[test]
    fn nothing_leaks_where_flows_give_up_at_random(
        concurrency: bool,
        events in prop::collection::vec(event(), 1..120),
    ) {
        let component = if concurrency { slots(3.0, "", "") } else { quota(3.0, 2.0, "") };
        let one_each = quota(PLENTY, 0.0, "").replace("tokens_label_key: tokens, ", "");
        let (engine, clock) = engine_of(&[one_each, component]);
        let mut waiting: Vec<PendingReport> = Vec::new();
        let mut held: Vec<EngineTicket> = Vec::new();
        let take = |starting: &mut PendingReport, held: &mut Vec<EngineTicket>| match poll(starting) {
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
                    let mut starting = start_within(&engine, &labels, millis);
                    // Some are never asked at all.
                    if priority > 2 && take(&mut starting, &mut held) {
                        continue;
                    }
                    waiting.push(starting);
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
                    waiting.retain_mut(|starting| !take(starting, &mut held));
                }
                _ => {}
            }
        }
        drop(waiting);
        held.clear();
        if !concurrency {
            // Debts of those who were let in, to be filled in.
            clock.advance(secs(600.0));
        }
        let (report, _ticket) = now(start_within(&engine, &[], 1_000));
        prop_assert!(report.accepted());
        let granted = PLENTY - seen(&report, "root.0").0.remaining;
        prop_assert_eq!(granted, engine.stats().accepted as f64);
        let (tokens, _) = seen(&report, "root.1");
        let all = if concurrency { 3.0 } else { 2.0 };
        prop_assert_eq!(tokens.remaining, all);
    }
}
