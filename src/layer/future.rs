//! The future of a request: it awaits the decision and then runs the inner service or responds
//! itself.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Request, Response, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::action::RequestAction;
use super::body::ResponseBody;
use super::check::RequestPlan;
use super::guard::FlowGuard;
use super::head::{RequestHead, ResponseHead};
use super::reject::OnReject;
use super::replacement_body::RejectBody;
use super::request_extras::RequestExtras;
use super::settings::{Config, Settings};
use crate::flow::{Decider, FlowDecision, Ticket};

pin_project! {
    /// The future of [`Aperture`](crate::Aperture). It awaits a pending decision, and then runs the
    /// future of the inner service or returns the response to a rejected request.
    ///
    /// A drop of the future cancels the flow: a pending check is dropped, and a running flow ends
    /// with [`FlowStatus::Error`](crate::FlowStatus::Error).
    ///
    /// `S`, `D` and `R` are the parameters of the service, `B` is the body of requests and `C` the
    /// body of responses from the reject hook.
    ///
    /// ```
    /// use tower_aperture::layer::{NoBody, DefaultReject, ResponseFuture};
    ///
    /// type MyFuture<S, D> = ResponseFuture<S, D, DefaultReject, String, NoBody>;
    /// ```
    pub struct ResponseFuture<S, D, R, B, C>
    where
        S: Service<Request<B>>,
        D: Decider,
    {
        #[pin]
        state: State<S, D, R, B, C>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, D, R, B, C>
    where
        S: Service<Request<B>>,
        D: Decider,
    {
        Deciding { #[pin] pending: D::Pending, waiting: Option<WaitingRequest<S, D, R, B>> },
        Running { #[pin] inner: S::Future, guard: Option<FlowGuard<D::Ticket>> },
        /// The request was rejected.
        Responding { response: Option<Response<C>> },
    }
}

/// A request whose decision is pending, and everything that is needed to continue it.
pub(crate) struct WaitingRequest<S, D, R, B> {
    pub(crate) config: Arc<Config<R>>,
    /// Set if the request may need a second check, after a cache lookup.
    pub(crate) decider: Option<D>,
    /// The instance of the inner service that reported ready.
    pub(crate) inner: S,
    pub(crate) request: Request<B>,
    pub(crate) control_point: Arc<str>,
    pub(crate) plan: RequestPlan,
}

impl<S, D, R, B, C> ResponseFuture<S, D, R, B, C>
where
    S: Service<Request<B>>,
    D: Decider,
{
    /// Runs the inner service, with a flow if there is one.
    #[inline(always)]
    pub(crate) const fn running(inner: S::Future, guard: Option<FlowGuard<D::Ticket>>) -> Self {
        Self {
            state: State::Running { inner, guard },
        }
    }

    /// Awaits the decision about a request.
    pub(crate) const fn deciding(pending: D::Pending, waiting: WaitingRequest<S, D, R, B>) -> Self {
        Self {
            state: State::Deciding {
                pending,
                waiting: Some(waiting),
            },
        }
    }

    /// Runs or rejects a request after its check.
    pub(crate) fn perform<RB>(
        config: &Config<R>,
        inner: &mut S,
        request: Request<B>,
        action: RequestAction<D::Ticket>,
        extras: Option<Box<RequestExtras>>,
    ) -> Self
    where
        R: OnReject<RB, Body = C>,
        C: RejectBody<RB>,
        RB: Body,
    {
        match action {
            RequestAction::Run(guard) => {
                let decision = match &guard {
                    Some(_) => FlowDecision::Accepted,
                    None => FlowDecision::Unreachable,
                };
                Self::run(&config.settings, inner, request, decision, guard, extras)
            }
            RequestAction::Shadow(rejection, guard) => {
                let mut request = request;
                if config.settings.insert_decision {
                    request.extensions_mut().insert(rejection);
                }
                let decision = FlowDecision::Rejected;
                Self::run(
                    &config.settings,
                    inner,
                    request,
                    decision,
                    Some(guard),
                    extras,
                )
            }
            RequestAction::Reject(rejection, guard) => {
                let head = RequestHead::new(&request);
                let response = Some(config.reject(&rejection, guard, head));
                Self {
                    state: State::Responding { response },
                }
            }
        }
    }

    /// Runs the inner service. The flow ends with its response, if there is a guard.
    fn run(
        settings: &Settings,
        inner: &mut S,
        mut request: Request<B>,
        decision: FlowDecision,
        mut guard: Option<FlowGuard<D::Ticket>>,
        extras: Option<Box<RequestExtras>>,
    ) -> Self {
        match extras {
            Some(extras) => extras.attach(settings, &mut request, decision, guard.as_mut()),
            None => settings.annotate(&mut request, decision, guard.as_mut()),
        }
        // The guard lives during `call`, so that a panic there ends the flow.
        Self::running(inner.call(request), guard)
    }
}

/// Moves the guard of a flow into the body of its response, or ends the flow with the head. A panic
/// before that leaves the guard in its slot, whose drop ends the flow.
// Inlined at its only call, because a response is large to pass on.
#[inline(always)]
fn respond<B: Body, C, T: Ticket>(
    guard_slot: &mut Option<FlowGuard<T>>,
    mut response: Response<B>,
) -> Response<ResponseBody<B, C, T>> {
    let Some(guard) = guard_slot else {
        return response.map(ResponseBody::without_flow);
    };
    let method = guard.method();
    let status = response.status();
    guard.http_status(status);
    guard.classify_head(ResponseHead::new(&response));
    guard.response_started();
    guard.append_rate_limits(response.headers_mut());
    let switches_protocol = method.switches_protocol(status);
    let is_over = response.body().is_end_stream();
    let remaining = if method.has_no_body(status) || switches_protocol {
        Some(0)
    } else {
        guard.watch_body(response.headers());
        let size = response.body().size_hint().exact();
        size.or_else(|| content_length(response.headers()))
    };
    if is_over || remaining == Some(0) {
        guard.classify_body();
    }
    if switches_protocol || is_over {
        guard.finish();
        *guard_slot = None;
        return response.map(ResponseBody::without_flow);
    }
    guard.sending(remaining);
    let (head, body) = response.into_parts();
    Response::from_parts(head, ResponseBody::with_guard(body, guard_slot.take()))
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    let length = headers.get(header::CONTENT_LENGTH)?;
    length.to_str().ok()?.parse().ok()
}

impl<S, D, R, B, C, RB> Future for ResponseFuture<S, D, R, B, C>
where
    S: Service<Request<B>, Response = Response<RB>>,
    D: Decider,
    R: OnReject<RB, Body = C>,
    C: RejectBody<RB>,
    RB: Body,
{
    type Output = Result<Response<ResponseBody<RB, C, D::Ticket>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Deciding { pending, waiting } => {
                    // Checked before the poll, so that polling again after a panic loses no
                    // verdict.
                    if waiting.is_none() {
                        polled_again();
                    }
                    let verdict = ready!(pending.poll(cx));
                    let Some(mut waiting) = waiting.take() else {
                        polled_again();
                    };
                    let decider = waiting.decider.take();
                    let name = &waiting.control_point;
                    let followed = waiting.config.settings.follow(
                        verdict,
                        decider.as_ref(),
                        name,
                        || Arc::clone(name),
                        RequestHead::new(&waiting.request),
                        &mut waiting.plan,
                    );
                    let action = match followed {
                        Ok(action) => action,
                        Err(pending) => {
                            let waiting = Some(waiting);
                            state.set(State::Deciding { pending, waiting });
                            continue;
                        }
                    };
                    if let (Some(deadline), RequestAction::Run(_) | RequestAction::Shadow(..)) =
                        (waiting.plan.deadline, &action)
                    {
                        deadline.update(waiting.request.headers_mut());
                    }
                    let next = Self::perform(
                        &waiting.config,
                        &mut waiting.inner,
                        waiting.request,
                        action,
                        waiting.plan.extras,
                    );
                    state.set(next.state);
                }
                StateProj::Running { inner, guard } => {
                    let response = ready!(inner.poll(cx));
                    return Poll::Ready(match response {
                        Ok(response) => Ok(respond(guard, response)),
                        Err(error) => {
                            if let Some(guard) = guard {
                                guard.fail();
                            }
                            *guard = None;
                            Err(error)
                        }
                    });
                }
                StateProj::Responding { response } => {
                    let Some(response) = response.take() else {
                        polled_again();
                    };
                    return Poll::Ready(Ok(response.map(ResponseBody::replacement)));
                }
            }
        }
    }
}

/// Panics because the caller polled a completed future, which is a bug of the caller.
#[cold]
fn polled_again() -> ! {
    panic!("`ResponseFuture` polled after completion")
}

impl<S, D, R, B, C> fmt::Debug for ResponseFuture<S, D, R, B, C>
where
    S: Service<Request<B>>,
    D: Decider,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Deciding { .. } => "ResponseFuture(deciding)",
            State::Running { .. } => "ResponseFuture(running)",
            State::Responding { .. } => "ResponseFuture(responding)",
        })
    }
}
