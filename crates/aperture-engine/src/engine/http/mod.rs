//! Decides HTTP requests that a proxy or the layer describes: Aperture's `CheckHTTP`.

mod attributes;
mod labels;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use self::labels::HttpLabels;
use super::check_input::CheckInput;
use super::engine_flow::{EngineFlow, time_left};
use super::http_input::{HttpInput, HttpInputError};
use super::report::{CheckReport, ClassifierInfo};
use super::{Engine, EngineTicket, PendingReport};
use crate::flow::{FlowParams, RejectReason};

/// The gRPC code `UNAVAILABLE`, by which proxies recognize a rejected request.
const UNAVAILABLE: i32 = 14;

/// The result of an HTTP check: Aperture's `CheckHTTPResponse`.
///
/// See [`HttpInput`] for an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HttpReport {
    /// The action for the proxy.
    pub answer: HttpAnswer,
    /// The decision, including the classifiers. Its `wait_time` is always `None`; see
    /// [`wait_time`](Self::wait_time).
    pub check: CheckReport,
    /// How long a client should wait before it retries a rejected request, at full precision.
    pub wait_time: Option<Duration>,
}

/// The action that a proxy should take with a request.
///
/// See [`HttpInput`] for an example.
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

impl HttpReport {
    /// Returns true if the request may run.
    #[must_use]
    pub const fn accepted(&self) -> bool {
        self.check.accepted()
    }

    /// Returns the code of the response's `google.rpc.Status`: 0, or 14 (`UNAVAILABLE`) for a
    /// rejected request.
    #[must_use]
    pub const fn status_code(&self) -> i32 {
        match self.answer {
            HttpAnswer::Ok { .. } => 0,
            HttpAnswer::Denied { .. } => UNAVAILABLE,
        }
    }
}

/// A request with its labels, ready for the decision.
struct PreparedHttpCheck<'a> {
    control_point: &'a str,
    services: &'a [&'a str],
    params: FlowParams<'a>,
    expect_end: bool,
    deadline: Option<Duration>,
    parts: HttpReportParts,
}

impl<'a> PreparedHttpCheck<'a> {
    /// Returns the input for the engine's check.
    fn check_input(&self) -> CheckInput<'_, 'a> {
        CheckInput::new(self.control_point, &self.params)
            .services(self.services)
            .expect_end(self.expect_end)
            .deadline(self.deadline)
    }
}

/// The parts of a report that are known before the decision.
struct HttpReportParts {
    telemetry: BTreeMap<String, String>,
    classifiers: Vec<ClassifierInfo>,
    /// The `baggage` header for the next service.
    baggage: Option<String>,
}

impl HttpReportParts {
    fn held_bytes(&self) -> usize {
        let telemetry = self.telemetry.iter();
        let telemetry = telemetry.map(|(key, value)| key.len() + value.len() + 64);
        let baggage = self.baggage.as_ref().map_or(0, String::len);
        telemetry.sum::<usize>() + baggage + 64 * self.classifiers.len()
    }

    /// Combines the parts with the engine's decision.
    fn into_report(self, mut check: CheckReport) -> HttpReport {
        check.telemetry_flow_labels = self.telemetry;
        check.classifiers = self.classifiers;
        let wait_time = check.wait_time.take();
        let mut headers = BTreeMap::new();
        let answer = match check.reject_reason {
            None => {
                headers.extend(self.baggage.map(|baggage| ("baggage".to_owned(), baggage)));
                HttpAnswer::Ok { headers }
            }
            Some(reason) => {
                if let Some(wait) = wait_time {
                    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                    headers.insert("retry-after".to_owned(), seconds.to_string());
                }
                HttpAnswer::Denied {
                    status: denied_status(reason, check.denied_response_status_code),
                    headers,
                }
            }
        };
        HttpReport {
            answer,
            check,
            wait_time,
        }
    }
}

/// A pending HTTP check of [`Engine::start_http`], which resolves to its report and ticket.
/// Dropping it removes the request from the queues.
///
/// See [`Engine::start_http`] for an example.
#[must_use = "futures do nothing unless polled"]
pub struct StartingHttp {
    starting: PendingReport,
    /// Taken when the check resolves.
    parts: Option<HttpReportParts>,
}

impl StartingHttp {
    /// Returns the report if the request does not have to wait.
    fn try_immediate(&mut self) -> Option<(HttpReport, EngineTicket)> {
        let (report, ticket) = self.starting.take_ready()?;
        let parts = self.parts.take()?;
        Some((parts.into_report(report), ticket))
    }
}

impl StartingHttp {
    /// Returns the number of bytes that the request holds while it waits, see
    /// [`PendingReport::held_bytes`].
    #[doc(hidden)]
    pub fn held_bytes(&self) -> usize {
        let parts = self.parts.as_ref().map_or(0, HttpReportParts::held_bytes);
        self.starting.held_bytes() + parts
    }

    /// Stops waiting, see [`PendingReport::give_up`].
    pub fn give_up(&mut self) {
        self.starting.give_up();
    }
}

