//! Laws of the queue; recorded events are replayed with the other recordings.

use proptest::prelude::*;

use super::wfq::{Arrival, LONGEST, Wfq, workload_id};

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
    let mut queue = Wfq::new(u32::MAX);
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
    let mut queue = Wfq::new(u32::MAX);
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

/// A request of one of two flows that cost this much.
fn arrive(queue: &mut Wfq<usize>, workload: &str, cost: f64, payload: usize) -> (usize, bool) {
    let arrival = Arrival {
        workload,
        fairness: None,
        tokens: cost,
        inverse: 1.0,
    };
    queue.arrive(&arrival, payload)
}

#[test]
fn endless_costs_keep_virtual_time_within_what_floats_can_tell() {
    for endless in [f64::INFINITY, f64::NAN, f64::MAX, 1e300, LONGEST] {
        let mut queue = Wfq::new(0);
        let mut next = None;
        for request in 0..8 {
            let (place, opens) = arrive(&mut queue, "endless", endless, request);
            next = next.or(opens.then_some(place));
        }
        // For as long as nobody else is there, it is served.
        for request in 0..20_000 {
            let place = next.expect("there is always a backlog");
            arrive(&mut queue, "endless", endless, request);
            next = queue.served(place, true).1;
            assert!(
                queue.state().0 <= 16.0 * LONGEST,
                "{endless}: {:?}",
                queue.state()
            );
        }
        // Requests that come then share as they weigh, before the endless ones.
        let (light, heavy) = (1_000_001, 1_000_003);
        let come = |queue: &mut Wfq<usize>, payload: usize| match payload {
            _ if payload == light => arrive(queue, "light", 1.0, light),
            _ if payload == heavy => arrive(queue, "heavy", 3.0, heavy),
            _ => arrive(queue, "endless", endless, payload),
        };
        for payload in [light, heavy, light, heavy] {
            come(&mut queue, payload);
        }
        let mut served = Vec::new();
        for _ in 0..4000 {
            let place = next.expect("there is always a backlog");
            let payload = *queue.payload(place).expect("it is in service");
            come(&mut queue, payload);
            next = queue.served(place, true).1;
            served.push(payload);
        }
        let count = |payload| served.iter().filter(|served| **served == payload).count();
        let ratio = count(light) as f64 / count(heavy) as f64;
        assert!((2.9..3.1).contains(&ratio), "{endless}: {ratio}");
        assert!(count(light) + count(heavy) >= 3998);
    }
}

