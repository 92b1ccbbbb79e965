//! Replays the recorded events of a weighted fair queue against the engine's queue.

use std::collections::HashMap;

use serde_json::Value;

use self::queue::{Arrival, Wfq, fairness_queue, workload_id};
use crate::Verdict;

/// The engine's source files, because the queue is private to the crate and uses no other part of
/// it.
#[path = "../../../aperture-engine/src/engine/schedulers/wfq/mod.rs"]
mod queue;

pub(crate) fn replay(recording: &Value) -> Verdict {
    let result = compare_identifiers(recording).and_then(|()| {
        let runs = recording["runs"].as_array().ok_or("runs are no list")?;
        runs.iter()
            .map(replay_events)
            .sum::<Result<usize, String>>()
    });
    match result {
        Ok(0) => Verdict::Differs("the recording has no events".into()),
        Ok(_) => Verdict::Same,
        Err(difference) => Verdict::Differs(difference),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn compare_identifiers(recording: &Value) -> Result<(), String> {
    for row in recording["identifiers"].as_array().into_iter().flatten() {
        let recorded = text(&row["workload"]);
        let (workload, generation) = recorded.rsplit_once('-').ok_or("workload: no generation")?;
        // Flows without a priority have the priority of their workload.
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

/// Replays the events of a run in order, and compares the state and the taken flow after each one.
///
/// Returns the number of events.
fn replay_events(run: &Value) -> Result<usize, String> {
    let mut queue: Wfq<i64> = Wfq::new(u32::MAX);
    let mut places: HashMap<i64, usize> = HashMap::new();
    let mut next: Option<usize> = None;
    let events = run["events"].as_array().ok_or("events are no list")?;
    for (number, event) in events.iter().enumerate() {
        let wrong = |detail: String| format!("seed {}, event {number}: {detail}", run["seed"]);
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
            "take" => return Err(wrong(format!("the queue does not take flow {id}"))),
            "served" => {
                let place = place.ok_or_else(|| wrong(format!("unknown flow {id}")))?;
                let (payload, after) = queue.served(place, event[2] == Value::Bool(true));
                if payload != Some(id) {
                    return Err(wrong(format!("flow {payload:?} was in service")));
                }
                next = after;
            }
            "cancel" => {
                let payload = place.and_then(|place| queue.cancel(place));
                if payload != Some(id) {
                    return Err(wrong(format!("flow {payload:?} was cancelled")));
                }
            }
            other => return Err(wrong(format!("unknown event {other}"))),
        }
        let columns = event.as_array().map(Vec::as_slice).unwrap_or_default();
        let [.., virtual_time, open, generation] = columns else {
            return Err(wrong("has too few columns".into()));
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
