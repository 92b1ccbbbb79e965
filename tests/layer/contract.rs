//! The contract of Tower services: readiness, clones, errors, names of types.

use std::convert::Infallible;
use std::future::{Future, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::layer_support::inner::{Body, Counted, Forgetful, denial, hello};
use crate::layer_support::{Answer, Recorder};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::FlowStatus::{Error, Unset};
use tower_aperture::layer::{DefaultReject, NoBody, ResponseBody, ResponseFuture};
use tower_aperture::{
    Aperture, ApertureLayer, FailureMode, FlowDecision, FlowError, FlowErrorKind, RequestHead,
};
use tower_test::mock::{self, Mock, Spawn};

type HttpMock = Mock<Request<&'static str>, Response<Body>>;
type Handle = mock::Handle<Request<&'static str>, Response<Body>>;

fn mocked(recorder: &Recorder) -> (Spawn<Aperture<HttpMock, Recorder>>, Handle) {
    mock::spawn_layer(ApertureLayer::new(recorder.clone(), "test"))
}

#[tokio::test]
async fn no_check_is_made_before_the_inner_service_is_ready() {
    let recorder = Recorder::accepting();
    let (mut service, mut handle) = mocked(&recorder);
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    assert!(recorder.asked().is_empty());
    handle.allow(1);
    assert!(service.is_woken());
    assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
    assert!(recorder.asked().is_empty(), "readiness makes no check");

    let response = service.call(Request::new("ping"));
    assert_eq!(recorder.asked().len(), 1);
    let (request, send) = handle.next_request().await.expect("a request");
    assert_eq!(*request.body(), "ping");
    send.send_response(hello());
    response.await.expect("a response");
}

#[tokio::test]
async fn an_error_of_readiness_is_passed_on_without_a_check() {
    let recorder = Recorder::accepting();
    let (mut service, mut handle) = mocked(&recorder);
    handle.send_error("not today");
    let Poll::Ready(Err(error)) = service.poll_ready() else {
        panic!("the error must be passed on");
    };
    assert_eq!(error.to_string(), "not today");
    assert!(recorder.asked().is_empty());
}

#[tokio::test]
async fn an_error_of_the_inner_service_is_passed_on_unchanged() {
    #[derive(Debug, PartialEq)]
    struct Mine(u8);

    let recorder = Recorder::accepting();
    let inner = service_fn(|_: Request<()>| ready(Err::<Response<Body>, _>(Mine(7))));
    let service = ApertureLayer::new(recorder.clone(), "test").layer(inner);
    let error = service
        .oneshot(Request::new(()))
        .await
        .expect_err("an error");
    assert_eq!(error, Mine(7));
    assert_eq!(recorder.end(), (Error, None));
}

#[tokio::test]
async fn the_inner_service_wakes_the_response_future() {
    let recorder = Recorder::accepting();
    let (mut service, mut handle) = mocked(&recorder);
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let mut response = count_wakes(service.call(Request::new("ping")));
    assert!(response.poll().is_pending());
    let (_, send) = handle.next_request().await.expect("a request");
    send.send_response(hello());
    assert!(response.is_woken());
    assert!(response.poll().is_ready());
}

/// Wraps a future so that its wake-ups are counted.
fn count_wakes<F: Future>(future: F) -> CountedWakes<F> {
    CountedWakes {
        future: Box::pin(future),
        woken: Arc::default(),
    }
}

struct CountedWakes<F> {
    future: std::pin::Pin<Box<F>>,
    woken: Arc<WakeCount>,
}

#[derive(Default)]
struct WakeCount(AtomicUsize);

impl std::task::Wake for WakeCount {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl<F: Future> CountedWakes<F> {
    fn poll(&mut self) -> Poll<F::Output> {
        let waker = self.woken.clone().into();
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(Ordering::SeqCst) > 0
    }
}

#[tokio::test]
async fn an_immediate_decision_calls_the_ready_instance_without_a_clone() {
    let inner = Forgetful::new();
    let (clones, calls) = (inner.clones.clone(), inner.calls.clone());
    let mut service = ApertureLayer::new(Recorder::accepting(), "test").layer(inner);
    for _ in 0..3 {
        service.ready().await.expect("ready");
        service.call(Request::new(())).await.expect("a response");
    }
    assert_eq!(calls.load(Ordering::SeqCst), 3);
    assert_eq!(clones.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_decision_that_waits_keeps_the_ready_instance() {
    let recorder = Recorder::by_hand();
    let inner = Forgetful::new();
    let (clones, calls) = (inner.clones.clone(), inner.calls.clone());
    let mut service = ApertureLayer::new(recorder.clone(), "test").layer(inner);
    service.ready().await.expect("ready");
    let first = service.call(Request::new(()));
    // The clone that replaced it must become ready itself.
    service.ready().await.expect("ready");
    let second = service.call(Request::new(()));
    recorder.answer(Answer::Accept);
    recorder.answer(Answer::Accept);
    first.await.expect("a response");
    second.await.expect("a response");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    assert_eq!(clones.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_rejected_request_leaves_the_ready_instance_ready() {
    let recorder = Recorder::rejecting(denial());
    let (mut service, mut handle) = mocked(&recorder);
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = service
        .call(Request::new("ping"))
        .await
        .expect("a response");
    assert_eq!(response.status(), 429);
    assert!(
        service.poll_ready().is_ready(),
        "the reserved place is kept"
    );
    assert_eq!(recorder.end(), (Unset, Some(429)));
}

#[tokio::test]
async fn a_skipped_request_makes_no_check() {
    let recorder = Recorder::rejecting(denial());
    let layer = ApertureLayer::new(recorder.clone(), "test")
        .labels(|_, _| panic!("a skipped request has no labels"))
        .skip(|head| head.uri().path() == "/health")
        .skip(|head: RequestHead<'_>| head.uri().path() == "/ready");
    let inner = service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(hello())));
    for path in ["/health", "/ready?now"] {
        let request = Request::get(path).body(()).expect("a request");
        let response = layer
            .layer(inner)
            .oneshot(request)
            .await
            .expect("a response");
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "hello");
    }
    assert!(recorder.asked().is_empty());
}

#[tokio::test]
async fn the_layer_inserts_the_decision_only_when_configured() {
    let inner = service_fn(|request: Request<()>| {
        let decision = request.extensions().get::<FlowDecision>().copied();
        assert_eq!(request.extensions().len(), usize::from(decision.is_some()));
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
            format!("{decision:?}"),
        ))))
    });
    let decision_seen = async |layer: ApertureLayer<Recorder>| {
        let response = layer.layer(inner).oneshot(Request::new(())).await;
        let body = response.expect("a response").into_body();
        body.collect().await.expect("a body").to_bytes()
    };
    let accepting = ApertureLayer::new(Recorder::accepting(), "test");
    assert_eq!(decision_seen(accepting.clone()).await, "None");
    assert_eq!(
        decision_seen(accepting.insert_decision(true)).await,
        "Some(Accepted)"
    );
    let error = FlowError::new(FlowErrorKind::Timeout, "");
    let unreachable = ApertureLayer::new(Recorder::unreachable(error), "test");
    assert_eq!(
        decision_seen(unreachable.insert_decision(true)).await,
        "Some(Unreachable)"
    );
}

