//! gRPC-Web responses, whose status is in a frame of the body.

use std::collections::VecDeque;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::Buf;
use http_body_util::{BodyExt, StreamBody};

use super::*;
use crate::layer_support::server::{BOTH, Client, Version, serve};

const BINARY: &str = "application/grpc-web+proto";
const TEXT: &str = "application/grpc-web-text+proto";
/// Spellings of the binary and the text content type that servers use.
const BINARIES: [&str; 4] = [
    "application/grpc-web",
    BINARY,
    "application/grpc-web+json; charset=utf-8",
    "Application/gRPC-Web ;a=b",
];
const TEXTS: [&str; 3] = [
    "application/grpc-web-text",
    TEXT,
    "APPLICATION/GRPC-WEB-TEXT+thrift;charset=utf-8",
];

fn frame(flag: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("a length");
    let mut frame = vec![flag];
    frame.extend(length.to_be_bytes());
    frame.extend(payload);
    frame
}

fn message() -> Vec<u8> {
    frame(0, b"\x0a\x05\x80\x81\xff\r\n")
}

fn trailers(text: &str) -> Vec<u8> {
    frame(0x80, text)
}

fn of_type(content_type: &'static str, body: Script) -> Response<Script> {
    let mut response = Response::new(body);
    let value = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    response
}

fn script(pieces: &[impl AsRef<[u8]>]) -> Script {
    let piece = |piece: &_| Step::Bytes(Bytes::copy_from_slice(AsRef::as_ref(piece)));
    Script::new(pieces.iter().map(piece))
}

/// Polls a body to its end and returns its bytes.
fn drain(body: &mut Wrapped) -> Vec<u8> {
    let mut all = Vec::new();
    loop {
        match poll(body) {
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => all.extend_from_slice(&data),
                Err(frame) => assert!(frame.is_trailers()),
            },
            Poll::Ready(None) => return all,
            other => panic!("not a frame: {other:?}"),
        }
    }
}

/// Returns the status with which a response of these pieces ends its flow; the bytes must pass
/// unchanged.
fn judged(content_type: &'static str, pieces: &[impl AsRef<[u8]>]) -> tower_aperture::FlowStatus {
    let recorder = Recorder::accepting();
    let mut body = body_behind_layer(&recorder, of_type(content_type, script(pieces)));
    let sent: Vec<u8> = pieces.iter().flat_map(AsRef::as_ref).copied().collect();
    assert_eq!(drain(&mut body), sent, "the body passes unchanged");
    drop(body);
    let (status, code) = recorder.end();
    assert_eq!(code, Some(200));
    status
}

#[test]
fn the_status_is_read_for_every_split_of_the_frames() {
    for (code, expected) in [("0", Fine), ("13", Error), ("00", Error)] {
        let whole = [
            message(),
            frame(0, ""),
            message(),
            trailers(&format!("grpc-status:{code}\r\ngrpc-message:why\r\n")),
        ]
        .concat();
        for content_type in BINARIES {
            for cut in 0..=whole.len() {
                let (a, b) = whole.split_at(cut);
                assert_eq!(
                    judged(content_type, &[a, b]),
                    expected,
                    "{code} cut at {cut}"
                );
            }
            let bytes: Vec<_> = whole.chunks(1).collect();
            assert_eq!(judged(content_type, &bytes), expected);
        }
        let text = STANDARD.encode(&whole);
        for content_type in TEXTS {
            for cut in 0..=text.len() {
                let (a, b) = text.split_at(cut);
                assert_eq!(
                    judged(content_type, &[a, b]),
                    expected,
                    "{code} cut at {cut}"
                );
            }
            let chars: Vec<_> = text.as_bytes().chunks(1).collect();
            assert_eq!(judged(content_type, &chars), expected);
        }
    }
}

