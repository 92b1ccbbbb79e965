//! Deciding about HTTP requests that something else describes: Aperture's `CheckHTTP`.

mod ask;
mod input;
mod labels;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

pub use self::input::{AddressFlaw, HttpInput, HttpInputError, HttpRequest, SocketAddress};

use self::labels::HttpLabels;
#[cfg(feature = "rego")]
pub(in crate::engine) use self::labels::decode_query;
use super::report::{CheckInput, CheckReport, ClassifierInfo};
use super::stages::{EngineFlow, time_left};
use super::{Engine, EngineTicket, PendingReport};
use crate::flow::{FlowParams, RejectReason};

/// gRPC's `UNAVAILABLE`, by which proxies know a rejected request.
const UNAVAILABLE: i32 = 14;

/// All that an [`Engine`] has to say about an HTTP request: Aperture's `CheckHTTPResponse`.
///
/// See [`HttpInput`] for an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct HttpReport {
    /// What to do with the request.
    pub answer: HttpAnswer,
    /// The decision, with the classifiers' part; the wait of a rejected request is not in there
    /// but in `wait_time`.
    pub check: CheckReport,
    /// How long a rejected request should wait before it is tried again, at full precision.
    pub wait_time: Option<Duration>,
}

/// What a proxy is to do with a request.
///
/// See [`HttpInput`] for an example.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HttpAnswer {
    /// Send it on.
    Ok {
        /// To be set on it: `baggage`, where classifiers have made labels that telemetry shows.
        headers: BTreeMap<String, String>,
    },
    /// Turn it away.
    Denied {
        /// The status of the response: whatever number the policy has, an HTTP status or not.
        status: i32,
        /// Of the response: `retry-after` in whole seconds, where a wait is known.
        headers: BTreeMap<String, String>,
    },
}

impl HttpReport {
    /// Whether the request may run.
    #[must_use]
    pub const fn accepted(&self) -> bool {
        self.check.accepted()
    }

    /// The code of the answer's `google.rpc.Status`: 0, or 14 (`UNAVAILABLE`) when the request is
    /// turned away.
    #[must_use]
    pub const fn status_code(&self) -> i32 {
        match self.answer {
            HttpAnswer::Ok { .. } => 0,
            HttpAnswer::Denied { .. } => UNAVAILABLE,
        }
    }
}

/// A request with its labels, ready to be decided about.
struct Prepared<'a> {
    control_point: &'a str,
    services: &'a [&'a str],
    params: FlowParams<'a>,
    expect_end: bool,
    deadline: Option<Duration>,
    frame: Frame,
}

impl<'a> Prepared<'a> {
    /// The question to the engine.
    fn check(&self) -> CheckInput<'_, 'a> {
        CheckInput::new(self.control_point, &self.params)
            .services(self.services)
            .expect_end(self.expect_end)
            .deadline(self.deadline)
    }
}

/// What belongs to an answer beside the decision.
struct Frame {
    telemetry: BTreeMap<String, String>,
    classifiers: Vec<ClassifierInfo>,
    /// The `baggage` header to send on.
    baggage: Option<String>,
}

impl Frame {
    #[cfg(feature = "server")]
    fn held_bytes(&self) -> usize {
        let telemetry = self.telemetry.iter();
        let telemetry = telemetry.map(|(key, value)| key.len() + value.len() + 64);
        let baggage = self.baggage.as_ref().map_or(0, String::len);
        telemetry.sum::<usize>() + baggage + 64 * self.classifiers.len()
    }

