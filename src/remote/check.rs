use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Remote;
use super::call::{CHECK, Failure};
use super::flow::RemoteFlow;
use super::live::Live;
use super::stamps::Stamps;
use crate::flow::{FlowError, FlowErrorKind, FlowParams};
use crate::pb::check::{CacheLookupRequest, CheckRequest};

type Call = Pin<Box<dyn Future<Output = Result<RemoteFlow, FlowError>> + Send>>;

/// A check under way. Dropped while the call runs, it leaves the call to the background, so that
/// a grant on its way is given back.
pub(crate) struct PendingCheck {
    state: State,
}

#[allow(clippy::large_enum_variant)] // A box more for each check, to make refusals smaller?
enum State {
    Refused(FlowError),
    /// Not polled yet: nothing has been sent.
    New {
        remote: Remote,
        request: CheckRequest,
        timeout: Option<Duration>,
    },
    Running {
        call: Call,
        live: Arc<Live>,
        /// How long the call may go on without its caller, when it has no timeout of its own.
        limit: Option<Duration>,
    },
    Done,
}

impl PendingCheck {
    pub(super) fn new(remote: &Remote, control_point: &str, params: &FlowParams<'_>) -> Self {
        if control_point.is_empty() {
            return Self::refused(FlowErrorKind::InvalidRequest, "the control point is empty");
        }
        if remote.shared().health.is_shut_down() {
            return Self::refused(FlowErrorKind::ShutDown, "");
        }
        let timeout = match params.check_timeout {
            None => remote.shared().config.check_timeout,
            Some(Duration::ZERO) => None,
            timeout => timeout,
        };
        Self {
            state: State::New {
                remote: remote.clone(),
                request: request(control_point, params),
                timeout,
            },
        }
    }

    fn refused(kind: FlowErrorKind, why: &'static str) -> Self {
        Self {
            state: State::Refused(FlowError::new(kind, why)),
        }
    }
}

impl Future for PendingCheck {
    type Output = Result<RemoteFlow, FlowError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !matches!(self.state, State::Running { .. }) {
            match mem::replace(&mut self.state, State::Done) {
                State::New {
                    remote,
                    request,
                    timeout,
                } => {
                    let live = remote.shared().live()?;
                    let limit = match timeout {
                        None => Some(remote.shared().config.background_timeout()),
                        Some(_) => None,
                    };
                    self.state = State::Running {
                        call: Box::pin(run(remote, Arc::clone(&live), request, timeout)),
                        live,
                        limit,
                    };
                }
                State::Refused(error) => return Poll::Ready(Err(error)),
                State::Running { .. } | State::Done => {
                    return Poll::Ready(Err(FlowError::new(
                        FlowErrorKind::Other,
                        "the check has been answered already",
                    )));
                }
            }
        }
        // Out of its place while it is polled: a call that panics must not be polled again.
        let State::Running {
            mut call,
            live,
            limit,
        } = mem::replace(&mut self.state, State::Done)
        else {
            return Poll::Pending;
        };
        let answer = call.as_mut().poll(cx);
        if answer.is_pending() {
            self.state = State::Running { call, live, limit };
        }
        answer
    }
}

impl Drop for PendingCheck {
    fn drop(&mut self) {
        if let State::Running { call, live, limit } = mem::replace(&mut self.state, State::Done) {
            live.hand_over(call, limit);
        }
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

async fn run(
    remote: Remote,
    live: Arc<Live>,
    request: CheckRequest,
    timeout: Option<Duration>,
) -> Result<RemoteFlow, FlowError> {
    let health = Arc::clone(&remote.shared().health);
    let decisions = health.decisions();
    let control_point = request.control_point.clone();
    let stamps = Stamps::start();
    match live.call(CHECK, request, timeout).await {
        Ok(response) => {
            health.decided();
            Ok(RemoteFlow::new(
                remote,
                live,
                control_point,
                response,
                stamps.answered(),
            ))
        }
        Err(failure) => {
            let error = Failure::into_error(failure);
            health.flow_failed(&error, decisions);
            Err(error)
        }
    }
}
