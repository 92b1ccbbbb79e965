//! Checks: one boxed future each, which outlives its caller for a grace.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use prost::Message;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::agents::Asking;
use super::call::{CHECK, Terms};
use super::failure::{Failure, GIVEN_UP};
use super::flow::{Grant, RemoteFlow};
use super::health::Failed;
use super::live::Live;
use super::stamps::Stamps;
use super::transport::Purpose;
use super::{OpenFlow, Remote, http};
#[cfg(feature = "telemetry")]
use crate::flow::TraceParent;
use crate::flow::{FlowError, FlowErrorKind, FlowParams, HttpAttributes, HttpExtras};
use crate::pb::check::{CacheLookupRequest, CheckRequest, CheckResponse};
use crate::pb::checkhttp::CheckHttpRequest;

type Call = Pin<Box<dyn Future<Output = Result<RemoteFlow, FlowError>> + Send>>;

/// A check under way. When it is dropped while the call runs, or its time is over, the call goes on
/// in the background for a grace, so that a grant on its way is given back.
///
/// It is small, because it lies in the futures of layers that may never ask an Agent.
pub(crate) struct PendingCheck {
    state: State,
}

enum State {
    Refused(FlowError),
    /// Made outside a runtime, so that there was none to connect in yet.
    Later(Box<Later>),
    Call(Running),
    Done,
}

enum Later {
    Check(New<CheckRequest>),
    Http(New<CheckHttpRequest>),
}

/// What an Agent can be asked about a flow.
pub(super) trait Question: Message + Clone + 'static {
    const PATH: &'static str;

    type Answer: Message + Default + 'static;

    fn into_control_point(self) -> String;

    /// The decision, and what HTTP needs besides.
    fn read(answer: Self::Answer) -> (CheckResponse, Option<Box<HttpExtras>>);
}

struct New<Q> {
    remote: Remote,
    question: Q,
    timeout: Option<Duration>,
    /// The flow does not run when it is unreachable.
    refused: bool,
    #[cfg(feature = "telemetry")]
    trace: Option<Box<TraceParent>>,
}

struct Running {
    call: Call,
    progress: Arc<Progress>,
    /// Before its first poll nothing has been sent.
    polled: bool,
}

/// What the owner of a call sees of it.
struct Progress {
    live: Arc<Live>,
    /// The Agent that is asked.
    at: AtomicUsize,
    /// Set when the time is over: the caller gets this, while the call may go on.
    given_up: OnceLock<FlowError>,
    /// The caller has left, or has its answer: the call looks for no other Agent.
    abandoned: AtomicBool,
}

// === impl PendingCheck ===

