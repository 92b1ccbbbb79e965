use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::ReplayBody;

/// What was read of a body, as text, for the layer behind.
#[derive(Clone)]
pub(super) struct Captured(pub(super) String);

/// Reads the beginning of request bodies for an [`ApertureLayer::http`](crate::ApertureLayer::http)
/// behind it, for policies whose classifiers look into bodies.
///
/// Up to `max_bytes` of the body go out as text; of a longer body that is its beginning, up to a
/// whole character, and of one that is not UTF-8 nothing. The inner service gets the whole body,
/// frame by frame as it came, with its trailers and errors; its type becomes [`ReplayBody`], which
/// axum and tonic take as any other.
///
/// **A request waits** until its body is over or `max_bytes` of it have come, before anything is
/// asked; a client may take its time with that, so have a read timeout in front. What has come in
/// one frame is kept, so memory per request is `max_bytes` and one frame more. Requests without a
/// body wait for nothing.
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
    max_bytes: usize,
}

impl CaptureBody {
    /// Reads up to `max_bytes` of each body.
    #[must_use]
    pub const fn new(max_bytes: usize) -> Self {
        Self { max_bytes }
    }
}

impl<S> Layer<S> for CaptureBody {
    type Service = CaptureBodyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        CaptureBodyService {
            inner,
            max_bytes: self.max_bytes,
        }
    }
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
    max_bytes: usize,
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
        let request = request.map(ReplayBody::new);
        if self.max_bytes == 0 || request.body().is_end_stream() {
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
                    text: Vec::new(),
                    left: self.max_bytes,
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
    text: Vec<u8>,
    left: usize,
}

impl<S, B: Body<Data = Bytes> + Unpin> Reading<S, B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.left > 0 {
            let Some(frame) = ready!(self.request.body_mut().poll_ahead(cx)) else {
                break;
            };
            if let Some(data) = frame.as_ref().ok().and_then(|frame| frame.data_ref()) {
                let taken = data.len().min(self.left);
                self.text.extend_from_slice(&data[..taken]);
                self.left -= taken;
            }
        }
        Poll::Ready(())
    }

    /// What was read, as far as it is text.
    fn captured(&mut self) -> Option<Captured> {
        let mut text = mem::take(&mut self.text);
        if let Err(error) = str::from_utf8(&text)
            && error.error_len().is_none()
            && self.left == 0
        {
            // Cut within a character.
            text.truncate(error.valid_up_to());
        }
        let text = String::from_utf8(text).ok()?;
        (!text.is_empty()).then_some(Captured(text))
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
                    if let Some(captured) = read.captured() {
                        read.request.extensions_mut().insert(captured);
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