#[test]
fn each_piece_of_a_text_body_may_be_encoded_separately() {
    let whole = [message(), trailers("grpc-status: 5\r\n")].concat();
    for size in 1..whole.len() {
        let pieces: Vec<_> = whole.chunks(size).map(|one| STANDARD.encode(one)).collect();
        assert_eq!(judged(TEXT, &pieces), Error, "pieces of {size}");
        // One piece, with padding in the middle.
        assert_eq!(judged(TEXT, &[pieces.concat()]), Error, "pieces of {size}");
        let lines = pieces.join("\r\n");
        assert_eq!(judged(TEXT, &[lines]), Error, "pieces of {size}");
    }
    for fine in [
        "grpc-status:0",
        "grpc-status:0\r\n",
        "a:1\r\ngrpc-status:0\r\n",
    ] {
        let whole = [message(), trailers(fine)].concat();
        assert_eq!(judged(TEXT, &[STANDARD_NO_PAD.encode(&whole)]), Fine);
    }
}

#[test]
fn the_name_of_the_status_is_of_any_case_and_may_have_blanks() {
    for (text, expected) in [
        ("Grpc-Status: 5\r\n", Error),
        ("GRPC-STATUS:5\r\n", Error),
        ("grpc-status:\t5 \r\n", Error),
        ("grpc-message: no\r\nGrpc-Status:5", Error),
        ("x: grpc-status: 5\r\ngrpc-status: 0\r\n", Fine),
        ("not a trailer\r\n\r\ngrpc-status: 0\r\n", Fine),
        ("grpc-status: 0\n", Fine),
        ("grpc-status: 7\n", Error),
        ("Grpc-Status:  0  \r\n", Fine),
    ] {
        assert_eq!(judged(BINARY, &[trailers(text)]), expected, "{text:?}");
        let text_body = STANDARD.encode(trailers(text));
        assert_eq!(judged(TEXT, &[text_body]), expected, "{text:?}");
    }
}

