//! Bodies that the layer captures reach the inner service unchanged.

mod too_large;
mod tunnels;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use crate::layer_support::body::{Script, Step, grpc_status};
use crate::layer_support::inner::{Forgetful, hello};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::layer::{CaptureBody, ReplayBody};
use tower_aperture::{
    ApertureLayer, Check, Decider, FlowOutcome, FlowParams, HttpAttributes, Ticket, Verdict,
};

/// A decider that records the bodies of its checks, and the headers that mark partial ones.
#[derive(Clone, Default)]
struct Reader(Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<Vec<String>>>>);

impl Reader {
    fn bodies(&self) -> Vec<String> {
        self.0.lock().expect("the lock is not poisoned").clone()
    }

    fn partial(&self) -> Vec<Vec<String>> {
        self.1.lock().expect("the lock is not poisoned").clone()
    }
}

struct NoTicket;

impl Ticket for NoTicket {
    fn end(self, _: FlowOutcome) {}
}

impl Decider for Reader {
    type Ticket = NoTicket;
    type Pending = std::future::Ready<Verdict<NoTicket>>;

    fn decide(&self, _: &str, _: &FlowParams<'_>) -> Check<NoTicket, Self::Pending> {
        panic!("the layer must send attributes")
    }

    fn decide_http(
        &self,
        _: &str,
        _: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Check<NoTicket, Self::Pending> {
        self.0
            .lock()
            .expect("the lock is not poisoned")
            .push(request.body.to_owned());
        let headers = request.headers.iter();
        let partial = headers.filter(|(name, _)| *name == HttpAttributes::PARTIAL_BODY);
        let partial = partial.map(|(_, value)| value.to_string()).collect();
        self.1
            .lock()
            .expect("the lock is not poisoned")
            .push(partial);
        Check::Ready(Verdict::Accepted(NoTicket))
    }
}

/// The frames of a body as text; an error is the last one.
type Frames = Vec<String>;

async fn frames(body: impl http_body::Body<Data = Bytes, Error: std::fmt::Display>) -> Frames {
    let mut body = pin!(body);
    let mut frames = Vec::new();
    while let Some(frame) = body.frame().await {
        frames.push(match frame {
            Ok(frame) if frame.is_trailers() => "trailers".to_owned(),
            Ok(frame) => {
                let data = frame.into_data().map_err(|_| ()).expect("data");
                match str::from_utf8(&data) {
                    Ok(text) => text.to_owned(),
                    Err(_) => data.escape_ascii().to_string(),
                }
            }
            Err(error) => error.to_string(),
        });
    }
    assert!(
        body.frame().await.is_none(),
        "a body that ended has no further frame"
    );
    frames
}

/// Sends a body through the layer; returns the body that the decider saw and the frames that the
/// inner service read.
async fn capture_and_replay(max_bytes: usize, body: Script) -> (String, Frames) {
    let capture = CaptureBody::new(max_bytes).allow_partial(true);
    let (reader, got) = (Reader::default(), Arc::new(Mutex::new(Frames::new())));
    let service = {
        let got = Arc::clone(&got);
        let inner = service_fn(move |request: Request<ReplayBody<Script>>| {
            let got = Arc::clone(&got);
            async move {
                *got.lock().expect("the lock is not poisoned") = frames(request.into_body()).await;
                Ok::<_, Infallible>(hello())
            }
        });
        capture.layer(ApertureLayer::http(reader.clone(), "here").layer(inner))
    };
    let response = service
        .oneshot(Request::new(body))
        .await
        .expect("a response");
    assert_eq!(response.status(), 200);
    let checked = reader.0.lock().expect("the lock is not poisoned").concat();
    let got = got.lock().expect("the lock is not poisoned").clone();
    (checked, got)
}

fn data(parts: &[&'static str]) -> Script {
    Script::new(parts.iter().map(|part| Step::Data(part)))
}

#[tokio::test]
async fn a_body_below_the_cap_is_checked_whole_and_replayed_as_one_frame() {
    let (checked, got) = capture_and_replay(64, data(&["one ", "", "two"])).await;
    assert_eq!(checked, "one two");
    assert_eq!(got, ["one two"]);
}

#[tokio::test]
async fn the_beginning_of_a_longer_body_is_checked_if_partial_bodies_are_allowed() {
    for body in [data(&["one ", "two ", "three"]), data(&["one two three"])] {
        let (checked, got) = capture_and_replay(6, body).await;
        assert_eq!(checked, "one tw");
        assert_eq!(got.concat(), "one two three");
    }
}

#[tokio::test]
async fn capturing_stops_at_the_cap() {
    let body = Script::new([Step::Data("one "), Step::Data("two "), Step::Panic]);
    let reader = Reader::default();
    let inner = service_fn(async |_: Request<ReplayBody<Script>>| Ok::<_, Infallible>(hello()));
    let layer = ApertureLayer::http(reader.clone(), "here");
    let capture = CaptureBody::new(5).allow_partial(true);
    let service = capture.layer(layer.layer(inner));
    service
        .oneshot(Request::new(body))
        .await
        .expect("a response");
    assert_eq!(
        *reader.0.lock().expect("the lock is not poisoned"),
        ["one t"]
    );
}

#[tokio::test]
async fn a_character_is_never_cut_and_bodies_that_are_not_utf8_are_not_checked() {
    let (checked, got) = capture_and_replay(2, data(&["aü"])).await;
    assert_eq!((&*checked, got.concat()), ("a", r"a\xc3\xbc".to_owned()));
    let reader = Reader::default();
    let inner = service_fn(async |_: Request<_>| Ok::<_, Infallible>(hello()));
    let service =
        CaptureBody::new(64).layer(ApertureLayer::http(reader.clone(), "here").layer(inner));
    for body in [&b"a\xffb"[..], b"cut \xc3", b"", b"fine"] {
        let body = Full::new(Bytes::from_static(body));
        service
            .clone()
            .oneshot(Request::new(body))
            .await
            .expect("a response");
    }
    assert_eq!(
        *reader.0.lock().expect("the lock is not poisoned"),
        ["", "", "", "fine"]
    );
}

#[tokio::test]
async fn trailers_and_errors_keep_their_position() {
    let body = Script::new([Step::Data("one"), Step::Trailers(grpc_status("0"))]);
    assert_eq!(
        capture_and_replay(64, body).await,
        ("one".into(), vec!["one".into(), "trailers".into()])
    );
    let body = Script::new([Step::Data("one"), Step::Error]);
    let (checked, got) = capture_and_replay(64, body).await;
    assert_eq!(
        (&*checked, got),
        ("one", vec!["one".to_owned(), "the body broke".to_owned()])
    );
    let body = Script::new([Step::Data("one"), Step::Data("two"), Step::Error]);
    let (checked, got) = capture_and_replay(3, body).await;
    assert_eq!(
        (&*checked, got.len(), &*got[2]),
        ("one", 3, "the body broke")
    );
}

#[tokio::test]
async fn size_hint_and_end_of_stream_are_those_of_the_whole_body() {
    let inner = service_fn(async |request: Request<ReplayBody<Full<Bytes>>>| {
        let mut body = request.into_body();
        assert_eq!(body.size_hint().exact(), Some(5));
        assert!(!body.is_end_stream());
        assert!(body.frame().await.is_some());
        assert_eq!(body.size_hint().exact(), Some(0));
        assert!(body.is_end_stream());
        Ok::<_, Infallible>(hello())
    });
    let service = CaptureBody::new(64).layer(inner);
    service
        .oneshot(Request::new(Full::from("hello")))
        .await
        .expect("a response");

    let inner = service_fn(async |request: Request<ReplayBody<Script>>| {
        let hint = request.body().size_hint();
        assert_eq!(
            (hint.lower(), hint.upper()),
            (6, None),
            "at least the captured bytes, and an unknown rest"
        );
        Ok::<_, Infallible>(hello())
    });
    let service = CaptureBody::new(3).layer(inner);
    service
        .oneshot(Request::new(data(&["one", "two"])))
        .await
        .expect("a response");
}

#[tokio::test]
async fn the_inner_service_is_called_only_once_the_body_is_captured() {
    let inner = Forgetful::new();
    let calls = Arc::clone(&inner.calls);
    let inner = inner.map_request(|request: Request<ReplayBody<Script>>| request.map(drop));
    let mut service = CaptureBody::new(64).layer(inner);
    let body = Script::new([Step::Data("one"), Step::Hang]);
    let ready = ServiceExt::<Request<Script>>::ready(&mut service)
        .await
        .expect("ready");
    let mut response = Box::pin(ready.call(Request::new(body)));
    assert!(futures_util::poll!(&mut response).is_pending());
    drop(response);
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 0);

    // `Forgetful` panics when a clone is called that was never ready.
    let ready = ServiceExt::<Request<Script>>::ready(&mut service)
        .await
        .expect("ready");
    let response = ready.call(Request::new(data(&["one"]))).await;
    assert_eq!(response.expect("a response").status(), 200);
    assert_eq!(calls.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_body_that_panics_is_not_polled_again() {
    let inner = service_fn(async |_: Request<_>| Ok::<_, Infallible>(Response::new(())));
    let mut service = CaptureBody::new(64).layer(inner);
    let mut response = Box::pin(service.call(Request::new(Script::new([Step::Panic]))));
    for _ in 0..2 {
        let polled = std::panic::AssertUnwindSafe(|| {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            matches!(response.as_mut().poll(&mut cx), Poll::Ready(_))
        });
        assert!(std::panic::catch_unwind(polled).is_err());
    }
}

#[tokio::test]
async fn an_axum_router_accepts_a_captured_body() {
    use axum::routing::post;

    let reader = Reader::default();
    let app = axum::Router::new()
        .route("/", post(async |body: String| body))
        .route_layer(
            tower::ServiceBuilder::new()
                .layer(CaptureBody::new(4).allow_partial(true))
                .layer(ApertureLayer::http(reader.clone(), "here")),
        );
    let request = Request::post("/")
        .body(axum::body::Body::from("hello"))
        .expect("a request");
    let response = app.oneshot(request).await.expect("a response");
    let body = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    assert_eq!(body, "hello");
    assert_eq!(
        *reader.0.lock().expect("the lock is not poisoned"),
        ["hell"]
    );
}