impl PendingCheck {
    /// An error comes at once, and costs next to nothing: neither a box nor a wait.
    pub(super) fn new(
        remote: &Remote,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Result<Self, FlowError> {
        let question = || request(control_point, params);
        Self::put(remote, control_point, params, question, Later::Check)
    }

    pub(super) fn http(
        remote: &Remote,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
        baggage: Option<String>,
    ) -> Result<Self, FlowError> {
        let question = || http::request(control_point, params, request, baggage);
        Self::put(remote, control_point, params, question, Later::Http)
    }

    #[inline]
    fn put<Q: Question>(
        remote: &Remote,
        control_point: &str,
        params: &FlowParams<'_>,
        question: impl FnOnce() -> Q,
        later: impl FnOnce(New<Q>) -> Later,
    ) -> Result<Self, FlowError> {
        if control_point.is_empty() {
            return Err(FlowError::new(
                FlowErrorKind::InvalidRequest,
                "the control point is empty",
            ));
        }
        let shared = remote.shared();
        if shared.health.is_shut_down() {
            return Err(FlowError::new(FlowErrorKind::ShutDown, ""));
        }
        let asking = match Handle::try_current() {
            Ok(_) => Some(ask(remote, params.fails_closed())?),
            Err(_) => None,
        };
        let new = New {
            remote: remote.clone(),
            question: question(),
            timeout: params.budget(shared.config.check_timeout),
            refused: params.fails_closed(),
            #[cfg(feature = "telemetry")]
            trace: match &params.trace_context {
                Some(context) if shared.config.telemetry => context.parse().map(Box::new),
                _ => None,
            },
        };
        let state = match asking {
            Some(asking) => new.start(asking),
            None => State::Later(Box::new(later(new))),
        };
        Ok(Self { state })
    }
}

/// Gives permission to ask an Agent.
fn ask(remote: &Remote, refused: bool) -> Result<Asking, FlowError> {
    let shared = remote.shared();
    let live = shared.live()?;
    Asking::start(&live).ok_or_else(|| {
        shared.counters.checks_spared.add(1);
        let error = FlowError::new(FlowErrorKind::Unavailable, GIVEN_UP);
        let health = &shared.health;
        let failed = Failed {
            agent: match shared.agents.len() {
                1 => shared.agents.get(0).address(),
                _ => None,
            },
            decisions: health.decisions(),
            others: false,
            refused,
        };
        health.flow_failed(&error, &failed);
        error
    })
}

impl Future for PendingCheck {
    type Output = Result<RemoteFlow, FlowError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            // Out of its place while it is polled: a call that panics must not be polled again.
            match mem::replace(&mut self.state, State::Done) {
                State::Later(new) => {
                    self.state = match *new {
                        Later::Check(new) => new.start_late(),
                        Later::Http(new) => new.start_late(),
                    };
                }
                State::Refused(error) => return Poll::Ready(Err(error)),
                State::Call(mut running) => {
                    running.polled = true;
                    let answer = running.call.as_mut().poll(cx);
                    if answer.is_pending() {
                        if let Some(error) = running.progress.given_up.get().cloned() {
                            running.hand_over();
                            return Poll::Ready(Err(error));
                        }
                        self.state = State::Call(running);
                    }
                    return answer;
                }
                State::Done => {
                    let why = "the check has been answered already";
                    return Poll::Ready(Err(FlowError::new(FlowErrorKind::Other, why)));
                }
            }
        }
    }
}

impl Drop for PendingCheck {
    fn drop(&mut self) {
        if let State::Call(running) = mem::replace(&mut self.state, State::Done)
            && running.polled
        {
            running.hand_over();
        }
    }
}

// === impl Running ===

impl Running {
    fn hand_over(self) {
        let progress = &self.progress;
        progress.abandoned.store(true, Relaxed);
        progress
            .live
            .hand_over(progress.at.load(Relaxed), self.call);
    }
}

// === impl New ===

impl<Q: Question> New<Q> {
    fn start_late(self) -> State {
        match ask(&self.remote, self.refused) {
            Ok(asking) => self.start(asking),
            Err(error) => State::Refused(error),
        }
    }

    fn start(self, asking: Asking) -> State {
        let progress = Arc::new(Progress {
            live: Arc::clone(asking.live()),
            at: AtomicUsize::new(asking.at()),
            given_up: OnceLock::new(),
            abandoned: AtomicBool::new(false),
        });
        State::Call(Running {
            call: Box::pin(self.run(asking, Arc::clone(&progress))),
            progress,
            polled: false,
        })
    }

