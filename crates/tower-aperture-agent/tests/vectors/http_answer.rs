//! Compares the answer to `CheckHTTP` with the recorded one, except for the check response in it.

use std::collections::BTreeSet;

use serde_json::Value;
use tower_aperture::engine::{HttpAnswer, HttpReport};

use crate::compare::{Comparison, code, possible_codes, same};

/// The row of the register of quirks about the `baggage` header.
const BAGGAGE_ROW: u64 = 35;

/// Compares an answer. A wait may differ by `slack` seconds.
pub(crate) fn compare(
    request: &Value,
    answer: &Value,
    report: &HttpReport,
    rows: &[u64],
    slack: f64,
) -> Comparison {
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
            let own = both_headers(&recorded, headers.get("baggage"))?;
            if let Some((recorded, got)) = own {
                let request_baggage = request["request"]["headers"]["baggage"].as_str();
                let (recorded, got) = (
                    added_members(recorded, request_baggage),
                    added_members(got, request_baggage),
                );
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
            let own = both_headers(&recorded, headers.get("retry-after"))?;
            if let Some((recorded, got)) = own {
                let wait = report.wait_time.unwrap_or_default().as_secs_f64();
                same("retry-after", got, &format!("{}", wait.ceil()))?;
                let recorded: f64 = recorded
                    .parse()
                    .map_err(|_| "retry-after is not a number")?;
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
        other => Err(format!("unknown kind of answer: {other:?}")),
    }
}

/// Returns both headers, or `None` if both are absent.
///
/// # Errors
///
/// Only one of them is present.
fn both_headers<'a>(
    recorded: &'a Option<String>,
    got: Option<&'a String>,
) -> Result<Option<(&'a String, &'a String)>, String> {
    match (recorded, got) {
        (Some(recorded), Some(got)) => Ok(Some((recorded, got))),
        (None, None) => Ok(None),
        (recorded, got) => Err(format!("headers: expected {recorded:?}, got {got:?}")),
    }
}

/// Returns the members that follow the request's baggage; `None` if the header does not begin with
/// it.
fn added_members<'a>(header: &'a str, request_baggage: Option<&str>) -> Option<BTreeSet<&'a str>> {
    let added = match request_baggage {
        None => header,
        Some(baggage) => header.strip_prefix(baggage)?.strip_prefix(',')?,
    };
    Some(added.split(',').collect())
}
