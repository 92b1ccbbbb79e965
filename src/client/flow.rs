//! A flow that was started without a layer.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::time::Duration;

use http::StatusCode;

use super::backend::BackendTicket;
use super::cache::ReadLookup;
use super::shared::ApertureClient;
use super::ticket::{ClientTicket, TicketKind};
use crate::flow::{
    CacheError, Denial, EndResponse, FlowDecision, FlowError, FlowOutcome, FlowParams, FlowStatus,
    RejectReason, Rejection, Ticket, Verdict,
};
use crate::meter::EndCounter;
use crate::settlement::{self, LastSettlement};

/// A flow that was started without a layer.
///
/// It ends once: by [`end`](Self::end), by [`finish`](Self::finish), or when it is dropped. If it is
/// dropped without a [status](Self::set_status), an accepted flow ends as `Error`, because its work
/// may not have succeeded, and a rejected one as `Unset`.
///
/// ```
/// use tower_aperture::{ApertureClient, FlowParams};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// # let client = ApertureClient::disabled();
/// let flow = client.start_flow("checkout", FlowParams::new()).await;
/// assert!(flow.should_run()); // an unreachable flow fails open
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
    state: FlowState,
    /// The code of the last status by `set_status`.
    status: AtomicU8,
    pub(super) settlement: LastSettlement,
}

enum FlowState {
    Decided {
        /// `None` if the flow was accepted.
        denial: Option<Denial>,
        /// `None` after the end.
        ticket: Option<ClientTicket>,
    },
    Unreachable(FlowError),
}

impl FlowState {
    const fn decided(denial: Option<Denial>, ticket: ClientTicket) -> Self {
        Self::Decided {
            denial,
            ticket: Some(ticket),
        }
    }
}

/// The code of a status that was not set.
const NOT_SET: u8 = 0;

impl Flow {
    pub(super) fn new(
        client: ApertureClient,
        control_point: &str,
        params: &FlowParams<'_>,
        verdict: Verdict<ClientTicket>,
    ) -> Self {
        let state = match verdict {
            Verdict::Accepted(ticket) => FlowState::decided(None, ticket),
            Verdict::Rejected(denial, ticket) => FlowState::decided(Some(denial), ticket),
            Verdict::Unreachable(error) => FlowState::Unreachable(error),
        };
        Self {
            client,
            control_point: control_point.into(),
            result_cache_key: params.result_cache_key.as_deref().map(Into::into),
            ramp_mode: params.ramp_mode,
            state,
            status: AtomicU8::new(NOT_SET),
            settlement: LastSettlement::new(),
        }
    }

    /// Returns the decision.
    #[must_use]
    pub const fn decision(&self) -> FlowDecision {
        match self.state {
            FlowState::Decided { denial: None, .. } => FlowDecision::Accepted,
            FlowState::Decided { .. } => FlowDecision::Rejected,
            FlowState::Unreachable(_) => FlowDecision::Unreachable,
        }
    }

    /// Returns whether the work is to run: the flow is accepted, or unreachable without ramp mode.
    #[must_use]
    pub const fn should_run(&self) -> bool {
        match self.decision() {
            FlowDecision::Accepted => true,
            FlowDecision::Rejected => false,
            FlowDecision::Unreachable => !self.ramp_mode,
        }
    }

    /// Returns `true` if the flow was accepted or rejected, and `false` if it is
    /// [unreachable](FlowDecision::Unreachable); [`error`](Self::error) then has the reason.
    #[must_use]
    pub const fn is_decided(&self) -> bool {
        matches!(self.state, FlowState::Decided { .. })
    }

    /// Returns [`is_decided`](Self::is_decided), under the name that other Aperture SDKs use.
    #[deprecated = "renamed to `is_decided`: it is true for rejected flows as well"]
    #[must_use]
    pub const fn success(&self) -> bool {
        self.is_decided()
    }

    /// Returns why the flow is unreachable, or `None` if it was decided.
    #[must_use]
    pub const fn error(&self) -> Option<&FlowError> {
        match &self.state {
            FlowState::Decided { .. } => None,
            FlowState::Unreachable(error) => Some(error),
        }
    }

