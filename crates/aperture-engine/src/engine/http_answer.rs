//! The answer to an HTTP check: the action that a proxy should take.

use std::collections::BTreeMap;
use std::time::Duration;

use aperture_core::RejectReason;

/// The action that a proxy should take with a request.
///
/// See [`HttpInput`](crate::engine::HttpInput) for an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpAnswer {
    /// Forward the request.
    Ok {
        /// Headers to set on the request: `baggage`, if classifiers set labels that telemetry
        /// shows.
        headers: BTreeMap<String, String>,
    },
    /// Reject the request.
    Denied {
        /// The status of the response: the number from the policy, even if it is not an HTTP
        /// status.
        status: i32,
        /// Headers of the response: `retry-after` in whole seconds, if a wait is known.
        headers: BTreeMap<String, String>,
    },
}

impl HttpAnswer {
    /// Returns the answer for a decision: the reason and the status code of a rejection, the wait
    /// if it is known, and the `baggage` header for the next service.
    pub(super) fn new(
        reject_reason: Option<RejectReason>,
        code: i32,
        wait: Option<Duration>,
        baggage: Option<String>,
    ) -> Self {
        let mut headers = BTreeMap::new();
        let Some(reason) = reject_reason else {
            headers.extend(baggage.map(|baggage| ("baggage".to_owned(), baggage)));
            return Self::Ok { headers };
        };
        if let Some(wait) = wait {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert("retry-after".to_owned(), seconds.to_string());
        }
        Self::Denied {
            status: denied_status(reason, code),
            headers,
        }
    }
}

fn denied_status(reason: RejectReason, code: i32) -> i32 {
    match code {
        0 => i32::from(reason.default_status().as_u16()),
        code => code,
    }
}
