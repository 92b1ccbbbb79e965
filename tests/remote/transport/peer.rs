//! Peers that misbehave: they answer late, reset streams, close connections or delay bytes.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// An HTTP/2 peer that answers when the test wants, and ignores `grpc-timeout`.
pub(super) struct SlowPeer {
    address: SocketAddr,
    calls: mpsc::UnboundedReceiver<Held>,
}

/// A call that waits for its answer.
pub(super) struct Held {
    pub(super) timeout: Option<HeaderValue>,
    respond: SendResponse<Bytes>,
    _body: h2::RecvStream,
}

impl SlowPeer {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (held, calls) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let held = held.clone();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        let (head, body) = request.into_parts();
                        let _ = held.send(Held {
                            timeout: head.headers.get("grpc-timeout").cloned(),
                            respond,
                            _body: body,
                        });
                    }
                });
            }
        });
        Self { address, calls }
    }

    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(super) async fn next(&mut self) -> Held {
        self.calls.recv().await.expect("a call")
    }
}

impl Held {
    pub(super) fn answer(mut self, message: &impl Message) {
        let mut response = Response::new(());
        let grpc = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert("content-type", grpc);
        let Ok(mut stream) = self.respond.send_response(response, false) else {
            return; // The client has cancelled the call.
        };
        let mut data = BytesMut::new();
        data.put_u8(0);
        data.put_u32(u32::try_from(message.encoded_len()).expect("small"));
        message.encode(&mut data).expect("room");
        let _ = stream.send_data(data.freeze(), false);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let _ = stream.send_trailers(trailers);
    }
}

/// How a [`RawPeer`] answers the first request of its first connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// RST_STREAM with this error code.
    Reset(u8),
    /// GOAWAY with this last stream and error code, then the end of the connection.
    GoAway(u8, u8),
    /// The end of the connection.
    Close,
}

/// Misbehaves on its first connection and forwards later connections to an Agent.
pub(super) struct RawPeer {
    address: SocketAddr,
    /// Gets a message for each request of the first connection.
    pub(super) requests: mpsc::UnboundedReceiver<()>,
}

impl RawPeer {
    pub(super) async fn start(fault: Fault, then: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (seen, requests) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.expect("a connection");
            tokio::spawn(misbehave(stream, fault, seen));
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass_on(stream, then.clone()));
            }
        });
        Self { address, requests }
    }

    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }
}

async fn pass_on(mut stream: TcpStream, to: String) {
    let mut agent = TcpStream::connect(to).await.expect("the agent");
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut agent).await;
}

/// Implements just enough HTTP/2 (RFC 9113, section 4.1) to get a request, then the fault.
async fn misbehave(mut stream: TcpStream, fault: Fault, seen: mpsc::UnboundedSender<()>) {
    const HEADERS: u8 = 1;
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.expect("the preface");
    stream.write_all(&SETTINGS).await.expect("settings");
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let len = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload).await.expect("a frame");
        if head[3] != HEADERS {
            continue;
        }
        let _ = seen.send(());
        let id = [head[5], head[6], head[7], head[8]];
        match fault {
            Fault::Reset(code) => {
                let mut frame = vec![0, 0, 4, 3, 0];
                frame.extend_from_slice(&id);
                frame.extend_from_slice(&[0, 0, 0, code]);
                stream.write_all(&frame).await.expect("a reset");
            }
            Fault::GoAway(last, code) => {
                let frame = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last, 0, 0, 0, code];
                stream.write_all(&frame).await.expect("GOAWAY");
                // Unread bytes would turn the close into a reset of the connection.
                let _ = stream.shutdown().await;
                let _ = stream.read_to_end(&mut payload).await;
                return;
            }
            Fault::Close => return,
        }
    }
}
