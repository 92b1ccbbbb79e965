//! The layer adds no allocation to an accepted or skipped request, and few to a rejected one.

#[cfg(feature = "embedded")]
mod policies;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::Full;
use tower::{Layer, Service, service_fn};
use tower_aperture::layer::{CaptureBody, ReplayBody, RouteTable, grpc_method, grpc_service};
use tower_aperture::{
    ApertureLayer, Check, Decider, Denial, FlowOutcome, FlowParams, RejectReason, RequestHead,
    Ticket, Verdict,
};

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

struct CountingAllocator;

impl CountingAllocator {
    fn count(bytes: usize) {
        let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        let _ = BYTES.try_with(|count| count.set(count.get() + bytes));
    }
}

// SAFETY: every call is forwarded to the system's allocator, and the counters neither allocate nor
// unwind.
unsafe impl GlobalAlloc for CountingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count(layout.size());
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the same contract.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count(size);
        // SAFETY: the caller upholds the same contract.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[derive(Clone)]
struct Decide(Option<Denial>);

struct NoTicket;

impl Ticket for NoTicket {
    fn end(self, _: FlowOutcome) {}
}

impl Decider for Decide {
    type Ticket = NoTicket;
    type Pending = Ready<Verdict<NoTicket>>;

    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<NoTicket, Self::Pending> {
        assert_eq!(control_point, "checkout");
        assert_eq!(params.labels.get("user_id"), Some("42"));
        Check::Ready(match self.0 {
            Some(denial) => Verdict::Rejected(denial, NoTicket),
            None => Verdict::Accepted(NoTicket),
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

/// Counts the allocations of one request, whose body is polled to the end, and returns its status.
fn allocations_of_get<S, B>(service: &mut S, path: &str) -> (usize, u16)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    allocations_of(service, Request::get(path))
}

/// Counts the allocations of a request, to which it adds a few headers.
fn allocations_of<S, B>(service: &mut S, request: http::request::Builder) -> (usize, u16)
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let request = request
        .header("x-user-id", "42")
        .header("baggage", "tier=gold;p=1, plan=free")
        .body(())
        .expect("a request");
    let mut cx = Context::from_waker(Waker::noop());
    let before = COUNT.get();
    let status = {
        let mut future = pin!(service.call(request));
        let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
            panic!("the response is ready at once");
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
fn an_accepted_request_allocates_nothing() {
    assert_eq!(
        allocations_of_get(&mut inner(), "/"),
        (0, 200),
        "the unwrapped service allocates nothing"
    );
    assert_eq!(
        allocations_of_get(&mut layer(None).layer(inner()), "/"),
        (0, 200)
    );
}

#[test]
fn known_names_routes_and_deadlines_allocate_nothing() {
    let call = |layer: ApertureLayer<Decide>, path: &str| {
        let layer = layer.label_from_header("user_id", "x-user-id");
        let mut service = layer.layer(inner());
        let request = || Request::post(path).header("grpc-timeout", "10S");
        // The first request adds its name to the known ones.
        allocations_of(&mut service, request());
        allocations_of(&mut service, request())
    };
    let named = ApertureLayer::with_control_point(Decide(None), grpc_service);
    let named = named.label_from("method", grpc_method);
    assert_eq!(call(named.clone(), "/checkout/Add"), (0, 200));
    let listed = named.known_names(["checkout", "Add"]);
    assert_eq!(call(listed, "/checkout/Add"), (0, 200));
    let routes = RouteTable::new()
        .get("/carts/{id}", "other")
        .any("/{*rest}", "checkout")
        .normalize();
    let routed = ApertureLayer::with_routes(Decide(None), routes);
    assert_eq!(call(routed, "/carts/7"), (0, 200));
}

#[test]
fn a_skipped_request_allocates_nothing() {
    let denial = Denial::new(RejectReason::RateLimited);
    let mut service = layer(Some(denial)).layer(inner());
    assert_eq!(allocations_of_get(&mut service, "/health"), (0, 200));
}

#[test]
fn a_rejected_request_makes_at_most_two_allocations() {
    let denial = Denial::new(RejectReason::RateLimited).wait(std::time::Duration::from_secs(12));
    let mut service = layer(Some(denial)).layer(inner());
    let (allocations, status) = allocations_of_get(&mut service, "/");
    assert_eq!(status, 429);
    assert!(allocations <= 2, "{allocations} allocations");
}

#[test]
fn a_clone_allocates_nothing() {
    let layer = layer(None);
    let service = layer.layer(inner());
    let before = COUNT.get();
    let clones = (layer.clone(), service.clone());
    assert_eq!(COUNT.get() - before, 0);
    drop(clones);
}

#[test]
fn the_response_future_is_little_larger_than_the_inner_one() {
    let mut service = layer(None).layer(inner());
    let mut request = Request::new(());
    let name = http::HeaderValue::from_static("42");
    request.headers_mut().insert("x-user-id", name);
    let future = service.call(request);
    // A waiting decision keeps the request and about four words; it does not keep labels.
    let size = size_of_val(&future);
    assert!(size <= size_of::<Request<()>>() + 160, "{size} bytes");
}

/// A body of some distinct pieces, followed by many pieces of the same static data.
struct Pieces {
    first: Option<Bytes>,
    piece: &'static [u8],
    times: usize,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = self.first.take().or_else(|| {
            self.times = self.times.checked_sub(1)?;
            Some(Bytes::from_static(self.piece))
        });
        Poll::Ready(data.map(|data| Ok(Frame::data(data))))
    }
}

/// Returns the number of bytes allocated while a gRPC-Web body passes the layer.
fn bytes_allocated(
    content_type: &'static str,
    first: Vec<u8>,
    piece: &'static [u8],
    times: usize,
) -> usize {
    let first = Bytes::from(first);
    let mut service = layer(None).layer(service_fn(move |_: Request<()>| {
        let mut response = Response::new(Pieces {
            first: Some(first.clone()),
            piece,
            times,
        });
        let value = http::HeaderValue::from_static(content_type);
        response.headers_mut().insert("content-type", value);
        ready(Ok::<_, Infallible>(response))
    }));
    let request = Request::post("/").header("x-user-id", "42");
    let request = request.body(()).expect("a request");
    let mut cx = Context::from_waker(Waker::noop());
    let mut future = pin!(service.call(request));
    let before = BYTES.get();
    let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
        panic!("the response is ready at once");
    };
    let mut body = pin!(response.into_body());
    while let Poll::Ready(Some(_)) = body.as_mut().poll_frame(&mut cx) {}
    BYTES.get() - before
}

#[test]
fn a_grpc_web_body_is_not_copied_and_its_trailers_only_up_to_a_limit() {
    static DATA: [u8; 1 << 16] = [0x80; 1 << 16];
    static TEXT: [u8; 1 << 16] = [b'A'; 1 << 16];
    static LINES: [u8; 1 << 12] = {
        const LINE: [u8; 16] = *b"x-lin: 12345678\n";
        let mut lines = [0; 1 << 12];
        let mut at = 0;
        while at < lines.len() {
            lines[at] = LINE[at % LINE.len()];
            at += 1;
        }
        lines
    };
    // One data frame of 16 MiB.
    let data = vec![0, 1, 0, 0, 0];
    let bytes = bytes_allocated("application/grpc-web+proto", data, &DATA, 256);
    assert!(bytes < 2048, "{bytes} bytes");
    // Many empty data frames, in base64.
    let bytes = bytes_allocated("application/grpc-web-text", Vec::new(), &TEXT, 256);
    assert!(bytes < 2048, "{bytes} bytes");
    // Trailers that declare 4 GiB: first one endless line, then many lines.
    let trailers = vec![0x80, 0xff, 0xff, 0xff, 0xff];
    let bytes = bytes_allocated("application/grpc-web", trailers.clone(), &TEXT, 256);
    assert!(bytes < 64 << 10, "{bytes} bytes");
    let bytes = bytes_allocated("application/grpc-web", trailers, &LINES, 4096);
    assert!(bytes < 256 << 10, "{bytes} bytes");
}

/// A body of equal frames that are all ready.
struct Frames {
    left: usize,
    data: &'static [u8],
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.data)))))
    }
}

