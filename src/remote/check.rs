//! One check: from the question to the decision, over one or several Agents.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use prost::Message;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::agents::Asking;
use super::call::{CHECK, Terms};
use super::failure::{Failure, GIVEN_UP};
use super::flow::{Grant, RemoteFlow};
use super::live::Live;
use super::stamps::Stamps;
use super::transport::Purpose;
use super::{Remote, http};
#[cfg(feature = "telemetry")]
use crate::flow::TraceParent;
use crate::flow::{FlowError, FlowErrorKind, FlowParams, HttpAttributes, HttpExtras};
use crate::pb::check::{CacheLookupRequest, CheckRequest, CheckResponse};
use crate::pb::checkhttp::CheckHttpRequest;

type Call = Pin<Box<dyn Future<Output = Result<RemoteFlow, FlowError>> + Send>>;

/// A check under way. Dropped while the call runs, it leaves the call to the background, so that
/// a grant on its way is given back.
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
    #[cfg(feature = "telemetry")]
    trace: Option<Box<TraceParent>>,
}

struct Running {
    call: Call,
    live: Arc<Live>,
    /// How long the call may go on without its caller, when it has no timeout of its own.
    limit: Option<Duration>,
    /// Before its first poll nothing has been sent.
    polled: bool,
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
            Ok(_) => Some(ask(remote)?),
            Err(_) => None,
        };
        let new = New {
            remote: remote.clone(),
            question: question(),
            timeout: params.budget(shared.config.check_timeout),
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

/// Leave to ask an Agent.
fn ask(remote: &Remote) -> Result<Asking, FlowError> {
    let shared = remote.shared();
    let live = shared.live()?;
    Asking::start(&live).ok_or_else(|| {
        shared.counters.checks_spared.add(1);
        let error = FlowError::new(FlowErrorKind::Unavailable, GIVEN_UP);
        let health = &shared.health;
        health.flow_failed(&error, health.decisions(), false);
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
            running.live.hand_over(running.call, running.limit);
        }
    }
}

// === impl New ===

impl<Q: Question> New<Q> {
    fn start_late(self) -> State {
        match ask(&self.remote) {
            Ok(asking) => self.start(asking),
            Err(error) => State::Refused(error),
        }
    }

    fn start(self, asking: Asking) -> State {
        let limit = match self.timeout {
            None => Some(self.remote.shared().config.background_timeout()),
            Some(_) => None,
        };
        State::Call(Running {
            live: Arc::clone(asking.live()),
            call: Box::pin(self.run(asking)),
            limit,
            polled: false,
        })
    }

    async fn run(self, mut asking: Asking) -> Result<RemoteFlow, FlowError> {
        let shared = Arc::clone(self.remote.shared());
        let (health, counters) = (&shared.health, &shared.counters);
        let decisions = health.decisions();
        let others = shared.agents.len() > 1;
        let begun = Instant::now();
        let left = || self.timeout.map(|all| all.saturating_sub(begun.elapsed()));
        let mut tried = 0;
        let mut resent = false;
        let question = Arc::new(self.question);
        let stamps = Stamps::start();
        let mut budget = self.timeout;
        loop {
            let (live, at) = (Arc::clone(asking.live()), asking.at());
            let another = others && live.could_ask_another(tried | 1 << at);
            let terms = Terms {
                budget,
                grace: shared.config.check_grace,
                // The other half is for the other Agent.
                connecting: budget.filter(|_| another).map(|budget| budget / 2),
                purpose: Purpose::Flow,
                connection: None,
            };
            let answer = live
                .exchange(live.channel(at), at, Q::PATH, Arc::clone(&question), terms)
                .await;
            let failure = match answer {
                Ok((answer, connection)) => {
                    asking.decided();
                    health.decided();
                    let grant = Grant {
                        at,
                        connection,
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
            asking.failed(&failure);
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
            let error = Failure::into_error(failure);
            health.flow_failed(&error, decisions, others);
            return Err(error);
        }
    }
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
