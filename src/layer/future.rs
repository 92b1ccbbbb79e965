//! The future of a request: its decision, then the inner service or an answer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::answer::RejectBody;
use super::body::ResponseBody;
use super::config::{Config, Ruling, Settings};
use super::deadline::Deadline;
use super::guard::Guard;
use super::head::{RequestHead, ResponseHead};
use super::plan::Plan;
use super::reject::OnReject;
use crate::flow::{Check, Decider, FlowDecision, Ticket};

pin_project! {
    /// The future of [`Aperture`](crate::Aperture): the decision, if it takes time, and then the
    /// inner service's own future or the answer to a rejected request.
    ///
    /// Dropping it gives up the flow: a pending decision is dropped, a running flow ends with
    /// [`FlowStatus::Error`](crate::FlowStatus::Error).
    ///
    /// `S`, `D` and `R` are those of the service, `B` is the body of requests and `C` that of the
    /// reject hook's answers.
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
        Deciding { #[pin] pending: D::Pending, waiting: Option<Waiting<S, D, R, B>> },
        Running { #[pin] inner: S::Future, flow: Option<Flow<D::Ticket>> },
        /// Without the inner service: by the reject hook, or from the cache with the flow's guard.
        Answered { response: Option<Response<C>>, guard: Option<Guard<D::Ticket>> },
    }
}

/// What a pending decision keeps.
pub(crate) struct Waiting<S, D, R, B> {
    pub(crate) config: Arc<Config<R>>,
    /// For a request that may have to be asked about again, after a lookup.
    pub(crate) decider: Option<D>,
    /// The ready instance.
    pub(crate) inner: S,
    pub(crate) request: Request<B>,
    pub(crate) control_point: Arc<str>,
    /// The caller's own.
    pub(crate) deadline: Option<Deadline>,
    pub(crate) plan: Option<Box<Plan>>,
}

/// A request at work.
pub(crate) struct Flow<T: Ticket> {
    /// `None` for a request that nothing was decided about, and that may invalidate responses.
    guard: Option<Guard<T>>,
    asked: Asked,
    plan: Option<Box<Plan>>,
}

/// What the method says about the response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Head,
    Connect,
    Other,
}

impl Asked {
    fn new(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Head,
            Method::CONNECT => Self::Connect,
            _ => Self::Other,
        }
    }

    /// HTTP sends no body in such an answer, whatever it holds.
    fn never_sends(self, status: StatusCode) -> bool {
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
    /// A request at work, inside flow control if there is a flow.
    #[inline(always)]
    pub(crate) const fn running(inner: S::Future, flow: Option<Flow<D::Ticket>>) -> Self {
        Self {
            state: State::Running { inner, flow },
        }
    }

    /// A request that is not asked about.
    #[inline(always)]
    pub(crate) fn skipped(inner: &mut S, request: Request<B>, plan: Option<Box<Plan>>) -> Self {
        let flow = plan.map(|mut plan| {
            plan.start();
            let asked = Asked::new(request.method());
            Flow::unguarded(asked, plan)
        });
        Self::running(inner.call(request), flow)
    }

    /// A request whose decision has to be awaited.
    pub(crate) const fn wait(pending: D::Pending, waiting: Waiting<S, D, R, B>) -> Self {
        Self {
            state: State::Deciding {
                pending,
                waiting: Some(waiting),
            },
        }
    }

    /// A request that was decided about.
    pub(crate) fn settle<RB>(
        config: &Config<R>,
        inner: &mut S,
        request: Request<B>,
        ruling: Ruling<D::Ticket>,
        plan: Option<Box<Plan>>,
    ) -> Self
    where
        R: OnReject<RB, Body = C>,
        C: RejectBody<RB>,
        RB: Body,
    {
        match ruling {
            Ruling::Run(guard) => {
                let decision = match &guard {
                    Some(_) => FlowDecision::Accepted,
                    None => FlowDecision::Unreachable,
                };
                Self::run(&config.settings, inner, request, decision, guard, plan)
            }
            Ruling::Shadow(rejection, guard) => {
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
                    plan,
                )
            }
            Ruling::Reject(rejection, guard) => {
                let head = RequestHead::new(&request);
                let response = Some(config.refuse(&rejection, guard, head));
                Self {
                    state: State::Answered {
                        response,
                        guard: None,
                    },
                }
            }
        }
    }

    /// A request that runs, inside flow control if there is a guard.
    fn run<RB>(
        settings: &Settings,
        inner: &mut S,
        mut request: Request<B>,
        decision: FlowDecision,
        mut guard: Option<Guard<D::Ticket>>,
        mut plan: Option<Box<Plan>>,
    ) -> Self
    where
        R: OnReject<RB, Body = C>,
        C: RejectBody<RB>,
        RB: Body,
    {
        let asked = Asked::new(request.method());
        if let Some(plan) = &mut plan {
            if let Some(response) = plan.take_stored::<RB, C>() {
                return Self::answered::<RB>(response, guard, asked);
            }
            plan.expose(&mut request, decision, guard.as_mut());
            settings.insert(&mut request, decision, guard.as_mut(), plan.take_found());
            plan.start();
        } else {
            settings.mark(&mut request, decision, guard.as_mut());
        }
        // Alive during `call`: a panic there ends the flow.
        let flow = match (guard, plan) {
            (Some(guard), plan) => {
                let guard = Some(guard);
                Some(Flow { guard, asked, plan })
            }
            (None, Some(plan)) if plan.is_invalidating() => Some(Flow::unguarded(asked, plan)),
            (None, _) => None,
        };
        Self::running(inner.call(request), flow)
    }

    /// A request that the cache has the response to.
    #[inline(never)]
    fn answered<RB>(
        mut response: Response<C>,
        mut guard: Option<Guard<D::Ticket>>,
        asked: Asked,
    ) -> Self
    where
        C: RejectBody<RB>,
        RB: Body,
    {
        if let Some(mut flow) = guard.take() {
            let status = response.status();
            flow.http_status(status);
            flow.judge(ResponseHead::new(&response));
            flow.tell_quotas(response.headers_mut());
            let silent = asked.never_sends(status);
            let left = if silent {
                Some(0)
            } else {
                flow.watch_body(response.headers());
                response.body().hint().exact()
            };
            let ends = response.body().is_over();
            if ends || left == Some(0) {
                flow.judge_body();
            }
            if ends {
                flow.finish();
            } else {
                flow.sending(left);
                guard = Some(flow);
            }
        }
        let response = Some(response);
        Self {
            state: State::Answered { response, guard },
        }
    }
}