#[test]
fn memory_of_a_captured_body_depends_on_its_bytes_and_not_on_its_frames() {
    const MAX: usize = 64 * 1024;
    for (left, data) in [
        (1_000_000, &b""[..]),
        (50_000, b"x"),
        (MAX, b"x"),
        (1_000_000, b"x"),
        (30_000, b"xy"),
        (1_000, &[b'x'; 64]),
        (3, &[b'x'; MAX]),
    ] {
        for partial in [false, true] {
            let layer = ApertureLayer::http(Decide(None), "checkout").label("user_id", "42");
            let inner = service_fn(async |request: Request<ReplayBody<Frames>>| {
                drop(request);
                Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
            });
            let capture = CaptureBody::new(MAX).allow_partial(partial);
            let mut service = capture.layer(layer.layer(inner));
            let before = BYTES.get();
            let mut response = pin!(service.call(Request::new(Frames { left, data })));
            let mut polls = 0;
            let response = loop {
                polls += 1;
                let mut cx = Context::from_waker(Waker::noop());
                if let Poll::Ready(response) = response.as_mut().poll(&mut cx) {
                    break response.unwrap_or_else(|never| match never {});
                }
            };
            let fits = left * data.len() <= MAX;
            let status = if fits || partial { 200 } else { 413 };
            assert_eq!(response.status(), status, "{left} of {}", data.len());
            let bytes = BYTES.get() - before;
            // Counts freed memory as well, so each doubling of the buffer counts.
            assert!(bytes < 3 * MAX, "{left} of {}: {bytes} bytes", data.len());
            // Reading yields to other tasks.
            assert!(
                polls > left.min(MAX / data.len().max(1)) / 1000,
                "{polls} polls"
            );
        }
    }
}
