//! The response body of the layer: the frames that it passes on and when it ends the flow, also
//! with hostile inner bodies.

mod grpc_web;
mod late_end;
use std::convert::Infallible;
use std::future::ready;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::layer_support::body::{BoxError, Script, Step, grpc_status};
use crate::layer_support::{Recorded, Recorder};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use proptest::prelude::*;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::ApertureLayer;
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::layer::{NoBody, ResponseBody};

type Wrapped = ResponseBody<Script, NoBody, Recorded>;
type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// Wraps the response of an inner service in a layer and returns the wrapped body.
fn body_behind_layer(recorder: &Recorder, response: Response<Script>) -> Wrapped {
    let layer = ApertureLayer::new(recorder.clone(), "test");
    body_of_response(&layer, response)
}

fn body_of_response<B: Body>(
    layer: &ApertureLayer<Recorder>,
    response: Response<B>,
) -> ResponseBody<B, NoBody, Recorded> {
    body_of_response_to(layer, Request::new(()), response)
}

fn body_of_response_to<B: Body>(
    layer: &ApertureLayer<Recorder>,
    request: Request<()>,
    response: Response<B>,
) -> ResponseBody<B, NoBody, Recorded> {
    let response = std::sync::Mutex::new(Some(response));
    let inner = service_fn(|_: Request<()>| {
        let response = response.lock().expect("the lock is not poisoned").take();
        ready(Ok::<_, Infallible>(response.expect("called once")))
    });
    let mut future = Box::pin(layer.layer(inner).oneshot(request));
    match future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
    {
        Poll::Ready(Ok(response)) => response.into_body(),
        Poll::Ready(Err(never)) => match never {},
        Poll::Pending => panic!("the response is ready at once"),
    }
}

fn wrapped(steps: impl IntoIterator<Item = Step>) -> (Recorder, Wrapped) {
    let recorder = Recorder::accepting();
    let body = body_behind_layer(&recorder, Response::new(Script::new(steps)));
    (recorder, body)
}

fn poll(body: &mut Wrapped) -> Polled {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

fn data(body: &mut Wrapped) -> Bytes {
    match poll(body) {
        Poll::Ready(Some(Ok(frame))) => frame.into_data().expect("data"),
        other => panic!("not data: {other:?}"),
    }
}

fn ended(polled: &Polled) -> bool {
    matches!(polled, Poll::Ready(None))
}

#[test]
fn the_flow_ends_when_the_body_ends() {
    let (recorder, mut body) = wrapped([Step::Data("a")]);
    data(&mut body);
    assert!(recorder.ends().is_empty());
    assert!(ended(&poll(&mut body)));
    assert_eq!(recorder.end(), (Fine, Some(200)));
    drop(body);
    assert_eq!(recorder.end(), (Fine, Some(200)));
}

#[test]
fn the_flow_ends_with_the_last_frame_of_a_body_that_knows_its_end() {
    let recorder = Recorder::accepting();
    let script = Script::new([Step::Data("a"), Step::Data("b")]).knowing_its_end();
    let mut body = body_behind_layer(&recorder, Response::new(script));
    data(&mut body);
    assert!(recorder.ends().is_empty());
    data(&mut body);
    assert_eq!(recorder.end(), (Fine, Some(200)));
}

#[test]
fn the_flow_ends_with_the_head_when_the_body_is_empty() {
    let recorder = Recorder::accepting();
    let body = body_behind_layer(
        &recorder,
        Response::new(Script::default().knowing_its_end()),
    );
    assert!(body.is_end_stream());
    assert_eq!(recorder.end(), (Fine, Some(200)));
}

#[test]
fn the_flow_ends_with_trailers() {
    let (recorder, mut body) = wrapped([Step::Trailers(grpc_status("0")), Step::Hang]);
    assert!(poll(&mut body).is_ready());
    assert_eq!(recorder.end(), (Fine, Some(200)));
}

#[test]
fn frames_after_trailers_pass_and_do_not_change_the_end() {
    let (recorder, mut body) = wrapped([
        Step::Trailers(grpc_status("0")),
        Step::Data("late"),
        Step::Trailers(grpc_status("14")),
        Step::Error,
        Step::None,
        Step::Data("later"),
    ]);
    assert!(poll(&mut body).is_ready());
    assert_eq!(data(&mut body), "late");
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Ok(frame))) if frame.is_trailers()));
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(_)))));
    assert!(ended(&poll(&mut body)));
    assert_eq!(data(&mut body), "later");
    drop(body);
    assert_eq!(recorder.end(), (Fine, Some(200)));
}

