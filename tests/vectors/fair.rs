//! Recorded events at one weighted fair queue, against the engine's own queue.

use std::collections::HashMap;

use serde_json::Value;

use self::queue::{Arrival, Wfq, fairness_queue, workload_id};
use crate::Verdict;

/// The file itself: it is no part of the crate's interface, and needs nothing of the crate.
#[path = "../../src/engine/schedulers/wfq.rs"]
mod queue;

pub(crate) fn replay(recording: &Value) -> Verdict {
    let result = identifiers(recording).and_then(|()| {
        let runs = recording["runs"].as_array().ok_or("runs are no list")?;
        runs.iter().map(events).sum::<Result<usize, String>>()
    });
    match result {
        Ok(0) => Verdict::Differs("there are no events".into()),
        Ok(_) => Verdict::Same,
        Err(difference) => Verdict::Differs(difference),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn identifiers(recording: &Value) -> Result<(), String> {
    for row in recording["identifiers"].as_array().into_iter().flatten() {
        let recorded = text(&row["workload"]);
        let (workload, generation) = recorded.rsplit_once('-').ok_or("workload: no generation")?;
        // The priority of those that name none, as their workload has it.
        let priority = row["priority"].as_f64().unwrap_or(4.0);
        let own = workload_id("w", 1.0 / priority);
        if own != workload {
            return Err(format!("workload: expected {workload}, got {own}"));
        }
        let own = match fairness_queue(text(&row["fairness"]), 0) {
            None => format!("{own}-{generation}"),
            Some(queue) => format!("{own}-{generation}-{queue}"),
        };
        if own != text(&row["flow"]) {
            return Err(format!("flow: expected {}, got {own}", row["flow"]));
        }
    }
    Ok(())
}

/// All events of a run in their order; after each one the state, and who was taken.
fn events(run: &Value) -> Result<usize, String> {
    let mut queue: Wfq<i64> = Wfq::new(u32::MAX);
    let mut places: HashMap<i64, usize> = HashMap::new();
    let mut next: Option<usize> = None;
    let events = run["events"].as_array().ok_or("events are no list")?;
    for (number, event) in events.iter().enumerate() {
        let wrong = |what: String| format!("seed {}, event {number}: {what}", run["seed"]);
        let float = |column: usize| event[column].as_f64().unwrap_or(f64::NAN);
        let id = event[1].as_i64().unwrap_or_default();
        let place = places.get(&id).copied();
        match text(&event[0]) {
            "arrive" => {
                let inverse_priority = 1.0 / float(5);
                let arrival = Arrival {
                    workload: &workload_id(text(&event[2]), inverse_priority),
                    fairness: fairness_queue(text(&event[3]), 0),
                    tokens: float(4),
                    inverse_priority,
                };
                let (place, opens) = queue.arrive(&arrival, id);
                places.insert(id, place);
                if opens {
                    next = Some(place);
                }
            }
            "take" if next == place && queue.payload(place.unwrap_or(usize::MAX)) == Some(&id) => {}
            "take" => return Err(wrong(format!("another is taken, not {id}"))),
            "served" => {
                let place = place.ok_or_else(|| wrong("unknown".into()))?;
                let (payload, after) = queue.served(place, event[2] == Value::Bool(true));
                if payload != Some(id) {
                    return Err(wrong(format!("{payload:?} was in service")));
                }
                next = after;
            }
            "cancel" => {
                let payload = place.and_then(|place| queue.cancel(place));
                if payload != Some(id) {
                    return Err(wrong(format!("{payload:?} was there")));
                }
            }
            other => return Err(wrong(format!("{other} is no event"))),
        }
        let columns = event.as_array().map(Vec::as_slice).unwrap_or_default();
        let [.., virtual_time, open, generation] = columns else {
            return Err(wrong("too short".into()));
        };
        let (own_time, own_open, own_generation) = queue.state();
        let recorded = virtual_time.as_f64().unwrap_or(f64::NAN);
        let close = (own_time - recorded).abs() <= 1e-9 * recorded.abs().max(1.0);
        let same = close
            && *open == Value::Bool(own_open)
            && generation.as_u64() == Some(own_generation)
            && own_open == queue.is_open();
        if !same {
            return Err(wrong(format!(
                "expected {virtual_time} {open} {generation}, got {own_time} {own_open} \
                 {own_generation}"
            )));
        }
    }
    Ok(events.len())
}
