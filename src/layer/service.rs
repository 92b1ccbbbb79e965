//! The service that checks each request, and then runs or rejects it.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::body::ResponseBody;
use super::check::{NextStep, RequestPlan};
use super::future::{ResponseFuture, WaitingRequest};
use super::head::RequestHead;
use super::reject::{DefaultReject, OnReject};
use super::settings::Config;
use crate::flow::Decider;

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

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut plan = RequestPlan::default();
        let settings = &self.config.settings;
        let head = RequestHead::new(&request);
        match settings.start(&self.decider, head, &mut plan) {
            // The guard lives during `call`, so that a panic there ends the flow.
            NextStep::Run(guard) => ResponseFuture::running(self.inner.call(request), guard),
            NextStep::Perform(action) => {
                let extras = plan.extras;
                ResponseFuture::perform(&self.config, &mut self.inner, request, action, extras)
            }
            NextStep::Await(pending, control_point) => {
                // The instance that reported ready must be the one that is called later.
                let clone = self.inner.clone();
                ResponseFuture::deciding(
                    pending,
                    WaitingRequest {
                        config: self.config.clone(),
                        decider: plan.looks_up().then(|| self.decider.clone()),
                        inner: mem::replace(&mut self.inner, clone),
                        request,
                        control_point,
                        plan,
                    },
                )
            }
        }
    }
}
