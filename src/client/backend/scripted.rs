//! A client whose decisions come from a script, for the tests of applications.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

use super::{Backend, BackendTicket};
use crate::client::shared::ApertureClient;
use crate::client::ticket::convert_check;
use crate::flow::{
    Check, ControlPoint, Denial, FlowDecision, FlowError, FlowErrorKind, FlowOutcome, FlowParams,
    LabelSource, RejectReason, SettleError, Ticket, Verdict,
};

/// The decision of a scripted client about one flow.
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::client::ScriptedDecision;
/// use tower_aperture::{FlowErrorKind, RejectReason};
///
/// let slow_rejection = ScriptedDecision::reject(RejectReason::NoTokens)
///     .wait(Duration::from_secs(2))
///     .after(Duration::from_millis(50));
/// let unreachable = ScriptedDecision::unreachable(FlowErrorKind::Unavailable);
/// # let _ = (slow_rejection, unreachable);
/// ```
#[derive(Clone, Debug)]
pub struct ScriptedDecision {
    kind: DecisionKind,
    delay: Duration,
}

#[derive(Clone, Debug)]
enum DecisionKind {
    Accept,
    Reject(Denial),
    Unreachable(FlowErrorKind),
}

impl ScriptedDecision {
    const fn immediate(kind: DecisionKind) -> Self {
        Self {
            kind,
            delay: Duration::ZERO,
        }
    }

    /// Returns a decision that accepts the flow.
    #[must_use]
    pub const fn accept() -> Self {
        Self::immediate(DecisionKind::Accept)
    }

    /// Returns a decision that rejects the flow.
    #[must_use]
    pub const fn reject(reason: RejectReason) -> Self {
        Self::immediate(DecisionKind::Reject(Denial::new(reason)))
    }

    /// Returns a decision that makes the flow unreachable with an error of this kind.
    #[must_use]
    pub const fn unreachable(kind: FlowErrorKind) -> Self {
        Self::immediate(DecisionKind::Unreachable(kind))
    }

    /// Sets the wait of a rejection; zero means none. Has no effect on other decisions.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        if let DecisionKind::Reject(denial) = &mut self.kind {
            *denial = denial.wait(wait);
        }
        self
    }

    /// Sets the status code that the policy requests for a rejection. Has no effect on other decisions.
    #[must_use]
    pub fn denied_code(mut self, code: u16) -> Self {
        if let DecisionKind::Reject(denial) = &mut self.kind {
            *denial = denial.denied_code(code);
        }
        self
    }

    /// Delays the decision by `delay`; zero decides at once. If the check timeout of the flow is not
    /// longer, the check times out instead. A script has no check timeout of its own.
    #[must_use]
    pub const fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// The record of one flow of a scripted client.
///
/// See [`Script`] for an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RecordedFlow {
    /// The control point of the flow.
    pub control_point: String,
    /// The labels of the flow.
    pub labels: BTreeMap<String, String>,
    /// Whether the flow is in ramp mode.
    pub ramp_mode: bool,
    /// The check timeout of the flow, no longer than its caller timeout.
    pub check_timeout: Option<Duration>,
    /// The decision; `None` while the flow waits for it, and permanently if its caller left
    /// meanwhile.
    pub decision: Option<FlowDecision>,
    /// The outcome; `None` while the flow runs, and for unreachable flows.
    pub end: Option<FlowOutcome>,
    /// The tokens that the flow was settled for, recorded at its end; `None` if it was not settled.
    pub settled: Option<f64>,
}

/// The decisions of a scripted client, and the record of its flows.
///
/// By default every flow is accepted.
///
/// ```
/// use tower_aperture::client::{ScriptedDecision, Script};
/// use tower_aperture::{FlowParams, FlowStatus, RejectReason};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let script = Script::new();
/// script.next(ScriptedDecision::reject(RejectReason::RateLimited));
/// let client = script.client();
///
/// let flow = client.start_flow("checkout", FlowParams::new().label("user", "ann")).await;
/// assert!(!flow.should_run());
/// drop(flow);
/// let flow = client.start_flow("completions", FlowParams::new().label("tokens", "800")).await;
/// flow.settle(312.0).unwrap();
/// flow.end().await;
///
/// let flows = script.flows();
/// assert_eq!(flows[0].labels["user"], "ann");
/// assert_eq!(flows[0].end.unwrap().status, FlowStatus::Unset);
/// assert_eq!(flows[1].end.unwrap().status, FlowStatus::Ok);
/// assert_eq!(flows[1].settled, Some(312.0));
/// assert_eq!(script.in_flight(), 0);
/// # });
/// ```
#[derive(Clone, Default)]
pub struct Script {
    state: Arc<Mutex<State>>,
}

struct State {
    next: VecDeque<ScriptedDecision>,
    otherwise: ScriptedDecision,
    flows: Vec<RecordedFlow>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            next: VecDeque::new(),
            otherwise: ScriptedDecision::accept(),
            flows: Vec::new(),
        }
    }
}

