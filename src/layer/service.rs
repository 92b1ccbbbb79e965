//! The service that checks each request, and then runs or rejects it.

use std::borrow::Cow;
use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::action::RequestAction;
use super::body::ResponseBody;
use super::deadline::Deadline;
use super::future::{ResponseFuture, RunningFlow, WaitingRequest};
use super::head::RequestHead;
use super::names::LabelNames;
use super::reject::{DefaultReject, OnReject};
use super::request_extras::RequestExtras;
use super::settings::{Config, Settings};
use crate::flow::{
    Check, Decider, Denial, FlowDecision, FlowParams, RejectReason, Rejection, Ticket, Verdict,
};

/// A service under flow control, returned by [`ApertureLayer`](crate::ApertureLayer).
///
/// It wraps any HTTP service, with any type of request body. The inner service must be `Clone`, as
/// most servers require anyway: if a decision must be awaited, the instance that reported ready is
/// kept with the request, and a clone replaces it in this service.
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

    /// Returns a reference to the inner service.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service, without flow control.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

/// A clone must be polled for readiness anew, because readiness belongs to the instance that was
/// polled.
// Not derived, to avoid a `Clone` bound on the hook.
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

/// The next step of `call`, after the check.
enum NextStep<T: Ticket, P> {
    Skip,
    Run,
    Perform(RequestAction<T>),
    Await(P, Arc<str>),
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

    /// Ready when the inner service is ready; the layer itself is always ready.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let settings = &self.config.settings;
        let head = RequestHead::new(&request);
        if settings.skips(head) {
            return ResponseFuture::running(self.inner.call(request), None);
        }

        let deadline = Deadline::of(head);
        let mut extras: Option<Box<RequestExtras>> = None;
        // A block, so that all borrows of the request end before the request moves.
        let mut flow = None;
        let next = 'next: {
            let Some(control_point) = settings.control_point(head, &self.decider) else {
                break 'next NextStep::Skip;
            };
            let (control_point, is_fallback) = (control_point.name, control_point.is_fallback);
            if deadline.is_some_and(Deadline::has_passed) {
                let rejection = Settings::deadline_exceeded(settings.to_shared(&control_point));
                break 'next NextStep::Perform(RequestAction::Reject(rejection, None));
            }
            let names = LabelNames::new(&settings.names, &self.decider);
            let mut params = FlowParams::with_limits(settings.extract.limits);
            settings.fill(head.naming_labels(&names), deadline, &mut params);
            if let Some(label) = settings.missing_label(&params.labels) {
                let rejection = Rejection::missing(settings.to_shared(&control_point), label);
                break 'next NextStep::Perform(RequestAction::Reject(rejection, None));
            }
            if is_fallback {
                // A cache key belongs to one control point, and the fallback stands for many.
                params.result_cache_key = None;
            }
            if settings.rejects_body(head) {
                let denial = Denial::new(RejectReason::BodyTooLarge);
                let rejection = Rejection::new(settings.to_shared(&control_point), denial);
                break 'next NextStep::Perform(RequestAction::Reject(rejection, None));
            }
            if settings.needs_extras() {
                let key = params.result_cache_key.as_deref();
                let may_look_up = !is_fallback;
                extras = RequestExtras::new(
                    settings,
                    head,
                    &control_point,
                    key,
                    may_look_up,
                    &self.decider,
                );
                if let Some(key) = extras.as_deref().and_then(RequestExtras::key) {
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
                // The common case. A detour through `RequestAction` would move the guard again.
                Check::Ready(Verdict::Accepted(ticket))
                    if extras.is_none() && deadline.is_none() =>
                {
                    let guard = settings.accept(ticket);
                    flow = Some(RunningFlow::new(guard, head.method()));
                    NextStep::Run
                }
                Check::Ready(verdict) => {
                    let name = || settings.to_shared(&control_point);
                    NextStep::Perform(settings.apply_verdict(verdict, head, deadline, name))
                }
                Check::Pending(pending) => {
                    NextStep::Await(pending, settings.to_shared(&control_point))
                }
            }
        };
        let (pending, control_point) = match next {
            NextStep::Skip => {
                return ResponseFuture::running(self.inner.call(request), None);
            }
            NextStep::Run => {
                let guard = flow.as_mut().map(RunningFlow::guard);
                settings.annotate(&mut request, FlowDecision::Accepted, guard);
                return ResponseFuture::running(self.inner.call(request), flow);
            }
            NextStep::Perform(mut action) => {
                let needs_check = extras
                    .as_mut()
                    .is_some_and(|extras| extras.read_lookup(&mut action));
                let second_check = needs_check.then(|| {
                    let head = RequestHead::new(&request);
                    let name = settings.control_point(head, &self.decider)?.name;
                    let name = settings.to_shared(&name);
                    let check = settings.check_again(&self.decider, &name, head, deadline);
                    Some((check, name))
                });
                match second_check.flatten() {
                    Some((Check::Pending(pending), name)) => (pending, name),
                    decided => {
                        if let Some((Check::Ready(verdict), name)) = decided {
                            let head = RequestHead::new(&request);
                            action = settings.apply_verdict(verdict, head, deadline, || name);
                        }
                        return ResponseFuture::perform(
                            &self.config,
                            &mut self.inner,
                            request,
                            action,
                            extras,
                        );
                    }
                }
            }
            NextStep::Await(pending, control_point) => (pending, control_point),
        };

        // The instance that reported ready must be the one that is called later.
        let clone = self.inner.clone();
        let looks_up = extras.as_deref().and_then(RequestExtras::key).is_some();
        ResponseFuture::deciding(
            pending,
            WaitingRequest {
                decider: looks_up.then(|| self.decider.clone()),
                config: self.config.clone(),
                inner: mem::replace(&mut self.inner, clone),
                request,
                control_point,
                deadline,
                extras,
            },
        )
    }
}
