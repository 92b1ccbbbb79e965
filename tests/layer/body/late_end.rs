//! Bodies that learn after the head that they are complete, and are dropped without another poll.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use http_body::SizeHint;

use super::*;
use crate::layer_support::server::{BOTH, Client, Version, serve};

/// What `is_end_stream` of a body does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum EndStream {
    /// Returns the flag.
    Flag,
    Panics,
}

/// A body without a frame that is over once its flag is set.
struct LateEnd {
    over: Arc<AtomicBool>,
    end_stream: EndStream,
    end_stream_calls: Arc<AtomicUsize>,
    panics_when_polled: bool,
}

impl LateEnd {
    fn new() -> (Self, Arc<AtomicBool>) {
        let over = Arc::new(AtomicBool::new(false));
        let body = Self {
            over: over.clone(),
            end_stream: EndStream::Flag,
            end_stream_calls: Arc::default(),
            panics_when_polled: false,
        };
        (body, over)
    }
}

impl Body for LateEnd {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        assert!(
            !self.panics_when_polled,
            "the body panicked, as the test intends"
        );
        if self.over.load(SeqCst) {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }

    fn is_end_stream(&self) -> bool {
        self.end_stream_calls.fetch_add(1, SeqCst);
        let over = self.over.load(SeqCst);
        assert!(
            !over || self.end_stream == EndStream::Flag,
            "`is_end_stream` panicked, as the test intends"
        );
        over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

fn late_end_behind_layer(
    status: u16,
    make: impl FnOnce(LateEnd) -> LateEnd,
) -> (
    Recorder,
    ResponseBody<LateEnd, NoBody, Recorded>,
    Arc<AtomicBool>,
) {
    let recorder = Recorder::accepting();
    let (body, over) = LateEnd::new();
    let mut response = Response::new(make(body));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    let layer = ApertureLayer::new(recorder.clone(), "test");
    let body = body_of_response(&layer, response);
    (recorder, body, over)
}

#[test]
fn a_complete_body_that_is_dropped_unpolled_ends_the_flow_by_its_status() {
    for (status, judged) in [(200, Fine), (404, Fine), (500, Error)] {
        for server_checks in [true, false] {
            let (recorder, body, over) = late_end_behind_layer(status, |body| body);
            assert!(!body.is_end_stream());
            over.store(true, SeqCst);
            if server_checks {
                assert!(
                    body.is_end_stream(),
                    "a server checks this before it drops the body"
                );
            }
            assert!(recorder.ends().is_empty());
            drop(body);
            assert_eq!(
                recorder.end(),
                (judged, Some(status)),
                "server checks: {server_checks}"
            );
        }
    }
}

#[test]
fn a_body_that_completes_after_a_pending_poll_ends_the_flow_by_its_status() {
    let (recorder, mut body, over) = late_end_behind_layer(200, |body| body);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
    over.store(true, SeqCst);
    drop(body);
    assert_eq!(recorder.end(), (Fine, Some(200)));
}

#[test]
fn an_incomplete_body_that_is_dropped_ends_the_flow_as_error() {
    let (recorder, body, _) = late_end_behind_layer(200, |body| body);
    drop(body);
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[test]
fn a_drop_does_not_call_the_classify_hook_again() {
    let recorder = Recorder::accepting();
    let judged = Arc::new(AtomicUsize::new(0));
    let times = judged.clone();
    let layer = ApertureLayer::new(recorder.clone(), "test").classify(move |_| {
        times.fetch_add(1, SeqCst);
        Unset
    });
    let (body, over) = LateEnd::new();
    let body = body_of_response(&layer, Response::new(body));
    over.store(true, SeqCst);
    drop(body);
    assert_eq!(recorder.end(), (Unset, Some(200)));
    assert_eq!(judged.load(SeqCst), 1);
}

#[test]
fn a_panic_of_is_end_stream_does_not_leave_the_drop() {
    let (recorder, body, over) = late_end_behind_layer(200, |body| LateEnd {
        end_stream: EndStream::Panics,
        ..body
    });
    over.store(true, SeqCst);
    drop(body);
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[test]
fn is_end_stream_is_not_called_after_a_panic_or_during_unwinding() {
    let (recorder, mut body, over) = late_end_behind_layer(200, |body| LateEnd {
        panics_when_polled: true,
        ..body
    });
    let mut cx = Context::from_waker(Waker::noop());
    let polled = catch_unwind(AssertUnwindSafe(|| {
        Pin::new(&mut body).poll_frame(&mut cx).is_pending()
    }));
    assert!(polled.is_err());
    over.store(true, SeqCst);
    drop(body);
    assert_eq!(recorder.end(), (Error, Some(200)));

    let calls = Arc::new(AtomicUsize::new(0));
    let (recorder, body, over) = late_end_behind_layer(200, |body| LateEnd {
        end_stream_calls: calls.clone(),
        ..body
    });
    over.store(true, SeqCst);
    let before = calls.load(SeqCst);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _body = body;
        panic!("the owner of the body panicked, as the test intends")
    }));
    assert!(unwound.is_err());
    assert_eq!(calls.load(SeqCst), before);
    assert_eq!(recorder.end(), (Error, Some(200)));
}

/// Reports its end from the second call of `is_end_stream` on. The layer makes the first call and
/// the server the second.
struct EndsAtSecondCall(AtomicUsize);

impl Body for EndsAtSecondCall {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.0.fetch_add(1, SeqCst) > 0
    }
}

#[tokio::test]
async fn a_server_that_drops_a_complete_body_ends_the_flow_by_its_status() {
    for version in BOTH {
        for (status, judged) in [(200, Fine), (502, Error)] {
            let recorder = Recorder::accepting();
            let layer = ApertureLayer::new(recorder.clone(), "test");
            let service = layer.layer(service_fn(move |_| {
                let mut response = Response::new(EndsAtSecondCall(AtomicUsize::new(0)));
                *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                ready(Ok::<_, Infallible>(response))
            }));
            let address = serve(version, service).await;
            let mut client = Client::connect(version, address).await;
            let uri = match version {
                Version::Http1 => "/",
                Version::Http2 => "http://shop.example/",
            };
            let request = Request::get(uri).header("host", "shop.example");
            let response = client.send(request).await.expect("a response");
            assert_eq!(response.status(), status);
            assert_eq!(
                recorder.ended().await,
                (judged, Some(status)),
                "{version:?}"
            );
        }
    }
}
