//! Bodies: what comes in costs a bounded amount, what goes out is seen to have gone.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tonic::Status;

use super::budget::{Charge, Line, Untaken};
use super::delivery::Delivery;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a call may take to come in, once it has begun.
const ARRIVES_WITHIN: Duration = Duration::from_secs(30);

pin_project! {
    /// What comes in.
    pub(super) struct Inbound<B> {
        #[pin]
        body: B,
        charge: Charge,
        // Made for calls that do not come in one piece.
        late: Option<Pin<Box<Sleep>>>,
    }
}

impl<B> Inbound<B> {
    pub(super) fn new(body: B, charge: &Charge) -> Self {
        Self {
            body,
            charge: charge.clone(),
            late: None,
        }
    }
}

impl<B> Body for Inbound<B>
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
            let late = this
                .late
                .get_or_insert_with(|| Box::pin(sleep(ARRIVES_WITHIN)));
            ready!(late.as_mut().poll(cx));
            let refusal = Status::deadline_exceeded("the call took too long to come in");
            return Poll::Ready(Some(Err(refusal.into())));
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                match this.charge.take(Line::Incoming, bytes) {
                    Ok(()) => Some(Ok(frame)),
                    Err(refusal) => Some(Err(refusal.into())),
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
    /// The body of an answer.
    ///
    /// What the answer grants is given back when it is dropped before its end.
    ///
    /// ```
    /// use http_body_util::{BodyExt, Empty};
    /// use tower_aperture::Engine;
    /// use tower_aperture::agent::{Agent, AgentBody, Answering};
    /// use tower_service::Service;
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// let agent = Agent::builder(Engine::builder().build()?).build();
    /// let call = http::Request::get("/health").body(Empty::<bytes::Bytes>::new())?;
    /// let answer: Answering = agent.service().call(call);
    /// let body: AgentBody = answer.await?.into_body();
    /// assert_eq!(body.collect().await?.to_bytes(), "serving\n");
    /// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
    /// # }).unwrap();
    /// ```
    pub struct AgentBody {
        #[pin]
        kind: Kind,
        delivery: Option<Delivery>,
        // `None` when the answer is over, or was refused before it was charged.
        held: Option<Arc<Held>>,
    }
}

/// What an answer takes of the budget, until its last frame is written or dropped.
struct Held {
    charge: Charge,
    /// `None` of a body that goes on for as long as its caller likes, whose frames have their own.
    untaken: Option<Untaken>,
}

impl Held {
    /// Has a frame hold its share until the connection has written it.
    fn frame(self: &Arc<Self>, frame: Frame<Bytes>) -> Frame<Bytes> {
        let held = match &self.untaken {
            Some(_) => Arc::clone(self),
            None => Arc::new(Self {
                charge: self.charge.clone(),
                untaken: Some(self.charge.untaken()),
            }),
        };
        frame.map_data(|bytes| Bytes::from_owner(HeldFrame { bytes, _held: held }))
    }
}

/// Bytes that are on their way out.
struct HeldFrame {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for HeldFrame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pin_project! {
    #[project = KindOf]
    enum Kind {
        Grpc { #[pin] body: tonic::body::Body },
        Json { #[pin] body: axum::body::Body },
    }
}

impl AgentBody {
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
            held: None,
        }
    }

    /// The answer carries what it granted, and gives it back when it is dropped before its end.
    pub(super) fn delivers(mut self, delivery: Option<Delivery>) -> Self {
        self.delivery = delivery;
        self
    }

    /// The answer holds its share of the budget until the caller has taken it, for which the time
    /// begins now. An `endless` one may stay open, and has that time for each of its frames.
    pub(super) fn charged(mut self, charge: &Charge, endless: bool) -> Self {
        self.held = Some(Arc::new(Held {
            charge: charge.clone(),
            untaken: (!endless).then(|| charge.untaken()),
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
            KindOf::Grpc { body } => {
                ready!(body.poll_frame(cx)).map(|frame| frame.map_err(BoxError::from))
            }
            KindOf::Json { body } => {
                ready!(body.poll_frame(cx)).map(|frame| frame.map_err(BoxError::from))
            }
        };
        let over = match &frame {
            None => true,
            Some(Ok(frame)) => frame.is_trailers() || this.kind.is_over(),
            Some(Err(_)) => false,
        };
        if over && let Some(delivery) = this.delivery.take() {
            delivery.done();
        }
        Poll::Ready(match (frame, &*this.held) {
            (Some(Ok(frame)), Some(held)) => Some(Ok(held.frame(frame))),
            (frame, _) => frame,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.delivery.is_none() && self.kind.is_over()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Grpc { body } => body.size_hint(),
            Kind::Json { body } => body.size_hint(),
        }
    }
}

impl Kind {
    fn is_over(&self) -> bool {
        match self {
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