    async fn run(
        self,
        mut asking: Asking,
        progress: Arc<Progress>,
    ) -> Result<RemoteFlow, FlowError> {
        let shared = Arc::clone(self.remote.shared());
        let Some(open) = OpenFlow::new(&shared) else {
            return Err(FlowError::new(FlowErrorKind::ShutDown, ""));
        };
        let (health, counters) = (&shared.health, &shared.counters);
        let decisions = health.decisions();
        let others = shared.agents.len() > 1;
        let refused = self.refused;
        let begun = Instant::now();
        let left = || self.timeout.map(|all| all.saturating_sub(begun.elapsed()));
        let mut tried = 0;
        let mut resent = false;
        let question = Arc::new(self.question);
        let stamps = Stamps::start();
        let mut budget = self.timeout;
        loop {
            let (live, at) = (Arc::clone(asking.live()), asking.at());
            progress.at.store(at, Relaxed);
            let unreachable = |failure: Failure| {
                let error = failure.into_error();
                let failed = Failed {
                    agent: shared.agents.get(at).address(),
                    decisions,
                    others,
                    refused,
                };
                health.flow_failed(&error, &failed);
                error
            };
            let abandoned = || progress.abandoned.load(Relaxed);
            let mut expired = false;
            let mut on_timeout = |failure: Failure| {
                expired = true;
                asking.failed(&failure);
                if !abandoned() {
                    // An exchange calls this once, and a check has no exchange after it.
                    let _ = progress.given_up.set(unreachable(failure));
                }
            };
            let another = others && live.could_ask_another(tried | 1 << at);
            let terms = Terms {
                budget,
                grace: shared.config.check_grace,
                // The other half is for the other Agent.
                connecting: budget.filter(|_| another).map(|budget| budget / 2),
                purpose: Purpose::Flow,
                connection: None,
                on_timeout: Some(&mut on_timeout),
            };
            let answer = live
                .exchange(live.channel(at), at, Q::PATH, Arc::clone(&question), terms)
                .await;
            let failure = match answer {
                Ok((answer, connection)) => {
                    asking.decided();
                    if !expired {
                        health.decided();
                    }
                    let grant = Grant {
                        at,
                        connection,
                        open: Some(open),
                        stamps: stamps.answered(),
                        #[cfg(feature = "telemetry")]
                        trace: self.trace,
                    };
                    let control_point = Arc::unwrap_or_clone(question).into_control_point();
                    drop(asking);
                    let (response, extras) = Q::read(answer);
                    return Ok(RemoteFlow::new(
                        self.remote,
                        live,
                        control_point,
                        response,
                        grant,
                        extras,
                    ));
                }
                Err(failure) => failure,
            };
            if may_have_granted(&failure) {
                counters.checks_unsettled.add(1);
            }
            if !expired {
                asking.failed(&failure);
            }
            if expired || abandoned() {
                return Err(failure.into_error());
            }
            tried |= 1 << at;
            budget = left();
            if failure.undecided() && budget != Some(Duration::ZERO) {
                if let Some(next) = Asking::among(&live, tried) {
                    counters.checks_moved.add(1);
                    asking = next;
                    continue;
                }
                // Once more at the same address, which may stand for several Agents: one of them
                // shuts down gracefully, and another connection leads to another one.
                if failure.unprocessed()
                    && !mem::replace(&mut resent, true)
                    && let Some(next) = Asking::again(&live, at)
                {
                    asking = next;
                    continue;
                }
            }
            return Err(unreachable(failure));
        }
    }
}

/// Says that the check was sent and that no decision can come any more, so that a slot may stay
/// taken at the Agent: the connection broke, or something between cut the call off at its deadline.
fn may_have_granted(failure: &Failure) -> bool {
    !failure.undecided() && (!failure.from_agent || failure.kind == FlowErrorKind::Timeout)
}

impl Question for CheckRequest {
    const PATH: &'static str = CHECK;

    type Answer = CheckResponse;

    fn into_control_point(self) -> String {
        self.control_point
    }

    fn read(answer: CheckResponse) -> (CheckResponse, Option<Box<HttpExtras>>) {
        (answer, None)
    }
}

fn request(control_point: &str, params: &FlowParams<'_>) -> CheckRequest {
    CheckRequest {
        control_point: control_point.to_owned(),
        labels: params
            .labels
            .iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        ramp_mode: params.ramp_mode,
        // Always there, as from every other client; the Agent fills in the control point.
        cache_lookup_request: Some(CacheLookupRequest {
            control_point: String::new(),
            result_cache_key: params.result_cache_key.as_deref().unwrap_or("").to_owned(),
            global_cache_keys: params
                .global_cache_keys
                .iter()
                .map(|key| key.clone().into_owned())
                .collect(),
        }),
        expect_end: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_check_is_small_and_goes_anywhere() {
        fn goes_anywhere<T: Send + Unpin + 'static>() {}
        goes_anywhere::<PendingCheck>();
        assert!(size_of::<PendingCheck>() <= 64);
        assert_eq!(size_of::<RemoteFlow>(), size_of::<usize>());
    }
}
