use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;

use super::decide::{ClientTicket, TicketKind};
use super::{ApertureClient, CacheError};
#[cfg(feature = "embedded")]
use crate::engine::CheckReport;
use crate::flow::{
    CacheLookup, Denial, EndResponse, FlowDecision, FlowError, FlowOutcome, FlowParams, FlowStatus,
    RejectReason, Rejection, Ticket, Verdict,
};

/// A flow that was started by hand.
///
/// It ends once: by [`end`](Self::end), by [`finish`](Self::finish), or when it is dropped. An
/// accepted flow that is dropped without a status of its own ends as `Error`, because nobody said
/// that its work succeeded; a rejected one ends as `Unset`.
///
/// ```
/// use tower_aperture::{ApertureClient, FlowParams};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let client = ApertureClient::disabled();
/// let flow = client.start_flow("checkout", FlowParams::new()).await;
/// assert!(flow.should_run()); // nobody answered: fail open
/// assert!(!flow.is_decided());
/// assert!(flow.error().is_some());
/// flow.end().await;
/// # });
/// ```
#[must_use = "a flow that is dropped ends at once"]
pub struct Flow {
    pub(super) client: ApertureClient,
    pub(super) control_point: Arc<str>,
    pub(super) result_cache_key: Option<Box<str>>,
    ramp_mode: bool,
    answer: Answer,
    /// What `set_status` said last.
    status: AtomicU8,
}

enum Answer {
    Given {
        denial: Option<Denial>,
        /// Taken when the flow ends.
        ticket: Option<ClientTicket>,
        #[cfg(feature = "embedded")]
        report: Option<Box<CheckReport>>,
    },
    Missing(FlowError),
}

impl Answer {
    const fn given(denial: Option<Denial>, ticket: ClientTicket) -> Self {
        Self::Given {
            denial,
            ticket: Some(ticket),
            #[cfg(feature = "embedded")]
            report: None,
        }
    }
}

const NOT_SET: u8 = 0;

impl Flow {
    pub(super) fn new(
        client: ApertureClient,
        control_point: &str,
        params: &FlowParams<'_>,
        verdict: Verdict<ClientTicket>,
    ) -> Self {
        let answer = match verdict {
            Verdict::Accepted(ticket) => Answer::given(None, ticket),
            Verdict::Rejected(denial, ticket) => Answer::given(Some(denial), ticket),
            Verdict::Unreachable(error) => Answer::Missing(error),
        };
        Self {
            client,
            control_point: control_point.into(),
            result_cache_key: params.result_cache_key.as_deref().map(Into::into),
            ramp_mode: params.ramp_mode,
            answer,
            status: AtomicU8::new(NOT_SET),
        }
    }

    /// Keeps what the engine told, for those who ask later.
    #[cfg(feature = "embedded")]
    pub(super) fn with_report(mut self, told: CheckReport) -> Self {
        if let Answer::Given { report, .. } = &mut self.answer {
            *report = Some(Box::new(told));
        }
        self
    }

    /// What was decided.
    #[must_use]
    pub const fn decision(&self) -> FlowDecision {
        match self.answer {
            Answer::Given { denial: None, .. } => FlowDecision::Accepted,
            Answer::Given { .. } => FlowDecision::Rejected,
            Answer::Missing(_) => FlowDecision::Unreachable,
        }
    }

    /// Whether the work is to be done: accepted, or unreachable without ramp mode.
    #[must_use]
    pub const fn should_run(&self) -> bool {
        match self.decision() {
            FlowDecision::Accepted => true,
            FlowDecision::Rejected => false,
            FlowDecision::Unreachable => !self.ramp_mode,
        }
    }

    /// Returns true when the flow was decided about: accepted or rejected. False means
    /// [unreachable](FlowDecision::Unreachable), and [`error`](Self::error) says why.
    #[must_use]
    pub const fn is_decided(&self) -> bool {
        matches!(self.answer, Answer::Given { .. })
    }

    /// Returns [`is_decided`](Self::is_decided), under the name that other Aperture SDKs use.
    #[deprecated = "renamed to `is_decided`: it is true for rejected flows as well"]
    #[must_use]
    pub const fn success(&self) -> bool {
        self.is_decided()
    }

    /// Why nobody answered.
    #[must_use]
    pub const fn error(&self) -> Option<&FlowError> {
        match &self.answer {
            Answer::Given { .. } => None,
            Answer::Missing(error) => Some(error),
        }
    }

