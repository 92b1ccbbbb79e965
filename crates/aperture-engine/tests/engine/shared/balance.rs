//! Whatever flows and replies do, the store has everything back at the end but what flows spent.

use proptest::prelude::*;
use tower_aperture::engine::shared::{StoreAbsence, StoreOperation};

use super::store::Replies;
use super::*;
use crate::support::at_most_cases;

const CAPACITY: f64 = 40.0;
const SLOTS: f64 = 3.0;

#[derive(Clone, Copy, Debug)]
enum Step {
    Start(usize),
    Poll(usize),
    DropFlow(usize),
    GiveUp(usize),
    EndFlow(usize),
    Deliver(usize),
    Refuse(usize),
    DropReply(usize),
    LoseReply(usize),
    Advance(u64),
    Available(bool),
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..64_usize;
    prop_oneof![
        6 => (0..3_usize).prop_map(Step::Start),
        4 => at.clone().prop_map(Step::Poll),
        2 => at.clone().prop_map(Step::DropFlow),
        1 => at.clone().prop_map(Step::GiveUp),
        3 => at.clone().prop_map(Step::EndFlow),
        8 => at.clone().prop_map(Step::Deliver),
        1 => at.clone().prop_map(Step::Refuse),
        1 => at.clone().prop_map(Step::DropReply),
        1 => at.prop_map(Step::LoseReply),
        2 => (1..30_u64).prop_map(Step::Advance),
        1 => any::<bool>().prop_map(Step::Available),
    ]
}

/// Runs the steps, ends all flows, and checks what the store has.
fn run(components: &[String], steps: &[Step]) {
    let (store, clock, engines) = several(3, Replies::Held, components);
    // So that all that is granted comes from the store.
    store.state().absence = StoreAbsence::Closed;
    let mut flows: Vec<PendingReport> = Vec::new();
    let mut tickets: Vec<EngineTicket> = Vec::new();
    let mut accepted = 0;
    let mut settle = |flow: &mut PendingReport, tickets: &mut Vec<EngineTicket>| {
        let Some((report, ticket)) = poll(flow) else {
            return false;
        };
        if report.accepted() {
            accepted += 1;
            tickets.push(ticket);
        }
        true
    };
    for step in steps {
        let (waiting, held) = (flows.len(), store.held());
        match *step {
            Step::Start(engine) => flows.push(start(&engines[engine])),
            Step::Poll(at) if waiting > 0 => {
                let mut flow = flows.swap_remove(at % waiting);
                if !settle(&mut flow, &mut tickets) {
                    flows.push(flow);
                }
            }
            Step::DropFlow(at) if waiting > 0 => drop(flows.swap_remove(at % waiting)),
            Step::GiveUp(at) if waiting > 0 => {
                let mut flow = flows.swap_remove(at % waiting);
                flow.give_up();
                assert!(settle(&mut flow, &mut tickets));
            }
            Step::EndFlow(at) if !tickets.is_empty() => {
                drop(tickets.swap_remove(at % tickets.len()));
            }
            Step::Deliver(at) if held > 0 => store.deliver(at % held),
            // A lost return of tokens is lost.
            Step::Refuse(at) if held > 0 && is_question(&store, at % held) => {
                store.refuse(at % held, false);
            }
            Step::DropReply(at) if held > 0 && is_question(&store, at % held) => {
                store.refuse(at % held, true);
            }
            Step::LoseReply(at) if held > 0 && is_slot(&store, at % held) => {
                store.lose_reply(at % held);
            }
            Step::Advance(time) => clock.advance(millis(time)),
            Step::Available(available) => store.state().available = available,
            _ => {}
        }
    }
    for mut flow in flows {
        settle(&mut flow, &mut tickets);
    }
    drop(tickets);
    store.deliver_all();
    let buckets = components
        .iter()
        .filter(|text| text.contains("bucket"))
        .count();
    let asked = !store.state().submitted.is_empty();
    let full = if asked {
        buckets as f64 * CAPACITY
    } else {
        0.0
    };
    let tokens = store.tokens();
    let spent = (buckets * accepted) as f64;
    // Buckets that no flow has asked for do not exist yet.
    assert!(
        tokens == full - spent || tokens == 0.0 && spent == 0.0,
        "{tokens} of {full}, {spent} spent"
    );
    assert_eq!(store.slots(), 0);
}

/// Returns true for an operation whose loss costs nothing.
fn is_question(store: &FakeStore, at: usize) -> bool {
    match store.held_operation(at) {
        StoreOperation::Take(take) => take.tokens > 0.0,
        StoreOperation::Enter(_) => true,
        _ => false,
    }
}

fn is_slot(store: &FakeStore, at: usize) -> bool {
    matches!(store.held_operation(at), StoreOperation::Enter(_))
}

proptest! {
    // Each case is a long sequence.
    #![proptest_config(at_most_cases(1000))]

    #[test]
    fn limiters_have_everything_back(steps in prop::collection::vec(step(), 1..120)) {
        run(&[rate_limiter(CAPACITY, 0.0, ""), concurrency_limiter(SLOTS)], &steps);
    }

    #[test]
    fn queues_of_tokens_have_everything_back(steps in prop::collection::vec(step(), 1..120)) {
        run(&[quota(CAPACITY, 0.0)], &steps);
    }

    #[test]
    fn queues_of_slots_have_everything_back(steps in prop::collection::vec(step(), 1..120)) {
        run(&[concurrency_scheduler(SLOTS)], &steps);
    }

    #[test]
    fn queues_of_tokens_that_fill_hold_no_more_and_no_less(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let (store, clock, engines) = several(3, Replies::Held, &[quota(2.0, 10.0)]);
        store.state().absence = StoreAbsence::Closed;
        let mut flows = Vec::new();
        let (mut accepted, mut time) = (0_u32, 0);
        for step in steps {
            let (waiting, held) = (flows.len(), store.held());
            match step {
                Step::Start(engine) => flows.push(start(&engines[engine])),
                Step::Poll(at) if waiting > 0 => {
                    let mut flow = flows.swap_remove(at % waiting);
                    match poll(&mut flow) {
                        Some((report, _)) => accepted += u32::from(report.accepted()),
                        None => flows.push(flow),
                    }
                }
                Step::DropFlow(at) if waiting > 0 => drop(flows.swap_remove(at % waiting)),
                Step::Deliver(at) if held > 0 => store.deliver(at % held),
                Step::Advance(millis) => {
                    time += millis;
                    clock.advance(self::millis(millis));
                }
                _ => {}
            }
            prop_assert!(f64::from(accepted) <= 2.0 + time as f64 / 100.0 + 1e-9);
        }
        drop(flows);
        store.deliver_all();
        // In time the bucket is full again, whatever was reserved and returned.
        clock.advance(millis(200));
        let flows: Vec<_> = (0..2).map(|_| start(&engines[0])).collect();
        store.deliver_all();
        for flow in flows {
            prop_assert!(decided(flow).0.accepted());
        }
    }
}
