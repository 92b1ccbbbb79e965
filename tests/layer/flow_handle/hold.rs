//! Flow holds: work that keeps its flow open beyond the response.

use std::future::pending;
use std::task::{Context, Poll, Waker};
use std::thread;

use crate::layer_support::server::{BOTH, Client, serve};
use http::Method;
use tokio::sync::oneshot;
use tower_aperture::layer::FlowHold;

use super::*;

/// A response, and the hold that its handler took.
struct Held<B> {
    response: Response<B>,
    hold: FlowHold,
}

/// Sends a request whose handler takes a hold; returns after the head of the response.
async fn held(recorder: &Recorder, respond: fn() -> Response<Script>) -> Held<impl BodyExt> {
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let service = exposed(recorder).layer(service_fn(move |request: Request<()>| {
        let flow = request.extensions().get::<FlowHandle>().expect("exposed");
        *keep.lock().expect("no panic") = Some(flow.hold());
        ready(Ok::<_, Infallible>(respond()))
    }));
    let response = service.oneshot(request()).await.expect("infallible");
    let hold = kept.lock().expect("no panic").take();
    Held {
        response,
        hold: hold.expect("the handler ran"),
    }
}

async fn read<B: BodyExt>(response: Response<B>) -> bool {
    response.into_body().collect().await.is_ok()
}

#[tokio::test]
async fn the_flow_ends_after_body_and_hold_in_either_order() {
    let recorder = Recorder::accepting();
    let Held { response, hold } = held(&recorder, fine).await;
    assert!(hold.is_open());
    assert!(read(response).await);
    assert!(recorder.ends().is_empty(), "the hold is open");
    assert!(!hold.flow().is_ended());
    let flow = hold.flow().clone();
    drop(hold);
    assert_eq!(recorder.end(), (Fine, Some(200)));
    assert!(flow.is_ended());

    let recorder = Recorder::accepting();
    let Held { response, hold } = held(&recorder, broken).await;
    drop(hold);
    assert!(recorder.ends().is_empty(), "the body is open");
    assert!(read(response).await);
    assert_eq!(recorder.end(), (Error, Some(500)));
}

#[tokio::test]
async fn the_last_of_several_holds_ends_the_flow() {
    let recorder = Recorder::accepting();
    let Held { response, hold } = held(&recorder, fine).await;
    let (second, third) = (hold.clone(), hold.flow().hold());
    drop(hold);
    assert!(read(response).await);
    drop(third);
    // A hold can be taken while another one is open.
    let fourth = second.flow().hold();
    assert!(fourth.is_open());
    drop(second);
    assert!(recorder.ends().is_empty());
    let late = fourth.flow().clone();
    drop(fourth);
    assert_eq!(recorder.end(), (Fine, Some(200)));
    let hold = late.hold();
    assert!(!hold.is_open() && !hold.clone().is_open(), "too late");
    drop(hold);
    assert_eq!(recorder.end(), (Fine, Some(200)));
}

#[tokio::test]
async fn an_unreachable_flow_has_no_open_hold() {
    let error = FlowError::new(FlowErrorKind::Timeout, "late");
    let recorder = Recorder::unreachable(error);
    let Held { response, hold } = held(&recorder, fine).await;
    assert!(!hold.is_open() && hold.flow().is_ended());
    assert!(read(response).await);
    drop(hold);
    assert!(recorder.ends().is_empty());
}

#[tokio::test]
async fn the_status_can_be_set_until_the_hold_is_dropped() {
    for (set, status) in [(Error, Error), (Fine, Fine), (Unset, Unset)] {
        let recorder = Recorder::accepting();
        let Held { response, hold } = held(&recorder, fine).await;
        assert!(read(response).await);
        assert!(hold.flow().set_status(set), "the flow is not over");
        drop(hold);
        assert_eq!(recorder.end(), (status, Some(200)));
    }
}

