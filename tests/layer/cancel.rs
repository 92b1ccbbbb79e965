//! Requests that are dropped or panic: each flow ends once, and each ready instance is released
//! once.

use std::convert::Infallible;
use std::future::{Ready, poll_fn, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use crate::layer_support::body::{Script, Step};
use crate::layer_support::inner::{Body, Counted, Forgetful, denial, hello};
use crate::layer_support::{Answer, Recorder};
use futures_util::poll;
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_aperture::FlowStatus::{Error, Ok as Fine, Unset};
use tower_aperture::{Aperture, ApertureLayer, FlowError, FlowErrorKind};
use tower_test::mock::{self, Mock, Spawn};

type HttpMock = Mock<Request<&'static str>, Response<Body>>;
type Handle = mock::Handle<Request<&'static str>, Response<Body>>;

fn mocked(recorder: &Recorder) -> (Spawn<Aperture<HttpMock, Recorder>>, Handle) {
    mock::spawn_layer(ApertureLayer::new(recorder.clone(), "test"))
}

#[tokio::test]
async fn a_late_rejection_releases_the_ready_instance() {
    let recorder = Recorder::by_hand();
    let drops = Arc::new(AtomicUsize::new(0));
    let inner = Counted::new(&drops);
    let mut service = ApertureLayer::new(recorder.clone(), "test").layer(inner);
    service.ready().await.expect("ready");
    let response = service.call(Request::new(()));
    let mut response = pin!(response);
    assert!(poll!(&mut response).is_pending());
    recorder.answer(Answer::Reject(denial()));
    assert_eq!(response.await.expect("a response").status(), 429);
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    assert_eq!(recorder.end(), (Unset, Some(429)));
}

#[tokio::test]
async fn dropping_a_waiting_decision_releases_the_ready_instance_once() {
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

#[tokio::test]
async fn dropping_the_running_future_ends_the_flow_as_error() {
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
async fn dropping_the_future_after_a_late_decision_ends_the_flow_as_error() {
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
async fn dropping_a_rejected_future_before_its_first_poll_ends_the_flow() {
    let recorder = Recorder::rejecting(denial());
    let mut service = ApertureLayer::new(recorder.clone(), "test").layer(Forgetful::new());
    service.ready().await.expect("ready");
    drop(service.call(Request::new(())));
    assert_eq!(recorder.end(), (Unset, Some(429)));
}

#[tokio::test]
async fn a_service_that_panics_after_a_late_decision_ends_the_flow_as_error() {
    let recorder = Recorder::by_hand();
    let inner = service_fn(
        |_: Request<()>| -> Ready<Result<Response<Body>, Infallible>> {
            panic!("the service panicked, as the test intends")
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
        .classify(|_| panic!("the hook panicked, as the test intends"));
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
        .labels(|_, _| panic!("the hook panicked, as the test intends"));
    let mut service = layer.layer(inner());
    let call = AssertUnwindSafe(|| drop(service.call(Request::new(()))));
    assert!(catch_unwind(call).is_err());
    assert!(recorder.asked().is_empty(), "the layer started no flow");
}

#[tokio::test]
async fn each_of_many_concurrent_flows_ends_once() {
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
#[should_panic(expected = "polled after completion")]
async fn the_future_panics_when_polled_after_completion() {
    let recorder = Recorder::rejecting(denial());
    let mut service = ApertureLayer::new(recorder, "test").layer(Forgetful::new());
    service.ready().await.expect("ready");
    let mut response = pin!(service.call(Request::new(())));
    let first = poll!(&mut response);
    assert!(first.is_ready());
    let _ = poll!(response);
}

#[tokio::test]
async fn an_inner_future_that_completes_twice_ends_its_flow_once() {
    let recorder = Recorder::accepting();
    let inner = service_fn(|_: Request<()>| poll_fn(|_| Poll::Ready(Ok::<_, Infallible>(hello()))));
    let mut service = ApertureLayer::new(recorder.clone(), "test").layer(inner);
    let mut response = pin!(service.call(Request::new(())));
    for _ in 0..2 {
        let Poll::Ready(Ok(response)) = poll!(&mut response) else {
            panic!("the future is ready");
        };
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.to_bytes(), "hello");
        assert_eq!(recorder.end(), (Fine, Some(200)));
    }
}
