//! The contract of Tower services: readiness, clones, cancellation, panics, names of types.

mod layer_support;

use std::convert::Infallible;
use std::future::{Future, Ready, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::poll;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use layer_support::body::{Script, Step};
use layer_support::{Answer, Recorder};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::layer::{DefaultReject, NoBody, ResponseBody, ResponseFuture};
use tower_aperture::{
    Aperture, ApertureLayer, Denial, FailureMode, FlowDecision, FlowError, FlowErrorKind,
    RejectReason, RequestHead,
};
use tower_test::mock::{self, Mock, Spawn};

type Body = Full<Bytes>;
type HttpMock = Mock<Request<&'static str>, Response<Body>>;
type Handle = mock::Handle<Request<&'static str>, Response<Body>>;

fn mocked(recorder: &Recorder) -> (Spawn<Aperture<HttpMock, Recorder>>, Handle) {
    mock::spawn_layer(ApertureLayer::new(recorder.clone(), "test"))
}

fn hello() -> Response<Body> {
    Response::new(Full::from("hello"))
}

fn denial() -> Denial {
    Denial::new(RejectReason::RateLimited)
}

#[tokio::test]
async fn nothing_is_asked_before_the_inner_service_is_ready() {
    let recorder = Recorder::accepting();
    let (mut service, mut handle) = mocked(&recorder);
    handle.allow(0);
    assert!(service.poll_ready().is_pending());
    assert!(recorder.asked().is_empty());
    handle.allow(1);
    assert!(service.is_woken());
    assert!(matches!(service.poll_ready(), Poll::Ready(Ok(()))));
    assert!(recorder.asked().is_empty(), "being ready asks nothing");

    let response = service.call(Request::new("ping"));
    assert_eq!(recorder.asked().len(), 1);
    let (request, send) = handle.next_request().await.expect("a request");
    assert_eq!(*request.body(), "ping");
    send.send_response(hello());
    response.await.expect("a response");
}

#[tokio::test]
async fn an_error_of_readiness_passes_and_asks_nothing() {
    let recorder = Recorder::accepting();
    let (mut service, mut handle) = mocked(&recorder);
    handle.send_error("not today");
    let Poll::Ready(Err(error)) = service.poll_ready() else {
        panic!("the error shows");
    };
    assert_eq!(error.to_string(), "not today");
    assert!(recorder.asked().is_empty());
}

#[tokio::test]
async fn an_error_of_the_inner_service_passes_untouched() {
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
async fn the_future_is_woken_by_the_inner_service() {
    let recorder = Recorder::accepting();
    let (mut service, mut handle) = mocked(&recorder);
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let mut response = woken(service.call(Request::new("ping")));
    assert!(response.poll().is_pending());
    let (_, send) = handle.next_request().await.expect("a request");
    send.send_response(hello());
    assert!(response.is_woken());
    assert!(response.poll().is_ready());
}

/// A future with a waker that counts.
fn woken<F: Future>(future: F) -> Woken<F> {
    Woken {
        future: Box::pin(future),
        woken: Arc::default(),
    }
}

struct Woken<F> {
    future: std::pin::Pin<Box<F>>,
    woken: Arc<Count>,
}

#[derive(Default)]
struct Count(AtomicUsize);

impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl<F: Future> Woken<F> {
    fn poll(&mut self) -> Poll<F::Output> {
        let waker = self.woken.clone().into();
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(Ordering::SeqCst) > 0
    }
}

/// Panics when called without having been ready; a clone forgets that it was.
#[derive(Debug)]
struct Forgetful {
    ready: bool,
    clones: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
}

impl Forgetful {
    fn new() -> Self {
        Self {
            ready: false,
            clones: Arc::default(),
            calls: Arc::default(),
        }
    }
}

impl Clone for Forgetful {
    fn clone(&self) -> Self {
        self.clones.fetch_add(1, Ordering::SeqCst);
        Self {
            ready: false,
            clones: self.clones.clone(),
            calls: self.calls.clone(),
        }
    }
}

impl Service<Request<()>> for Forgetful {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(self.ready, "called without being ready");
        self.ready = false;
        self.calls.fetch_add(1, Ordering::SeqCst);
        ready(Ok(hello()))
    }
}

#[tokio::test]
async fn a_decision_made_at_once_calls_the_ready_instance_and_clones_nothing() {
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
    // The clone that took its place has to become ready on its own.
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
    let response = service.call(Request::new("ping")).await.expect("an answer");
    assert_eq!(response.status(), 429);
    assert!(service.poll_ready().is_ready(), "the place is still ours");
    assert_eq!(recorder.end(), (Unset, Some(429)));
}

#[tokio::test]
async fn a_decision_that_waits_and_rejects_frees_the_ready_instance() {
    let recorder = Recorder::by_hand();
    let drops = Arc::new(AtomicUsize::new(0));
    let inner = Counted::new(&drops);
    let mut service = ApertureLayer::new(recorder.clone(), "test").layer(inner);
    service.ready().await.expect("ready");
    let response = service.call(Request::new(()));
    let mut response = pin!(response);
    assert!(poll!(&mut response).is_pending());
    recorder.answer(Answer::Reject(denial()));
    assert_eq!(response.await.expect("an answer").status(), 429);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    assert_eq!(recorder.end(), (Unset, Some(429)));
}

#[tokio::test]
async fn giving_up_a_waiting_decision_frees_the_ready_instance_once() {
    let recorder = Recorder::by_hand();
    let drops = Arc::new(AtomicUsize::new(0));
    let inner = Counted::new(&drops);
    let mut service = ApertureLayer::new(recorder.clone(), "test").layer(inner);
    service.ready().await.expect("ready");
    let response = service.call(Request::new(()));
    drop(response);
    assert_eq!(recorder.given_up(), 1);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    assert!(recorder.ends().is_empty());
}

/// Counts its instances that went.
#[derive(Debug)]
struct Counted {
    drops: Arc<AtomicUsize>,
}

impl Counted {
    fn new(drops: &Arc<AtomicUsize>) -> Self {
        Self {
            drops: drops.clone(),
        }
    }
}

impl Clone for Counted {
    fn clone(&self) -> Self {
        Self::new(&self.drops)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::SeqCst);
    }
}

