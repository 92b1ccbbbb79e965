//! Converts the headers and labels of calls into the types of the engine.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use http::HeaderMap;
use prost_types::Timestamp;
use tonic::Status;

use aperture_core::Labels;
use tower_aperture::LabelLimits;

const TIMEOUT_HEADER: &str = "grpc-timeout";

/// Returns the timeout of the call from its `grpc-timeout` header.
pub(super) fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(TIMEOUT_HEADER) else {
        return Ok(None);
    };
    let malformed = || {
        Status::invalid_argument(format!(
            "grpc-timeout is malformed: {value:?} is not a number of up to 8 digits with one of \
             the units H, M, S, m, u, n"
        ))
    };
    let text = value.to_str().map_err(|_| malformed())?;
    let (number, unit) = text
        .split_at_checked(text.len().wrapping_sub(1))
        .ok_or_else(malformed)?;
    if number.len() > 8 || !number.bytes().all(|digit| digit.is_ascii_digit()) {
        return Err(malformed());
    }
    let number: u64 = number.parse().map_err(|_| malformed())?;
    Ok(Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(malformed()),
    }))
}

/// Checks labels against the limits. Too many labels are an error: they are not truncated.
pub(super) fn check_labels(
    labels: &HashMap<String, String>,
    limits: LabelLimits,
) -> Result<(), Status> {
    let bytes: usize = labels
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    if labels.len() > limits.count || bytes > limits.bytes {
        return Err(Status::resource_exhausted(format!(
            "{} labels of {bytes} bytes are too many: a flow may have {} of {} bytes",
            labels.len(),
            limits.count,
            limits.bytes
        )));
    }
    Ok(())
}

/// Borrows the labels of a flow, after checking them against the limits.
pub(super) fn labels(
    labels: &HashMap<String, String>,
    limits: LabelLimits,
) -> Result<Labels<'_>, Status> {
    check_labels(labels, limits)?;
    Ok(Labels::distinct(labels.iter().map(|(key, value)| {
        (key.as_str().into(), value.as_str().into())
    })))
}

/// Returns the times when a call began and when it was decided. The second is never before the
/// first, even if the system clock was set back.
pub(super) fn decision_timestamps(began: SystemTime) -> (Option<Timestamp>, Option<Timestamp>) {
    let decided = SystemTime::now().max(began);
    (Some(began.into()), Some(decided.into()))
}