#[tokio::test]
async fn a_failed_response_ends_the_flow_as_error_after_the_hold() {
    let recorder = Recorder::accepting();
    let failing = || response(200, Script::new([Step::Data("text"), Step::Error]));
    let Held { response, hold } = held(&recorder, failing).await;
    assert!(!read(response).await);
    hold.flow().set_status(Fine);
    assert!(recorder.ends().is_empty());
    drop(hold);
    assert_eq!(recorder.end(), (Error, Some(200)));

    // The client leaves during the body.
    let recorder = Recorder::accepting();
    let Held { response, hold } = held(&recorder, fine).await;
    drop(response);
    assert!(recorder.ends().is_empty());
    drop(hold);
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[tokio::test]
async fn after_a_client_left_before_the_head_the_hold_ends_the_flow() {
    let recorder = Recorder::accepting();
    let kept = Arc::new(Mutex::new(None));
    let keep = kept.clone();
    let service = exposed(&recorder).layer(service_fn(move |request: Request<()>| {
        let flow = request.extensions().get::<FlowHandle>().expect("exposed");
        *keep.lock().expect("no panic") = Some(flow.hold());
        pending::<Result<Response<Script>, Infallible>>()
    }));
    let mut future = Box::pin(service.oneshot(request()));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(matches!(future.as_mut().poll(&mut cx), Poll::Pending));
    drop(future);
    let hold = kept.lock().expect("no panic").take().expect("it ran");
    assert!(recorder.ends().is_empty());
    drop(hold);
    assert_eq!(recorder.end(), (Error, None));
}

#[tokio::test]
async fn a_task_that_panics_with_a_hold_ends_the_flow_as_error() {
    for body_first in [true, false] {
        let recorder = Recorder::accepting();
        let Held { response, hold } = held(&recorder, fine).await;
        let task = async move {
            tokio::task::yield_now().await;
            assert!(!hold.is_open(), "the task panics, as the test intends");
        };
        if body_first {
            assert!(read(response).await);
            assert!(tokio::spawn(task).await.is_err());
        } else {
            assert!(tokio::spawn(task).await.is_err());
            assert!(recorder.ends().is_empty());
            assert!(read(response).await);
        }
        assert_eq!(recorder.end(), (Error, Some(200)));
    }
}

#[test]
fn an_aborted_task_or_a_dropped_runtime_drops_the_hold() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_time();
        builder.build().expect("a runtime")
    };
    let recorder = Recorder::accepting();
    let main = runtime();
    let Held { response, hold } = main.block_on(held(&recorder, fine));
    assert!(main.block_on(read(response)));
    let background = runtime();
    let (began, begun) = oneshot::channel();
    let task = background.spawn(async move {
        let _ = began.send(());
        pending::<()>().await;
        drop(hold);
    });
    main.block_on(begun).expect("the task runs");
    assert!(recorder.ends().is_empty());
    drop(background);
    assert_eq!(recorder.end(), (Fine, Some(200)));
    assert!(
        main.block_on(task)
            .expect_err("the task was dropped")
            .is_cancelled()
    );

    let recorder = Recorder::accepting();
    let Held { response, hold } = main.block_on(held(&recorder, fine));
    assert!(main.block_on(read(response)));
    let task = main.spawn(async move {
        pending::<()>().await;
        drop(hold);
    });
    task.abort();
    main.block_on(recorder.ended());
    assert_eq!(recorder.end(), (Fine, Some(200)));
}

#[test]
fn holds_that_are_dropped_while_the_body_ends_end_the_flow_once() {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    for _ in 0..300 {
        let recorder = Recorder::accepting();
        let Held { response, hold } = runtime.block_on(held(&recorder, fine));
        let start = Arc::new(std::sync::Barrier::new(3));
        let threads: Vec<_> = [hold.clone(), hold]
            .into_iter()
            .map(|hold| {
                let start = start.clone();
                thread::spawn(move || {
                    start.wait();
                    drop(hold.clone());
                    drop(hold);
                })
            })
            .collect();
        start.wait();
        assert!(runtime.block_on(read(response)));
        for thread in threads {
            thread.join().expect("no panic");
        }
        assert_eq!(recorder.end(), (Fine, Some(200)));
    }
}

