//! A body that follows a script, also a hostile one.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Body, Frame, SizeHint};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug)]
pub enum Step {
    Data(&'static str),
    Bytes(Bytes),
    Trailers(HeaderMap),
    Error,
    /// Stays pending without a wake-up.
    Hang,
    Panic,
    /// Returns `None`, although further steps may follow.
    None,
}

/// A body that follows its script and then ends.
#[derive(Debug, Default)]
pub struct Script {
    steps: VecDeque<Step>,
    hint: Option<u64>,
    /// Whether `is_end_stream` returns true after the last step.
    knows_its_end: bool,
}

impl Script {
    pub fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            ..Self::default()
        }
    }

    pub fn hint(mut self, exact: u64) -> Self {
        self.hint = Some(exact);
        self
    }

    pub fn knowing_its_end(mut self) -> Self {
        self.knows_its_end = true;
        self
    }
}

pub fn grpc_status(code: &'static str) -> HeaderMap {
    let header = (
        HeaderName::from_static("grpc-status"),
        HeaderValue::from_static(code),
    );
    HeaderMap::from_iter([header])
}

impl Body for Script {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(Step::Hang) = self.steps.front() {
            return Poll::Pending;
        }
        Poll::Ready(match self.steps.pop_front() {
            Some(Step::Data(data)) => Some(Ok(Frame::data(Bytes::from_static(data.as_bytes())))),
            Some(Step::Bytes(data)) => Some(Ok(Frame::data(data))),
            Some(Step::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Some(Step::Error) => Some(Err("the body broke".into())),
            Some(Step::Panic) => panic!("the body panicked, as its script demands"),
            Some(Step::None | Step::Hang) | None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.knows_its_end && self.steps.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}
