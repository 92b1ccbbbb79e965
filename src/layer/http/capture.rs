//! Reads request bodies ahead, so that policies see them.

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

use super::ReplayBody;
use super::replay::{Recorded, Recording};

/// The data that was read of a body, for the layer behind.
#[derive(Clone)]
pub(super) struct Captured {
    data: Bytes,
    /// The body has more.
    is_partial: bool,
    allow_partial: bool,
}

impl Captured {
    /// The data as text, up to a whole character where it was cut; empty where it is not UTF-8.
    pub(super) fn text(&self) -> &str {
        match str::from_utf8(&self.data) {
            Ok(text) => text,
            Err(error) if self.is_partial && error.error_len().is_none() => {
                str::from_utf8(&self.data[..error.valid_up_to()]).unwrap_or_default()
            }
            Err(_) => "",
        }
    }

    pub(super) const fn is_too_large(&self) -> bool {
        self.is_partial && !self.allow_partial
    }

    /// The text for policies about the body being partial, where it may be.
    pub(super) const fn partial(&self) -> Option<&'static str> {
        match (self.is_partial, self.allow_partial) {
            (true, _) => Some("true"),
            (false, true) => Some("false"),
            (false, false) => None,
        }
    }
}

/// Reads request bodies for an [`ApertureLayer::http`](crate::ApertureLayer::http) behind it, for
/// policies whose classifiers look into bodies.
///
/// A body of up to `max_bytes` is sent to policies as text, or not at all if it is not UTF-8. The
/// inner service gets the whole body, with its trailers and errors; what was read ahead comes in
/// one frame. The type of its body becomes [`ReplayBody`], which axum and tonic take as any other.
///
/// # Longer bodies
///
/// A policy that sees only a part of a body can miss the value that a limit is keyed by, so the
/// layer behind rejects a request with a longer body: 413, or `RESOURCE_EXHAUSTED` for gRPC, with
/// [`RejectReason::BodyTooLarge`](crate::RejectReason::BodyTooLarge) and through the layer's
/// [reject hook](crate::ApertureLayer::on_reject). A `content-length` beyond `max_bytes` is
/// rejected before anything is read. Requests that the layer [skips](crate::ApertureLayer::skip)
/// run, and so do those in [shadow mode](crate::ApertureLayer::shadow_mode), whose policies see
/// the part.
///
/// With [`allow_partial`](Self::allow_partial) the first `max_bytes` are sent, up to a whole
/// character, and the header
/// [`x-envoy-auth-partial-body`](crate::HttpAttributes::PARTIAL_BODY) says so.
///
/// # Waiting and memory
///
/// **A request waits** until its body has ended, or is longer than `max_bytes`, before the check is
/// made. A client may take its time with that, so have a read timeout in front. Memory per request
/// is bounded by twice `max_bytes`, while the data is gathered, and one frame, in however many
/// frames a body comes. Requests without a body do not wait.
///
/// A CONNECT request and an HTTP/1.1 request for an upgrade pass without being read: what
/// follows their head is a tunnel and not a body. An upgrade request that has a body by its
/// `content-length` or `transfer-encoding` is read like any other.
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
    settings: Settings,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    max_bytes: usize,
    allow_partial: bool,
}

impl CaptureBody {
    /// The most bytes that can be read of a body, 3 MiB: Agents accept messages of 4 MiB, which is
    /// gRPC's default, and the other attributes of a request need room too.
    pub const MAX_BYTES: usize = 3 * 1024 * 1024;

    /// Reads bodies of up to `max_bytes`; more than [`MAX_BYTES`](Self::MAX_BYTES) counts as
    /// that. With 0 no body is read and none is too large.
    #[must_use]
    pub const fn new(max_bytes: usize) -> Self {
        let max_bytes = if max_bytes > Self::MAX_BYTES {
            Self::MAX_BYTES
        } else {
            max_bytes
        };
        Self {
            settings: Settings {
                max_bytes,
                allow_partial: false,
            },
        }
    }

    /// Sets whether the beginning of a longer body is sent to policies, instead of rejecting the
    /// request; off by default.
    ///
    /// Policies tell a part from a whole by the header
    /// [`x-envoy-auth-partial-body`](crate::HttpAttributes::PARTIAL_BODY), which then is `true` or
    /// `false` for each body that was read. Beware that a client can hide a value from a
    /// classifier behind `max_bytes` of padding: a limiter by that value is skipped.
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

impl Settings {
    /// Returns true for a body that says beforehand that it is too long.
    fn refuses<B: Body>(self, request: &Request<B>) -> bool {
        let max = u64::try_from(self.max_bytes).unwrap_or(u64::MAX);
        let declared = content_length(request.headers()).unwrap_or(0);
        !self.allow_partial && declared.max(request.body().size_hint().lower()) > max
    }
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Returns true where the bytes after the head are those of a tunnel. HTTP/2 and HTTP/3 open
/// tunnels by CONNECT only (RFC 8441), and an upgrade is for HTTP/1.1 only (RFC 9110, section
/// 7.8), so a header `upgrade` elsewhere hides no body.
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

/// The service that [`CaptureBody`] makes.
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
    settings: Settings,
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
        let Settings {
            max_bytes,
            allow_partial,
        } = self.settings;
        let has_text = max_bytes > 0 && !request.body().is_end_stream() && !opens_tunnel(&request);
        let refused = has_text && self.settings.refuses(&request);
        if refused {
            request.extensions_mut().insert(Captured {
                data: Bytes::new(),
                is_partial: true,
                allow_partial,
            });
        }
        if refused || !has_text {
            return CaptureBodyFuture {
                state: State::Running {
                    inner: self.inner.call(request),
                },
            };
        }
        // The instance that said it is ready is the one to call later.
        let clone = self.inner.clone();
        CaptureBodyFuture {
            state: State::Reading {
                reading: Some(Reading {
                    inner: mem::replace(&mut self.inner, clone),
                    request,
                    recording: Recording::new(max_bytes),
                    allow_partial,
                }),
            },
        }
    }
}

pin_project! {
    /// The future of [`CaptureBodyService`]: reads, then runs the inner service.
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
        Reading { reading: Option<Reading<S, B>> },
        Running { #[pin] inner: S::Future },
    }
}

struct Reading<S, B: Body> {
    inner: S,
    request: Request<ReplayBody<B>>,
    recording: Recording,
    allow_partial: bool,
}

impl<S, B: Body<Data = Bytes> + Unpin> Reading<S, B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let body = self.request.body_mut();
        let Recorded { data, is_partial } = ready!(body.poll_record(&mut self.recording, cx));
        let captured = Captured {
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
                    let Some(mut read) = reading.take() else {
                        // A panic in the body left nothing to go on with.
                        panic!("`CaptureBodyFuture` polled after it panicked");
                    };
                    if read.poll(cx).is_pending() {
                        *reading = Some(read);
                        return Poll::Pending;
                    }
                    let inner = read.inner.call(read.request);
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
