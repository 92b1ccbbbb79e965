use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::{ResponseBody, Sent};
use super::config::{Config, Ruling};
use super::guard::Guard;
use super::head::{RequestHead, ResponseHead};
use super::reject::OnReject;
use crate::flow::{Decider, FlowDecision, Ticket};

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
        Deciding { #[pin] pending: D::Pending, waiting: Option<Waiting<S, R, B>> },
        Running { #[pin] inner: S::Future, flow: Option<Flow<D::Ticket>> },
        Rejected { response: Option<Response<C>> },
        Done,
    }
}

/// What a pending decision keeps.
pub(crate) struct Waiting<S, R, B> {
    pub(crate) config: Arc<Config<R>>,
    /// The ready instance.
    pub(crate) inner: S,
    pub(crate) request: Request<B>,
    pub(crate) control_point: Arc<str>,
}

/// A flow at work.
struct Flow<T: Ticket> {
    guard: Guard<T>,
    asked: Asked,
}

/// What the method says about the response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
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
}

impl<S, D, R, B, C> ResponseFuture<S, D, R, B, C>
where
    S: Service<Request<B>>,
    D: Decider,
{
    /// A request that flow control has nothing to do with.
    pub(crate) const fn skip(inner: S::Future) -> Self {
        Self {
            state: State::Running { inner, flow: None },
        }
    }

    /// A request whose decision has to be awaited.
    pub(crate) const fn wait(pending: D::Pending, waiting: Waiting<S, R, B>) -> Self {
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
    ) -> Self
    where
        R: OnReject<RB, Body = C>,
        RB: Body,
    {
        Self {
            state: State::settle(config, inner, request, ruling),
        }
    }
}

impl<S, D, R, B, C> State<S, D, R, B, C>
where
    S: Service<Request<B>>,
    D: Decider,
{
    fn settle<RB>(
        config: &Config<R>,
        inner: &mut S,
        mut request: Request<B>,
        ruling: Ruling<D::Ticket>,
    ) -> Self
    where
        R: OnReject<RB, Body = C>,
        RB: Body,
    {
        match ruling {
            Ruling::Run(guard) => {
                let decision = match &guard {
                    Some(_) => FlowDecision::Accepted,
                    None => FlowDecision::Unreachable,
                };
                config.settings.mark(&mut request, decision);
                let asked = Asked::new(request.method());
                let flow = guard.map(|guard| Flow { guard, asked });
                // The guard is alive here: a panic in `call` ends the flow.
                let inner = inner.call(request);
                Self::Running { inner, flow }
            }
            Ruling::Reject(rejection, guard) => {
                let head = RequestHead::new(&request);
                let response = config.refuse(&rejection, guard, head);
                let response = Some(response);
                Self::Rejected { response }
            }
        }
    }
}

impl<T: Ticket> Flow<T> {
    /// Hands the flow over to the body of its response, or ends it with the head.
    fn respond<B: Body, C>(self, response: Response<B>) -> Response<ResponseBody<B, C, T>> {
        let Self { mut guard, asked } = self;
        let status = response.status();
        guard.http_status(status);
        guard.judge(ResponseHead::new(&response));
        // From here on the connection speaks another protocol.
        if status == StatusCode::SWITCHING_PROTOCOLS
            || (asked == Asked::Connect && status.is_success())
        {
            guard.finish();
            return response.map(ResponseBody::passed);
        }
        let sent = Sent::new(asked, status, response.headers());
        response.map(|body| ResponseBody::guarded(body, guard, sent))
    }
}

impl<S, D, R, B, C, RB> Future for ResponseFuture<S, D, R, B, C>
where
    S: Service<Request<B>, Response = Response<RB>>,
    D: Decider,
    R: OnReject<RB, Body = C>,
    RB: Body,
{
    type Output = Result<Response<ResponseBody<RB, C, D::Ticket>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Deciding { pending, waiting } => {
                    let verdict = ready!(pending.poll(cx));
                    let Some(mut waiting) = waiting.take() else {
                        polled_again();
                    };
                    let head = RequestHead::new(&waiting.request);
                    let name = waiting.control_point;
                    let ruling = waiting.config.settings.rule(verdict, head, || name);
                    let next =
                        State::settle(&waiting.config, &mut waiting.inner, waiting.request, ruling);
                    state.set(next);
                }
                StateProj::Running { inner, flow } => {
                    let response = ready!(inner.poll(cx));
                    let flow = flow.take();
                    state.set(State::Done);
                    return Poll::Ready(match (response, flow) {
                        (Ok(response), Some(flow)) => Ok(flow.respond(response)),
                        (Ok(response), None) => Ok(response.map(ResponseBody::passed)),
                        (Err(error), flow) => {
                            if let Some(flow) = flow {
                                flow.guard.fail();
                            }
                            Err(error)
                        }
                    });
                }
                StateProj::Rejected { response } => {
                    let Some(response) = response.take() else {
                        polled_again();
                    };
                    return Poll::Ready(Ok(response.map(ResponseBody::own)));
                }
                StateProj::Done => polled_again(),
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
            State::Rejected { .. } => "ResponseFuture(rejected)",
            State::Done => "ResponseFuture(done)",
        })
    }
}
