//! Measures the cost of the layer with decisions in process, compared with the bare service and
//! similar crates.
//!
//! Run with `cargo bench --bench layer`. Times are medians of interleaved rounds; compare the
//! ratios. Instructions come from callgrind if it is installed.
#![allow(clippy::print_stdout)]

mod policies;
#[path = "../support/mod.rs"]
mod support;
mod threads;

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use axum::body::Body as AxumBody;
use bytes::Bytes;
use governor::{Quota, RateLimiter};
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use support::{BenchCase, CountingAllocator, measure, print, run_counted};
use tower::{Layer, Service};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};
use tower_governor::GovernorLayer;
use tower_governor::errors::GovernorError;
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::KeyExtractor;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const USER: &str = "x-user-id";

fn engine(capacity: &str, fill: &str) -> Engine {
    let policy = format!(
        "blueprint: rate-limiting/base
policy:
  policy_name: bench
  rate_limiter:
    bucket_capacity: {capacity}
    fill_amount: {fill}
    parameters: {{interval: 1s, limit_by_label_key: user_id}}
    selectors: [{{control_point: checkout}}]
"
    );
    let engine = Engine::builder().policy_text("bench.yaml", &policy).build();
    engine.expect("a valid policy")
}

fn layer(engine: Engine) -> ApertureLayer<ApertureClient> {
    ApertureLayer::new(ApertureClient::embedded(engine), "checkout")
        .label_from_header("user_id", USER)
}

/// A service that responds immediately with a full body.
#[derive(Clone)]
struct BareService;

impl<B> Service<Request<B>> for BareService {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(Full::new(Bytes::from_static(b"ok")))))
    }
}

/// The same with axum's body, which the errors of `tower_governor` need.
#[derive(Clone)]
struct BareAxumService;

impl<B> Service<Request<B>> for BareAxumService {
    type Response = Response<AxumBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        ready(Ok(Response::new(AxumBody::from("ok"))))
    }
}

fn request<B>(body: B) -> Request<B> {
    let request = Request::post("/checkout/1").header(USER, "user-42");
    request.body(body).expect("a valid request")
}

/// Drives one request to the end of its response body.
fn drive<S, B, R>(service: &mut S, request: Request<B>)
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else {
        panic!("the service is always ready");
    };
    let mut response = pin!(service.call(request));
    let Poll::Ready(Ok(response)) = response.as_mut().poll(&mut cx) else {
        panic!("the service responds immediately");
    };
    let mut body = pin!(response.into_body());
    while !body.is_end_stream() {
        match body.as_mut().poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(_) => break,
            Poll::Pending => panic!("the body is complete"),
        }
    }
}

fn case<S, B, R>(
    name: &'static str,
    against: Option<&'static str>,
    body: fn() -> B,
    service: impl Fn() -> S + 'static,
) -> BenchCase
where
    S: Service<Request<B>, Response = Response<R>> + 'static,
    B: 'static,
    R: Body,
{
    let prepare = Box::new(move || -> Box<dyn FnMut()> {
        let mut service = service();
        Box::new(move || drive(&mut service, request(body())))
    });
    BenchCase {
        name,
        against,
        prepare,
    }
}

fn full<S, R>(
    name: &'static str,
    against: Option<&'static str>,
    service: impl Fn() -> S + 'static,
) -> BenchCase
where
    S: Service<Request<()>, Response = Response<R>> + 'static,
    R: Body,
{
    case(name, against, || (), service)
}

fn axum<S, R>(
    name: &'static str,
    against: Option<&'static str>,
    service: impl Fn() -> S + 'static,
) -> BenchCase
where
    S: Service<Request<AxumBody>, Response = Response<R>> + 'static,
    R: Body,
{
    case(name, against, AxumBody::empty, service)
}

/// The key for `tower_governor`: the same header, as an owned string.
#[derive(Clone, Debug)]
struct ByUser;

impl KeyExtractor for ByUser {
    type Key = String;

