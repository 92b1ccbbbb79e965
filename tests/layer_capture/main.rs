//! Bodies that are read ahead reach the inner service as they came.

#[path = "../layer_support/mod.rs"]
mod layer_support;
mod too_large;
mod tunnels;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use layer_support::body::{Script, Step, grpc_status};
use layer_support::inner::{Forgetful, hello};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::layer::{CaptureBody, ReplayBody};
use tower_aperture::{
    ApertureLayer, Check, Decider, FlowOutcome, FlowParams, HttpAttributes, Ticket, Verdict,
};

/// Records the bodies that it is asked about, and the headers that say if they are partial.
#[derive(Clone, Default)]
struct Reader(Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<Vec<String>>>>);

impl Reader {
    fn bodies(&self) -> Vec<String> {
        self.0.lock().expect("no test panics here").clone()
    }

    fn partial(&self) -> Vec<Vec<String>> {
        self.1.lock().expect("no test panics here").clone()
    }
}

struct Nothing;

impl Ticket for Nothing {
    fn end(self, _: FlowOutcome) {}
}

impl Decider for Reader {
    type Ticket = Nothing;
    type Pending = std::future::Ready<Verdict<Nothing>>;

    fn decide(&self, _: &str, _: &FlowParams<'_>) -> Check<Nothing, Self::Pending> {
        panic!("asked without attributes")
    }

    fn decide_http(
        &self,
        _: &str,
        _: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Check<Nothing, Self::Pending> {
        self.0
            .lock()
            .expect("no test panics here")
            .push(request.body.to_owned());
        let headers = request.headers.iter();
        let partial = headers.filter(|(name, _)| *name == HttpAttributes::PARTIAL_BODY);
        let partial = partial.map(|(_, value)| value.to_string()).collect();
        self.1.lock().expect("no test panics here").push(partial);
        Check::Ready(Verdict::Accepted(Nothing))
    }
}

/// What came of a body: its frames as text, and how it ended.
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
    assert!(body.frame().await.is_none(), "over is over");
    frames
}

/// Sends a body through: what the decider was told, and what the inner service got.
async fn through(max_bytes: usize, body: Script) -> (String, Frames) {
    let capture = CaptureBody::new(max_bytes).allow_partial(true);
    let (reader, got) = (Reader::default(), Arc::new(Mutex::new(Frames::new())));
    let service = {
        let got = Arc::clone(&got);
        let inner = service_fn(move |request: Request<ReplayBody<Script>>| {
            let got = Arc::clone(&got);
            async move {
                *got.lock().expect("no test panics here") = frames(request.into_body()).await;
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
    let told = reader.0.lock().expect("no test panics here").concat();
    let got = got.lock().expect("no test panics here").clone();
    (told, got)
}

fn data(parts: &[&'static str]) -> Script {
    Script::new(parts.iter().map(|part| Step::Data(part)))
}

#[tokio::test]
async fn a_body_below_the_cap_is_sent_whole_and_comes_in_one_frame() {
    let (told, got) = through(64, data(&["one ", "", "two"])).await;
    assert_eq!(told, "one two");
    assert_eq!(got, ["one two"]);
}

#[tokio::test]
async fn the_beginning_of_a_longer_body_is_sent_where_it_may_be_partial() {
    for body in [data(&["one ", "two ", "three"]), data(&["one two three"])] {
        let (told, got) = through(6, body).await;
        assert_eq!(told, "one tw");
        assert_eq!(got.concat(), "one two three");
    }
}

#[tokio::test]
async fn reading_stops_at_the_cap() {
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
    assert_eq!(*reader.0.lock().expect("no test panics here"), ["one t"]);
}

#[tokio::test]
async fn a_character_is_never_cut_and_bytes_that_are_no_text_are_not_told() {
    let (told, got) = through(2, data(&["aü"])).await;
    assert_eq!((&*told, got.concat()), ("a", r"a\xc3\xbc".to_owned()));
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
        *reader.0.lock().expect("no test panics here"),
        ["", "", "", "fine"]
    );
}

#[tokio::test]
async fn trailers_and_errors_come_where_they_were() {
    let body = Script::new([Step::Data("one"), Step::Trailers(grpc_status("0"))]);
    assert_eq!(
        through(64, body).await,
        ("one".into(), vec!["one".into(), "trailers".into()])
    );
    let body = Script::new([Step::Data("one"), Step::Error]);
    let (told, got) = through(64, body).await;
    assert_eq!(
        (&*told, got),
        ("one", vec!["one".to_owned(), "the body broke".to_owned()])
    );
    let body = Script::new([Step::Data("one"), Step::Data("two"), Step::Error]);
    let (told, got) = through(3, body).await;
    assert_eq!((&*told, got.len(), &*got[2]), ("one", 3, "the body broke"));
}

#[tokio::test]
async fn size_and_end_are_those_of_the_whole_body() {
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
            "what was read, and what follows is not known"
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
async fn nothing_is_called_before_the_body_is_there_and_nothing_after_its_client_left() {
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

    // `Forgetful` panics where a clone is called that never was ready.
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
async fn an_axum_router_takes_it_as_it_is() {
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
    assert_eq!(*reader.0.lock().expect("no test panics here"), ["hell"]);
}