impl Script {
    /// Returns a script that accepts every flow.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a client whose decisions come from this script.
    #[must_use]
    pub fn client(&self) -> ApertureClient {
        ApertureClient::with(self.clone())
    }

    /// Queues a decision for a later flow; each is used once, in order.
    pub fn next(&self, decision: ScriptedDecision) {
        self.lock().next.push_back(decision);
    }

    /// Sets the decision for flows while none is queued.
    pub fn otherwise(&self, decision: ScriptedDecision) {
        self.lock().otherwise = decision;
    }

    /// Returns all flows so far, in the order of their start.
    #[must_use]
    pub fn flows(&self) -> Vec<RecordedFlow> {
        self.lock().flows.clone()
    }

    /// Returns the number of accepted and rejected flows that have not ended yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let decided = |flow: &&RecordedFlow| {
            matches!(
                flow.decision,
                Some(FlowDecision::Accepted | FlowDecision::Rejected)
            )
        };
        let state = self.lock();
        let running = state.flows.iter().filter(decided);
        running.filter(|flow| flow.end.is_none()).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<ScriptedFlow, ScriptedPending> {
        let mut state = self.lock();
        let mut decision = match state.next.pop_front() {
            Some(decision) => decision,
            None => state.otherwise.clone(),
        };
        let flow = ScriptedFlow {
            script: self.clone(),
            index: state.flows.len(),
        };
        state.flows.push(RecordedFlow {
            control_point: control_point.to_owned(),
            labels: params
                .labels
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            ramp_mode: params.ramp_mode,
            check_timeout: match params.caller_timeout {
                None => params.check_timeout,
                Some(_) => params.budget(None),
            },
            decision: None,
            end: None,
            settled: None,
        });
        drop(state);

        let timeout = params.budget(None);
        if timeout.is_some_and(|timeout| decision.delay >= timeout) {
            decision.kind = DecisionKind::Unreachable(FlowErrorKind::Timeout);
            decision.delay = timeout.unwrap_or_default();
        }
        if decision.delay.is_zero() {
            Check::Ready(flow.decide(&decision.kind))
        } else {
            Check::Pending(ScriptedPending {
                sleep: Box::pin(tokio::time::sleep(decision.delay)),
                kind: decision.kind,
                flow: Some(flow),
            })
        }
    }
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Script")
            .field("queued", &state.next.len())
            .field("otherwise", &state.otherwise)
            .field("flows", &state.flows.len())
            .finish()
    }
}

impl Backend for Script {
    type Ticket = ScriptedFlow;
    type Pending = ScriptedPending;

    const QUEUES_IN_PROCESS: bool = true;

    fn decide_as<T, P>(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        _: &dyn LabelSource,
        _: &mut bool,
        ticket: impl Fn(Self::Ticket) -> T,
        pending: impl FnOnce(Self::Pending) -> P,
    ) -> Check<T, P> {
        convert_check(self.decide(control_point.name(), params), ticket, pending)
    }

    fn poll(pending: &mut Self::Pending, cx: &mut Context<'_>) -> Poll<Verdict<Self::Ticket>> {
        Pin::new(pending).poll(cx)
    }
}

#[derive(Debug)]
pub(in crate::client) struct ScriptedFlow {
    script: Script,
    index: usize,
}

impl ScriptedFlow {
    fn decide(self, kind: &DecisionKind) -> Verdict<Self> {
        let (decision, denial) = match kind {
            DecisionKind::Accept => (FlowDecision::Accepted, None),
            DecisionKind::Reject(denial) => (FlowDecision::Rejected, Some(*denial)),
            DecisionKind::Unreachable(kind) => {
                self.script.lock().flows[self.index].decision = Some(FlowDecision::Unreachable);
                return Verdict::Unreachable(FlowError::new(*kind, "set by the script"));
            }
        };
        self.script.lock().flows[self.index].decision = Some(decision);
        match denial {
            None => Verdict::Accepted(self),
            Some(denial) => Verdict::Rejected(denial, self),
        }
    }
}

impl Ticket for ScriptedFlow {
    fn settles(&self) -> bool {
        true
    }

    fn settle(&mut self, actual_tokens: f64) -> Result<(), SettleError> {
        SettleError::check(actual_tokens)?;
        self.script.lock().flows[self.index].settled = Some(actual_tokens);
        Ok(())
    }

    fn end(self, outcome: FlowOutcome) {
        self.script.lock().flows[self.index].end = Some(outcome);
    }
}

impl BackendTicket for ScriptedFlow {}

pub(in crate::client) struct ScriptedPending {
    sleep: Pin<Box<Sleep>>,
    kind: DecisionKind,
    /// `None` after the verdict.
    flow: Option<ScriptedFlow>,
}

impl Future for ScriptedPending {
    type Output = Verdict<ScriptedFlow>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        ready!(self.sleep.as_mut().poll(cx));
        match self.flow.take() {
            Some(flow) => Poll::Ready(flow.decide(&self.kind)),
            None => Poll::Pending,
        }
    }
}