/// # Panics
///
/// Panics if it is polled after it was ready.
impl Future for StartingHttp {
    type Output = (HttpReport, EngineTicket);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (report, ticket) = ready!(Pin::new(&mut self.starting).poll(cx));
        let parts = self
            .parts
            .take()
            .expect("not polled again after it was ready");
        Poll::Ready((parts.into_report(report), ticket))
    }
}

impl fmt::Debug for StartingHttp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartingHttp").finish_non_exhaustive()
    }
}

fn denied_status(reason: RejectReason, code: i32) -> i32 {
    match code {
        0 => i32::from(reason.default_status().as_u16()),
        code => code,
    }
}

impl Engine {
    /// Derives labels from a request, runs the classifiers, and decides immediately, as
    /// [`check`](Self::check).
    ///
    /// The labels, where a later source replaces the value of an earlier one:
    ///
    /// - `http.method`, `http.target`, `http.host`, `http.scheme`, `http.flavor`,
    ///   `http.request_content_length`, and `http.request.header.<name>` for each header, in lower
    ///   case and with `_` for `-`;
    /// - the members of the header `baggage`, decoded twice, as an Agent does, so that a `+`
    ///   becomes a space. (The layer decodes once.) Bytes that are not UTF-8 become U+FFFD;
    /// - `aperture.source_fqdns` and `aperture.destination_fqdns`, the services;
    /// - the labels of classifiers. Those with `telemetry` are sent to the next service in
    ///   `baggage`, percent-encoded where needed. (An Agent leaves out the whole header if a value
    ///   needs encoding.)
    ///
    /// Classifiers read the request as it is described, so a missing body or header sets no label.
    /// A JSON pointer may contain `~0`, as RFC 6901 specifies (an Agent refuses it). Documents
    /// nested deeper than 128 levels set no label. Tokens are read, never verified.
    ///
    /// Rego modules are evaluated with the feature `rego`, on the thread of the caller. The labels
    /// of a module stay unset if its input document has more than 256 KiB, if its evaluation takes
    /// more than 100 ms, if a value has more than 64 KiB, or if the module fails; each such case is
    /// counted in
    /// [`EngineStats::classifier_failures`](crate::engine::EngineStats::classifier_failures). A log
    /// line, at most one a minute, names the policy and the classifier, never a value. Numbers are
    /// written in their shortest decimal form (an Agent keeps their spelling).
    ///
    /// # Errors
    ///
    /// Returns an error if the input is malformed; its text and code are those of an Agent's gRPC
    /// error.
    pub fn check_http(&self, input: &HttpInput<'_>) -> Result<HttpReport, HttpInputError> {
        let prepared = self.prepare_http(input)?;
        let report = self.check(&prepared.check_input());
        Ok(prepared.parts.into_report(report))
    }

    /// Like [`check_http`](Self::check_http) for a request that may wait in queues, as with
    /// [`start`](Self::start). The ticket holds the slots that the request was granted.
    ///
    /// ```
    /// use tower_aperture::Engine;
    /// use tower_aperture::engine::HttpInput;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(async {
    /// let engine = Engine::builder().build().unwrap();
    /// let (report, ticket) = engine.start_http(&HttpInput::new("ingress")).unwrap().await;
    /// assert!(report.accepted());
    /// drop(ticket);
    /// # });
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the errors of [`check_http`](Self::check_http).
    pub fn start_http(&self, input: &HttpInput<'_>) -> Result<StartingHttp, HttpInputError> {
        let prepared = self.prepare_http(input)?;
        let starting = self.start(&prepared.check_input());
        Ok(StartingHttp {
            starting,
            parts: Some(prepared.parts),
        })
    }

    /// Validates the input and computes all parts of the report except the decision.
    fn prepare_http<'a>(
        &self,
        input: &HttpInput<'a>,
    ) -> Result<PreparedHttpCheck<'a>, HttpInputError> {
        input.validate()?;
        let mut labels = HttpLabels::new(input);
        // Without discovery the services of the destination are unknown, which is an empty name.
        let services: &[&str] = match input.destination_services {
            [] => &[""],
            known => known,
        };
        let mut infos = Vec::new();
        let live = self.shared.live.load();
        let classifiers = &live.classifiers;
        if !classifiers.is_empty() {
            let flow_labels = labels.flow_labels();
            let flow = EngineFlow {
                control_point: input.control_point,
                services,
                labels: &flow_labels,
                ramp_mode: input.ramp_mode,
                time_left: time_left(input.deadline),
            };
            let failures = &self.shared.classifier_failures;
            labels.add_classified(classifiers.classify(&flow, input, failures, &mut infos));
        }
        let mut params = FlowParams::default();
        params.labels = labels.flow_labels();
        params.ramp_mode = input.ramp_mode;
        params.quotas = input.quotas;
        params.shadow = input.shadow;
        Ok(PreparedHttpCheck {
            control_point: input.control_point,
            services,
            params,
            expect_end: input.expect_end,
            deadline: input.deadline,
            parts: HttpReportParts {
                telemetry: labels.telemetry(input),
                classifiers: infos,
                baggage: labels.baggage(input),
            },
        })
    }
}
