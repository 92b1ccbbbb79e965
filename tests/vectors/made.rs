//! Small policies, each with the answers to four times the same check.

use serde_json::{Value, json};

use crate::Verdict;
use crate::recording::Recording;
use crate::replay::replay;

/// When the checks were made is only known roughly, in seconds.
const STEP: f64 = 0.04;
const SLACK: f64 = 0.15;
/// The client gave up some time, or nobody would have been refused for want of time.
const DEADLINE: f64 = 10.0;

/// Entries of a row are judged where policies are read; of others no decision is compared.
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
        0 => Verdict::Skipped("no decisions recorded: judged where policies are read".into()),
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