#[test]
fn a_second_error_of_a_body_does_not_end_the_flow_again() {
    let (recorder, mut body) = wrapped([Step::Error, Step::Error]);
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(_)))));
    assert_eq!(recorder.end(), (Error, Some(200)));
    assert!(matches!(poll(&mut body), Poll::Ready(Some(Err(_)))));
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[test]
fn a_body_that_is_dropped_before_its_end_ends_the_flow_as_error() {
    let (recorder, body) = wrapped([Step::Data("a")]);
    drop(body);
    assert_eq!(recorder.end(), (Error, Some(200)));

    let (recorder, mut body) = wrapped([Step::Data("a"), Step::Hang]);
    data(&mut body);
    assert!(poll(&mut body).is_pending());
    drop(body);
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[test]
fn without_content_length_the_exact_size_hint_decides_completeness() {
    for (hint, status) in [(4, Error), (3, Fine), (2, Fine)] {
        let recorder = Recorder::accepting();
        let script = Script::new([Step::Data("abc"), Step::Hang]).hint(hint);
        let mut body = body_behind_layer(&recorder, Response::new(script));
        data(&mut body);
        assert!(poll(&mut body).is_pending());
        drop(body);
        assert_eq!(recorder.end(), (status, Some(200)), "hint {hint}");
    }
}

#[test]
fn content_length_decides_completeness_when_the_body_has_no_exact_size() {
    for (length, hint, status) in [
        ("3", None, Fine),
        ("4", None, Error),
        ("nonsense", None, Error),
        ("4", Some(3), Fine),
        ("3", Some(4), Error),
    ] {
        let recorder = Recorder::accepting();
        let mut script = Script::new([Step::Data("abc"), Step::Hang]);
        if let Some(hint) = hint {
            script = script.hint(hint);
        }
        let mut response = Response::new(script);
        response
            .headers_mut()
            .insert(header::CONTENT_LENGTH, HeaderValue::from_static(length));
        let mut body = body_behind_layer(&recorder, response);
        data(&mut body);
        drop(body);
        assert_eq!(recorder.end(), (status, Some(200)), "{length} {hint:?}");
    }
}

#[test]
fn an_error_after_the_last_byte_ends_the_flow_as_error() {
    let recorder = Recorder::accepting();
    let script = Script::new([Step::Data("abc"), Step::Error]).hint(3);
    let mut body = body_behind_layer(&recorder, Response::new(script));
    data(&mut body);
    assert!(poll(&mut body).is_ready());
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[test]
fn a_panic_after_the_last_byte_ends_the_flow_as_error() {
    let recorder = Recorder::accepting();
    let script = Script::new([Step::Data("abc"), Step::Panic]).hint(3);
    let mut body = body_behind_layer(&recorder, Response::new(script));
    data(&mut body);
    assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut body))).is_err());
    drop(body);
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[test]
fn a_body_that_is_dropped_during_unwinding_ends_the_flow_as_error() {
    let recorder = Recorder::accepting();
    let script = Script::new([Step::Data("abc")]).hint(3);
    let mut body = body_behind_layer(&recorder, Response::new(script));
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        data(&mut body);
        let _body = body;
        panic!("the owner of the body panicked, as the test intends")
    }));
    assert!(unwound.is_err());
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[test]
fn size_hint_and_end_of_stream_are_those_of_the_inner_body() {
    let recorder = Recorder::accepting();
    let script = Script::new([Step::Data("abc")]).hint(3).knowing_its_end();
    let mut body = body_behind_layer(&recorder, Response::new(script));
    assert_eq!(body.size_hint().exact(), Some(3));
    assert!(!body.is_end_stream());
    data(&mut body);
    assert!(body.is_end_stream());

    let (_, body) = wrapped([Step::Hang]);
    assert_eq!(
        (body.size_hint().lower(), body.size_hint().upper()),
        (0, None)
    );
    assert!(Wrapped::default().is_end_stream());
    assert!(ended(&poll(&mut Wrapped::default())));
}