impl Service<Request<()>> for Counted {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(hello()))
    }
}

#[tokio::test]
async fn dropping_the_future_at_work_is_an_error() {
    let recorder = Recorder::accepting();
    let (mut service, mut handle) = mocked(&recorder);
    handle.allow(1);
    assert!(service.poll_ready().is_ready());
    let response = service.call(Request::new("ping"));
    assert!(recorder.ends().is_empty());
    drop(response);
    assert_eq!(recorder.end(), (Error, None));
}

#[tokio::test]
async fn dropping_the_future_after_a_decision_that_waited_is_an_error() {
    let recorder = Recorder::by_hand();
    let inner =
        service_fn(|_: Request<()>| std::future::pending::<Result<Response<Body>, Infallible>>());
    let mut service = ApertureLayer::new(recorder.clone(), "test").layer(inner);
    let mut response = Box::pin(service.call(Request::new(())));
    recorder.answer(Answer::Accept);
    assert!(poll!(&mut response).is_pending());
    assert!(recorder.ends().is_empty());
    drop(response);
    assert_eq!(recorder.end(), (Error, None));
}

#[tokio::test]
async fn dropping_a_decided_future_that_was_never_polled_ends_the_flow() {
    let recorder = Recorder::rejecting(denial());
    let mut service = ApertureLayer::new(recorder.clone(), "test").layer(Forgetful::new());
    service.ready().await.expect("ready");
    drop(service.call(Request::new(())));
    assert_eq!(recorder.end(), (Unset, Some(429)));
}

#[tokio::test]
async fn a_service_that_panics_when_called_after_waiting_is_an_error() {
    let recorder = Recorder::by_hand();
    let inner = service_fn(
        |_: Request<()>| -> Ready<Result<Response<Body>, Infallible>> {
            panic!("the service panicked, as the test wants it to")
        },
    );
    let mut service = ApertureLayer::new(recorder.clone(), "test").layer(inner);
    let response = service.call(Request::new(()));
    recorder.answer(Answer::Accept);
    assert!(
        tokio::spawn(response)
            .await
            .expect_err("an error")
            .is_panic()
    );
    assert_eq!(recorder.end(), (Error, None));
}

#[tokio::test]
async fn hooks_that_panic_end_the_flow() {
    let inner = || service_fn(|_: Request<()>| ready(Ok::<_, Infallible>(hello())));

    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "test")
        .classify(|_| panic!("the hook panicked, as the test wants it to"));
    let response = layer.layer(inner()).call(Request::new(()));
    assert!(tokio::spawn(response).await.is_err());
    assert_eq!(recorder.end(), (Error, Some(200)));

    let recorder = Recorder::rejecting(denial());
    let layer = ApertureLayer::new(recorder.clone(), "test")
        .on_reject(|_, _| -> Response<Body> { panic!("the hook panicked") });
    let mut service = layer.layer(inner());
    let call = AssertUnwindSafe(|| drop(service.call(Request::new(()))));
    assert!(catch_unwind(call).is_err());
    assert_eq!(recorder.end(), (Unset, None));

    let recorder = Recorder::accepting();
    let layer = ApertureLayer::new(recorder.clone(), "test")
        .labels(|_, _| panic!("the hook panicked, as the test wants it to"));
    let mut service = layer.layer(inner());
    let call = AssertUnwindSafe(|| drop(service.call(Request::new(()))));
    assert!(catch_unwind(call).is_err());
    assert!(recorder.asked().is_empty(), "no flow was started");
}

