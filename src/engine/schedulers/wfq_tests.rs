//! Laws of the queue; recorded events are replayed with the other recordings.

use proptest::prelude::*;

use super::wfq::{Arrival, Wfq, workload_id};

/// One place of each workload in service or on the heap, the rest behind.
fn backlog(queue: &mut Wfq<usize>, workload: usize, priority: f64) -> (usize, bool) {
    let inverse = 1.0 / priority;
    let arrival = Arrival {
        workload: &workload_id(&workload.to_string(), inverse),
        fairness: None,
        tokens: 1.0,
        inverse,
    };
    queue.arrive(&arrival, workload)
}

#[test]
fn shares_are_those_of_the_priorities_and_nobody_starves() {
    let priorities = [200.0, 100.0, 50.0, 1.0];
    let mut queue = Wfq::new();
    let mut next = None;
    for (workload, priority) in priorities.into_iter().enumerate() {
        for _ in 0..3 {
            let (place, opens) = backlog(&mut queue, workload, priority);
            next = next.or(opens.then_some(place));
        }
    }
    let mut grants = [0_u32; 4];
    let mut since = [0_u32; 4];
    for _ in 0..10_000 {
        let place = next.expect("there is always a backlog");
        let workload = *queue.payload(place).expect("it is in service");
        backlog(&mut queue, workload, priorities[workload]);
        next = queue.served(place, true).1;
        grants[workload] += 1;
        for (at, waited) in since.iter_mut().enumerate() {
            *waited = if at == workload { 0 } else { *waited + 1 };
            let turn = priorities.iter().sum::<f64>() / priorities[at];
            assert!(f64::from(*waited) <= turn * 2.0 + 4.0, "{at} starves");
        }
    }
    let sum: f64 = priorities.iter().sum();
    for (workload, priority) in priorities.into_iter().enumerate() {
        let share = f64::from(grants[workload]) / 10_000.0;
        assert!((share - priority / sum).abs() < 0.02, "{grants:?}");
    }
}

#[test]
fn a_hundred_thousand_cost_no_more_steps_each_than_their_number_has_digits() {
    const MANY: usize = 100_000;
    let mut queue = Wfq::new();
    let mut places = Vec::new();
    for request in 0..MANY {
        // A flow each, so that all of them are on the heap.
        let (place, _) = backlog(&mut queue, request, 1.0 + (request * 7919 % MANY) as f64);
        places.push(place);
    }
    // Every third one leaves, from anywhere.
    for place in places.iter().skip(1).step_by(3) {
        queue.cancel(*place);
    }
    let mut next = Some(places[0]);
    let mut served = 0;
    while let Some(place) = next {
        next = queue.served(place, served % 2 == 0).1;
        served += 1;
    }
    assert_eq!(served, MANY - MANY / 3);
    let deepest = u64::from(MANY.ilog2()) + 2;
    assert!(queue.steps <= 2 * deepest * MANY as u64, "{}", queue.steps);
    assert!(!queue.is_open());
}

proptest! {
    /// What each has is what the others have, by priority, but for a request each: at any time, so
    /// nobody starves, and after 10 000 grants that is far less than 2 %.
    #[test]
    fn shares_of_tokens_are_those_of_the_priorities_at_any_time(
        workloads in prop::collection::vec((0.01..100.0_f64, 0.1..10.0_f64), 2..6),
        grants in 1..300_usize,
    ) {
        let mut queue = Wfq::new();
        let mut next = None;
        let arrive = |queue: &mut Wfq<usize>, at: usize| {
            let (priority, tokens) = workloads[at];
            let inverse = 1.0 / priority;
            let arrival = Arrival {
                workload: &workload_id(&at.to_string(), inverse),
                fairness: None,
                tokens,
                inverse,
            };
            queue.arrive(&arrival, at)
        };
        for at in (0..workloads.len()).chain(0..workloads.len()) {
            let (place, opens) = arrive(&mut queue, at);
            next = next.or(opens.then_some(place));
        }
        let weights: f64 = workloads.iter().map(|(priority, _)| priority).sum();
        let sizes = || workloads.iter().map(|(_, tokens)| tokens);
        // One each, and the one that was served before there were others.
        let slack = sizes().sum::<f64>() + sizes().copied().fold(0.0, f64::max);
        let mut granted = vec![0.0; workloads.len()];
        for _ in 0..grants {
            let place = next.expect("there is always a backlog");
            let at = *queue.payload(place).expect("it is in service");
            arrive(&mut queue, at);
            next = queue.served(place, true).1;
            granted[at] += workloads[at].1;
            let all: f64 = granted.iter().sum();
            for (granted, (priority, _)) in granted.iter().zip(&workloads) {
                let due = all * priority / weights;
                prop_assert!((granted - due).abs() <= slack + 1e-6, "{granted} of {due}");
            }
        }
    }
}
