//! Metrics of HTTP requests that are not gRPC.

use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the latency buckets in milliseconds.
const LATENCY_BOUNDS: [f64; 10] = [
    1.0, 2.5, 5.0, 10.0, 25.0, 100.0, 250.0, 1000.0, 5000.0, 30_000.0,
];
/// The label of a path without a handler.
const UNKNOWN_PATH: &str = "default";
/// The label of a method that HTTP does not define.
const UNKNOWN_METHOD: &str = "other";

/// HTTP metrics by handler. Methods, paths and statuses come from fixed lists, so the number of
/// series needs no limit.
#[derive(Debug)]
pub(crate) struct HttpSeries {
    requests: Family<HttpRequestLabels, Counter>,
    latency: Family<HttpRequestLabels, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HttpRequestLabels {
    handler_name: &'static str,
    http_method: &'static str,
    http_status_code: u16,
}

impl HttpSeries {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(LATENCY_BOUNDS)),
        };
        registry.register("http_requests", "HTTP requests", metrics.requests.clone());
        registry.register(
            "http_requests_latency_ms",
            "Duration of HTTP requests",
            metrics.latency.clone(),
        );
        metrics
    }

    /// Counts a request that has its response.
    pub(crate) fn record(&self, handler: HandlerLabels, status: StatusCode, started: Instant) {
        let labels = HttpRequestLabels {
            handler_name: handler.name,
            http_method: handler.method,
            http_status_code: status.as_u16(),
        };
        self.requests.get_or_create(&labels).inc();
        let duration: Duration = started.elapsed();
        let latency = self.latency.get_or_create(&labels);
        latency.observe(duration.as_secs_f64() * 1000.0);
    }
}

/// The path and method of a request as label values that callers cannot choose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandlerLabels {
    name: &'static str,
    method: &'static str,
}

impl HandlerLabels {
    /// Returns the labels of a request, given the paths that have handlers.
    pub(crate) fn of(method: &Method, path: &str, paths: &[&'static str]) -> Self {
        const METHODS: [&str; 9] = [
            "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH",
        ];
        let mut paths = paths.iter().copied();
        let mut methods = METHODS.into_iter();
        Self {
            name: paths.find(|known| *known == path).unwrap_or(UNKNOWN_PATH),
            method: methods
                .find(|known| *known == method.as_str())
                .unwrap_or(UNKNOWN_METHOD),
        }
    }
}