    /// Returns the suggested time to wait before a retry, at full precision. `None` unless the flow
    /// was rejected and the policy suggests a wait.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.denial().and_then(|denial| denial.wait)
    }

    /// Returns the HTTP status of the response to a flow that must not run: the policy's own code,
    /// else the default for the reason. `None` if the flow may run.
    #[must_use]
    pub fn http_response_code(&self) -> Option<StatusCode> {
        self.effective_denial().map(|denial| denial.status())
    }

    /// Returns the rejection if the flow must not run.
    ///
    /// For an unreachable flow in ramp mode, the reason is [`RejectReason::Unreachable`].
    #[must_use]
    pub fn rejection(&self) -> Option<Rejection> {
        self.effective_denial()
            .map(|denial| Rejection::new(Arc::clone(&self.control_point), denial))
    }

    const fn denial(&self) -> Option<Denial> {
        match self.state {
            FlowState::Decided { denial, .. } => denial,
            FlowState::Unreachable(_) => None,
        }
    }

    /// Returns the denial of a flow that must not run, including unreachable flows in ramp mode.
    const fn effective_denial(&self) -> Option<Denial> {
        match self.state {
            FlowState::Decided { denial, .. } => denial,
            FlowState::Unreachable(_) if self.ramp_mode => {
                Some(Denial::new(RejectReason::Unreachable))
            }
            FlowState::Unreachable(_) => None,
        }
    }

    /// Sets the status of the work; the last call before the end counts.
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

    pub(super) const fn ticket(&self) -> Option<&ClientTicket> {
        match &self.state {
            FlowState::Decided { ticket, .. } => ticket.as_ref(),
            FlowState::Unreachable(_) => None,
        }
    }

    pub(super) const fn ticket_mut(&mut self) -> Option<&mut ClientTicket> {
        match &mut self.state {
            FlowState::Decided { ticket, .. } => ticket.as_mut(),
            FlowState::Unreachable(_) => None,
        }
    }

    /// Ends the flow and waits for the Agent's response, no longer than the end timeout.
    ///
    /// The end is sent before the first await, so dropping the future loses only the response. The
    /// client calls an Agent only if the flow holds concurrency slots; without them, and in process,
    /// the future is ready at once.
    pub async fn end(mut self) -> EndResponse {
        let outcome = FlowOutcome::new(self.status_or(FlowStatus::Ok));
        let Some(ClientTicket { kind, end_counter }) = self.take_ticket() else {
            return EndResponse::default();
        };
        end_counter.count_end(outcome.status);
        match kind {
            TicketKind::Embedded(ticket) => ticket.end_and_wait(outcome).await,
            TicketKind::Reported(ticket) => ticket.end_and_wait(outcome).await,
            TicketKind::Remote(ticket) => BackendTicket::end_and_wait(ticket, outcome).await,
            TicketKind::Scripted(ticket) => ticket.end_and_wait(outcome).await,
        }
    }

    /// Ends the flow with `status`, and delivers the end in the background.
    pub fn finish(mut self, status: FlowStatus) {
        self.set_status(status);
        self.end_now(status);
    }

    fn end_now(&mut self, otherwise: FlowStatus) {
        let is_known = self.denial().is_some() || self.status.load(Relaxed) != NOT_SET;
        let outcome = FlowOutcome::new(self.status_or(otherwise)).with_abandoned(!is_known);
        if let Some(ticket) = self.take_ticket() {
            ticket.end(outcome);
        }
    }

    /// Takes the ticket for the end of the flow, with its tokens corrected.
    fn take_ticket(&mut self) -> Option<ClientTicket> {
        let mut ticket = match &mut self.state {
            FlowState::Decided { ticket, .. } => ticket.take()?,
            FlowState::Unreachable(_) => return None,
        };
        settlement::apply(&mut ticket, self.settlement.end());
        Some(ticket)
    }

    /// Returns the result of the cache lookup at the start of the flow.
    pub(super) fn cache_lookup(&self) -> Result<&dyn ReadLookup, CacheError> {
        if let FlowState::Unreachable(error) = &self.state {
            return Err(CacheError::Unreachable(error.clone()));
        }
        if self.denial().is_some() {
            return Err(CacheError::FlowRejected);
        }
        let ticket = self.ticket().ok_or(CacheError::NotRequested)?;
        let lookup = match &ticket.kind {
            TicketKind::Embedded(ticket) => BackendTicket::cache_lookup(ticket),
            TicketKind::Reported(ticket) => ticket.cache_lookup(),
            TicketKind::Remote(ticket) => ticket.cache_lookup(),
            TicketKind::Scripted(_) => return Err(CacheError::Unsupported),
        };
        lookup.ok_or(CacheError::NotRequested)
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