#[tokio::test]
async fn a_skipped_request_is_none_of_the_deciders_business() {
    let recorder = Recorder::rejecting(denial());
    let layer = ApertureLayer::new(recorder.clone(), "test")
        .labels(|_, _| panic!("labels are not read"))
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
async fn nothing_goes_into_the_extensions_unless_asked_for() {
    let inner = service_fn(|request: Request<()>| {
        let decision = request.extensions().get::<FlowDecision>().copied();
        assert_eq!(request.extensions().len(), usize::from(decision.is_some()));
        ready(Ok::<_, Infallible>(Response::new(Full::<Bytes>::from(
            format!("{decision:?}"),
        ))))
    });
    let ask = async |layer: ApertureLayer<Recorder>| {
        let response = layer.layer(inner).oneshot(Request::new(())).await;
        let body = response.expect("a response").into_body();
        body.collect().await.expect("a body").to_bytes()
    };
    let accepting = ApertureLayer::new(Recorder::accepting(), "test");
    assert_eq!(ask(accepting.clone()).await, "None");
    assert_eq!(ask(accepting.insert_decision(true)).await, "Some(Accepted)");
    let error = FlowError::new(FlowErrorKind::Timeout, "");
    let unreachable = ApertureLayer::new(Recorder::unreachable(error), "test");
    assert_eq!(
        ask(unreachable.insert_decision(true)).await,
        "Some(Unreachable)"
    );
}

#[tokio::test]
async fn settings_reach_the_decider() {
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
async fn each_flow_of_many_at_once_ends_once() {
    let recorder = Recorder::by_hand();
    let inner = service_fn(async |_: Request<()>| {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(Response::new(Script::new([
            Step::Data("x"),
            Step::Data("y"),
        ])))
    });
    let mut service = ApertureLayer::new(recorder.clone(), "test").layer(inner);
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..200 {
        let response = service.call(Request::new(()));
        tasks.spawn(async move {
            let response = response.await.expect("a response");
            let mut body = response.into_body();
            body.frame().await.expect("a frame").expect("data");
            if at % 2 == 0 {
                assert_eq!(body.collect().await.expect("a body").to_bytes(), "y");
            }
        });
    }
    for at in 0..200 {
        recorder.answer(if at % 4 == 0 {
            Answer::Accept
        } else {
            Answer::Unreachable(FlowError::new(FlowErrorKind::Unavailable, ""))
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no panic");
    }
    let ends = recorder.ends();
    assert_eq!(ends.len(), 50);
    assert!(ends.iter().all(|end| end.status == Fine));
}

#[tokio::test]
#[should_panic(expected = "polled after it was done")]
async fn an_answer_is_given_once() {
    let recorder = Recorder::rejecting(denial());
    let mut service = ApertureLayer::new(recorder, "test").layer(Forgetful::new());
    service.ready().await.expect("ready");
    let mut response = pin!(service.call(Request::new(())));
    let first = poll!(&mut response);
    assert!(first.is_ready());
    let _ = poll!(response);
}

#[tokio::test]
async fn an_inner_future_that_answers_twice_ends_its_flow_once() {
    let recorder = Recorder::accepting();
    let inner = service_fn(|_: Request<()>| poll_fn(|_| Poll::Ready(Ok::<_, Infallible>(hello()))));
    let mut service = ApertureLayer::new(recorder.clone(), "test").layer(inner);
    let mut response = pin!(service.call(Request::new(())));
    for _ in 0..2 {
        let Poll::Ready(Ok(response)) = poll!(&mut response) else {
            panic!("it is ready");
        };
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "hello");
        assert_eq!(recorder.end(), (Fine, Some(200)));
    }
}

#[tokio::test]
async fn the_inner_service_can_be_had_back() {
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
fn auto_traits_are_those_of_the_parts() {
    fn is<T: Send + Sync + Clone + 'static>() {}
    fn is_send<T: Send>() {}

    /// A user can name what holds a layer.
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
    is_send::<ResponseBody<Body, NoBody, layer_support::Recorded>>();

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
