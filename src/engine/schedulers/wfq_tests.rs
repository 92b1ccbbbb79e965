//! The queue against recorded events, and its laws.

use std::collections::HashMap;

use serde_json::Value;

use super::wfq::{Arrival, Wfq, workload_id};
use super::workload::Seed;

fn recordings() -> Vec<(String, Value)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/schedulers");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)
        .expect("the folder is there")
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("wfq-direct-") {
            let text = std::fs::read_to_string(entry.path()).expect("it can be read");
            found.push((name, serde_json::from_str(&text).expect("it is JSON")));
        }
    }
    assert!(!found.is_empty());
    found
}

#[test]
fn recorded_identifiers_are_the_same() {
    for (name, recording) in recordings() {
        for row in recording["identifiers"].as_array().into_iter().flatten() {
            let text = |field: &str| row[field].as_str().expect("a text");
            let (workload, generation) = text("workload").rsplit_once('-').expect("two parts");
            let priority = row["priority"].as_f64().unwrap_or(4.0);
            assert_eq!(workload_id("w", 1.0 / priority), workload, "{name}");
            let flow = match Seed::new(0).queue(text("fairness"), 0) {
                None => format!("{workload}-{generation}"),
                Some(queue) => format!("{workload}-{generation}-{queue}"),
            };
            assert_eq!(flow, text("flow"), "{name}");
        }
    }
}

/// All events in their order; after each one the state, and who was taken.
#[test]
fn recorded_events_are_the_same() {
    let mut events = 0;
    for (name, recording) in recordings() {
        for run in recording["runs"].as_array().expect("a list") {
            events += replay(&name, run);
        }
    }
    assert!(events > 1000, "{events} events");
}

fn replay(name: &str, run: &Value) -> usize {
    let at = |event: usize| format!("{name}, seed {}, event {event}", run["seed"]);
    let mut queue: Wfq<i64> = Wfq::new();
    let mut seed = Seed::new(0);
    let mut places: HashMap<i64, usize> = HashMap::new();
    let mut next: Option<usize> = None;
    let events = run["events"].as_array().expect("a list");
    for (number, event) in events.iter().enumerate() {
        let cell = |column: usize| &event[column];
        let id = cell(1).as_i64().expect("a number");
        match cell(0).as_str() {
            Some("arrive") => {
                let text = |column: usize| cell(column).as_str().expect("a text");
                let inverse = 1.0 / cell(5).as_f64().expect("a number");
                let arrival = Arrival {
                    workload: &workload_id(text(2), inverse),
                    fairness: seed.queue(text(3), 0),
                    tokens: cell(4).as_f64().expect("a number"),
                    inverse,
                };
                let (place, opens) = queue.arrive(&arrival, id);
                places.insert(id, place);
                if opens {
                    next = Some(place);
                }
            }
            Some("take") => {
                assert_eq!(next, places.get(&id).copied(), "{}", at(number));
            }
            Some("served") => {
                let (payload, after) = queue.served(places[&id], cell(2) == &Value::Bool(true));
                assert_eq!(payload, Some(id), "{}", at(number));
                next = after;
            }
            Some("cancel") => {
                assert_eq!(queue.cancel(places[&id]), Some(id), "{}", at(number));
            }
            other => panic!("{}: {other:?}", at(number)),
        }
        let columns = event.as_array().expect("a list");
        let [.., virtual_time, open, generation] = &columns[..] else {
            panic!("{}: too short", at(number));
        };
        let (own_time, own_open, own_generation) = queue.state();
        let recorded = virtual_time.as_f64().expect("a number");
        let close = (own_time - recorded).abs() <= 1e-9 * recorded.abs().max(1.0);
        assert!(close, "{}: {own_time} for {recorded}", at(number));
        assert_eq!(&Value::Bool(own_open), open, "{}", at(number));
        assert_eq!(Some(own_generation), generation.as_u64(), "{}", at(number));
    }
    events.len()
}

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