    /// Suggested time to wait before trying again, at full precision: only for rejected flows, and
    /// only when the policy gives one.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.denial().and_then(|denial| denial.wait)
    }

    /// The HTTP status to answer with when the flow must not run: the policy's own code, else the
    /// one that goes with the reason. `None` when it may run.
    #[must_use]
    pub fn http_response_code(&self) -> Option<StatusCode> {
        self.refusal().map(|denial| denial.status())
    }

    /// The rejection, when the flow must not run.
    ///
    /// For a flow in ramp mode that nobody answered for, the reason is
    /// [`RejectReason::Unreachable`].
    #[must_use]
    pub fn rejection(&self) -> Option<Rejection> {
        self.refusal()
            .map(|denial| Rejection::new(Arc::clone(&self.control_point), denial))
    }

    const fn denial(&self) -> Option<Denial> {
        match self.answer {
            Answer::Given { denial, .. } => denial,
            Answer::Missing(_) => None,
        }
    }

    const fn refusal(&self) -> Option<Denial> {
        match self.answer {
            Answer::Given { denial, .. } => denial,
            Answer::Missing(_) if self.ramp_mode => Some(Denial::new(RejectReason::Unreachable)),
            Answer::Missing(_) => None,
        }
    }

    /// Says how the work went; the last call before the end counts.
    pub fn set_status(&self, status: FlowStatus) {
        let code = match status {
            FlowStatus::Ok => 1,
            FlowStatus::Error => 2,
            FlowStatus::Unset => 3,
        };
        self.status.store(code, Relaxed);
    }

    fn status_or(&self, accepted: FlowStatus) -> FlowStatus {
        match self.status.load(Relaxed) {
            1 => FlowStatus::Ok,
            2 => FlowStatus::Error,
            3 => FlowStatus::Unset,
            _ if self.denial().is_some() => FlowStatus::Unset,
            _ => accepted,
        }
    }

    /// The Agent's whole answer; from an embedded engine, what an Agent would have answered, made
    /// now. `None` when nobody answered, and from a scripted client.
    #[cfg(feature = "remote")]
    #[must_use]
    pub fn check_response(&self) -> Option<Cow<'_, crate::pb::check::CheckResponse>> {
        #[cfg(feature = "embedded")]
        if let Answer::Given {
            report: Some(report),
            ..
        } = &self.answer
        {
            return Some(Cow::Owned(crate::wire::check_response((**report).clone())));
        }
        match &self.ticket()?.kind {
            TicketKind::Remote(flow) => Some(Cow::Borrowed(flow.response())),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }

    pub(super) const fn ticket(&self) -> Option<&ClientTicket> {
        match &self.answer {
            Answer::Given { ticket, .. } => ticket.as_ref(),
            Answer::Missing(_) => None,
        }
    }

    pub(super) const fn ticket_mut(&mut self) -> Option<&mut ClientTicket> {
        match &mut self.answer {
            Answer::Given { ticket, .. } => ticket.as_mut(),
            Answer::Missing(_) => None,
        }
    }

    /// Ends the flow and waits for what the Agent says to that, no longer than the end timeout.
    ///
    /// The end is under way before the first await: dropping the future loses the answer only. An
    /// Agent is called only when the flow holds concurrency tokens; without them, and in process,
    /// the future is ready at once.
    pub async fn end(mut self) -> EndResponse {
        let outcome = FlowOutcome::new(self.status_or(FlowStatus::Ok));
        let Some(ClientTicket { kind, held }) = self.take_ticket() else {
            return EndResponse::default();
        };
        held.ended(outcome.status);
        match kind {
            #[cfg(feature = "remote")]
            TicketKind::Remote(flow) => flow.end_and_wait(outcome).await,
            #[cfg(feature = "embedded")]
            TicketKind::Embedded(ticket) => match &self.answer {
                Answer::Given {
                    report: Some(report),
                    ..
                } => super::embedded::end(ticket, report, outcome),
                _ => {
                    ticket.end(outcome);
                    EndResponse::returned(Vec::new())
                }
            },
            #[cfg(feature = "test-util")]
            TicketKind::Scripted(flow) => {
                flow.end(outcome);
                EndResponse::returned(Vec::new())
            }
        }
    }

    /// Ends the flow with `status` and waits for nothing.
    pub fn finish(mut self, status: FlowStatus) {
        self.set_status(status);
        self.end_now(status);
    }

    fn end_now(&mut self, otherwise: FlowStatus) {
        let outcome = FlowOutcome::new(self.status_or(otherwise));
        if let Some(ticket) = self.take_ticket() {
            ticket.end(outcome);
        }
    }

    const fn take_ticket(&mut self) -> Option<ClientTicket> {
        match &mut self.answer {
            Answer::Given { ticket, .. } => ticket.take(),
            Answer::Missing(_) => None,
        }
    }

    /// What the caches had when the flow started.
    pub(super) fn looked_up(&self) -> Result<Cow<'_, CacheLookup>, CacheError> {
        let (ticket, told) = match &self.answer {
            Answer::Missing(error) => return Err(CacheError::Unreachable(error.clone())),
            Answer::Given {
                denial: Some(_), ..
            } => return Err(CacheError::FlowRejected),
            #[cfg(feature = "embedded")]
            Answer::Given { ticket, report, .. } => {
                let report = report.as_ref();
                (
                    ticket,
                    report.and_then(|report| report.cache_lookup.as_ref()),
                )
            }
            #[cfg(not(feature = "embedded"))]
            Answer::Given { ticket, .. } => (ticket, None),
        };
        if let Some(lookup) = told {
            return Ok(Cow::Borrowed(lookup));
        }
        match ticket.as_ref().map(|ticket| &ticket.kind) {
            #[cfg(feature = "remote")]
            Some(TicketKind::Remote(flow)) => {
                let lookup = flow.response().cache_lookup_response.as_ref();
                let lookup = lookup.ok_or(CacheError::NotRequested)?;
                Ok(Cow::Owned(super::cache::wire::looked_up(lookup)))
            }
            #[cfg(feature = "test-util")]
            Some(TicketKind::Scripted(_)) => Err(CacheError::Unsupported),
            _ => Err(CacheError::NotRequested),
        }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.end_now(FlowStatus::Error);
    }
}

impl fmt::Debug for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow")
            .field("control_point", &self.control_point)
            .field("decision", &self.decision())
            .field("ramp_mode", &self.ramp_mode)
            .finish_non_exhaustive()
    }
}
