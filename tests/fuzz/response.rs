//! Passes arbitrary bytes to the client as the response to a check.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tower_aperture::pb::check::CheckResponse;
use tower_aperture::{ApertureClient, FlowDecision, FlowParams};

/// The length of the prefix of a message: a flag and the length.
const PREFIX_LEN: usize = 5;

static PEER: LazyLock<Mutex<Peer>> = LazyLock::new(Mutex::default);

/// A client and the server that it calls, in one runtime.
struct Peer {
    runtime: Runtime,
    client: ApertureClient,
    /// The frames of data of the next response.
    frames: Arc<Mutex<Vec<Bytes>>>,
}

impl Default for Peer {
    fn default() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let frames: Arc<Mutex<Vec<Bytes>>> = Arc::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        runtime.spawn(serve(listener, Arc::clone(&frames)));
        let client = ApertureClient::builder()
            .address(address.to_string())
            .insecure(true)
            .check_timeout(Duration::from_secs(60))
            .breaker(0, Duration::from_secs(60))
            .telemetry(false)
            .build()
            .expect("a client");
        Self {
            runtime,
            client,
            frames,
        }
    }
}

async fn serve(listener: TcpListener, frames: Arc<Mutex<Vec<Bytes>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let frames = Arc::clone(&frames);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let response = Response::builder().header("content-type", "application/grpc");
                let response = response.body(()).expect("a response");
                let mut stream = respond.send_response(response, false).expect("a stream");
                // A flow that is granted a slot also sends its end.
                if request.uri().path().ends_with("/Check") {
                    let mut frames = frames.lock().unwrap_or_else(PoisonError::into_inner);
                    for frame in frames.drain(..) {
                        stream.send_data(frame, false).expect("an open stream");
                    }
                }
                let ok = HeaderValue::from_static("0");
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", ok);
                stream.send_trailers(trailers).expect("an open stream");
            }
        });
    }
}

/// Starts a flow whose check gets this response. The data is the size of its frames minus 1, and the
/// body.
pub fn response(data: &[u8]) {
    let Some((size, body)) = data.split_first() else {
        return;
    };
    let peer = PEER.lock().unwrap_or_else(PoisonError::into_inner);
    let frames = body.chunks(usize::from(*size) + 1);
    *peer.frames.lock().expect("no panic") = frames.map(Bytes::copy_from_slice).collect();
    let flow = peer
        .runtime
        .block_on(peer.client.start_flow("fuzz", FlowParams::new()));

    let Some(message) = message(body) else {
        assert_eq!(flow.decision(), FlowDecision::Unreachable, "no message");
        return;
    };
    if has_a_malformed_map(message) {
        return;
    }
    // If the whole message does not decode, a part of it may be all that the client reads.
    if let Ok(expected) = CheckResponse::decode(message) {
        let decision = match expected.decision_type {
            0 => FlowDecision::Accepted,
            _ => FlowDecision::Rejected,
        };
        assert_eq!(flow.decision(), decision);
        let decoded = flow.check_response().map(Cow::into_owned);
        assert_eq!(decoded, Some(expected));
    }
}

/// Returns the message of a body that is exactly one uncompressed message.
fn message(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_at_checked(PREFIX_LEN)?;
    let [flag, len @ ..] = prefix else {
        return None;
    };
    let len = u32::from_be_bytes(len.try_into().ok()?);
    (*flag == 0 && usize::try_from(len) == Ok(message.len())).then_some(message)
}

/// Returns true if `telemetry_flow_labels` has another wire type than a map.
///
/// Prost reads such a field as a map nevertheless, so that it also disagrees about the fields behind
/// it.
fn has_a_malformed_map(mut message: &[u8]) -> bool {
    while let Ok((tag, wire_type)) = decode_key(&mut message) {
        if tag == 7 && wire_type != WireType::LengthDelimited {
            return true;
        }
        if skip_field(wire_type, tag, &mut message, DecodeContext::default()).is_err() {
            break;
        }
    }
    false
}
