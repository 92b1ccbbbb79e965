//! The service that answers requests from the result cache, stores responses and invalidates them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_service::Service;

use super::body::CachedBody;
use super::body_recorder::BodyRecorder;
use super::cacheable_request::CacheableRequest;
use super::invalidating_request::InvalidatingRequest;
use super::settings::CacheSettings;
use crate::flow::Decider;
use crate::layer::RequestHead;
use crate::layer::head::MethodKind;

/// A service behind a response cache; the inner service of the [`Aperture`](crate::Aperture) that a
/// [`ResultCacheLayer`](super::ResultCacheLayer) makes.
///
/// The [`Aperture`](crate::Aperture) looks requests up with their checks, and leaves the lookups in
/// the extensions of the requests. This service answers from them.
///
/// ```
/// use tower_aperture::response_cache::ResponseCache;
/// use tower_aperture::{Aperture, ApertureClient};
///
/// /// The type of a service with a cache.
/// type MyService<S> = Aperture<ResponseCache<S, ApertureClient>, ApertureClient>;
/// ```
#[derive(Clone)]
pub struct ResponseCache<S, D> {
    inner: S,
    /// For requests that no check was made for, and that may invalidate responses.
    decider: D,
    /// `None` if the layer cannot look up responses.
    settings: Option<Arc<CacheSettings>>,
}

impl<S, D> ResponseCache<S, D> {
    pub(super) const fn new(inner: S, decider: D, settings: Option<Arc<CacheSettings>>) -> Self {
        Self {
            inner,
            decider,
            settings,
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

    /// Returns the inner service, without the cache.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: fmt::Debug, D> fmt::Debug for ResponseCache<S, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseCache")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

impl<S, D, B, RB> Service<Request<B>> for ResponseCache<S, D>
where
    S: Service<Request<B>, Response = Response<RB>>,
    D: Decider,
    RB: Body,
    RB::Data: From<Bytes>,
{
    type Response = Response<CachedBody<RB>>;
    type Error = S::Error;
    type Future = ResponseCacheFuture<S::Future>;

    /// Ready when the inner service is ready.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let lookup = request.extensions_mut().remove::<CacheableRequest>();
        let usage = match lookup {
            Some(CacheableRequest {
                answer: Some(response),
                ..
            }) => {
                return ResponseCacheFuture {
                    state: State::Stored {
                        response: Some(response),
                    },
                };
            }
            Some(request) => Some(CacheUse::Store(request)),
            None => self.settings.as_ref().and_then(|settings| {
                let head = RequestHead::new(&request);
                let caches = || self.decider.caches();
                let invalidation = InvalidatingRequest::begin(settings, head, caches)?;
                Some(CacheUse::Invalidate(invalidation))
            }),
        };
        let method = MethodKind::new(request.method());
        ResponseCacheFuture {
            state: State::Running {
                inner: self.inner.call(request),
                usage,
                method,
            },
        }
    }
}

/// What the response to a request does to the cache.
enum CacheUse {
    Store(CacheableRequest),
    Invalidate(InvalidatingRequest),
}

impl CacheUse {
    /// Handles the head of the inner service's response. Returns a recorder if its body has to be
    /// observed.
    fn record<B: Body>(
        self,
        response: &Response<B>,
        method: MethodKind,
    ) -> Option<Box<BodyRecorder>> {
        let status = response.status();
        let empty = response.body().is_end_stream()
            || method.has_no_body(status)
            || method.switches_protocol(status);
        match self {
            Self::Store(request) => request.record(response, empty),
            Self::Invalidate(request) => request.record(response, empty),
        }
    }
}

pin_project! {
    /// The future of [`ResponseCache`]: the stored response, or the future `F` of the inner service.
    ///
    /// If it is dropped or fails while a request with an unsafe method runs, the stored responses
    /// to that request are invalidated, because the inner service may have made a change.
    ///
    /// ```
    /// use tower_aperture::response_cache::ResponseCacheFuture;
    ///
    /// type MyFuture<S> = ResponseCacheFuture<<S as tower::Service<http::Request<String>>>::Future>;
    /// ```
    pub struct ResponseCacheFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Stored { response: Option<Response<Bytes>> },
        Running { #[pin] inner: F, usage: Option<CacheUse>, method: MethodKind },
    }
}

impl<F, B, E> Future for ResponseCacheFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body,
    B::Data: From<Bytes>,
{
    type Output = Result<Response<CachedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(match self.project().state.project() {
            StateProj::Stored { response } => {
                let Some(response) = response.take() else {
                    panic!("`ResponseCacheFuture` polled after completion");
                };
                Ok(response.map(CachedBody::stored))
            }
            StateProj::Running {
                inner,
                usage,
                method,
            } => {
                let response = ready!(inner.poll(cx));
                // Dropped here after an error.
                let usage = usage.take();
                response.map(|response| {
                    let recorder = usage.and_then(|usage| usage.record(&response, *method));
                    response.map(|body| CachedBody::inner(body, recorder))
                })
            }
        })
    }
}

impl<F> fmt::Debug for ResponseCacheFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Stored { .. } => "ResponseCacheFuture(stored)",
            State::Running { .. } => "ResponseCacheFuture(running)",
        })
    }
}
