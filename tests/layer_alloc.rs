//! The layer adds no allocation to an accepted or skipped request, and few to a rejected one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tower::{Layer, Service, service_fn};
use tower_aperture::{
    ApertureLayer, Check, Decider, Denial, FlowOutcome, FlowParams, RejectReason, RequestHead,
    Ticket, Verdict,
};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: all is left to the system's allocator; the counter neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[derive(Clone)]
struct Decide(Option<Denial>);

struct Nothing;

impl Ticket for Nothing {
    fn end(self, _: FlowOutcome) {}
}

impl Decider for Decide {
    type Ticket = Nothing;
    type Pending = Ready<Verdict<Nothing>>;

    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<Nothing, Self::Pending> {
        assert_eq!(control_point, "checkout");
        assert_eq!(params.labels.get("user_id"), Some("42"));
        Check::Ready(match self.0 {
            Some(denial) => Verdict::Rejected(denial, Nothing),
            None => Verdict::Accepted(Nothing),
        })
    }
}

fn layer(denial: Option<Denial>) -> ApertureLayer<Decide> {
    ApertureLayer::new(Decide(denial), "checkout")
        .label("service", "shop")
        .label_from_header("user_id", "x-user-id")
        .labels(|head: RequestHead<'_>, labels| labels.insert("path", head.uri().path()))
        .skip(|head| head.uri().path() == "/health")
}

/// Allocations of one request, its full body polled to the end, and the status.
fn cost<S, B>(service: &mut S, path: &str) -> (usize, u16)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let request = Request::get(path)
        .header("x-user-id", "42")
        .header("baggage", "tier=gold;p=1, plan=free")
        .body(())
        .expect("a request");
    let mut cx = Context::from_waker(Waker::noop());
    let before = COUNT.get();
    let status = {
        let mut future = pin!(service.call(request));
        let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
            panic!("all of it is ready");
        };
        let status = response.status();
        let mut body = pin!(response.into_body());
        while let Poll::Ready(Some(_)) = body.as_mut().poll_frame(&mut cx) {}
        status
    };
    (COUNT.get() - before, status.as_u16())
}

fn inner() -> impl Service<
    Request<()>,
    Response = Response<Full<Bytes>>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Full<Bytes>>, Infallible>>,
> + Clone {
    service_fn(|_: Request<()>| {
        let body = Full::new(Bytes::from_static(b"hello"));
        ready(Ok::<_, Infallible>(Response::new(body)))
    })
}

#[test]
fn an_accepted_request_costs_no_allocation() {
    assert_eq!(
        cost(&mut inner(), "/"),
        (0, 200),
        "the bare service has none"
    );
    assert_eq!(cost(&mut layer(None).layer(inner()), "/"), (0, 200));
}

#[test]
fn a_skipped_request_costs_no_allocation() {
    let denial = Denial::new(RejectReason::RateLimited);
    let mut service = layer(Some(denial)).layer(inner());
    assert_eq!(cost(&mut service, "/health"), (0, 200));
}

#[test]
fn a_rejected_request_costs_at_most_four_allocations() {
    let denial = Denial::new(RejectReason::RateLimited).wait(std::time::Duration::from_secs(12));
    let mut service = layer(Some(denial)).layer(inner());
    let (allocations, status) = cost(&mut service, "/");
    assert_eq!(status, 429);
    assert!(allocations <= 4, "{allocations} allocations");
}

#[test]
fn a_clone_costs_no_allocation() {
    let layer = layer(None);
    let service = layer.layer(inner());
    let before = COUNT.get();
    let clones = (layer.clone(), service.clone());
    assert_eq!(COUNT.get() - before, 0);
    drop(clones);
}

#[test]
fn the_future_holds_little_besides_the_inner_one() {
    let mut service = layer(None).layer(inner());
    let mut request = Request::new(());
    let name = http::HeaderValue::from_static("42");
    request.headers_mut().insert("x-user-id", name);
    let future = service.call(request);
    // What a waiting decision keeps: a request, and four words or so. Labels never get here.
    let size = size_of_val(&future);
    assert!(size <= size_of::<Request<()>>() + 160, "{size} bytes");
}
