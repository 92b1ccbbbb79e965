//! The future of a request: it awaits the decision and then runs the inner service or responds
//! itself.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::ResponseBody;
use super::config::{Config, RequestAction, Settings};
use super::deadline::Deadline;
use super::guard::FlowGuard;
use super::head::{RequestHead, ResponseHead};
use super::reject::OnReject;
use super::replacement_body::RejectBody;
use super::request_extras::RequestExtras;
use crate::flow::{Check, Decider, FlowDecision, Ticket};

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
        Running { #[pin] inner: S::Future, flow: Option<RunningFlow<D::Ticket>> },
        /// The response comes from the reject hook, or from the cache with the guard of the flow.
        Responding { response: Option<Response<C>>, guard: Option<FlowGuard<D::Ticket>> },
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
    /// The deadline of the caller.
    pub(crate) deadline: Option<Deadline>,
    pub(crate) extras: Option<Box<RequestExtras>>,
}

/// What the response of a running request needs: its guard, and its optional work.
pub(crate) struct RunningFlow<T: Ticket> {
    /// `None` for a request without a flow, which may still invalidate cached responses.
    guard: Option<FlowGuard<T>>,
    method: MethodKind,
    extras: Option<Box<RequestExtras>>,
}

/// The kind of request method, which affects the body of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MethodKind {
    Head,
    Connect,
    Other,
}

impl MethodKind {
    fn new(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Head,
            Method::CONNECT => Self::Connect,
            _ => Self::Other,
        }
    }

    /// Returns true if HTTP sends no body in such a response, whatever the body contains.
    fn has_no_body(self, status: StatusCode) -> bool {
        self == Self::Head
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
    }
}

impl<S, D, R, B, C> ResponseFuture<S, D, R, B, C>
where
    S: Service<Request<B>>,
    D: Decider,
{
    /// Runs the inner service, with a flow if there is one.
    #[inline(always)]
    pub(crate) const fn running(inner: S::Future, flow: Option<RunningFlow<D::Ticket>>) -> Self {
        Self {
            state: State::Running { inner, flow },
        }
    }

    /// Runs the inner service for a skipped request, which is not checked.
    #[inline(always)]
    pub(crate) fn skipped(
        inner: &mut S,
        request: Request<B>,
        extras: Option<Box<RequestExtras>>,
    ) -> Self {
        let flow = extras.map(|mut extras| {
            extras.start();
            let method = MethodKind::new(request.method());
            RunningFlow::unguarded(method, extras)
        });
        Self::running(inner.call(request), flow)
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
                    state: State::Responding {
                        response,
                        guard: None,
                    },
                }
            }
        }
    }

    /// Runs the inner service, or returns the cached response. The flow ends with it, if there is a
    /// guard.
    fn run<RB>(
        settings: &Settings,
        inner: &mut S,
        mut request: Request<B>,
        decision: FlowDecision,
        mut guard: Option<FlowGuard<D::Ticket>>,
        mut extras: Option<Box<RequestExtras>>,
    ) -> Self
    where
        R: OnReject<RB, Body = C>,
        C: RejectBody<RB>,
        RB: Body,
    {
        let method = MethodKind::new(request.method());
        if let Some(extras) = &mut extras {
            if let Some(response) = extras.take_cached_response::<RB, C>() {
                return Self::cached::<RB>(response, guard, method);
            }
            extras.expose(&mut request, decision, guard.as_mut());
            settings.insert_extensions(
                &mut request,
                decision,
                guard.as_mut(),
                extras.take_cache_lookup(),
            );
            extras.start();
        } else {
            settings.annotate(&mut request, decision, guard.as_mut());
        }
        // The guard lives during `call`, so that a panic there ends the flow.
        let flow = match (guard, extras) {
            (Some(guard), extras) => {
                let guard = Some(guard);
                Some(RunningFlow {
                    guard,
                    method,
                    extras,
                })
            }
            (None, Some(extras)) if extras.is_invalidating() => {
                Some(RunningFlow::unguarded(method, extras))
            }
            (None, _) => None,
        };
        Self::running(inner.call(request), flow)
    }

    /// Returns a response from the result cache.
    #[inline(never)]
    fn cached<RB>(
        mut response: Response<C>,
        mut guard: Option<FlowGuard<D::Ticket>>,
        method: MethodKind,
    ) -> Self
    where
        C: RejectBody<RB>,
        RB: Body,
    {
        if let Some(mut flow) = guard.take() {
            let status = response.status();
            flow.http_status(status);
            flow.classify_head(ResponseHead::new(&response));
            flow.append_rate_limits(response.headers_mut());
            let remaining = if method.has_no_body(status) {
                Some(0)
            } else {
                flow.watch_body(response.headers());
                response.body().hint().exact()
            };
            let is_over = response.body().is_over();
            if is_over || remaining == Some(0) {
                flow.classify_body();
            }
            if is_over {
                flow.finish();
            } else {
                flow.sending(remaining);
                guard = Some(flow);
            }
        }
        let response = Some(response);
        Self {
            state: State::Responding { response, guard },
        }
    }
}

