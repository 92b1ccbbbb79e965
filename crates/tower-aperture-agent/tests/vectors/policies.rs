//! Loads recorded policies and values files without traffic, and compares whether the engine
//! accepts or refuses each one.

use serde_json::Value;
use tower_aperture::Engine;
use tower_aperture::engine::SignalSource;

use crate::{Verdict, is_unsupported};

/// Rows of the register of quirks whose policies the engine refuses at load.
pub(crate) const REFUSED_ROWS: [u64; 4] = [30, 31, 33, 34];

/// A signal source without a value for any query.
#[derive(Debug)]
struct NoSignals;

impl SignalSource for NoSignals {
    fn latest(&self, _query: &str) -> Option<f64> {
        None
    }
}

/// Returns whether a file, or an entry of a file with several policies, is a policy with a verdict.
pub(crate) fn is_policy(value: &Value) -> bool {
    value["text"].is_string() && is_accepted(value).is_some()
}

/// Returns whether the Controller or its tools accepted the policy.
fn is_accepted(entry: &Value) -> Option<bool> {
    let verdict = entry.get("applied").or(entry.get("accepted"));
    verdict.and_then(Value::as_bool)
}

pub(crate) fn judge(entry: &Value) -> Verdict {
    let text = entry["text"].as_str().unwrap_or_default();
    let accepted = is_accepted(entry).unwrap_or_default();
    let rows = entry["deviates"].as_array().map(Vec::as_slice);
    let row = rows
        .unwrap_or_default()
        .iter()
        .filter_map(Value::as_u64)
        .find(|row| REFUSED_ROWS.contains(row));
    let builder = || Engine::builder().policy_text("recorded.yaml", text);
    let verdict = match builder().build() {
        // The engine needs a signal source for PromQL.
        Err(error) if error.message().contains("SignalSource") => {
            let refusal = format!("refused: {}", in_one_line(&error.to_string()));
            match builder().signal_source(NoSignals).build() {
                Ok(engine) => Ok((engine, format!("without a source {refusal}; with one "))),
                Err(error) => Err(error),
            }
        }
        other => other.map(|engine| (engine, String::new())),
    };
    match verdict {
        Ok(_) if !accepted => Verdict::Differs("loaded, but upstream refuses it".to_owned()),
        Ok(_) if row.is_some() => {
            Verdict::Differs(format!("loaded, but must be refused: row {row:?}"))
        }
        Ok((engine, source_note)) => Verdict::Partly(format!(
            "{source_note}loaded: {}",
            in_one_line(&engine.describe())
        )),
        Err(error) => {
            let refusal = format!("refused: {}", in_one_line(&error.to_string()));
            match (accepted, row) {
                (true, Some(row)) => Verdict::Deviates(format!("row {row}; {refusal}")),
                (true, None) if is_unsupported(&refusal) => Verdict::Refused(refusal),
                (true, None) => Verdict::Differs(refusal),
                (false, _) => Verdict::Partly(refusal),
            }
        }
    }
}

fn in_one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join(" | ")
}