#[test]
fn a_response_without_a_status_ends_the_flow_as_error() {
    let whole = [message(), trailers("grpc-status: 0\r\n")].concat();
    // The body is truncated at every byte.
    for end in 0..whole.len() {
        assert_eq!(judged(BINARY, &[&whole[..end]]), Error, "{end} bytes");
    }
    for text in ["", "grpc-message: fine\r\n", "grpc-status\r\n", "\r\n"] {
        assert_eq!(judged(BINARY, &[trailers(text)]), Error, "{text:?}");
    }
    // Not base64.
    for text in ["{\"error\": 1}", "AAAA=AAA", "A===", "!"] {
        assert_eq!(judged(TEXT, &[text]), Error, "{text:?}");
    }
    // An empty body, which is known to be empty at once or only later.
    let recorder = Recorder::accepting();
    let empty = Script::default().knowing_its_end();
    drop(body_behind_layer(&recorder, of_type(BINARY, empty)));
    assert_eq!(recorder.end(), (Error, Some(200)));
    let recorder = Recorder::accepting();
    drop(body_behind_layer(
        &recorder,
        of_type(BINARY, Script::default().hint(0)),
    ));
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[test]
fn a_status_in_the_head_makes_one_in_the_body_optional() {
    for (code, expected) in [("0", Fine), ("13", Error)] {
        for known in [true, false] {
            let recorder = Recorder::accepting();
            let mut empty = Script::default();
            if known {
                empty = empty.knowing_its_end();
            }
            let mut response = of_type(BINARY, empty);
            response.headers_mut().extend(grpc_status(code));
            let mut body = body_behind_layer(&recorder, response);
            drain(&mut body);
            assert_eq!(recorder.end(), (expected, Some(200)));
        }
    }
    // A frame that began must still be complete.
    let recorder = Recorder::accepting();
    let mut response = of_type(BINARY, script(&[&trailers("grpc-status:0\r\n")[..9]]));
    response.headers_mut().extend(grpc_status("0"));
    drain(&mut body_behind_layer(&recorder, response));
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[test]
fn the_status_may_be_in_http_trailers() {
    for (code, expected) in [("0", Fine), ("9", Error)] {
        let recorder = Recorder::accepting();
        let steps = [
            Step::Bytes(message().into()),
            Step::Trailers(grpc_status(code)),
        ];
        drain(&mut body_behind_layer(
            &recorder,
            of_type(BINARY, Script::new(steps)),
        ));
        assert_eq!(recorder.end(), (expected, Some(200)));
    }
}

#[test]
fn the_status_is_found_after_megabytes_of_data() {
    // Every byte of the data looks like the flag of a trailer frame.
    let data = frame(0, vec![0x80; 3 << 20]);
    let whole = [data.clone(), data, trailers("grpc-status:14\r\n")].concat();
    let pieces: Vec<_> = whole.chunks(16_381).collect();
    assert_eq!(judged(BINARY, &pieces), Error);
    let text = STANDARD.encode(&whole);
    let pieces: Vec<_> = text.as_bytes().chunks(16_381).collect();
    assert_eq!(judged(TEXT, &pieces), Error);
}

#[test]
fn the_status_is_found_among_many_and_long_other_trailers() {
    let many = "x-one: 12345678\r\n".repeat(10_000);
    let long = format!("x-long: {}\r\n", "a".repeat(100_000));
    for (code, expected) in [("0", Fine), ("3", Error)] {
        for much in [&many, &long] {
            let text = format!("{much}grpc-status: {code}\r\n{much}");
            let whole = trailers(&text);
            let pieces: Vec<_> = whole.chunks(1000).collect();
            assert_eq!(judged(BINARY, &pieces), expected);
        }
    }
}

#[test]
fn truncated_trailers_of_four_gigabytes_end_the_flow_as_error() {
    let mut claim = frame(0x80, "");
    claim[1..].fill(0xff);
    let lines = "grpc-status: 0\r\n".repeat(10_000);
    assert_eq!(judged(BINARY, &[claim.as_slice(), lines.as_bytes()]), Error);
}

#[test]
fn with_compressed_trailers_the_head_decides_the_status() {
    // The gzip form of empty data.
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0";
    assert_eq!(judged(BINARY, &[message(), frame(0x81, gzip)]), Fine);
    let recorder = Recorder::accepting();
    let mut response = of_type(BINARY, script(&[frame(0x81, gzip)]));
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    drain(&mut body_behind_layer(&recorder, response));
    assert_eq!(recorder.end(), (Error, Some(502)));
    // Some servers set the flag although the trailers are plain.
    let plain = frame(0x81, "grpc-status: 5\r\n");
    assert_eq!(judged(BINARY, &[plain]), Error);
    // Compressed messages are common.
    let message = frame(0x01, gzip);
    assert_eq!(judged(BINARY, &[message, trailers("grpc-status:0")]), Fine);
}

#[test]
fn the_flow_ends_with_the_trailer_frame() {
    for (code, expected) in [("0", Fine), ("2", Error)] {
        let recorder = Recorder::accepting();
        let steps = [
            Step::Bytes(message().into()),
            Step::Bytes(trailers(&format!("grpc-status:{code}\r\n")).into()),
            Step::Bytes(trailers("grpc-status:14\r\n").into()),
            Step::Error,
        ];
        let mut body = body_behind_layer(&recorder, of_type(BINARY, Script::new(steps)));
        data(&mut body);
        assert!(recorder.ends().is_empty());
        data(&mut body);
        assert_eq!(recorder.end(), (expected, Some(200)));
        // As after HTTP trailers, later frames pass and do not change the end.
        data(&mut body);
        assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(_)))));
        drop(body);
        assert_eq!(recorder.end(), (expected, Some(200)));
    }
}

#[test]
fn a_client_that_leaves_before_the_status_ends_the_flow_as_error() {
    let end = trailers("grpc-status:0\r\n");
    let (start, rest) = end.split_at(12);
    for (pieces, polls, expected) in [
        (vec![&*message(), start, rest], 0, Error),
        (vec![&*message(), start, rest], 1, Error),
        (vec![&*message(), start, rest], 2, Error),
        (vec![&*message(), start, rest], 3, Fine),
    ] {
        let recorder = Recorder::accepting();
        let mut body = body_behind_layer(&recorder, of_type(BINARY, script(&pieces)));
        for _ in 0..polls {
            data(&mut body);
        }
        drop(body);
        assert_eq!(recorder.end(), (expected, Some(200)), "{polls} polls");
    }
}

