//! Policies and values files by themselves: loaded, and what they do, or refused because of what.

use serde_json::Value;
use tower_aperture::Engine;
use tower_aperture::engine::SignalSource;

use crate::{Verdict, names_unsupported};

/// Rows of the register of quirks that are refused at load.
const REFUSED_ROWS: [u64; 4] = [30, 31, 33, 34];

/// Answers no query.
#[derive(Debug)]
struct Silent;

impl SignalSource for Silent {
    fn latest(&self, _query: &str) -> Option<f64> {
        None
    }
}

/// A file that holds one policy, or an entry of those that hold many.
pub(crate) fn is_policy(value: &Value) -> bool {
    value["text"].is_string() && accepted(value).is_some()
}

/// The verdict of the Controller, or of the tools that come with it.
fn accepted(entry: &Value) -> Option<bool> {
    let verdict = entry.get("applied").or(entry.get("accepted"));
    verdict.and_then(Value::as_bool)
}

pub(crate) fn judge(entry: &Value) -> Verdict {
    let text = entry["text"].as_str().unwrap_or_default();
    let accepted = accepted(entry).unwrap_or_default();
    let rows = entry["deviates"].as_array().map(Vec::as_slice);
    let row = rows
        .unwrap_or_default()
        .iter()
        .filter_map(Value::as_u64)
        .find(|row| REFUSED_ROWS.contains(row));
    let builder = || Engine::builder().policy_text("recorded.yaml", text);
    let verdict = match builder().build() {
        // There is no PromQL in process, unless the user brings it.
        Err(error) if error.message().contains("SignalSource") => {
            let shown = format!("refused: {}", in_one_line(&error.to_string()));
            match builder().signal_source(Silent).build() {
                Ok(engine) => Ok((engine, format!("without a source {shown}; with one "))),
                Err(error) => Err(error),
            }
        }
        other => other.map(|engine| (engine, String::new())),
    };
    match verdict {
        Ok(_) if !accepted => Verdict::Differs("loaded, where upstream refuses".to_owned()),
        Ok(_) if row.is_some() => Verdict::Differs(format!("loaded, in spite of row {row:?}")),
        Ok((engine, how)) => {
            Verdict::Partly(format!("{how}loaded: {}", in_one_line(&engine.describe())))
        }
        Err(error) => {
            let shown = format!("refused: {}", in_one_line(&error.to_string()));
            match (accepted, row) {
                (true, Some(row)) => Verdict::Deviates(format!("row {row}; {shown}")),
                (true, None) if names_unsupported(&shown) => Verdict::Refused(shown),
                (true, None) => Verdict::Differs(shown),
                (false, _) => Verdict::Partly(shown),
            }
        }
    }
}

fn in_one_line(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join(" | ")
}
