//! Properties of the weighted fair queue. Recorded events are replayed with the other recordings.

use proptest::prelude::*;

use super::wfq::{Arrival, MAX_COST, Wfq, workload_id};

/// Adds a request of a workload.
fn backlog(queue: &mut Wfq<usize>, workload: usize, priority: f64) -> (usize, bool) {
    let inverse_priority = 1.0 / priority;
    let arrival = Arrival {
        workload: &workload_id(&workload.to_string(), inverse_priority),
        fairness: None,
        tokens: 1.0,
        inverse_priority,
    };
    queue.arrive(&arrival, workload)
}

#[test]
fn shares_follow_priorities_and_no_workload_starves() {
    let priorities = [200.0, 100.0, 50.0, 1.0];
    let mut queue = Wfq::new(u32::MAX);
    let mut next = None;
    for (workload, priority) in priorities.into_iter().enumerate() {
        for _ in 0..3 {
            let (request, opens) = backlog(&mut queue, workload, priority);
            next = next.or(opens.then_some(request));
        }
    }
    let mut grants = [0_u32; 4];
    let mut since = [0_u32; 4];
    for _ in 0..10_000 {
        let request = next.expect("there is always a backlog");
        let workload = *queue.payload(request).expect("it is in service");
        backlog(&mut queue, workload, priorities[workload]);
        next = queue.served(request, true).1;
        grants[workload] += 1;
        for (at, waited) in since.iter_mut().enumerate() {
            *waited = if at == workload { 0 } else { *waited + 1 };
            let interval = priorities.iter().sum::<f64>() / priorities[at];
            assert!(f64::from(*waited) <= interval * 2.0 + 4.0, "{at} starves");
        }
    }
    let sum: f64 = priorities.iter().sum();
    for (workload, priority) in priorities.into_iter().enumerate() {
        let share = f64::from(grants[workload]) / 10_000.0;
        assert!((share - priority / sum).abs() < 0.02, "{grants:?}");
    }
}

#[test]
fn the_steps_per_request_grow_logarithmically() {
    const MANY: usize = 100_000;
    let mut queue = Wfq::new(u32::MAX);
    let mut requests = Vec::new();
    for workload in 0..MANY {
        // One flow per request, so that all of them are on the heap.
        let (request, _) = backlog(&mut queue, workload, 1.0 + (workload * 7919 % MANY) as f64);
        requests.push(request);
    }
    // Cancel every third request, wherever it is.
    for request in requests.iter().skip(1).step_by(3) {
        queue.cancel(*request);
    }
    let mut next = Some(requests[0]);
    let mut served = 0;
    while let Some(request) = next {
        next = queue.served(request, served % 2 == 0).1;
        served += 1;
    }
    assert_eq!(served, MANY - MANY / 3);
    let deepest = u64::from(MANY.ilog2()) + 2;
    assert!(queue.steps <= 2 * deepest * MANY as u64, "{}", queue.steps);
    assert!(!queue.is_open());
}

/// Adds a request of this workload and cost.
fn arrive(queue: &mut Wfq<usize>, workload: &str, cost: f64, payload: usize) -> (usize, bool) {
    let arrival = Arrival {
        workload,
        fairness: None,
        tokens: cost,
        inverse_priority: 1.0,
    };
    queue.arrive(&arrival, payload)
}

