//! Decides HTTP requests that a proxy or the layer describes: Aperture's `CheckHTTP`.

mod attributes;
mod labels;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use self::labels::HttpLabels;
use super::collector::{Collector, DecisionEnd, OutputCollector, ReportCollector};
use super::component_entry::ComponentEntry;
use super::decision::ComponentDecision;
use super::engine_flow::{CheckInput, EngineFlow, time_left};
use super::http_answer::HttpAnswer;
use super::http_input::{HttpInput, HttpInputError};
use super::pending::PendingDecision;
use super::report::{CheckReport, ClassifierInfo};
use super::{Engine, EngineMode, EngineTicket};
use aperture_core::{CacheLookup, FlowParams};

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
        let code = check.denied_response_status_code;
        HttpReport {
            answer: HttpAnswer::new(check.reject_reason, code, wait_time, self.baggage),
            check,
            wait_time,
        }
    }
}

/// Collects the report of an HTTP check.
struct HttpCollector {
    report: ReportCollector,
    parts: HttpReportParts,
}

impl HttpCollector {
    fn new(input: &CheckInput<'_, '_>, parts: HttpReportParts) -> Self {
        Self {
            report: ReportCollector::new(input),
            parts,
        }
    }
}

impl Collector for HttpCollector {
    fn on_decision(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        component: &ComponentEntry,
        decision: &ComponentDecision,
    ) {
        self.report.on_decision(flow, component, decision);
    }

    fn on_lookup(&mut self, found: CacheLookup) {
        self.report.on_lookup(found);
    }
}

impl OutputCollector for HttpCollector {
    type Output = (HttpReport, EngineTicket);

    fn finish(self, end: DecisionEnd<'_, '_>) -> (HttpReport, EngineTicket) {
        let (report, ticket) = self.report.finish(end);
        (self.parts.into_report(report), ticket)
    }
    fn held_bytes(&self) -> usize {
        self.report.held_bytes() + self.parts.held_bytes()
    }
}

/// A pending HTTP check of [`Engine::start_http`], which resolves to its report and ticket.
/// Dropping it removes the request from the queues.
///
/// See [`Engine::start_http`] for an example.
#[must_use = "futures do nothing unless polled"]
pub struct PendingHttpReport(PendingDecision<HttpCollector>);

impl PendingHttpReport {
    /// Returns the bytes of the texts and values that the request holds while it waits, or 0 if it
    /// is decided.
    #[doc(hidden)]
    pub fn held_bytes(&self) -> usize {
        self.0.held_bytes()
    }

    /// Stops waiting, see [`PendingReport::give_up`](super::PendingReport::give_up).
    pub fn give_up(&mut self) {
        self.0.give_up();
    }
}

/// # Panics
///
/// Panics if it is polled after it was ready.
impl Future for PendingHttpReport {
    type Output = (HttpReport, EngineTicket);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl fmt::Debug for PendingHttpReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingHttpReport").finish_non_exhaustive()
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
        let (prepared, parts) = self.prepare_http(input)?;
        let input = prepared.check_input();
        let (report, ticket) = self.check_at_once(&input, HttpCollector::new(&input, parts));
        ticket.leave_open();
        Ok(report)
    }
}

impl<M: EngineMode> Engine<M> {
    /// Like [`check_http`](Engine::check_http) for a request that may wait in queues, as with
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
    pub fn start_http(&self, input: &HttpInput<'_>) -> Result<PendingHttpReport, HttpInputError> {
        let (prepared, parts) = self.prepare_http(input)?;
        let input = prepared.check_input();
        let collector = HttpCollector::new(&input, parts);
        Ok(PendingHttpReport(self.start_check(&input, collector)))
    }

    /// Validates the input and computes all parts of the report except the decision.
    fn prepare_http<'a>(
        &self,
        input: &HttpInput<'a>,
    ) -> Result<(PreparedHttpCheck<'a>, HttpReportParts), HttpInputError> {
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
        let prepared = PreparedHttpCheck {
            control_point: input.control_point,
            services,
            params,
            expect_end: input.expect_end,
            deadline: input.deadline,
        };
        let parts = HttpReportParts {
            telemetry: labels.telemetry(input),
            classifiers: infos,
            baggage: labels.baggage(input),
        };
        Ok((prepared, parts))
    }
}