#[tokio::test]
async fn settings_of_the_layer_are_passed_to_the_decider() {
    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "test");
    let first = layer.clone();
    let second = layer
        .check_timeout(Duration::from_millis(7))
        .ramp_mode(true)
        .on_unreachable(FailureMode::Open);
    for layer in [first, second] {
        let service = layer.layer(Forgetful::new());
        service.oneshot(Request::new(())).await.expect("a response");
    }
    let asked = recorder.asked();
    assert_eq!(asked[0].control_point, "test");
    assert_eq!((asked[0].check_timeout, asked[0].ramp_mode), (None, false));
    let timeout = Some(Duration::from_millis(7));
    assert_eq!(
        (asked[1].check_timeout, asked[1].ramp_mode),
        (timeout, true)
    );
}

#[tokio::test]
async fn the_inner_service_is_accessible_and_can_be_taken_out() {
    let recorder = Recorder::accepting();
    let (service, mut handle) = mock::pair::<Request<&'static str>, Response<Body>>();
    let mut service = ApertureLayer::new(recorder.clone(), "test").layer(service);
    let _: (&HttpMock, &mut HttpMock) = (&service.get_ref().clone(), service.get_mut());
    let mut inner = service.into_inner();
    handle.allow(1);
    inner.ready().await.expect("ready");
    let response = inner.call(Request::new("ping"));
    let send = {
        let (request, send) = handle.next_request().await.expect("a request");
        assert_eq!(*request.body(), "ping");
        send
    };
    send.send_response(hello());
    response.await.expect("a response");
    assert!(recorder.asked().is_empty());
}

#[test]
fn auto_traits_follow_from_the_parts() {
    fn is<T: Send + Sync + Clone + 'static>() {}
    fn is_send<T: Send>() {}

    /// Checks that users can name the types of a field with a layer or a service.
    #[derive(Clone, Debug)]
    struct Mine {
        layer: ApertureLayer<Recorder>,
        service: Aperture<Counted, Recorder>,
    }
    type Hook = fn(&tower_aperture::Rejection, RequestHead<'_>) -> Response<Body>;

    is::<Mine>();
    is::<ApertureLayer<Recorder>>();
    is::<ApertureLayer<Recorder, Hook>>();
    is::<Aperture<Counted, Recorder, Hook>>();
    is_send::<ResponseFuture<Counted, Recorder, DefaultReject, (), NoBody>>();
    is_send::<ResponseBody<Body, NoBody, crate::layer_support::Recorded>>();

    let mine = Mine {
        layer: ApertureLayer::new(Recorder::accepting(), "test"),
        service: ApertureLayer::new(Recorder::accepting(), "test").layer(Counted {
            drops: Arc::default(),
        }),
    };
    let shown = format!("{:?} {:?}", mine.layer, mine.service);
    assert!(
        shown.contains("control_point: \"test\"") && shown.contains(".."),
        "{shown}"
    );
}
