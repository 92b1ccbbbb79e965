//! Responses of any form: the client takes a decision out of them, or ends the check with an error of
//! the same kind as tonic's client.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{BufMut, Bytes};
use http::{HeaderMap, Response};
use prost::Message;
use tokio::net::TcpListener;
use tonic::transport::Endpoint;
use tower_aperture::pb::check::CheckResponse;
use tower_aperture::pb::check::check_response::{DecisionType, RejectReason};
use tower_aperture::{
    ApertureClient, FlowDecision, FlowError, FlowErrorKind, FlowParams, RejectReason as Reason,
};

use super::builder;

/// A response that is sent frame by frame.
#[derive(Clone, Debug, Default)]
struct Script {
    status: u16,
    headers: Vec<(&'static str, &'static [u8])>,
    data: Vec<Bytes>,
    trailers: Vec<(&'static str, &'static [u8])>,
    end: End,
}

/// The end of a response.
#[derive(Clone, Copy, Debug, Default)]
enum End {
    /// The trailers, or the last frame of data if there are none.
    #[default]
    Stream,
    /// RST_STREAM with this error code.
    Reset(h2::Reason),
}

impl Script {
    /// A response with these frames of data and the status `OK`.
    fn new(data: impl IntoIterator<Item = Vec<u8>>) -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", b"application/grpc")],
            data: data.into_iter().map(Bytes::from).collect(),
            trailers: vec![("grpc-status", b"0")],
            end: End::Stream,
        }
    }

    fn status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    fn header(mut self, name: &'static str, value: &'static [u8]) -> Self {
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value));
        self
    }

    fn trailers<const N: usize>(mut self, trailers: [(&'static str, &'static [u8]); N]) -> Self {
        self.trailers = trailers.into();
        self
    }

    fn reset(mut self, reason: h2::Reason) -> Self {
        self.end = End::Reset(reason);
        self
    }
}

/// A server that sends scripted responses, one to each call.
struct ScriptedPeer {
    address: SocketAddr,
    scripts: Arc<Mutex<VecDeque<Script>>>,
}

impl ScriptedPeer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let scripts: Arc<Mutex<VecDeque<Script>>> = Arc::default();
        let queue = Arc::clone(&scripts);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let queue = Arc::clone(&queue);
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.expect("HTTP/2");
                    while let Some(Ok((_, respond))) = connection.accept().await {
                        let script = queue.lock().expect("no panic").pop_front();
                        tokio::spawn(respond_with(respond, script.expect("a script")));
                    }
                });
            }
        });
        Self { address, scripts }
    }

    /// Starts a flow whose check gets this response. Returns the decision and the kind of the error.
    async fn decide(
        &self,
        client: &ApertureClient,
        script: &Script,
    ) -> (FlowDecision, Option<FlowErrorKind>) {
        self.scripts
            .lock()
            .expect("no panic")
            .push_back(script.clone());
        let flow = client.start_flow("checkout", FlowParams::new()).await;
        (flow.decision(), flow.error().map(FlowError::kind))
    }
}

async fn respond_with(mut respond: h2::server::SendResponse<Bytes>, script: Script) {
    let mut response = Response::builder().status(script.status);
    for (name, value) in &script.headers {
        response = response.header(*name, *value);
    }
    let response = response.body(()).expect("a response");
    let trailers = script.trailers.iter().map(|(name, value)| {
        let value = http::HeaderValue::from_bytes(value).expect("a value");
        (http::HeaderName::from_static(name), value)
    });
    let trailers: HeaderMap = trailers.collect();
    let resets = matches!(script.end, End::Reset(_));
    let ends_in_head = script.data.is_empty() && trailers.is_empty() && !resets;
    // The client may have reset the stream, or closed the connection.
    let Ok(mut stream) = respond.send_response(response, ends_in_head) else {
        return;
    };
    let last = script.data.len();
    for (index, data) in script.data.into_iter().enumerate() {
        let ends = index + 1 == last && trailers.is_empty() && !resets;
        if stream.send_data(data, ends).is_err() {
            return;
        }
        // Each frame of data is sent on its own.
        tokio::task::yield_now().await;
    }
    if !trailers.is_empty() {
        let _ = stream.send_trailers(trailers);
    } else if let End::Reset(reason) = script.end {
        // The frames before it are written first.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        stream.send_reset(reason);
    }
}

