//! A caller over HTTP/2 that reads as little of its answers as a test wants.

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

/// Only what hangs takes as long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const CHECK: &str = "/aperture.flowcontrol.check.v1.FlowControlService/";
pub(crate) const CHECK_HTTP: &str =
    "/aperture.flowcontrol.checkhttp.v1.FlowControlServiceHTTP/CheckHTTP";
pub(crate) const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// One connection.
pub(crate) struct Caller {
    pub(crate) send: SendRequest<Full<Bytes>>,
    base: String,
    connection: JoinHandle<()>,
}

impl Caller {
    /// Connects, and takes so many bytes of each answer that it does not read.
    pub(crate) async fn connect(served: &Served, window: u32) -> Self {
        let stream = TcpStream::connect(served.address).await;
        let stream = stream.expect("it listens");
        stream.set_nodelay(true).expect("a socket can be so");
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

    /// Asks; the head of the answer, or `None` when the connection is gone.
    pub(crate) async fn ask(
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

    /// Asks by gRPC and reads the answer: its code and its message.
    pub(crate) async fn call(&mut self, path: &str, message: Vec<u8>) -> (Code, Bytes) {
        let answer = self.ask("POST", path, grpc(&message)).await;
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
        let closed = tokio::time::timeout(PATIENCE, self.connection).await;
        closed.expect("it is closed").expect("no panic");
    }
}

pub(crate) fn code(headers: &http::HeaderMap) -> Option<Code> {
    let code = headers.get("grpc-status")?;
    Some(Code::from_bytes(code.as_bytes()))
}

/// A message as gRPC has it on the wire.
pub(crate) fn grpc(message: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).expect("a small message"));
    body.put_slice(message);
    body.freeze()
}

/// So many empty elements of a field, each two bytes.
pub(crate) fn empties(field: u8, number: usize) -> Vec<u8> {
    [field << 3 | 2, 0].repeat(number)
}

/// A field with bytes.
pub(crate) fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![number << 3 | 2];
    prost::encoding::encode_varint(bytes.len() as u64, &mut message);
    message.extend(bytes);
    message
}

/// A message as bytes.
pub(crate) fn bytes(message: &impl Message) -> Vec<u8> {
    message.encode_to_vec()
}