#[test]
fn a_failed_grpc_status_in_the_head_prevails_over_ok_trailers() {
    let recorder = Recorder::accepting();
    let script = Script::new([Step::Trailers(grpc_status("0"))]);
    let mut response = Response::new(script);
    response.headers_mut().extend(grpc_status("13"));
    let mut body = body_behind_layer(&recorder, response);
    assert!(poll(&mut body).is_ready());
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[test]
fn a_classify_hook_replaces_the_default_status_of_head_and_trailers() {
    let judge = |steps: Vec<Step>, status: u16| {
        let recorder = Recorder::accepting();
        let layer = ApertureLayer::new(recorder.clone(), "test").classify(|head| {
            match (head.status().as_u16(), head.grpc_status()) {
                (404, _) | (_, Some("2")) => Error,
                (418, _) => Unset,
                _ => Fine,
            }
        });
        let mut response = Response::new(Script::new(steps));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        let mut body = body_of_response(&layer, response);
        while !ended(&poll(&mut body)) {}
        recorder.end()
    };
    assert_eq!(judge(vec![], 404), (Error, Some(404)));
    assert_eq!(judge(vec![], 500), (Fine, Some(500)));
    assert_eq!(judge(vec![], 418), (Unset, Some(418)));
    let trailers = |code| vec![Step::Trailers(grpc_status(code))];
    assert_eq!(judge(trailers("14"), 200), (Fine, Some(200)));
    assert_eq!(judge(trailers("2"), 200), (Error, Some(200)));
    assert_eq!(judge(trailers("0"), 404), (Error, Some(404)));
}

#[test]
fn a_body_that_http_does_not_send_may_be_dropped_unread() {
    for status in [204, 304] {
        let recorder = Recorder::accepting();
        let mut response = Response::new(Script::new([Step::Data("x")]));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        drop(body_behind_layer(&recorder, response));
        assert_eq!(recorder.end(), (Fine, Some(status)));
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just("abc").prop_map(Step::Data),
        1 => Just("").prop_map(Step::Data),
        1 => Just("0").prop_map(|code| Step::Trailers(grpc_status(code))),
        1 => Just("7").prop_map(|code| Step::Trailers(grpc_status(code))),
        1 => Just(()).prop_map(|()| Step::Error),
        1 => Just(()).prop_map(|()| Step::Hang),
        1 => Just(()).prop_map(|()| Step::None),
    ]
}

proptest! {
    /// Every frame passes, and the flow ends once, for any body and any moment of its drop.
    #[test]
    fn every_body_ends_its_flow_once(
        steps in proptest::collection::vec(step(), 0..8),
        hint in proptest::option::of(0_u64..12),
        polls in 0_usize..10,
        knows in any::<bool>(),
    ) {
        let recorder = Recorder::accepting();
        let hung = steps.iter().position(|step| matches!(step, Step::Hang));
        let frames = steps.iter().take(polls.min(hung.unwrap_or(polls)))
            .filter(|step| matches!(step, Step::Data(_) | Step::Trailers(_)))
            .count();
        let mut script = Script::new(steps);
        if let Some(hint) = hint {
            script = script.hint(hint);
        }
        if knows {
            script = script.knowing_its_end();
        }
        let mut body = body_behind_layer(&recorder, Response::new(script));
        let mut passed = 0;
        for _ in 0..polls {
            passed += usize::from(matches!(poll(&mut body), Poll::Ready(Some(Ok(_)))));
        }
        prop_assert_eq!(passed, frames);
        drop(body);
        prop_assert_eq!(recorder.ends().len(), 1);
    }
}