/// A message with its prefix on a gRPC stream.
fn framed(flag: u8, len: u32, message: &[u8]) -> Vec<u8> {
    let mut framed = vec![flag];
    framed.put_u32(len);
    framed.extend_from_slice(message);
    framed
}

fn rejection() -> Vec<u8> {
    let response = CheckResponse {
        decision_type: DecisionType::Rejected as i32,
        reject_reason: RejectReason::NoTokens as i32,
        control_point: "checkout".to_owned(),
        ..CheckResponse::default()
    };
    let message = response.encode_to_vec();
    framed(0, u32::try_from(message.len()).expect("small"), &message)
}

/// Returns a client with its own connections and one over a channel of tonic.
async fn clients(peer: &ScriptedPeer) -> [ApertureClient; 2] {
    let own = builder([peer.address.to_string()])
        .breaker(0, std::time::Duration::from_secs(60))
        .build()
        .expect("a client");
    let endpoint = Endpoint::from_shared(format!("http://{}", peer.address)).expect("an address");
    let channel = endpoint.connect().await.expect("the peer listens");
    let over_tonic = ApertureClient::builder()
        .channel(channel)
        .breaker(0, std::time::Duration::from_secs(60))
        .check_timeout(super::LONG)
        .telemetry(false)
        .build()
        .expect("a client");
    [own, over_tonic]
}

/// Asserts that both clients end a check in this way.
async fn assert_ends(cases: Vec<(&str, Script, Result<FlowDecision, FlowErrorKind>)>) {
    let peer = ScriptedPeer::start().await;
    let clients = clients(&peer).await;
    for (name, script, expected) in cases {
        let expected = match expected {
            Ok(decision) => (decision, None),
            Err(kind) => (FlowDecision::Unreachable, Some(kind)),
        };
        for (client, is_tonic) in clients.iter().zip([false, true]) {
            let end = peer.decide(client, &script).await;
            assert_eq!(end, expected, "{name}, over a channel of tonic: {is_tonic}");
        }
    }
}

