//! Bodies that come to know their end after the head, and are dropped without being polled for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use http_body::SizeHint;

use super::*;
use crate::layer_support::server::{BOTH, Client, Version, serve};

/// What a body says when it is asked for its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Says {
    /// Whatever the flag is.
    Flag,
    Panics,
}

/// A body without a frame that is over once its flag is set.
struct Late {
    over: Arc<AtomicBool>,
    says: Says,
    asked: Arc<AtomicUsize>,
    panics_when_polled: bool,
}

impl Late {
    fn new() -> (Self, Arc<AtomicBool>) {
        let over = Arc::new(AtomicBool::new(false));
        let body = Self {
            over: over.clone(),
            says: Says::Flag,
            asked: Arc::default(),
            panics_when_polled: false,
        };
        (body, over)
    }
}

impl Body for Late {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        assert!(!self.panics_when_polled, "the body panics, as it is to");
        if self.over.load(SeqCst) {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }

    fn is_end_stream(&self) -> bool {
        self.asked.fetch_add(1, SeqCst);
        let over = self.over.load(SeqCst);
        assert!(!over || self.says == Says::Flag, "it panics, as it is to");
        over
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::new()
    }
}

fn late(
    status: u16,
    make: impl FnOnce(Late) -> Late,
) -> (
    Recorder,
    ResponseBody<Late, NoBody, Recorded>,
    Arc<AtomicBool>,
) {
    let recorder = Recorder::accepting();
    let (body, over) = Late::new();
    let mut response = Response::new(make(body));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    let layer = ApertureLayer::new(recorder.clone(), "test");
    let body = behind(&layer, response);
    (recorder, body, over)
}

#[test]
fn a_body_that_is_over_when_it_is_dropped_unpolled_ends_as_judged() {
    for (status, judged) in [(200, Fine), (404, Fine), (500, Error)] {
        for ask in [true, false] {
            let (recorder, body, over) = late(status, |body| body);
            assert!(!body.is_end_stream());
            over.store(true, SeqCst);
            if ask {
                assert!(body.is_end_stream(), "as a server asks before it drops");
            }
            assert!(recorder.ends().is_empty());
            drop(body);
            assert_eq!(recorder.end(), (judged, Some(status)), "asked: {ask}");
        }
    }
}

#[test]
fn a_body_that_ends_after_it_was_polled_in_vain_ends_as_judged() {
    let (recorder, mut body, over) = late(200, |body| body);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(Pin::new(&mut body).poll_frame(&mut cx).is_pending());
    over.store(true, SeqCst);
    drop(body);
    assert_eq!(recorder.end(), (Fine, Some(200)));
}

#[test]
fn a_body_that_is_not_over_when_it_is_dropped_is_an_error() {
    let (recorder, body, _) = late(200, |body| body);
    drop(body);
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[test]
fn a_classifier_judged_the_head_and_is_not_asked_in_a_drop() {
    let recorder = Recorder::accepting();
    let judged = Arc::new(AtomicUsize::new(0));
    let times = judged.clone();
    let layer = ApertureLayer::new(recorder.clone(), "test").classify(move |_| {
        times.fetch_add(1, SeqCst);
        Unset
    });
    let (body, over) = Late::new();
    let body = behind(&layer, Response::new(body));
    over.store(true, SeqCst);
    drop(body);
    assert_eq!(recorder.end(), (Unset, Some(200)));
    assert_eq!(judged.load(SeqCst), 1);
}

#[test]
fn a_panic_of_the_body_that_is_asked_in_a_drop_stays_there() {
    let (recorder, body, over) = late(200, |body| Late {
        says: Says::Panics,
        ..body
    });
    over.store(true, SeqCst);
    drop(body);
    assert_eq!(recorder.end(), (Error, Some(200)));
}

#[test]
fn a_body_is_not_asked_after_its_own_panic_nor_while_another_unwinds() {
    let (recorder, mut body, over) = late(200, |body| Late {
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

    let asked = Arc::new(AtomicUsize::new(0));
    let (recorder, body, over) = late(200, |body| Late {
        asked: asked.clone(),
        ..body
    });
    over.store(true, SeqCst);
    let before = asked.load(SeqCst);
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _body = body;
        panic!("the owner of the body panicked, as the test wants it to")
    }));
    assert!(unwound.is_err());
    assert_eq!(asked.load(SeqCst), before);
    assert_eq!(recorder.end(), (Error, Some(200)));
}

/// Says that it is over from the second time on that it is asked: after the layer, the server.
struct Second(AtomicUsize);

impl Body for Second {
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
async fn a_server_that_drops_such_a_body_ends_its_flow_as_judged() {
    for version in BOTH {
        for (status, judged) in [(200, Fine), (502, Error)] {
            let recorder = Recorder::accepting();
            let layer = ApertureLayer::new(recorder.clone(), "test");
            let service = layer.layer(service_fn(move |_| {
                let mut response = Response::new(Second(AtomicUsize::new(0)));
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