impl<T: Ticket> RunningFlow<T> {
    #[inline(always)]
    pub(crate) fn new(guard: FlowGuard<T>, method: &Method) -> Self {
        Self {
            guard: Some(guard),
            method: MethodKind::new(method),
            extras: None,
        }
    }

    const fn unguarded(method: MethodKind, extras: Box<RequestExtras>) -> Self {
        Self {
            guard: None,
            method,
            extras: Some(extras),
        }
    }

    pub(crate) const fn guard(&mut self) -> Option<&mut FlowGuard<T>> {
        self.guard.as_mut()
    }

    /// Moves the flow into the body of its response, or ends it with the head. A panic before that
    /// leaves the flow in `flow_slot`, whose drop ends it.
    #[inline]
    fn respond<B: Body, C>(
        flow_slot: &mut Option<Self>,
        mut response: Response<B>,
    ) -> Response<ResponseBody<B, C, T>> {
        let Some(Self {
            guard,
            method,
            extras,
        }) = flow_slot
        else {
            return response.map(ResponseBody::without_flow);
        };
        let status = response.status();
        let Some(guard) = guard else {
            let is_empty = response.body().is_end_stream() || method.has_no_body(status);
            let recorder = extras
                .take()
                .and_then(|extras| extras.record(&response, is_empty));
            *flow_slot = None;
            return response.map(|body| match recorder {
                None => ResponseBody::without_flow(body),
                Some(recorder) => ResponseBody::recorded(body, None, recorder),
            });
        };
        guard.http_status(status);
        guard.classify_head(ResponseHead::new(&response));
        // After these heads the connection uses another protocol.
        let switches_protocol = status == StatusCode::SWITCHING_PROTOCOLS
            || (*method == MethodKind::Connect && status.is_success());
        let is_over = response.body().is_end_stream();
        let has_no_body = method.has_no_body(status);
        let extras = extras.take();
        let recorder = extras.and_then(|extras| extras.record(&response, is_over || has_no_body));
        // After `record`: the stored response must not contain the quota of this client.
        guard.append_rate_limits(response.headers_mut());
        let remaining = if has_no_body || switches_protocol {
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
            *flow_slot = None;
            return response.map(ResponseBody::without_flow);
        }
        guard.sending(remaining);
        let (head, body) = response.into_parts();
        let guard = flow_slot.take().and_then(|flow| flow.guard);
        let body = match recorder {
            None => ResponseBody::with_guard(body, guard),
            Some(recorder) => ResponseBody::recorded(body, guard, recorder),
        };
        Response::from_parts(head, body)
    }
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
                    let head = RequestHead::new(&waiting.request);
                    let name = &waiting.control_point;
                    let deadline = waiting.deadline;
                    let settings = &waiting.config.settings;
                    let mut action =
                        settings.apply_verdict(verdict, head, deadline, || Arc::clone(name));
                    let extras = waiting.extras.as_mut();
                    if extras.is_some_and(|extras| extras.take_lookup(&mut action))
                        && let Some(decider) = waiting.decider.take()
                    {
                        match settings.check_again(&decider, name, head, deadline) {
                            Check::Ready(verdict) => {
                                let name = || Arc::clone(name);
                                action = settings.apply_verdict(verdict, head, deadline, name);
                            }
                            Check::Pending(pending) => {
                                let waiting = Some(waiting);
                                state.set(State::Deciding { pending, waiting });
                                continue;
                            }
                        }
                    }
                    if let (Some(deadline), RequestAction::Run(_) | RequestAction::Shadow(..)) =
                        (deadline, &action)
                    {
                        deadline.update(waiting.request.headers_mut());
                    }
                    let next = Self::perform(
                        &waiting.config,
                        &mut waiting.inner,
                        waiting.request,
                        action,
                        waiting.extras,
                    );
                    state.set(next.state);
                }
                StateProj::Running { inner, flow } => {
                    let response = ready!(inner.poll(cx));
                    return Poll::Ready(match response {
                        Ok(response) => Ok(RunningFlow::respond(flow, response)),
                        Err(error) => {
                            if let Some(guard) = flow.as_mut().and_then(RunningFlow::guard) {
                                guard.fail();
                            }
                            *flow = None;
                            Err(error)
                        }
                    });
                }
                StateProj::Responding { response, guard } => {
                    let Some(response) = response.take() else {
                        polled_again();
                    };
                    let guard = guard.take();
                    return Poll::Ready(Ok(
                        response.map(|body| ResponseBody::replacement(body, guard))
                    ));
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
