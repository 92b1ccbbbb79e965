//! Requests on four threads at once, which all have the same key or one of 10 000 keys.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use axum::body::Body as AxumBody;
use http::{HeaderValue, Request, Response};
use tower::{Layer, Service};
use tower_aperture::policy::{ConcurrencyLimit, Policy, RateLimit, Scheduler};

use super::policies::{MANY, governor_with_headers, layer, request_of};
use super::{BareAxumService, governor_layer};

const THREADS: usize = 4;
const REQUESTS: usize = 20_000;
const KEYS: usize = 10_000;
const ROUNDS: usize = 9;

/// Drives requests on one thread, by their keys.
type Driver = Box<dyn FnMut(&HeaderValue) + Send>;

struct ThreadCase {
    name: &'static str,
    /// Returns the driver of one thread; all threads share the layer.
    driver: Box<dyn Fn() -> Driver>,
    /// The times of all rounds, with one key and with many.
    times: [Vec<Duration>; 2],
}

pub(crate) fn print() {
    let users: Vec<_> = (0..KEYS).map(|at| format!("user-{at}")).collect();
    let users = users
        .iter()
        .map(|user| HeaderValue::from_str(user).expect("a valid value"));
    let users: Vec<_> = users.collect();
    let mut cases = cases();
    for _ in 0..ROUNDS {
        for case in &mut cases {
            for (times, keys) in case.times.iter_mut().zip([&users[..1], &users]) {
                let drivers = (0..THREADS).map(|_| (case.driver)()).collect();
                times.push(run(drivers, keys));
            }
        }
    }
    println!("\nOne request on each of {THREADS} threads, added to the bare service, in ns\n");
    println!("{:<40} {:>10} {:>12}", "", "one key", "10 000 keys");
    let bare = cases[0].medians();
    for case in &mut cases[1..] {
        let [one, many] = case.medians();
        println!(
            "{:<40} {:>10.0} {:>12.0}",
            case.name,
            one - bare[0],
            many - bare[1]
        );
    }
}

impl ThreadCase {
    /// Returns the median times of a request, in ns.
    fn medians(&mut self) -> [f64; 2] {
        self.times.each_mut().map(|times| {
            times.sort_unstable();
            times[times.len() / 2].as_nanos() as f64 / REQUESTS as f64
        })
    }
}

/// Returns how long the threads take for all their requests.
fn run(drivers: Vec<Driver>, users: &[HeaderValue]) -> Duration {
    let begun = Instant::now();
    thread::scope(|scope| {
        for (thread, mut drive) in drivers.into_iter().enumerate() {
            scope.spawn(move || {
                let mut at = thread;
                for _ in 0..REQUESTS {
                    // Visits the keys in a scattered order.
                    at = (at * 7919 + 1) % users.len();
                    drive(&users[at]);
                }
            });
        }
    });
    begun.elapsed()
}

fn case<S, R>(name: &'static str, service: S) -> ThreadCase
where
    S: Service<Request<AxumBody>, Response = Response<R>> + Clone + Send + 'static,
{
    let driver = move || -> Driver {
        let mut service = service.clone();
        Box::new(move |user| {
            let mut cx = Context::from_waker(Waker::noop());
            let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else {
                panic!("the service is always ready");
            };
            let mut response = pin!(service.call(request_of(user.clone())));
            let Poll::Ready(Ok(_)) = response.as_mut().poll(&mut cx) else {
                panic!("the service responds immediately");
            };
        })
    };
    ThreadCase {
        name,
        driver: Box::new(driver),
        times: [Vec::new(), Vec::new()],
    }
}

fn cases() -> Vec<ThreadCase> {
    let rate = || RateLimit::per_second(MANY).burst(MANY).by("user");
    let slots = || ConcurrencyLimit::slots(1000).by("user");
    let here = |policy: Policy| layer(vec![policy.at("checkout")]);
    let elsewhere = layer(vec![Policy::new("a").at("render").limit(rate())]);
    let limiter = here(Policy::new("a").limit(rate()));
    vec![
        case("bare service", BareAxumService),
        case(
            "tower_governor",
            governor_layer(u64::from(MANY), u32::MAX).layer(BareAxumService),
        ),
        case(
            "tower_governor, with headers",
            governor_with_headers().layer(BareAxumService),
        ),
        case("nothing matches", elsewhere.layer(BareAxumService)),
        case("rate limiter", limiter.layer(BareAxumService)),
        case(
            "rate limiter, with RateLimit fields",
            limiter.rate_limit_headers(true).layer(BareAxumService),
        ),
        case(
            "concurrency limiter and its end",
            here(Policy::new("a").limit(slots())).layer(BareAxumService),
        ),
        case(
            "quota scheduler",
            here(Policy::new("a").schedule(Scheduler::new(rate()))).layer(BareAxumService),
        ),
    ]
}