    /// The whole answer, from the engine's.
    fn around(self, mut check: CheckReport) -> HttpReport {
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

/// An answer to come, of [`Engine::start_http`]. Dropping it leaves the queues.
///
/// See [`Engine::start_http`] for an example.
#[must_use = "futures do nothing unless polled"]
pub struct StartingHttp {
    starting: PendingReport,
    /// Taken with the answer.
    frame: Option<Frame>,
}

impl StartingHttp {
    /// The answer, if there is one without waiting.
    fn at_once(&mut self) -> Option<(HttpReport, EngineTicket)> {
        let (report, ticket) = self.starting.take_ready()?;
        let frame = self.frame.take()?;
        Some((frame.around(report), ticket))
    }
}

impl StartingHttp {
    /// Returns the bytes that the request holds while it waits, see [`PendingReport::held_bytes`].
    #[cfg(feature = "server")]
    pub(crate) fn held_bytes(&self) -> usize {
        let frame = self.frame.as_ref().map_or(0, Frame::held_bytes);
        self.starting.held_bytes() + frame
    }

    /// Waits no longer, see [`PendingReport::give_up`].
    pub fn give_up(&mut self) {
        self.starting.give_up();
    }
}

/// # Panics
///
/// When it is polled after it was ready.
impl Future for StartingHttp {
    type Output = (HttpReport, EngineTicket);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let (report, ticket) = ready!(Pin::new(&mut self.starting).poll(cx));
        let frame = self.frame.take().expect("it was not ready before");
        Poll::Ready((frame.around(report), ticket))
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
    /// Makes labels of a request, runs the classifiers, and decides at once, as
    /// [`check`](Self::check) does it.
    ///
    /// The labels, from weak to strong:
    ///
    /// - `http.method`, `http.target`, `http.host`, `http.scheme`, `http.flavor`,
    ///   `http.request_content_length`, and `http.request.header.<name>` for each header, in
    ///   lower case and with `_` for `-`;
    /// - the members of the header `baggage`, decoded twice, as an Agent does: a `+` is a blank
    ///   then. (The layer decodes once.) Bytes that are not UTF-8 become U+FFFD;
    /// - `aperture.source_fqdns` and `aperture.destination_fqdns`, the services;
    /// - what classifiers make. Those with `telemetry` go on to the next service in `baggage`,
    ///   percent-encoded where it is needed. (An Agent leaves out the whole header then.)
    ///
    /// Classifiers look at the request as it is described, so a body or a header that is not there
    /// makes no label. A JSON pointer may hold `~0`, as RFC 6901 has it (an Agent refuses that),
    /// documents nested deeper than 128 levels make no label, and tokens are read, never verified.
    ///
    /// Rego modules are evaluated with the feature `rego`, on the thread that asks. An input
    /// document of more than 256 KiB, an evaluation of more than 100 ms, a value of more than
    /// 64 KiB and a module that fails leave the labels of the module unset, and are counted in
    /// [`EngineStats::classifier_failures`](crate::engine::EngineStats::classifier_failures). A log
    /// line a minute at most names the policy and the classifier, never a value. Numbers are
    /// written in their shortest decimal form (an Agent keeps their spelling).
    ///
    /// # Errors
    ///
    /// When the question is malformed; its text and code are those of an Agent's gRPC error.
    pub fn check_http(&self, input: &HttpInput<'_>) -> Result<HttpReport, HttpInputError> {
        let prepared = self.prepare_http(input)?;
        let report = self.check(&prepared.check());
        Ok(prepared.frame.around(report))
    }

    /// Like [`check_http`](Self::check_http) for a request that may wait in queues, as
    /// [`start`](Self::start) does it. The ticket holds the slots that the request was granted.
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
    /// As [`check_http`](Self::check_http).
    pub fn start_http(&self, input: &HttpInput<'_>) -> Result<StartingHttp, HttpInputError> {
        let prepared = self.prepare_http(input)?;
        let starting = self.start(&prepared.check());
        Ok(StartingHttp {
            starting,
            frame: Some(prepared.frame),
        })
    }

    /// Everything but the decision.
    fn prepare_http<'a>(&self, input: &HttpInput<'a>) -> Result<Prepared<'a>, HttpInputError> {
        input.validate()?;
        let mut labels = HttpLabels::new(input);
        // Without discovery a destination is unknown, and an unknown one has an empty name.
        let services: &[&str] = match input.destination_services {
            [] => &[""],
            known => known,
        };
        let mut infos = Vec::new();
        let live = self.shared.live.load();
        let classifiers = &live.classifiers;
        if !classifiers.is_empty() {
            let seen = labels.flow_labels();
            let flow = EngineFlow {
                control_point: input.control_point,
                services,
                labels: &seen,
                ramp_mode: input.ramp_mode,
                time_left: time_left(input.deadline),
            };
            let failures = &self.shared.classifier_failures;
            labels.classified(classifiers.classify(&flow, input, failures, &mut infos));
        }
        Ok(Prepared {
            control_point: input.control_point,
            services,
            params: FlowParams {
                labels: labels.flow_labels(),
                ramp_mode: input.ramp_mode,
                quotas: input.quotas,
                shadow: input.shadow,
                ..FlowParams::default()
            },
            expect_end: input.expect_end,
            deadline: input.deadline,
            frame: Frame {
                telemetry: labels.telemetry(input),
                classifiers: infos,
                baggage: labels.baggage(input),
            },
        })
    }
}