proptest! {
    /// What each has is what the others have, by priority, but for a request each: at any time, so
    /// nobody starves, and after 10 000 grants that is far less than 2 %.
    #[test]
    fn shares_of_tokens_are_those_of_the_priorities_at_any_time(
        workloads in prop::collection::vec((0.01..100.0_f64, 0.1..10.0_f64), 2..6),
        overtaking in prop_oneof![Just(0), Just(3), Just(u32::MAX)],
        grants in 1..300_usize,
    ) {
        let mut queue = Wfq::new(overtaking);
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

    #[test]
    fn no_more_newcomers_overtake_a_request_than_may(
        overtaking in 0..4_u32,
        steps in prop::collection::vec(prop_oneof![2 => Just(true), 1 => Just(false)], 1..200),
    ) {
        let mut queue = Wfq::new(overtaking);
        let mut next = None;
        let mut waiting: Vec<usize> = Vec::new();
        let mut overtaken = vec![0; steps.len()];
        for (number, comes) in steps.into_iter().enumerate() {
            if comes {
                let (place, opens) = arrive(&mut queue, "one", 1.0, number);
                next = next.or(opens.then_some(place));
                waiting.push(number);
            } else if let Some(place) = next {
                let (served, after) = queue.served(place, true);
                next = after;
                waiting.retain(|waits| Some(*waits) != served);
                for waits in waiting.iter().filter(|waits| Some(**waits) < served) {
                    overtaken[*waits] += 1;
                }
            }
        }
        prop_assert!(overtaken.iter().all(|times| *times <= overtaking), "{overtaken:?}");
        // All of them come out at last.
        while let Some(place) = next {
            let (served, after) = queue.served(place, true);
            next = after;
            waiting.retain(|waits| Some(*waits) != served);
        }
        prop_assert!(waiting.is_empty() && !queue.is_open());
    }
}

/// A request of `requests`, as its arrival and its service number it.
#[derive(Clone, Copy, Debug)]
struct Turn {
    arrived: usize,
    served: usize,
    tokens: f64,
    overtook: f64,
}

/// Earlier requests that it overtook, less later ones that overtook it, in tokens.
fn by_hand(one: &Turn, all: &[Turn]) -> f64 {
    let overtaken = all
        .iter()
        .filter(|other| other.arrived < one.arrived && other.served > one.served);
    let overtaking = all
        .iter()
        .filter(|other| other.arrived > one.arrived && other.served < one.served);
    let sum = |turns: &mut dyn Iterator<Item = &Turn>| turns.map(|turn| turn.tokens).sum::<f64>();
    sum(&mut { overtaken }) - sum(&mut { overtaking })
}

proptest! {
    #[test]
    fn a_request_knows_by_how_many_tokens_it_was_moved(
        requests in prop::collection::vec((0_usize..3, 0_u8..3, 1_u8..5), 1..40),
    ) {
        let mut queue = Wfq::new(0);
        let mut next = None;
        for (arrived, (workload, fairness, tokens)) in requests.iter().enumerate() {
            let inverse = [1.0, 0.1, 0.01][*workload];
            let arrival = Arrival {
                workload: &workload_id("w", inverse),
                fairness: fairness.checked_sub(1),
                tokens: f64::from(*tokens),
                inverse,
            };
            let (place, opens) = queue.arrive(&arrival, arrived);
            next = next.or(opens.then_some(place));
        }
        let mut turns = Vec::new();
        while let Some(place) = next {
            let arrived = *queue.payload(place).expect("it is in service");
            let overtaken = queue.overtaken(place).expect("it is in service");
            turns.push(Turn {
                arrived,
                served: turns.len(),
                tokens: f64::from(requests[arrived].2),
                overtook: overtaken.workload,
            });
            next = queue.served(place, true).1;
        }
        prop_assert_eq!(turns.len(), requests.len());
        for turn in &turns {
            prop_assert_eq!(turn.overtook, by_hand(turn, &turns), "{:?} of {:?}", turn, turns);
        }
    }
}

#[test]
fn fairness_compares_those_that_waited_behind_their_own_label() {
    let mut queue = Wfq::new(0);
    let mut arrive = |fairness, payload| {
        let arrival = Arrival {
            workload: "w",
            fairness: Some(fairness),
            tokens: 1.0,
            inverse: 1.0,
        };
        queue.arrive(&arrival, payload)
    };
    let (first, opens) = arrive(0, 0);
    assert!(opens);
    // The second one of a label is its next; the third to the fifth wait behind it.
    for payload in 1..5 {
        arrive(0, payload);
    }
    for payload in 5..7 {
        arrive(1, payload);
    }
    let mut next = Some(first);
    let mut moved = Vec::new();
    while let Some(place) = next {
        let payload = *queue.payload(place).expect("it is in service");
        let fairness = queue.overtaken(place).and_then(|one| one.fairness);
        moved.push((payload, fairness));
        next = queue.served(place, true).1;
    }
    moved.sort_unstable_by_key(|(payload, _)| *payload);
    let waited: Vec<_> = moved
        .iter()
        .filter_map(|(payload, fairness)| Some((*payload, (*fairness)?)))
        .collect();
    let behind: Vec<_> = waited.iter().map(|(payload, _)| *payload).collect();
    assert_eq!(behind, [2, 3, 4, 6]);
    assert!(waited[3].1 > 0.0, "the other label overtakes: {waited:?}");
    assert!(
        waited[2].1 < 0.0,
        "the last of the first one is overtaken: {waited:?}"
    );
    assert_eq!(waited.iter().map(|(_, by)| by).sum::<f64>(), 0.0);
}

#[test]
fn a_request_that_leaves_moves_none_of_those_that_stay() {
    let mut queue = Wfq::new(0);
    let (first, _) = arrive(&mut queue, "a", 1.0, 0);
    let (leaves, _) = arrive(&mut queue, "a", 5.0, 1);
    let (_, _) = arrive(&mut queue, "b", 7.0, 2);
    queue.cancel(leaves);
    let (last, _) = arrive(&mut queue, "b", 7.0, 3);
    assert_eq!(queue.overtaken(first).map(|one| one.workload), Some(0.0));
    let next = queue.served(first, false).1.expect("another one");
    assert_eq!(*queue.payload(next).expect("it is in service"), 2);
    let next = queue.served(next, true).1.expect("the last one");
    assert_eq!(next, last);
    // One that was rejected and one that left were queued before it, and were never admitted.
    assert_eq!(queue.overtaken(last).map(|one| one.workload), Some(1.0));
    queue.served(last, true);
    assert!(!queue.is_open());
    let (again, opens) = arrive(&mut queue, "a", 1.0, 4);
    assert!(opens);
    assert_eq!(queue.overtaken(again).map(|one| one.workload), Some(0.0));
}
