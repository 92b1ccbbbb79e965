//! One call on a connection: an HTTP/2 stream as the service that tonic's client needs.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use tonic::body::Body;
use tower_service::Service;

use super::BoxError;
use super::connection::Lease;

const THIS_CLIENT: HeaderValue =
    HeaderValue::from_static(concat!("tower-aperture/", env!("CARGO_PKG_VERSION")));

/// Why a call ended without an answer.
#[derive(Debug)]
pub(in crate::remote) struct CallError {
    /// The peer has certainly not processed the request: it did not leave the process, or the peer
    /// said so.
    pub(in crate::remote) unprocessed: bool,
    error: BoxError,
}

impl CallError {
    fn unsent(error: impl Into<BoxError>) -> Self {
        Self {
            unprocessed: true,
            error: error.into(),
        }
    }

    /// The peer may have acted on the request.
    fn broken(error: impl Into<BoxError>) -> Self {
        Self {
            unprocessed: false,
            error: error.into(),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call to the agent broke off")
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.error)
    }
}

/// Carries one call on a stream that is taken already. A second one fails.
pub(in crate::remote) struct Exchange {
    lease: Option<Lease>,
}

impl Exchange {
    pub(in crate::remote) const fn new(lease: Lease) -> Self {
        Self { lease: Some(lease) }
    }
}

impl Service<Request<Body>> for Exchange {
    type Response = Response<Answer>;
    type Error = CallError;
    type Future = Calling;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Calling {
        let Some(lease) = self.lease.take() else {
            return Calling::failed(CallError::unsent("the stream has carried a call already"));
        };
        let (mut head, body) = request.into_parts();
        head.headers.insert(USER_AGENT, THIS_CLIENT);
        // `Grpc` set scheme and authority. The extensions are the caller's own.
        let mut request = Request::new(());
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = head.headers;
        let written = lease.connection().state.wire.written();
        match lease.connection().sender().send_request(request, false) {
            Ok((response, send)) => Calling {
                state: Ok(Some(Sent {
                    response,
                    outgoing: Some(Outgoing {
                        send,
                        body,
                        next: None,
                    }),
                    written,
                    lease,
                })),
            },
            Err(error) => Calling::failed(CallError::unsent(error)),
        }
    }
}

/// A call on its way. Dropped, it resets the stream, which tells the peer to stop.
pub(in crate::remote) struct Calling {
    /// `None` once it is over.
    state: Result<Option<Sent>, Option<CallError>>,
}

// The streams go first and the lease last: it is the stream's place among those allowed.
struct Sent {
    response: ResponseFuture,
    outgoing: Option<Outgoing>,
    /// The bytes that had left the process when the request was made.
    written: u64,
    lease: Lease,
}

struct Outgoing {
    send: SendStream<Bytes>,
    body: Body,
    /// Held back until it is clear whether it is the last.
    next: Option<Bytes>,
}

impl Calling {
    const fn failed(error: CallError) -> Self {
        Self {
            state: Err(Some(error)),
        }
    }
}

impl Future for Calling {
    type Output = Result<Response<Answer>, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let over = || CallError::broken("the call is over");
        let state = match &mut self.state {
            Ok(state) => state,
            Err(error) => return Poll::Ready(Err(error.take().unwrap_or_else(over))),
        };
        let Some(sent) = state else {
            return Poll::Ready(Err(over()));
        };
        if let Some(outgoing) = &mut sent.outgoing {
            match outgoing.poll(cx) {
                Poll::Ready(Ok(())) => sent.outgoing = None,
                Poll::Ready(Err(error)) => {
                    *state = None;
                    return Poll::Ready(Err(error));
                }
                Poll::Pending => {}
            }
        }
        let answer = std::task::ready!(Pin::new(&mut sent.response).poll(cx));
        let answer = answer.map_err(|error| sent.error(error));
        let lease = state.take().map(|sent| sent.lease);
        let answered = answer.map(|response| {
            response.map(|stream| Answer {
                stream,
                _lease: lease,
            })
        });
        Poll::Ready(answered)
    }
}

impl Sent {
    fn error(&self, error: h2::Error) -> CallError {
        let wire = &self.lease.connection().state.wire;
        CallError {
            unprocessed: is_refusal(&error) || wire.written() == self.written,
            error: error.into(),
        }
    }
}

/// Tells whether the peer says that it has not processed the request: it reset the stream as
/// REFUSED_STREAM, or it closes the connection and named a last stream before this one (RFC 9113,
/// sections 8.7 and 6.8).
pub(in crate::remote) fn is_refusal(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

impl Outgoing {
    /// Hands the whole body to the connection, which sends it as the peer allows. It is one
    /// message, which the caller holds in memory anyway.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        loop {
            let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
            let next = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Some(data),
                    // A client's body has no trailers.
                    Err(_) => continue,
                },
                Some(Err(status)) => return Poll::Ready(Err(CallError::broken(status))),
                None => None,
            };
            let last = next.is_none();
            let held = match next {
                Some(data) => self.next.replace(data),
                None => Some(self.next.take().unwrap_or_default()),
            };
            if let Some(data) = held
                && self.send.send_data(data, last).is_err()
            {
                // The stream is over; its answer says why.
                return Poll::Ready(Ok(()));
            }
            if last {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// The body of an answer. The stream is in use until it drops.
pub(in crate::remote) struct Answer {
    stream: RecvStream,
    _lease: Option<Lease>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        // The peer began to answer, so it has seen the request.
        let broken = |error: h2::Error| CallError::broken(error);
        match std::task::ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // An error means that the stream is over, which the next call tells.
                let _ = self.stream.flow_control().release_capacity(data.len());
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(broken(error)))),
            None => {
                let trailers = std::task::ready!(self.stream.poll_trailers(cx));
                let frame = trailers.map_err(broken).transpose();
                Poll::Ready(frame.map(|trailers| trailers.map(Frame::trailers)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}
