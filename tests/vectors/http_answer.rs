//! Whether an answer to an HTTP request is the recorded one, apart from the decision in it.

use std::collections::BTreeSet;

use serde_json::Value;
use tower_aperture::engine::{HttpAnswer, HttpReport};

use crate::compare::{Difference, code, possible_codes, same};

/// The row of the register about the `baggage` header.
const BAGGAGE_ROW: u64 = 35;

/// `slack` is how much a wait may differ, in seconds.
pub(crate) fn compare(
    request: &Value,
    answer: &Value,
    report: &HttpReport,
    rows: &[u64],
    slack: f64,
) -> Difference {
    let status = answer["status"]["code"].as_i64().unwrap_or_default();
    same("status.code", &status, &i64::from(report.status_code()))?;
    let header = |side: &str, name: &str| {
        let value = answer[side]["headers"][name].as_str();
        value.map(str::to_owned)
    };
    match &report.answer {
        HttpAnswer::Ok { headers } => {
            same("ok_response", &true, &answer["ok_response"].is_object())?;
            if rows.contains(&BAGGAGE_ROW) {
                return Ok(());
            }
            let recorded = header("ok_response", "baggage");
            let own = answer_header(&recorded, headers.get("baggage"))?;
            if let Some((recorded, got)) = own {
                let old = request["request"]["headers"]["baggage"].as_str();
                let (recorded, got) = (added(recorded, old), added(got, old));
                same("ok_response.headers.baggage", &recorded, &got)?;
            }
            same(
                "ok_response.headers",
                &recorded.iter().len(),
                &headers.len(),
            )
        }
        HttpAnswer::Denied { status, headers } => {
            let denied = &answer["denied_response"];
            same("denied_response", &true, &denied.is_object())?;
            let recorded = code(&denied["status"]).unwrap_or_default();
            let mut codes = possible_codes(&answer["check_response"]);
            codes.push(recorded);
            if !codes.contains(&i64::from(*status)) {
                return Err(format!(
                    "denied_response.status: expected one of {codes:?}, got {status}"
                ));
            }
            let recorded = header("denied_response", "retry-after");
            let own = answer_header(&recorded, headers.get("retry-after"))?;
            if let Some((recorded, got)) = own {
                let wait = report.wait_time.unwrap_or_default().as_secs_f64();
                same("retry-after", got, &format!("{}", wait.ceil()))?;
                let recorded: f64 = recorded.parse().map_err(|_| "retry-after: no number")?;
                let possible = (wait - slack).ceil()..=(wait + slack).ceil();
                if !possible.contains(&recorded) {
                    return Err(format!("retry-after: expected {recorded}, got {got}"));
                }
            }
            same(
                "denied_response.headers",
                &recorded.iter().len(),
                &headers.len(),
            )
        }
        other => Err(format!("an answer of a new kind: {other:?}")),
    }
}

/// Both are there, or none is.
fn answer_header<'a>(
    recorded: &'a Option<String>,
    got: Option<&'a String>,
) -> Result<Option<(&'a String, &'a String)>, String> {
    match (recorded, got) {
        (Some(recorded), Some(got)) => Ok(Some((recorded, got))),
        (None, None) => Ok(None),
        (recorded, got) => Err(format!("headers: expected {recorded:?}, got {got:?}")),
    }
}

/// The members behind the old text; `None` when that does not come first.
fn added<'a>(header: &'a str, old: Option<&str>) -> Option<BTreeSet<&'a str>> {
    let added = match old {
        None => header,
        Some(old) => header.strip_prefix(old)?.strip_prefix(',')?,
    };
    Some(added.split(',').collect())
}