#[test]
fn a_body_of_full_content_length_must_contain_a_status() {
    for (pieces, expected) in [
        (vec![message(), trailers("grpc-status:0\r\n")], Fine),
        (vec![message(), trailers("grpc-status:1\r\n")], Error),
        (vec![message(), message()], Error),
    ] {
        let recorder = Recorder::accepting();
        let length: usize = pieces.iter().map(Vec::len).sum();
        let mut steps: Vec<_> = pieces
            .into_iter()
            .map(|one| Step::Bytes(one.into()))
            .collect();
        steps.push(Step::Hang);
        let mut response = of_type(BINARY, Script::new(steps));
        let length = HeaderValue::from(length);
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, length);
        let mut body = body_behind_layer(&recorder, response);
        data(&mut body);
        data(&mut body);
        drop(body);
        assert_eq!(recorder.end(), (expected, Some(200)));
    }
}

#[test]
fn a_body_that_http_does_not_send_needs_no_status() {
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "test");
    let head = Request::head("/").body(()).expect("a request");
    drop(body_of_response_to(
        &layer,
        head,
        of_type(BINARY, script(&[message()])),
    ));
    assert_eq!(recorder.end(), (Fine, Some(200)));
    let recorder = Recorder::accepting();
    let mut response = of_type(BINARY, script(&[message()]));
    *response.status_mut() = StatusCode::NO_CONTENT;
    drop(body_behind_layer(&recorder, response));
    assert_eq!(recorder.end(), (Fine, Some(204)));
}

#[test]
fn bodies_of_other_content_types_are_not_parsed() {
    for content_type in [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc-webby",
        "application/grpc-web-texts",
        "application/json",
        "text/application/grpc-web",
    ] {
        let pieces = [message(), trailers("grpc-status:13\r\n")];
        assert_eq!(judged(content_type, &pieces), Fine, "{content_type}");
    }
    let recorder = Recorder::accepting();
    let body = script(&[trailers("grpc-status:13\r\n")]);
    drain(&mut body_behind_layer(&recorder, Response::new(body)));
    assert_eq!(recorder.end(), (Fine, Some(200)));
}

#[test]
fn a_classify_hook_sees_the_trailers_of_the_body() {
    let judge = |pieces: &[Vec<u8>]| {
        let recorder = Recorder::accepting();
        let layer = ApertureLayer::new(recorder.clone(), "test").classify(|head| {
            if !head.is_trailers() {
                return Fine;
            }
            assert_eq!(head.status(), 200);
            match (head.grpc_status(), head.headers().get("x-kind")) {
                (Some("5"), Some(kind)) if kind == "b" => Unset,
                (Some("2"), None) => Error,
                _ => Fine,
            }
        });
        let mut body = body_of_response(&layer, of_type(BINARY, script(pieces)));
        while !matches!(poll(&mut body), Poll::Ready(None)) {}
        recorder.end().0
    };
    assert_eq!(judge(&[trailers("x-kind: b\r\ngrpc-status: 5\r\n")]), Unset);
    assert_eq!(judge(&[trailers("grpc-status: 13\r\n")]), Fine);
    // Clients see the code 2, unknown.
    assert_eq!(judge(&[message()]), Error);
}

/// A buffer in several parts, of which `chunks_vectored` shows the first `visible`.
struct Parts {
    parts: VecDeque<Bytes>,
    visible: usize,
}

impl Buf for Parts {
    fn remaining(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [std::io::IoSlice<'a>]) -> usize {
        let parts = self.parts.iter().take(self.visible);
        let filled = into.iter_mut().zip(parts).map(|(slice, part)| {
            *slice = std::io::IoSlice::new(part);
        });
        filled.count()
    }

    fn advance(&mut self, _: usize) {
        panic!("the layer only reads the data")
    }
}

fn judged_in_parts(content_type: &'static str, parts: &[&[u8]], visible: usize) -> (u16, bool) {
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "test");
    let parts = parts.iter().map(|part| Bytes::copy_from_slice(part));
    let parts = Parts {
        parts: parts.collect(),
        visible,
    };
    let frames = [Ok::<_, BoxError>(Frame::data(parts))];
    let mut response = Response::new(StreamBody::new(tokio_stream::iter(frames)));
    let value = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
    let mut body = Box::pin(body_of_response(&layer, response));
    let mut cx = Context::from_waker(Waker::noop());
    while !matches!(body.as_mut().poll_frame(&mut cx), Poll::Ready(None)) {}
    let (status, code) = recorder.end();
    (code.expect("a head"), status == Error)
}

