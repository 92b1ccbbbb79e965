//! Requests that are not gRPC.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the buckets of the latency, in milliseconds.
const BOUNDS: [f64; 10] = [
    1.0, 2.5, 5.0, 10.0, 25.0, 100.0, 250.0, 1000.0, 5000.0, 30_000.0,
];
/// A path that has no handler, and a method that HTTP does not define.
const DEFAULT: &str = "default";
const OTHER: &str = "other";

/// Requests by handler: methods, paths and statuses are among a few that are known beforehand.
#[derive(Debug)]
pub(in crate::agent) struct HttpSeries {
    requests: Family<Request, Counter>,
    latency: Family<Request, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    handler_name: &'static str,
    http_method: &'static str,
    http_status_code: u16,
}

impl HttpSeries {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let own = Self {
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(BOUNDS)),
        };
        registry.register("http_requests", "HTTP requests", own.requests.clone());
        registry.register(
            "http_requests_latency_ms",
            "How long HTTP requests took",
            own.latency.clone(),
        );
        own
    }

    /// Counts an answered request.
    pub(in crate::agent) fn answered(&self, handler: Handler, status: StatusCode, began: Instant) {
        let labels = Request {
            handler_name: handler.name,
            http_method: handler.method,
            http_status_code: status.as_u16(),
        };
        self.requests.get_or_create(&labels).inc();
        let took: Duration = began.elapsed();
        let latency = self.latency.get_or_create(&labels);
        latency.observe(took.as_secs_f64() * 1000.0);
    }
}

/// What a request asks, in names that a caller cannot make up.
#[derive(Clone, Copy, Debug)]
pub(in crate::agent) struct Handler {
    name: &'static str,
    method: &'static str,
}

impl Handler {
    /// The handler of a request among those with these paths.
    pub(in crate::agent) fn of(method: &Method, path: &str, paths: &[&'static str]) -> Self {
        const METHODS: [&str; 9] = [
            "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
        ];
        let mut paths = paths.iter().copied();
        let mut methods = METHODS.into_iter();
        Self {
            name: paths.find(|known| *known == path).unwrap_or(DEFAULT),
            method: methods
                .find(|known| *known == method.as_str())
                .unwrap_or(OTHER),
        }
    }
}
