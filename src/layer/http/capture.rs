//! [`CaptureBody`]: reads request bodies before the check, so that policies can use them.

use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Method, Request, Version};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::replay::{ReadAhead, ReadAheadBuffer, ReplayBody};

/// The data that was read of a body, as a request extension for the layer behind.
#[derive(Clone)]
pub(super) struct CapturedBody {
    data: Bytes,
    /// The body has more data.
    is_partial: bool,
    allow_partial: bool,
}

impl CapturedBody {
    /// Returns the data as text, empty if it is not UTF-8. The beginning of a longer body ends with
    /// its last complete character.
    pub(super) fn text(&self) -> &str {
        match str::from_utf8(&self.data) {
            Ok(text) => text,
            Err(error) if self.is_partial && error.error_len().is_none() => {
                str::from_utf8(&self.data[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => "",
        }
    }

    /// Returns true if the request must be rejected because of its body.
    pub(super) const fn is_too_large(&self) -> bool {
        self.is_partial && !self.allow_partial
    }

    /// Returns the value of the header that marks partial bodies, `None` if partial bodies are not
    /// allowed.
    pub(super) const fn partial_header(&self) -> Option<&'static str> {
        match (self.is_partial, self.allow_partial) {
            (true, _) => Some("true"),
            (false, true) => Some("false"),
            (false, false) => None,
        }
    }
}

/// Reads request bodies for an [`ApertureLayer::http`](crate::ApertureLayer::http) behind it, for
/// policies whose classifiers use bodies.
///
/// A body of up to `max_bytes` is sent to policies as text, or as an empty text if it is not UTF-8.
/// The inner service gets the complete body, with its trailers and errors; the data that was read
/// ahead comes in one frame. The type of the request body becomes [`ReplayBody`], which axum and
/// tonic accept like any other.
///
/// # Longer bodies
///
/// A policy that gets only the beginning of a body can miss the value that is the key of a limit.
/// The layer behind therefore rejects a request with a longer body: with status 413, or
/// `RESOURCE_EXHAUSTED` for gRPC, with
/// [`RejectReason::BodyTooLarge`](crate::RejectReason::BodyTooLarge), and through the layer's
/// [reject hook](crate::ApertureLayer::on_reject). A request whose `content-length` exceeds
/// `max_bytes` is rejected before its body is read. Requests that the layer
/// [skips](crate::ApertureLayer::skip) run. Requests in
/// [shadow mode](crate::ApertureLayer::shadow_mode) run as well, and policies get the beginning of
/// their bodies.
///
/// With [`allow_partial`](Self::allow_partial) the first `max_bytes` are sent, up to the last
/// complete character, and the header
/// [`x-envoy-auth-partial-body`](crate::HttpAttributes::PARTIAL_BODY) marks the body as partial.
///
/// # Waiting and memory
///
/// **The check of a request is delayed** until its body has ended or exceeds `max_bytes`. A client
/// can delay its body, so put a read timeout in front. Memory per request is bounded by twice
/// `max_bytes`, while the data is collected, and one frame, independent of the number of frames.
/// Requests without a body are not delayed.
///
/// The body of a CONNECT request or an HTTP/1.1 upgrade request is not read, because the bytes
/// after the head are a tunnel and not a body. An upgrade request with a body, according to its
/// `content-length` or `transfer-encoding`, is read like any other.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use axum::{Router, routing::post};
/// use tower::ServiceBuilder;
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::CaptureBody;
///
/// let app: Router = Router::new().route("/graphql", post(|| async { "data" })).route_layer(
///     ServiceBuilder::new()
///         .layer(CaptureBody::new(16 * 1024))
///         .layer(ApertureLayer::http(client, "graphql")),
/// );
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CaptureBody {
    settings: CaptureSettings,
}

#[derive(Clone, Copy, Debug)]
struct CaptureSettings {
    max_bytes: usize,
    allow_partial: bool,
}

impl CaptureBody {
    /// The upper bound of `max_bytes`, 3 MiB. Agents accept messages of 4 MiB, the default of gRPC,
    /// and the other attributes of a request need space as well.
    pub const MAX_BYTES: usize = 3 * 1024 * 1024;

    /// Returns a layer that reads bodies of up to `max_bytes`. A larger number than
    /// [`MAX_BYTES`](Self::MAX_BYTES) counts as that. With 0 bodies are neither read nor rejected.
    #[must_use]
    pub const fn new(max_bytes: usize) -> Self {
        let max_bytes = if max_bytes > Self::MAX_BYTES {
            Self::MAX_BYTES
        } else {
            max_bytes
        };
        Self {
            settings: CaptureSettings {
                max_bytes,
                allow_partial: false,
            },
        }
    }

    /// Sets whether the beginning of a longer body is sent to policies, instead of rejecting the
    /// request; off by default.
    ///
    /// Policies distinguish partial from complete bodies by the header
    /// [`x-envoy-auth-partial-body`](crate::HttpAttributes::PARTIAL_BODY), which is then `true` or
    /// `false` for each body that was read. Beware that a client can hide a value from a classifier
    /// behind `max_bytes` of padding: a limiter with that value as its key is then skipped.
    ///
    /// ```
    /// use tower_aperture::layer::CaptureBody;
    ///
    /// let capture = CaptureBody::new(16 * 1024).allow_partial(true);
    /// # let _ = capture;
    /// ```
    #[must_use]
    pub const fn allow_partial(mut self, allow: bool) -> Self {
        self.settings.allow_partial = allow;
        self
    }
}

impl<S> Layer<S> for CaptureBody {
    type Service = CaptureBodyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CaptureBodyService {
            inner,
            settings: self.settings,
        }
    }
}

impl CaptureSettings {
    /// Returns true if the body is too long according to its `content-length` or size hint.
    fn is_declared_too_large<B: Body>(self, request: &Request<B>) -> bool {
        let max = u64::try_from(self.max_bytes).unwrap_or(u64::MAX);
        let declared = content_length(request.headers()).unwrap_or(0);
        !self.allow_partial && declared.max(request.body().size_hint().lower()) > max
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Returns true if the bytes after the head belong to a tunnel. HTTP/2 and HTTP/3 open tunnels with
/// CONNECT only (RFC 8441). Upgrades exist in HTTP/1.1 only (RFC 9110, section 7.8), so bodies of
/// other versions are read even if the request has an `upgrade` header.
fn opens_tunnel<B>(request: &Request<B>) -> bool {
    if *request.method() == Method::CONNECT {
        return true;
    }
    let headers = request.headers();
    let upgrades = request.version() == Version::HTTP_11
        && headers.contains_key(UPGRADE)
        && headers.get_all(CONNECTION).iter().any(|options| {
            let mut options = options.as_bytes().split(|byte| *byte == b',');
            options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
        });
    let has_body = headers.contains_key(TRANSFER_ENCODING)
        || (headers.contains_key(CONTENT_LENGTH) && content_length(headers) != Some(0));
    upgrades && !has_body
}

/// The service that [`CaptureBody`] returns.
///
/// ```
/// use tower::Layer;
/// use tower_aperture::layer::{CaptureBody, CaptureBodyService};
///
/// let service: CaptureBodyService<()> = CaptureBody::new(1024).layer(());
/// # let _ = service;
/// ```
#[derive(Clone, Debug)]
pub struct CaptureBodyService<S> {
    inner: S,
    settings: CaptureSettings,
}

impl<S, B> Service<Request<B>> for CaptureBodyService<S>
where
    S: Service<Request<ReplayBody<B>>> + Clone,
    B: Body<Data = Bytes> + Unpin,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = CaptureBodyFuture<S, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let mut request = request.map(ReplayBody::new);
        let CaptureSettings {
            max_bytes,
            allow_partial,
        } = self.settings;
        let captures = max_bytes > 0 && !request.body().is_end_stream() && !opens_tunnel(&request);
        let too_large = captures && self.settings.is_declared_too_large(&request);
        if too_large {
            request.extensions_mut().insert(CapturedBody {
                data: Bytes::new(),
                is_partial: true,
                allow_partial,
            });
        }
        if too_large || !captures {
            return CaptureBodyFuture {
                state: State::Running {
                    inner: self.inner.call(request),
                },
            };
        }
        // The instance that reported ready has to be the one that is called.
        let clone = self.inner.clone();
        CaptureBodyFuture {
            state: State::Reading {
                reading: Some(ReadingRequest {
                    inner: mem::replace(&mut self.inner, clone),
                    request,
                    buffer: ReadAheadBuffer::new(max_bytes),
                    allow_partial,
                }),
            },
        }
    }
}

pin_project! {
    /// The future of [`CaptureBodyService`]: reads the body, then calls the inner service.
    ///
    /// ```
    /// use tower_aperture::layer::{CaptureBodyFuture, ReplayBody};
    ///
    /// type MyFuture<S> = CaptureBodyFuture<S, axum::body::Body>;
    /// ```
    pub struct CaptureBodyFuture<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
        B: Body,
    {
        #[pin]
        state: State<S, B>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B>
    where
        S: Service<Request<ReplayBody<B>>>,
        B: Body,
    {
        Reading { reading: Option<ReadingRequest<S, B>> },
        Running { #[pin] inner: S::Future },
    }
}

/// A request whose body is being read.
struct ReadingRequest<S, B: Body> {
    inner: S,
    request: Request<ReplayBody<B>>,
    buffer: ReadAheadBuffer,
    allow_partial: bool,
}

impl<S, B: Body<Data = Bytes> + Unpin> ReadingRequest<S, B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let body = self.request.body_mut();
        let ReadAhead { data, is_partial } = ready!(body.poll_read_ahead(&mut self.buffer, cx));
        let captured = CapturedBody {
            data,
            is_partial,
            allow_partial: self.allow_partial,
        };
        self.request.extensions_mut().insert(captured);
        Poll::Ready(())
    }
}

impl<S, B> Future for CaptureBodyFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
    B: Body<Data = Bytes> + Unpin,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Reading { reading } => {
                    let Some(mut current) = reading.take() else {
                        // A panic while polling the body has dropped the request.
                        panic!("`CaptureBodyFuture` polled after it panicked");
                    };
                    if current.poll(cx).is_pending() {
                        *reading = Some(current);
                        return Poll::Pending;
                    }
                    let inner = current.inner.call(current.request);
                    state.set(State::Running { inner });
                }
                StateProj::Running { inner } => return inner.poll(cx),
            }
        }
    }
}

impl<S, B> fmt::Debug for CaptureBodyFuture<S, B>
where
    S: Service<Request<ReplayBody<B>>>,
    B: Body,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.state {
            State::Reading { .. } => "CaptureBodyFuture(reading)",
            State::Running { .. } => "CaptureBodyFuture(running)",
        })
    }
}