#[tokio::test]
async fn a_decision_is_read_whatever_the_frames_of_the_response() {
    let message = rejection();
    let rejected = Ok(FlowDecision::Rejected);
    let one_by_one = message.iter().map(|byte| vec![*byte]);
    let (prefix, content) = message.split_at(5);
    let unread = CheckResponse {
        control_point: "x".repeat(300_000),
        ..CheckResponse::decode(content).expect("a response")
    };
    let unread = unread.encode_to_vec();
    let large = framed(0, u32::try_from(unread.len()).expect("small"), &unread);
    let padded = message.iter().flat_map(|byte| [vec![*byte], vec![]]);
    assert_ends(vec![
        ("one frame", Script::new([message.clone()]), rejected),
        ("a frame for each byte", Script::new(one_by_one), rejected),
        (
            "empty frames between the bytes",
            Script::new(padded.take(20).chain([message[10..].to_vec()])),
            rejected,
        ),
        (
            "the prefix first",
            Script::new([prefix.to_vec(), content.to_vec()]),
            rejected,
        ),
        ("many frames", Script::new([large]), rejected),
        (
            "an empty message, which accepts",
            Script::new([framed(0, 0, b"")]),
            Ok(FlowDecision::Accepted),
        ),
        (
            "another content type",
            Script::new([message.clone()]).header("content-type", b"text/html"),
            rejected,
        ),
        (
            "the status in the head as well",
            Script::new([message.clone()]).header("grpc-status", b"0"),
            rejected,
        ),
        (
            "the status in the head only",
            Script::new([message])
                .header("grpc-status", b"0")
                .trailers([("x-other", b"1")]),
            rejected,
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_response_that_is_no_message_ends_the_check_with_an_error() {
    let message = rejection();
    let other = Err(FlowErrorKind::Other);
    let ok = || Script::new([rejection()]);
    let mut cut = message.clone();
    cut.pop();
    let invalid = framed(0, 2, &[12 << 3 | 2, 200]);
    assert_ends(vec![
        ("no message", Script::new([]), other),
        ("an empty frame", Script::new([vec![]]), other),
        ("part of the prefix", Script::new([vec![0, 0, 0]]), other),
        ("part of the message", Script::new([cut]), other),
        (
            "a message that is not protobuf",
            Script::new([invalid]),
            other,
        ),
        (
            "a length of 4 GiB",
            Script::new([framed(0, u32::MAX, &[0; 100])]),
            other,
        ),
        (
            "a length beyond the limit",
            Script::new([framed(0, 64 * 1024 * 1024 + 1, b"")]),
            other,
        ),
        (
            "compressed, and the request did not allow it",
            Script::new([framed(1, 3, b"abc")]).header("grpc-encoding", b"gzip"),
            Err(FlowErrorKind::Other),
        ),
        (
            "compressed without an encoding",
            Script::new([framed(1, 3, b"abc")]),
            other,
        ),
        (
            "an unknown flag",
            Script::new([framed(2, 3, b"abc")]),
            other,
        ),
        (
            "a page of a proxy",
            Script::new([b"<html>not found</html>".to_vec()]).trailers([]),
            other,
        ),
        ("no status", ok().trailers([]), other),
        ("other trailers", ok().trailers([("x-other", b"1")]), other),
        (
            "no status and no message",
            Script::new([]).trailers([]),
            other,
        ),
        (
            "a status of another form",
            ok().trailers([("grpc-status", b"fine")]),
            other,
        ),
        ("two zeros", ok().trailers([("grpc-status", b"00")]), other),
        (
            "an unknown status",
            ok().trailers([("grpc-status", b"99")]),
            other,
        ),
    ])
    .await;
}

#[tokio::test]
async fn the_status_of_a_response_ends_the_check_wherever_it_is() {
    for (code, kind) in [
        (&b"1"[..], FlowErrorKind::Timeout),
        (b"2", FlowErrorKind::Other),
        (b"3", FlowErrorKind::InvalidRequest),
        (b"4", FlowErrorKind::Timeout),
        (b"7", FlowErrorKind::Unauthenticated),
        (b"8", FlowErrorKind::Other),
        (b"12", FlowErrorKind::Other),
        (b"14", FlowErrorKind::Unavailable),
        (b"16", FlowErrorKind::Unauthenticated),
    ] {
        let trailers_only = Script::new([]).trailers([]).header("grpc-status", code);
        assert_ends(vec![
            ("trailers only", trailers_only, Err(kind)),
            (
                "after a message",
                Script::new([rejection()]).trailers([("grpc-status", code)]),
                Err(kind),
            ),
            (
                "without a message",
                Script::new([]).trailers([("grpc-status", code)]),
                Err(kind),
            ),
            (
                "in the head, before a message",
                Script::new([rejection()]).header("grpc-status", code),
                Err(kind),
            ),
        ])
        .await;
    }
}

#[tokio::test]
async fn a_response_without_a_status_has_that_of_its_http_status() {
    for (status, kind) in [
        (400, FlowErrorKind::Other),
        (401, FlowErrorKind::Unauthenticated),
        (403, FlowErrorKind::Unauthenticated),
        (404, FlowErrorKind::Other),
        (429, FlowErrorKind::Unavailable),
        (500, FlowErrorKind::Other),
        (502, FlowErrorKind::Unavailable),
        (503, FlowErrorKind::Unavailable),
        (504, FlowErrorKind::Unavailable),
    ] {
        let empty = Script::new([]).status(status).trailers([]);
        let page = Script::new([b"<html>".to_vec()])
            .status(status)
            .trailers([]);
        assert_ends(vec![
            ("no body", empty, Err(kind)),
            ("a page of a proxy", page, Err(FlowErrorKind::Other)),
        ])
        .await;
    }
}

#[tokio::test]
async fn a_stream_that_is_reset_within_the_response_ends_the_check() {
    let peer = ScriptedPeer::start().await;
    let [client, _] = clients(&peer).await;
    let message = rejection();
    let (start, _) = message.split_at(7);
    for reason in [
        h2::Reason::NO_ERROR,
        h2::Reason::INTERNAL_ERROR,
        h2::Reason::CANCEL,
        h2::Reason::ENHANCE_YOUR_CALM,
    ] {
        for data in [vec![], start.to_vec(), message.clone()] {
            let script = Script::new([data]).trailers([]).reset(reason);
            let (decision, error) = peer.decide(&client, &script).await;
            assert_eq!(decision, FlowDecision::Unreachable, "{reason:?}");
            assert_eq!(error, Some(FlowErrorKind::Unavailable), "{reason:?}");
        }
    }
    // The connection still serves calls.
    let end = peer.decide(&client, &Script::new([message])).await;
    assert_eq!(end, (FlowDecision::Rejected, None));
}

/// A second message is against the protocol of a unary call, and would need a bound of its own.
#[tokio::test]
async fn a_second_message_ends_the_check_with_an_error() {
    let peer = ScriptedPeer::start().await;
    let [client, _] = clients(&peer).await;
    for second in [rejection(), vec![0]] {
        for data in [
            vec![[rejection(), second.clone()].concat()],
            vec![rejection(), second],
        ] {
            let end = peer.decide(&client, &Script::new(data)).await;
            let expected = (FlowDecision::Unreachable, Some(FlowErrorKind::Other));
            assert_eq!(end, expected);
        }
    }
}

/// The details would make tonic's client panic.
#[tokio::test]
async fn details_and_messages_of_any_form_belong_to_a_status() {
    let peer = ScriptedPeer::start().await;
    let [client, _] = clients(&peer).await;
    for (message, text) in [
        (&b"full%20queue"[..], "full queue"),
        (b"%zz%", "%zz%"),
        (b"%ff", "\u{fffd}"),
        (b"\xff", "\u{fffd}"),
        (b"", ""),
    ] {
        let script = Script::new([]).trailers([]);
        let script = script
            .header("grpc-status", b"14")
            .header("grpc-message", message)
            .header("grpc-status-details-bin", b"not base64!");
        peer.scripts.lock().expect("no panic").push_back(script);
        let flow = client.start_flow("checkout", FlowParams::new()).await;
        let error = flow.error().expect("unreachable");
        assert_eq!(error.kind(), FlowErrorKind::Unavailable);
        assert!(error.to_string().ends_with(text), "{error}");
    }
}

#[tokio::test]
async fn the_reason_of_a_rejection_survives_fields_that_the_client_skips() {
    let peer = ScriptedPeer::start().await;
    let [client, _] = clients(&peer).await;
    let mut message = rejection();
    // An unknown field, and fields whose last value counts.
    message.extend([0xa0, 0x06, 1]);
    message.extend([9 << 3, RejectReason::RateLimited as u8]);
    message.extend([9 << 3, RejectReason::NotSampled as u8]);
    message[4] = u8::try_from(message.len() - 5).expect("small");
    peer.scripts
        .lock()
        .expect("no panic")
        .push_back(Script::new([message]));
    let flow = client.start_flow("checkout", FlowParams::new()).await;
    let rejection = flow.rejection().expect("rejected");
    assert_eq!(rejection.reason(), Reason::NotSampled);
}