#[test]
fn infinite_costs_keep_virtual_time_within_float_precision() {
    for endless in [f64::INFINITY, f64::NAN, f64::MAX, 1e300, MAX_COST] {
        let mut queue = Wfq::new(0);
        let mut next = None;
        for payload in 0..8 {
            let (request, opens) = arrive(&mut queue, "endless", endless, payload);
            next = next.or(opens.then_some(request));
        }
        // As long as the flow is alone, it is served.
        for payload in 0..20_000 {
            let request = next.expect("there is always a backlog");
            arrive(&mut queue, "endless", endless, payload);
            next = queue.served(request, true).1;
            assert!(
                queue.state().0 <= 16.0 * MAX_COST,
                "{endless}: {:?}",
                queue.state()
            );
        }
        // Later requests share by their weights, ahead of the endless ones.
        let (light, heavy) = (1_000_001, 1_000_003);
        let add = |queue: &mut Wfq<usize>, payload: usize| match payload {
            _ if payload == light => arrive(queue, "light", 1.0, light),
            _ if payload == heavy => arrive(queue, "heavy", 3.0, heavy),
            _ => arrive(queue, "endless", endless, payload),
        };
        for payload in [light, heavy, light, heavy] {
            add(&mut queue, payload);
        }
        let mut served = Vec::new();
        for _ in 0..4000 {
            let request = next.expect("there is always a backlog");
            let payload = *queue.payload(request).expect("it is in service");
            add(&mut queue, payload);
            next = queue.served(request, true).1;
            served.push(payload);
        }
        let count = |payload| served.iter().filter(|served| **served == payload).count();
        let ratio = count(light) as f64 / count(heavy) as f64;
        assert!((2.9..3.1).contains(&ratio), "{endless}: {ratio}");
        assert!(count(light) + count(heavy) >= 3998);
    }
}

proptest! {
    /// At any time, the tokens granted to each workload are in proportion to its priority, within
    /// one request each. So no workload starves, and after 10 000 grants the deviation is far below
    /// 2 %.
    #[test]
    fn token_shares_follow_priorities_at_any_time(
        workloads in prop::collection::vec((0.01..100.0_f64, 0.1..10.0_f64), 2..6),
        max_overtaking in prop_oneof![Just(0), Just(3), Just(u32::MAX)],
        grants in 1..300_usize,
    ) {
        let mut queue = Wfq::new(max_overtaking);
        let mut next = None;
        let arrive = |queue: &mut Wfq<usize>, at: usize| {
            let (priority, tokens) = workloads[at];
            let inverse_priority = 1.0 / priority;
            let arrival = Arrival {
                workload: &workload_id(&at.to_string(), inverse_priority),
                fairness: None,
                tokens,
                inverse_priority,
            };
            queue.arrive(&arrival, at)
        };
        for at in (0..workloads.len()).chain(0..workloads.len()) {
            let (request, opens) = arrive(&mut queue, at);
            next = next.or(opens.then_some(request));
        }
        let weights: f64 = workloads.iter().map(|(priority, _)| priority).sum();
        let sizes = || workloads.iter().map(|(_, tokens)| tokens);
        // One request of each workload, and the one served before the others arrived.
        let slack = sizes().sum::<f64>() + sizes().copied().fold(0.0, f64::max);
        let mut granted = vec![0.0; workloads.len()];
        for _ in 0..grants {
            let request = next.expect("there is always a backlog");
            let at = *queue.payload(request).expect("it is in service");
            arrive(&mut queue, at);
            next = queue.served(request, true).1;
            granted[at] += workloads[at].1;
            let all: f64 = granted.iter().sum();
            for (granted, (priority, _)) in granted.iter().zip(&workloads) {
                let due = all * priority / weights;
                prop_assert!((granted - due).abs() <= slack + 1e-6, "{granted} of {due}");
            }
        }
    }

    #[test]
    fn no_request_is_overtaken_by_more_newcomers_than_the_bound(
        max_overtaking in 0..4_u32,
        steps in prop::collection::vec(prop_oneof![2 => Just(true), 1 => Just(false)], 1..200),
    ) {
        let mut queue = Wfq::new(max_overtaking);
        let mut next = None;
        let mut waiting: Vec<usize> = Vec::new();
        let mut overtaken = vec![0; steps.len()];
        for (number, comes) in steps.into_iter().enumerate() {
            if comes {
                let (request, opens) = arrive(&mut queue, "one", 1.0, number);
                next = next.or(opens.then_some(request));
                waiting.push(number);
            } else if let Some(request) = next {
                let (served, after) = queue.served(request, true);
                next = after;
                waiting.retain(|waits| Some(*waits) != served);
                for waits in waiting.iter().filter(|waits| Some(**waits) < served) {
                    overtaken[*waits] += 1;
                }
            }
        }
        prop_assert!(overtaken.iter().all(|times| *times <= max_overtaking), "{overtaken:?}");
        // In the end, all of them are served.
        while let Some(request) = next {
            let (served, after) = queue.served(request, true);
            next = after;
            waiting.retain(|waits| Some(*waits) != served);
        }
        prop_assert!(waiting.is_empty() && !queue.is_open());
    }
}