#[tokio::test]
async fn a_tunnel_holds_its_flow_until_it_is_closed() {
    for version in BOTH {
        let recorder = Recorder::accepting();
        let (close, closed) = oneshot::channel::<()>();
        let closed = Arc::new(Mutex::new(Some(closed)));
        let service = exposed(&recorder).layer(service_fn(
            move |request: Request<hyper::body::Incoming>| {
                assert_eq!(request.method(), Method::CONNECT);
                let flow = request.extensions().get::<FlowHandle>().expect("exposed");
                let hold = flow.hold();
                let closed = closed.lock().expect("no panic").take();
                tokio::spawn(async move {
                    let tunnel = hyper::upgrade::on(request).await.expect("a tunnel");
                    let _ = closed.expect("one request").await;
                    drop((tunnel, hold));
                });
                let body = Script::new([]).hint(0).knowing_its_end();
                ready(Ok::<_, Infallible>(response(200, body)))
            },
        ));
        let mut client = Client::connect(version, serve(version, service).await).await;
        let request = Request::connect("shop.example:443").header("host", "shop.example:443");
        let response = client.send(request).await.expect("a response");
        let tunnel = hyper::upgrade::on(response).await.expect("a tunnel");
        assert!(recorder.ends().is_empty(), "the tunnel is open");
        close.send(()).expect("the tunnel is open");
        assert_eq!(recorder.ended().await, (Fine, Some(200)), "{version:?}");
        drop(tunnel);
    }
}

#[cfg(feature = "embedded")]
mod slots {
    use tower_aperture::{ApertureClient, Engine, FlowParams};

    use super::*;

    const ONE: &str = "
blueprint: concurrency-limiting/base
policy:
  policy_name: one
  concurrency_limiter:
    max_concurrency: 1
    parameters: {max_inflight_duration: 3600s}
    selectors: [{control_point: shop}]
";

    fn client() -> ApertureClient {
        let engine = Engine::builder().policy_text("one.yaml", ONE).build();
        ApertureClient::embedded(engine.expect("a policy"))
    }

    async fn is_free(client: &ApertureClient) -> bool {
        let flow = client.start_flow("shop", FlowParams::new()).await;
        flow.should_run()
    }

    /// Returns the hold of a request whose response has ended.
    async fn job(client: &ApertureClient) -> FlowHold {
        let kept = Arc::new(Mutex::new(None));
        let layer = ApertureLayer::new(client.clone(), "shop").expose_flow();
        let keep = kept.clone();
        let service = layer.layer(service_fn(move |request: Request<()>| {
            let flow = request.extensions().get::<FlowHandle>().expect("exposed");
            *keep.lock().expect("no panic") = Some(flow.hold());
            ready(Ok::<_, Infallible>(fine()))
        }));
        let response = service.oneshot(request()).await.expect("infallible");
        assert_eq!(response.status(), 200);
        assert!(read(response).await);
        let hold = kept.lock().expect("no panic").take();
        hold.expect("it ran")
    }

    #[tokio::test]
    async fn a_background_job_with_a_hold_keeps_the_slot_of_its_request() {
        let client = client();
        let hold = job(&client).await;
        assert!(!is_free(&client).await, "the job holds the slot");
        drop(hold);
        assert!(is_free(&client).await);
    }

    #[tokio::test]
    async fn a_hold_may_outlive_its_client() {
        let client = client();
        let engine_side = client.clone();
        let hold = job(&client).await;
        client.shutdown(Duration::ZERO).await;
        drop(client);
        drop(hold);
        let stats = engine_side.stats();
        assert_eq!(stats.accepted, 1);
        drop(job(&self::client()).await);
    }
}
