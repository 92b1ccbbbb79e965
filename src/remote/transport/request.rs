//! One call on a connection: an HTTP/2 stream as the `Service` that tonic's client needs, for calls
//! that are compressed.

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

use super::connection::Lease;
use super::error::BoxError;

pub(in crate::remote) const USER_AGENT_VALUE: HeaderValue =
    HeaderValue::from_static(concat!("tower-aperture/", env!("CARGO_PKG_VERSION")));

/// Why a call ended without a response.
#[derive(Debug)]
pub(in crate::remote) struct CallError {
    /// The peer has certainly not processed the request: the request did not leave the process, or
    /// the peer reported so.
    pub(in crate::remote) unprocessed: bool,
    pub(super) error: BoxError,
}

impl CallError {
    pub(super) fn unsent(error: impl Into<BoxError>) -> Self {
        Self {
            unprocessed: true,
            error: error.into(),
        }
    }

    /// The peer may have processed the request.
    pub(super) fn broken(error: impl Into<BoxError>) -> Self {
        Self {
            unprocessed: false,
            error: error.into(),
        }
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call to the agent was interrupted")
    }
}

impl Error for CallError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.error)
    }
}

/// Carries one call on a leased stream. A second call fails.
pub(in crate::remote) struct StreamService {
    lease: Option<Lease>,
}

impl StreamService {
    pub(in crate::remote) const fn new(lease: Lease) -> Self {
        Self { lease: Some(lease) }
    }
}

impl Service<Request<Body>> for StreamService {
    type Response = Response<StreamBody>;
    type Error = CallError;
    type Future = CallFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> CallFuture {
        let Some(lease) = self.lease.take() else {
            return CallFuture::failed(CallError::unsent("the stream was already used for a call"));
        };
        let (mut head, body) = request.into_parts();
        head.headers.insert(USER_AGENT, USER_AGENT_VALUE);
        // `Grpc` has set scheme and authority. The extensions are local to this process.
        let mut request = Request::new(());
        *request.method_mut() = head.method;
        *request.uri_mut() = head.uri;
        *request.version_mut() = http::Version::HTTP_2;
        *request.headers_mut() = head.headers;
        let written = lease.connection().state.wire_stats.written();
        match lease.connection().sender().send_request(request, false) {
            Ok((response, send)) => CallFuture {
                state: Ok(Some(SentCall {
                    response,
                    outgoing: Some(OutgoingBody {
                        send,
                        body,
                        next: None,
                    }),
                    written,
                    lease,
                })),
            },
            Err(error) => CallFuture::failed(CallError::unsent(error)),
        }
    }
}

/// The future of a call. Dropping it resets the stream, which tells the peer to stop.
pub(in crate::remote) struct CallFuture {
    /// `None` once the call has ended.
    state: Result<Option<SentCall>, Option<CallError>>,
}

// Drop order: the streams first and the lease last, because the lease counts against the peer's
// limit.
struct SentCall {
    response: ResponseFuture,
    outgoing: Option<OutgoingBody>,
    /// The bytes written to the connection before the request.
    written: u64,
    lease: Lease,
}

struct OutgoingBody {
    send: SendStream<Bytes>,
    body: Body,
    /// Held back until it is known whether it is the last.
    next: Option<Bytes>,
}

impl CallFuture {
    const fn failed(error: CallError) -> Self {
        Self {
            state: Err(Some(error)),
        }
    }
}

impl Future for CallFuture {
    type Output = Result<Response<StreamBody>, CallError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = || CallError::broken("the call has ended");
        let state = match &mut self.state {
            Ok(state) => state,
            Err(error) => return Poll::Ready(Err(error.take().unwrap_or_else(ended))),
        };
        let Some(sent) = state else {
            return Poll::Ready(Err(ended()));
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
            response.map(|stream| StreamBody {
                stream,
                _lease: lease,
            })
        });
        Poll::Ready(answered)
    }
}

impl SentCall {
    fn error(&self, error: h2::Error) -> CallError {
        let wire_stats = &self.lease.connection().state.wire_stats;
        CallError {
            unprocessed: reports_unprocessed(&error) || wire_stats.written() == self.written,
            error: error.into(),
        }
    }
}

/// Returns `true` if the peer reports that it has not processed the request: it reset the stream
/// with REFUSED_STREAM, or it closes the connection and named a last stream before this one (RFC
/// 9113, sections 8.7 and 6.8).
pub(in crate::remote) fn reports_unprocessed(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    error.is_remote() && (refused || error.is_go_away())
}

impl OutgoingBody {
    /// Passes the whole body to the connection, which sends it as the peer's flow control allows.
    /// The body is one message, which the caller holds in memory anyway.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        loop {
            let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
            let next = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => Some(data),
                    // The body of a request has no trailers in gRPC.
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
                // The stream has ended. The response future returns the reason.
                return Poll::Ready(Ok(()));
            }
            if last {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

/// The body of a response. The stream stays in use until it is dropped.
pub(in crate::remote) struct StreamBody {
    stream: RecvStream,
    _lease: Option<Lease>,
}

impl http_body::Body for StreamBody {
    type Data = Bytes;
    type Error = CallError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CallError>>> {
        // The peer began to respond, so it has processed the request.
        let broken = |error: h2::Error| CallError::broken(error);
        match std::task::ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                // An error means that the stream has ended, which the next poll returns.
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
