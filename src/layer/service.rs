//! The service that asks for each request and runs it or answers it.

use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ResponseBody;
use super::config::{Config, Ruling, Settings};
use super::deadline::Deadline;
use super::future::{Flow, ResponseFuture, Waiting};
use super::head::RequestHead;
use super::names::LabelNames;
use super::plan::Plan;
use super::reject::{DefaultReject, OnReject};
use crate::flow::{
    Check, Decider, Denial, FlowDecision, FlowParams, RejectReason, Rejection, Ticket, Verdict,
};

/// The service that [`ApertureLayer`](crate::ApertureLayer) makes.
///
/// It works around any HTTP service whose requests have any body; the inner service has to be
/// `Clone`, as servers want it anyway: when a decision has to be awaited, the instance that is
/// ready waits along and a clone takes its place.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use tower::{Layer, service_fn};
/// use tower_aperture::{Aperture, ApertureClient, ApertureLayer};
///
/// let inner = service_fn(async |_: http::Request<String>| {
///     Ok::<_, std::io::Error>(http::Response::new(String::from("hello")))
/// });
/// let service = ApertureLayer::new(client, "greet").layer(inner);
///
/// /// The type has a name.
/// struct Greeter<S> {
///     service: Aperture<S, ApertureClient>,
/// }
/// let _ = Greeter { service };
/// ```
pub struct Aperture<S, D, R = DefaultReject> {
    inner: S,
    decider: D,
    config: Arc<Config<R>>,
}

impl<S, D, R> Aperture<S, D, R> {
    pub(crate) const fn new(inner: S, decider: D, config: Arc<Config<R>>) -> Self {
        Self {
            inner,
            decider,
            config,
        }
    }

    /// The inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, out of flow control.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// Readiness stays behind: it belongs to the instance that was polled. By hand, for no bound on
/// the hook.
impl<S: Clone, D: Clone, R> Clone for Aperture<S, D, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            decider: self.decider.clone(),
            config: self.config.clone(),
        }
    }
}

impl<S: fmt::Debug, D, R> fmt::Debug for Aperture<S, D, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aperture")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// What to do with a request.
enum Next<T: Ticket, P> {
    Skip,
    Run,
    Settle(Ruling<T>),
    Wait(P, Arc<str>),
}

impl<S, D, R, B, RB> Service<Request<B>> for Aperture<S, D, R>
where
    S: Service<Request<B>, Response = Response<RB>> + Clone,
    D: Decider + Clone,
    R: OnReject<RB>,
    RB: Body,
{
    type Response = Response<ResponseBody<RB, R::Body, D::Ticket>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, D, R, B, R::Body>;

    /// Ready when the inner service is; the layer reserves nothing itself.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let settings = &self.config.settings;
        let head = RequestHead::new(&request);
        if settings.skips(head) {
            let plan = Plan::of_skipped(settings, head, &self.decider);
            return ResponseFuture::skipped(&mut self.inner, request, plan);
        }

        let deadline = Deadline::of(head);
        let mut plan: Option<Box<Plan>> = None;
        // In a block, so that nothing borrows from the request any longer when it moves.
        let mut flow = None;
        let next = 'next: {
            let Some(control_point) = settings.control_point(head, &self.decider) else {
                break 'next Next::Skip;
            };
            let (control_point, is_fallback) = (control_point.name, control_point.is_fallback);
            if deadline.is_some_and(Deadline::has_passed) {
                let rejection = Settings::deadline_exceeded(settings.keep(&control_point));
                break 'next Next::Settle(Ruling::Reject(rejection, None));
            }
            let names = LabelNames::new(&settings.names, &self.decider);
            let mut params = FlowParams::with_limits(settings.extract.limits);
            settings.fill(head.naming_labels(&names), deadline, &mut params);
            if let Some(label) = settings.missing_label(&params.labels) {
                let rejection = Rejection::missing(settings.keep(&control_point), label);
                break 'next Next::Settle(Ruling::Reject(rejection, None));
            }
            if is_fallback {
                // Keys of the cache are those of one control point, and this one is many.
                params.result_cache_key = None;
            }
            if settings.refuses_body(head) {
                let denial = Denial::new(RejectReason::BodyTooLarge);
                let rejection = Rejection::new(settings.keep(&control_point), denial);
                break 'next Next::Settle(Ruling::Reject(rejection, None));
            }
            if settings.plans() {
                let key = params.result_cache_key.as_deref();
                let caches = !is_fallback;
                plan = Plan::new(settings, head, &control_point, key, caches, &self.decider);
                if let Some(key) = plan.as_deref().and_then(Plan::key) {
                    params.result_cache_key = Some(Cow::Borrowed(key));
                }
            }
            let check = match &settings.http {
                None => self.decider.decide(&control_point, &params),
                Some(http) => {
                    let limit = settings.extract.value_limit;
                    http.check(&self.decider, &control_point, &mut params, limit, head)
                }
            };
            match check {
                // The common case, without a detour on which all of it would be moved.
                Check::Ready(Verdict::Accepted(ticket)) if plan.is_none() && deadline.is_none() => {
                    let guard = settings.accept(ticket);
                    flow = Some(Flow::new(guard, head.method()));
                    Next::Run
                }
                Check::Ready(verdict) => {
                    let name = || settings.keep(&control_point);
                    Next::Settle(settings.rule(verdict, head, deadline, name))
                }
                Check::Pending(pending) => Next::Wait(pending, settings.keep(&control_point)),
            }
        };
        let (pending, control_point) = match next {
            Next::Skip => {
                let plan = Plan::of_skipped(settings, RequestHead::new(&request), &self.decider);
                return ResponseFuture::skipped(&mut self.inner, request, plan);
            }
            Next::Run => {
                let guard = flow.as_mut().and_then(Flow::guard);
                settings.mark(&mut request, FlowDecision::Accepted, guard);
                return ResponseFuture::running(self.inner.call(request), flow);
            }
            Next::Settle(mut ruling) => {
                let again = plan.as_mut().is_some_and(|plan| plan.look_at(&mut ruling));
                let again = again.then(|| {
                    let head = RequestHead::new(&request);
                    let name = settings.control_point(head, &self.decider)?.name;
                    let name = settings.keep(&name);
                    let check = settings.ask_again(&self.decider, &name, head, deadline);
                    Some((check, name))
                });
                match again.flatten() {
                    Some((Check::Pending(pending), name)) => (pending, name),
                    decided => {
                        if let Some((Check::Ready(verdict), name)) = decided {
                            let head = RequestHead::new(&request);
                            ruling = settings.rule(verdict, head, deadline, || name);
                        }
                        return ResponseFuture::settle(
                            &self.config,
                            &mut self.inner,
                            request,
                            ruling,
                            plan,
                        );
                    }
                }
            }
            Next::Wait(pending, control_point) => (pending, control_point),
        };

        // The instance that said it is ready is the one to call later.
        let clone = self.inner.clone();
        let looks_up = plan.as_deref().and_then(Plan::key).is_some();
        ResponseFuture::wait(
            pending,
            Waiting {
                decider: looks_up.then(|| self.decider.clone()),
                config: self.config.clone(),
                inner: mem::replace(&mut self.inner, clone),
                request,
                control_point,
                deadline,
                plan,
            },
        )
    }
}