    fn extract<T>(&self, request: &Request<T>) -> Result<String, GovernorError> {
        let user = request
            .headers()
            .get(USER)
            .and_then(|user| user.to_str().ok());
        user.map(str::to_owned)
            .ok_or(GovernorError::UnableToExtractKey)
    }
}

fn governor_layer(
    per_second: u64,
    burst: u32,
) -> GovernorLayer<
    ByUser,
    governor::middleware::NoOpMiddleware<governor::clock::QuantaInstant>,
    AxumBody,
> {
    let config = GovernorConfigBuilder::default()
        .period(std::time::Duration::from_nanos(1_000_000_000 / per_second))
        .burst_size(burst)
        .key_extractor(ByUser)
        .finish();
    GovernorLayer::new(Arc::new(config.expect("a valid quota")))
}

fn accepting_layer() -> ApertureLayer<ApertureClient> {
    layer(engine("1e15", "1e15"))
}

fn rejecting_layer() -> ApertureLayer<ApertureClient> {
    layer(engine("0", "0.0001"))
}

fn route() -> axum::Router {
    axum::Router::new().route("/checkout/{id}", axum::routing::post(|| async { "ok" }))
}

fn cases() -> Vec<BenchCase> {
    const BARE: &str = "bare service";
    const AXUM_BODY: &str = "bare service, axum body";
    const ROUTE: &str = "bare axum route";
    vec![
        full(BARE, None, || BareService),
        full("aperture: accept", Some(BARE), || {
            accepting_layer().layer(BareService)
        }),
        full("aperture: accept, no baggage", Some(BARE), || {
            accepting_layer().baggage(false).layer(BareService)
        }),
        full("aperture: accept, a labels closure", Some(BARE), || {
            accepting_layer()
                .labels(|head, labels| labels.insert("path", head.uri().path()))
                .layer(BareService)
        }),
        full("aperture: reject", Some(BARE), || {
            rejecting_layer().layer(BareService)
        }),
        full("aperture: skipped", Some(BARE), || {
            accepting_layer().skip(|_| true).layer(BareService)
        }),
        full("aperture: no decision", Some(BARE), || {
            ApertureLayer::new(ApertureClient::disabled(), "checkout").layer(BareService)
        }),
        axum(AXUM_BODY, None, || BareAxumService),
        axum("aperture: accept, axum body", Some(AXUM_BODY), || {
            accepting_layer().layer(BareAxumService)
        }),
        axum("tower_governor: accept", Some(AXUM_BODY), || {
            governor_layer(1_000_000_000, u32::MAX).layer(BareAxumService)
        }),
        axum("tower_governor: reject", Some(AXUM_BODY), || {
            governor_layer(1, 1).layer(BareAxumService)
        }),
        axum(ROUTE, None, route),
        axum("axum route with aperture: accept", Some(ROUTE), || {
            route().route_layer(accepting_layer())
        }),
        axum("axum route with aperture: reject", Some(ROUTE), || {
            route().route_layer(rejecting_layer())
        }),
        axum(
            "axum route with tower_governor: accept",
            Some(ROUTE),
            || route().route_layer(governor_layer(1_000_000_000, u32::MAX)),
        ),
        BenchCase {
            name: "governor: the limiter alone",
            against: None,
            prepare: Box::new(|| {
                let quota = Quota::per_second(NonZeroU32::MAX).allow_burst(NonZeroU32::MAX);
                let limiter = RateLimiter::keyed(quota);
                let key = "user-42".to_owned();
                Box::new(move || assert!(limiter.check_key(&key).is_ok()))
            }),
        },
    ]
}

fn main() {
    let cases = cases();
    let policies = policies::cases();
    if run_counted(cases.iter().chain(&policies)) {
        return;
    }
    let rows = measure(&policies, 10_000);
    print(
        "One request with six headers, whose response is dropped",
        &rows,
    );
    let rows = measure(&cases, 10_000);
    print("One request, from poll_ready to the end of its body", &rows);
    threads::print();
}