/// One of `requests`, with its positions in the order of arrival and in the order of service.
#[derive(Clone, Copy, Debug)]
struct ServedRequest {
    arrived: usize,
    served: usize,
    tokens: f64,
    overtook: f64,
}

/// Returns the tokens of earlier requests that it overtook, minus those of later ones that overtook
/// it.
fn expected_shift(one: &ServedRequest, all: &[ServedRequest]) -> f64 {
    let overtaken = all
        .iter()
        .filter(|other| other.arrived < one.arrived && other.served > one.served);
    let overtaking = all
        .iter()
        .filter(|other| other.arrived > one.arrived && other.served < one.served);
    let sum = |served_requests: &mut dyn Iterator<Item = &ServedRequest>| {
        served_requests.map(|request| request.tokens).sum::<f64>()
    };
    sum(&mut { overtaken }) - sum(&mut { overtaking })
}

proptest! {
    #[test]
    fn the_reported_shift_equals_the_tokens_that_were_overtaken(
        requests in prop::collection::vec((0_usize..3, 0_u8..3, 1_u8..5), 1..40),
    ) {
        let mut queue = Wfq::new(0);
        let mut next = None;
        for (arrived, (workload, fairness, tokens)) in requests.iter().enumerate() {
            let inverse_priority = [1.0, 0.1, 0.01][*workload];
            let arrival = Arrival {
                workload: &workload_id("w", inverse_priority),
                fairness: fairness.checked_sub(1),
                tokens: f64::from(*tokens),
                inverse_priority,
            };
            let (request, opens) = queue.arrive(&arrival, arrived);
            next = next.or(opens.then_some(request));
        }
        let mut served_requests = Vec::new();
        while let Some(request) = next {
            let arrived = *queue.payload(request).expect("it is in service");
            let overtaken = queue.overtaken(request).expect("it is in service");
            served_requests.push(ServedRequest {
                arrived,
                served: served_requests.len(),
                tokens: f64::from(requests[arrived].2),
                overtook: overtaken.workload,
            });
            next = queue.served(request, true).1;
        }
        prop_assert_eq!(served_requests.len(), requests.len());
        for request in &served_requests {
            let expected = expected_shift(request, &served_requests);
            prop_assert_eq!(request.overtook, expected, "{:?} of {:?}", request, served_requests);
        }
    }
}

#[test]
fn the_shift_within_a_workload_counts_requests_that_waited_behind_their_label() {
    let mut queue = Wfq::new(0);
    let mut arrive = |fairness, payload| {
        let arrival = Arrival {
            workload: "w",
            fairness: Some(fairness),
            tokens: 1.0,
            inverse_priority: 1.0,
        };
        queue.arrive(&arrival, payload)
    };
    let (first, opens) = arrive(0, 0);
    assert!(opens);
    // The second request of a label is the next one of its flow; the third to the fifth wait behind
    // it.
    for payload in 1..5 {
        arrive(0, payload);
    }
    for payload in 5..7 {
        arrive(1, payload);
    }
    let mut next = Some(first);
    let mut moved = Vec::new();
    while let Some(request) = next {
        let payload = *queue.payload(request).expect("it is in service");
        let fairness = queue.overtaken(request).and_then(|one| one.fairness);
        moved.push((payload, fairness));
        next = queue.served(request, true).1;
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
fn a_cancelled_request_does_not_shift_the_remaining_ones() {
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
    // A rejected request and one that left were queued before it, and were never admitted.
    assert_eq!(queue.overtaken(last).map(|one| one.workload), Some(1.0));
    queue.served(last, true);
    assert!(!queue.is_open());
    let (again, opens) = arrive(&mut queue, "a", 1.0, 4);
    assert!(opens);
    assert_eq!(queue.overtaken(again).map(|one| one.workload), Some(0.0));
}