#[test]
fn the_visible_parts_of_a_buffer_are_read() {
    let failed = [message(), trailers("grpc-status:13\r\n")].concat();
    let parts: Vec<_> = failed.chunks(7).collect();
    assert_eq!(judged_in_parts(BINARY, &parts, 64), (200, true));
    let text = STANDARD.encode(&failed);
    let parts: Vec<_> = text.as_bytes().chunks(5).collect();
    assert_eq!(judged_in_parts(TEXT, &parts, 64), (200, true));
    // If parts cannot be read, the head decides: the call may have succeeded.
    let parts = [&failed[..3], &failed[3..]];
    assert_eq!(judged_in_parts(BINARY, &parts, 1), (200, false));
    let parts = [&text.as_bytes()[..3], &text.as_bytes()[3..]];
    assert_eq!(judged_in_parts(TEXT, &parts, 1), (200, false));
}

#[tokio::test]
async fn a_failed_call_through_a_server_ends_the_flow_as_error() {
    for version in BOTH {
        for (code, expected) in [("0", Fine), ("13", Error)] {
            for text in [false, true] {
                let recorder = Recorder::accepting();
                let layer = ApertureLayer::new(recorder.clone(), "test");
                let service = layer.layer(service_fn(move |_| {
                    let whole = [message(), trailers(&format!("grpc-status:{code}\r\n"))].concat();
                    let (content_type, whole) = if text {
                        (TEXT, STANDARD.encode(whole).into_bytes())
                    } else {
                        (BINARY, whole)
                    };
                    let pieces: Vec<_> = whole.chunks(4).collect();
                    ready(Ok::<_, Infallible>(of_type(content_type, script(&pieces))))
                }));
                let address = serve(version, service).await;
                let mut client = Client::connect(version, address).await;
                let uri = match version {
                    Version::Http1 => "/shop.Cart/Add",
                    Version::Http2 => "http://shop.example/shop.Cart/Add",
                };
                let request = Request::post(uri).header("host", "shop.example");
                let response = client.send(request).await.expect("a response");
                response.into_body().collect().await.expect("a body");
                assert_eq!(recorder.ended().await, (expected, Some(200)), "{version:?}");
            }
        }
    }
}

proptest! {
    /// The status in the trailers decides, for all messages, trailers and pieces.
    #[test]
    fn the_trailer_frame_decides_the_status_of_every_call(
        messages in proptest::collection::vec((0_u8..2, proptest::collection::vec(any::<u8>(), 0..40)), 0..5),
        before in "(x-[a-z]{1,8}: [ -~]{0,20}\r\n){0,3}",
        code in 0_u8..20,
        sizes in proptest::collection::vec(1_usize..30, 1..12),
        text in any::<bool>(),
        padded in any::<bool>(),
    ) {
        let mut whole: Vec<u8> = messages.iter().flat_map(|(flag, one)| frame(*flag, one)).collect();
        whole.extend(trailers(&format!("{before}Grpc-Status: {code}\r\n")));
        if text && !padded {
            whole = STANDARD.encode(&whole).into_bytes();
        }
        let mut pieces = Vec::new();
        let mut rest = &whole[..];
        for size in sizes.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, more) = rest.split_at(rest.len().min(*size));
            rest = more;
            pieces.push(match text && padded {
                true => STANDARD.encode(piece).into_bytes(),
                false => piece.to_vec(),
            });
        }
        let content_type = if text { TEXT } else { BINARY };
        let expected = if code == 0 { Fine } else { Error };
        prop_assert_eq!(judged(content_type, &pieces), expected);
    }
}
