//! A caller over HTTP/2 that reads only as much of its answers as a test wants.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::Code;

use crate::support::Served;

/// A timeout that only a call that hangs reaches.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) const SERVICE: &str = "/aperture.flowcontrol.check.v1.FlowControlService/";
pub(crate) const CHECK_HTTP: &str =
    "/aperture.flowcontrol.checkhttp.v1.FlowControlServiceHTTP/CheckHTTP";
pub(crate) const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// A caller with one connection.
pub(crate) struct Caller {
    pub(crate) send: SendRequest<Full<Bytes>>,
    base: String,
    connection: JoinHandle<()>,
}

impl Caller {
    /// Connects. The agent may send `window` bytes of each answer before the test reads it.
    pub(crate) async fn connect(served: &Served, window: u32) -> Self {
        let stream = TcpStream::connect(served.address).await;
        let stream = stream.expect("the agent listens");
        stream.set_nodelay(true).expect("TCP_NODELAY is set");
        let (send, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        Self {
            send,
            base: served.url(""),
            connection,
        }
    }

    /// Sends a request. Returns the response with its body unread, or `None` if the connection is
    /// closed.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        path: &str,
        body: Bytes,
    ) -> Option<http::Response<Incoming>> {
        let mut call = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        if method == "POST" {
            call = call
                .header("content-type", "application/grpc")
                .header("te", "trailers");
        }
        self.send.ready().await.ok()?;
        let call = call.body(Full::new(body)).expect("a call");
        self.send.send_request(call).await.ok()
    }

    /// Makes a gRPC call. Returns the status code and the message of the answer.
    pub(crate) async fn call(&mut self, path: &str, message: Vec<u8>) -> (Code, Bytes) {
        let answer = self.request("POST", path, grpc(&message)).await;
        let answer = answer.expect("an answer");
        let head = code(answer.headers());
        let body = answer.into_body().collect().await.expect("a whole answer");
        let rest = body.trailers().and_then(code);
        let bytes = body.to_bytes();
        let message = bytes.get(5..).unwrap_or_default();
        (
            head.or(rest).expect("a code"),
            Bytes::copy_from_slice(message),
        )
    }

    /// Waits until the agent has closed the connection.
    pub(crate) async fn closed(self) {
        let closed = tokio::time::timeout(TIMEOUT, self.connection).await;
        closed
            .expect("the agent closes the connection")
            .expect("no panic");
    }
}

pub(crate) fn code(headers: &http::HeaderMap) -> Option<Code> {
    let code = headers.get("grpc-status")?;
    Some(Code::from_bytes(code.as_bytes()))
}

/// Encodes an HTTP/2 frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Frames a message for gRPC.
pub(crate) fn grpc(message: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).expect("a small message"));
    body.put_slice(message);
    body.freeze()
}

/// Encodes `number` empty elements of a field, each of two bytes.
pub(crate) fn empty_elements(field: u8, number: usize) -> Vec<u8> {
    [field << 3 | 2, 0].repeat(number)
}

/// Encodes a field of bytes.
pub(crate) fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![number << 3 | 2];
    prost::encoding::encode_varint(bytes.len() as u64, &mut message);
    message.extend(bytes);
    message
}

/// Encodes a message.
pub(crate) fn bytes(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}
