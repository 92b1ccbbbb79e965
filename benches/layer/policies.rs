//! One request for each kind of policy, as most services see it: six headers, axum's body, and a
//! response that is dropped, as a server does once it has sent it.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use axum::body::Body as AxumBody;
use governor::middleware::StateInformationMiddleware;
use http::{HeaderValue, Request, Response};
use tower::{Layer, Service};
use tower_aperture::policy::{ConcurrencyLimit, Policy, RateLimit, Sampler, Scheduler};
use tower_aperture::{ApertureClient, ApertureLayer, Engine};
use tower_governor::GovernorLayer;
use tower_governor::governor::GovernorConfigBuilder;

use super::support::BenchCase;
use super::{BareAxumService, ByUser, USER, governor_layer};

const BARE: &str = "bare service, six headers";
/// So many tokens that no request of the bench is rejected.
pub(crate) const MANY: u32 = 1_000_000_000;

pub(crate) fn cases() -> Vec<BenchCase> {
    let rate = || RateLimit::per_second(MANY).burst(MANY).by("user");
    let slots = || ConcurrencyLimit::slots(1000).by("user");
    let here = |policy: Policy| policy.at("checkout");
    vec![
        case(BARE, None, || BareAxumService),
        case("tower_governor", Some(BARE), || {
            governor_layer(u64::from(MANY), u32::MAX).layer(BareAxumService)
        }),
        case("tower_governor, with headers", Some(BARE), || {
            governor_with_headers().layer(BareAxumService)
        }),
        ours("nothing matches", move || {
            Policy::new("a").at("render").limit(rate())
        }),
        ours("rate limiter", move || here(Policy::new("a").limit(rate()))),
        case(
            "rate limiter, with RateLimit fields",
            Some(BARE),
            move || {
                let layer = layer(vec![here(Policy::new("a").limit(rate()))]);
                layer.rate_limit_headers(true).layer(BareAxumService)
            },
        ),
        ours("concurrency limiter and its end", move || {
            here(Policy::new("a").limit(slots()))
        }),
        ours("quota scheduler", move || {
            here(Policy::new("a").schedule(Scheduler::new(rate())))
        }),
        ours("concurrency scheduler and its end", move || {
            here(Policy::new("a").schedule(Scheduler::new(slots())))
        }),
        ours("sampler", move || {
            here(Policy::new("a").sample(Sampler::percent(100.0)))
        }),
        ours("rejected", move || {
            here(Policy::new("a").limit(RateLimit::per_minute(1).by("user")))
        }),
        case(
            "rate limiter, one of 1000 policies",
            Some(BARE),
            move || {
                let others = (0..1000).map(|at| Policy::new(format!("p{at}")).at(format!("c{at}")));
                let mut all: Vec<_> = others.map(|policy| policy.limit(rate())).collect();
                all.push(here(Policy::new("a").limit(rate())));
                layer(all).layer(BareAxumService)
            },
        ),
    ]
}

pub(crate) fn layer(policies: Vec<Policy>) -> ApertureLayer<ApertureClient> {
    let mut engine = Engine::builder();
    for policy in policies {
        engine = engine.policy(policy);
    }
    let client = ApertureClient::embedded(engine.build().expect("valid policies"));
    ApertureLayer::new(client, "checkout").label_from_header("user", USER)
}

fn ours(name: &'static str, policy: impl Fn() -> Policy + 'static) -> BenchCase {
    case(name, Some(BARE), move || {
        layer(vec![policy()]).layer(BareAxumService)
    })
}

pub(crate) fn governor_with_headers() -> GovernorLayer<ByUser, StateInformationMiddleware, AxumBody>
{
    let config = GovernorConfigBuilder::default()
        .period(std::time::Duration::from_nanos(1))
        .burst_size(u32::MAX)
        .key_extractor(ByUser)
        .use_headers()
        .finish();
    GovernorLayer::new(Arc::new(config.expect("a valid quota")))
}

fn request() -> Request<AxumBody> {
    request_of("user-42")
}

/// Returns a request with six headers, one of which names the user.
pub(crate) fn request_of<V>(user: V) -> Request<AxumBody>
where
    V: TryInto<HeaderValue, Error: Into<http::Error>>,
{
    let request = Request::post("/checkout/1")
        .header("host", "shop.example")
        .header("user-agent", "bench/1.0")
        .header("accept", "*/*")
        .header("accept-encoding", "gzip")
        .header("content-type", "application/json")
        .header(USER, user);
    request.body(AxumBody::empty()).expect("a valid request")
}

/// Drives one request to its response, and drops the response.
fn case<S, R>(
    name: &'static str,
    against: Option<&'static str>,
    service: impl Fn() -> S + 'static,
) -> BenchCase
where
    S: Service<Request<AxumBody>, Response = Response<R>> + 'static,
{
    let prepare = Box::new(move || -> Box<dyn FnMut()> {
        let mut service = service();
        Box::new(move || {
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else {
                panic!("the service is always ready");
            };
            let mut response = pin!(service.call(request()));
            let Poll::Ready(Ok(_)) = response.as_mut().poll(&mut cx) else {
                panic!("the service responds immediately");
            };
        })
    });
    BenchCase {
        name,
        against,
        prepare,
    }
}
