//! Request bodies, whose memory is charged and whose time is limited, and response bodies, which
//! detect whether the caller read them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::delivery::DeliveryGuard;
use super::memory_budget::{Charge, MemoryKind, UnreadResponse};

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The time limit for the body of a call to arrive, from the first read.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(30);

pin_project! {
    /// The body of a request, charged to its call.
    pub(super) struct RequestBody<B> {
        #[pin]
        body: B,
        charge: Charge,
        // Created only for calls that do not arrive in one piece.
        timeout: Option<Pin<Box<Sleep>>>,
    }
}

impl<B> RequestBody<B> {
    pub(super) fn new(body: B, charge: &Charge) -> Self {
        Self {
            body,
            charge: charge.clone(),
            timeout: None,
        }
    }
}

impl<B> Body for RequestBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.project();
        let Poll::Ready(frame) = this.body.poll_frame(cx) else {
            let timeout = this
                .timeout
                .get_or_insert_with(|| Box::pin(sleep(RECEIVE_TIMEOUT)));
            ready!(timeout.as_mut().poll(cx));
            let status = Status::deadline_exceeded("the call took too long to arrive");
            return Poll::Ready(Some(Err(status.into())));
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                match this.charge.take(MemoryKind::Incoming, bytes) {
                    Ok(()) => Some(Ok(frame)),
                    Err(status) => Some(Err(status.into())),
                }
            }
            Some(Err(error)) => Some(Err(error.into())),
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project! {
    /// The body of a response.
    ///
    /// When it is dropped before its end, the slots that the response grants are returned.
    ///
    /// ```
    /// use http_body_util::{BodyExt, Empty};
    /// use tower_aperture::Engine;
    /// use tower_aperture_agent::{Agent, AgentBody, ResponseFuture};
    /// use tower_service::Service;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let agent = Agent::builder(Engine::builder().build()?).build();
    /// let call = http::Request::get("/health").body(Empty::<bytes::Bytes>::new())?;
    /// let response: ResponseFuture = agent.service().call(call);
    /// let body: AgentBody = response.await?.into_body();
    /// assert_eq!(body.collect().await?.to_bytes(), "serving\n");
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// # }).unwrap();
    /// ```
    pub struct AgentBody {
        #[pin]
        kind: Kind,
        delivery: Option<DeliveryGuard>,
        // `None` until the charge is set.
        charge: Option<Arc<ResponseCharge>>,
    }
}

/// The memory that a response holds, until its last frame is written or dropped.
struct ResponseCharge {
    charge: Charge,
    /// `None` for a streaming body, which may stay open; its frames are counted one by one.
    unread: Option<UnreadResponse>,
}

impl ResponseCharge {
    /// Returns the frame with a share of the charge, which it holds until the connection has
    /// written it.
    fn frame(self: &Arc<Self>, frame: Frame<Bytes>) -> Frame<Bytes> {
        let charge = match &self.unread {
            Some(_) => Arc::clone(self),
            None => Arc::new(Self {
                charge: self.charge.clone(),
                unread: Some(self.charge.count_unread()),
            }),
        };
        frame.map_data(|bytes| {
            Bytes::from_owner(ChargedFrame {
                bytes,
                _charge: charge,
            })
        })
    }
}

/// Bytes of a frame that the connection has not written yet.
struct ChargedFrame {
    bytes: Bytes,
    _charge: Arc<ResponseCharge>,
}

impl AsRef<[u8]> for ChargedFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The message of a unary response, which is its only frame with bytes and so the only one that is
/// charged.
struct ChargedMessage {
    bytes: Vec<u8>,
    _charge: ResponseCharge,
}

impl AsRef<[u8]> for ChargedMessage {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pin_project! {
    #[project = KindProjection]
    enum Kind {
        // A unary gRPC response, whose status comes last.
        Message { message: Option<ChargedMessage>, ended: bool },
        Grpc { #[pin] body: tonic::body::Body },
        Json { #[pin] body: axum::body::Body },
    }
}

impl AgentBody {
    /// Creates the body of a unary response from its framed message, and starts the time for
    /// reading it.
    pub(super) fn message(framed: Vec<u8>, charge: Charge) -> Self {
        let unread = Some(charge.count_unread());
        let message = ChargedMessage {
            bytes: framed,
            _charge: ResponseCharge { charge, unread },
        };
        Self::new(Kind::Message {
            message: Some(message),
            ended: false,
        })
    }

    pub(super) fn grpc(body: tonic::body::Body) -> Self {
        Self::new(Kind::Grpc { body })
    }

    pub(super) fn json(body: axum::body::Body) -> Self {
        Self::new(Kind::Json { body })
    }

    fn new(kind: Kind) -> Self {
        Self {
            kind,
            delivery: None,
            charge: None,
        }
    }

    /// Sets the grant of the response, which is returned when the body is dropped before its end.
    pub(super) fn with_delivery(mut self, delivery: Option<DeliveryGuard>) -> Self {
        self.delivery = delivery;
        self
    }

    /// Sets the charge of the response, which lasts until the caller has read it, and starts the
    /// time for reading. A `streaming` body may stay open and has that time for each frame.
    pub(super) fn with_charge(mut self, charge: &Charge, streaming: bool) -> Self {
        self.charge = Some(Arc::new(ResponseCharge {
            charge: charge.clone(),
            unread: (!streaming).then(|| charge.count_unread()),
        }));
        self
    }
}

impl Body for AgentBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        let frame = match this.kind.as_mut().project() {
            KindProjection::Message { message, ended } => match message.take() {
                Some(message) => Some(Ok(Frame::data(Bytes::from_owner(message)))),
                None if *ended => None,
                None => {
                    *ended = true;
                    Some(Ok(Frame::trailers(ok_status())))
                }
            },
            KindProjection::Grpc { body } => {
                ready!(body.poll_frame(cx)).map(|frame| frame.map_err(BoxError::from))
            }
            KindProjection::Json { body } => {
                ready!(body.poll_frame(cx)).map(|frame| frame.map_err(BoxError::from))
            }
        };
        let ended = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || this.kind.is_end_stream(),
            Some(Err(_)) => false,
        };
        if ended && let Some(delivery) = this.delivery.take() {
            delivery.complete();
        }
        Poll::Ready(match (frame, &*this.charge) {
            (Some(Ok(frame)), Some(charge)) => Some(Ok(charge.frame(frame))),
            (frame, _) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.delivery.is_none() && self.kind.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            // An exact size would make a `content-length`, which gRPC does not have.
            Kind::Message { .. } => SizeHint::new(),
            Kind::Grpc { body } => body.size_hint(),
            Kind::Json { body } => body.size_hint(),
        }
    }
}

/// Returns the trailers of a response that is not an error.
fn ok_status() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

impl Kind {
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Message { ended, .. } => *ended,
            Self::Grpc { body } => body.is_end_stream(),
            Self::Json { body } => body.is_end_stream(),
        }
    }
}

impl fmt::Debug for AgentBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentBody").finish_non_exhaustive()
    }
}
