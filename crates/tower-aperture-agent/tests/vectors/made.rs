//! Replays small policies, each recorded with the answers to four equal checks.

use serde_json::{Value, json};

use crate::Verdict;
use crate::recording::Recording;
use crate::replay::replay;

/// Estimated time between two checks, in seconds: the recordings have no times.
const STEP: f64 = 0.04;
/// Tolerance for the estimated times, in seconds.
const SLACK: f64 = 0.15;
/// Deadline of each check, in seconds. Schedulers reject flows for lack of time only with a
/// deadline.
const DEADLINE: f64 = 10.0;

/// Replays the entries that have recorded checks. [`policies`](crate::policies) judges the others.
pub(crate) fn replay_all(entries: &[Value]) -> Verdict {
    let (mut same, mut skipped) = (0, 0);
    let mut wrong = Vec::new();
    for entry in entries {
        let Some(conversation) = conversation(entry) else {
            skipped += 1;
            continue;
        };
        let name = entry["name"].as_str().unwrap_or_default();
        let verdict = match Recording::read(&conversation) {
            Ok(mut recording) => {
                recording.slack = SLACK;
                replay(&recording)
            }
            Err(problem) => Verdict::Differs(problem),
        };
        match verdict {
            Verdict::Same | Verdict::Partly(_) | Verdict::Deviates(_) => same += 1,
            Verdict::Skipped(_) | Verdict::Refused(_) => skipped += 1,
            Verdict::Differs(difference) => wrong.push(format!("{name}: {difference}")),
        }
    }
    if !wrong.is_empty() {
        return Verdict::Differs(wrong.join("\n    "));
    }
    match same {
        0 => Verdict::Skipped("no recorded decisions: only loading is compared".into()),
        _ => Verdict::Partly(format!(
            "{same} entries, {skipped} without decisions to compare"
        )),
    }
}

fn conversation(entry: &Value) -> Option<Value> {
    let checks = entry["checks"].as_array()?;
    let request = &checks.first()?["request"];
    let mut calls = Vec::new();
    for (number, check) in checks.iter().enumerate() {
        let at = number as f64 * STEP;
        let mut call = json!({
            "rpc": "check", "request": request, "deadline": DEADLINE, "at": at, "until": at,
        });
        for outcome in ["response", "error"] {
            if let Some(value) = check.get(outcome) {
                call[outcome] = value.clone();
            }
        }
        if call["response"].is_object() {
            call["response"]["control_point"] = request["control_point"].clone();
        }
        calls.push(call);
    }
    Some(json!({
        "agent_group": "default",
        "policies": [entry["text"]],
        "deviates": entry["deviates"],
        "calls": calls,
    }))
}
