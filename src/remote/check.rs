use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Handle;

use super::call::{CHECK, Failure};
use super::flow::RemoteFlow;
use super::live::Live;
use super::stamps::Stamps;
use super::{Remote, http};
use crate::flow::{FlowError, FlowErrorKind, FlowParams, HttpAttributes};
use crate::pb::check::{CacheLookupRequest, CheckRequest};
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
    Later(Box<New>),
    Call(Running),
    Done,
}

struct New {
    remote: Remote,
    question: Question,
    timeout: Option<Duration>,
}

enum Question {
    Check(CheckRequest),
    Http(Box<CheckHttpRequest>),
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
    pub(super) fn new(remote: &Remote, control_point: &str, params: &FlowParams<'_>) -> Self {
        Self::ask(remote, control_point, params, || {
            Question::Check(request(control_point, params))
        })
    }

    pub(super) fn http(
        remote: &Remote,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
        baggage: Option<String>,
    ) -> Self {
        Self::ask(remote, control_point, params, || {
            let request = http::question(control_point, params, request, baggage);
            Question::Http(Box::new(request))
        })
    }

    fn ask(
        remote: &Remote,
        control_point: &str,
        params: &FlowParams<'_>,
        question: impl FnOnce() -> Question,
    ) -> Self {
        if control_point.is_empty() {
            return Self::refused(FlowErrorKind::InvalidRequest, "the control point is empty");
        }
        if remote.shared().health.is_shut_down() {
            return Self::refused(FlowErrorKind::ShutDown, "");
        }
        let new = New {
            remote: remote.clone(),
            question: question(),
            timeout: match params.check_timeout {
                None => remote.shared().config.check_timeout,
                Some(Duration::ZERO) => None,
                timeout => timeout,
            },
        };
        let state = if Handle::try_current().is_ok() {
            new.start()
        } else {
            State::Later(Box::new(new))
        };
        Self { state }
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
        loop {
            // Out of its place while it is polled: a call that panics must not be polled again.
            match mem::replace(&mut self.state, State::Done) {
                State::Later(new) => self.state = new.start(),
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

impl New {
    fn start(self) -> State {
        let Self {
            remote,
            question,
            timeout,
        } = self;
        let live = match remote.shared().live() {
            Ok(live) => live,
            Err(error) => return State::Refused(error),
        };
        let limit = match timeout {
            None => Some(remote.shared().config.background_timeout()),
            Some(_) => None,
        };
        let at = Arc::clone(&live);
        let call: Call = match question {
            Question::Check(request) => Box::pin(run(remote, at, request, timeout)),
            Question::Http(request) => Box::pin(http::run(remote, at, request, timeout)),
        };
        State::Call(Running {
            call,
            live,
            limit,
            polled: false,
        })
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