impl<T: Ticket> Flow<T> {
    #[inline(always)]
    pub(crate) fn new(guard: Guard<T>, method: &Method) -> Self {
        Self {
            guard: Some(guard),
            asked: Asked::new(method),
            plan: None,
        }
    }

    const fn unguarded(asked: Asked, plan: Box<Plan>) -> Self {
        Self {
            guard: None,
            asked,
            plan: Some(plan),
        }
    }

    pub(crate) const fn guard(&mut self) -> Option<&mut Guard<T>> {
        self.guard.as_mut()
    }

    /// Hands the flow over to the body of its response, or ends it with the head. What panics
    /// before leaves it in its `slot`, to be ended by a drop.
    #[inline]
    fn respond<B: Body, C>(
        slot: &mut Option<Self>,
        mut response: Response<B>,
    ) -> Response<ResponseBody<B, C, T>> {
        let Some(Self { guard, asked, plan }) = slot else {
            return response.map(ResponseBody::passed);
        };
        let status = response.status();
        let Some(guard) = guard else {
            let empty = response.body().is_end_stream() || asked.never_sends(status);
            let recorder = plan.take().and_then(|plan| plan.record(&response, empty));
            *slot = None;
            return response.map(|body| match recorder {
                None => ResponseBody::passed(body),
                Some(recorder) => ResponseBody::recorded(body, None, recorder),
            });
        };
        guard.http_status(status);
        guard.judge(ResponseHead::new(&response));
        // After these heads the connection speaks another protocol.
        let switched = status == StatusCode::SWITCHING_PROTOCOLS
            || (*asked == Asked::Connect && status.is_success());
        let ends = response.body().is_end_stream();
        let silent = asked.never_sends(status);
        let plan = plan.take();
        let recorder = plan.and_then(|plan| plan.record(&response, ends || silent));
        // What is left of a quota is for this client, and not for those after it.
        guard.tell_quotas(response.headers_mut());
        let left = if silent || switched {
            Some(0)
        } else {
            guard.watch_body(response.headers());
            let size = response.body().size_hint().exact();
            size.or_else(|| content_length(response.headers()))
        };
        if ends || left == Some(0) {
            guard.judge_body();
        }
        if switched || ends {
            guard.finish();
            *slot = None;
            return response.map(ResponseBody::passed);
        }
        guard.sending(left);
        let (head, body) = response.into_parts();
        let guard = slot.take().and_then(|flow| flow.guard);
        let body = match recorder {
            None => ResponseBody::guarded(body, guard),
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
                    // Before the poll, so that no verdict is lost after a panic.
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
                    let mut ruling = settings.rule(verdict, head, deadline, || Arc::clone(name));
                    let plan = waiting.plan.as_mut();
                    if plan.is_some_and(|plan| plan.look_at(&mut ruling))
                        && let Some(decider) = waiting.decider.take()
                    {
                        match settings.ask_again(&decider, name, head, deadline) {
                            Check::Ready(verdict) => {
                                let name = || Arc::clone(name);
                                ruling = settings.rule(verdict, head, deadline, name);
                            }
                            Check::Pending(pending) => {
                                let waiting = Some(waiting);
                                state.set(State::Deciding { pending, waiting });
                                continue;
                            }
                        }
                    }
                    if let (Some(deadline), Ruling::Run(_) | Ruling::Shadow(..)) =
                        (deadline, &ruling)
                    {
                        deadline.update(waiting.request.headers_mut());
                    }
                    let next = Self::settle(
                        &waiting.config,
                        &mut waiting.inner,
                        waiting.request,
                        ruling,
                        waiting.plan,
                    );
                    state.set(next.state);
                }
                StateProj::Running { inner, flow } => {
                    let response = ready!(inner.poll(cx));
                    return Poll::Ready(match response {
                        Ok(response) => Ok(Flow::respond(flow, response)),
                        Err(error) => {
                            if let Some(guard) = flow.as_mut().and_then(Flow::guard) {
                                guard.fail();
                            }
                            *flow = None;
                            Err(error)
                        }
                    });
                }
                StateProj::Answered { response, guard } => {
                    let Some(response) = response.take() else {
                        polled_again();
                    };
                    let guard = guard.take();
                    return Poll::Ready(Ok(response.map(|body| ResponseBody::own(body, guard))));
                }
            }
        }
    }
}

/// As with any future, that is a defect of the caller.
#[cold]
fn polled_again() -> ! {
    panic!("`ResponseFuture` polled after it was done")
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
            State::Answered { .. } => "ResponseFuture(answered)",
        })
    }
}
