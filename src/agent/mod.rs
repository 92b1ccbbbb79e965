//! An Agent of one node.

mod prometheus;

pub use self::prometheus::{Prometheus, PrometheusError, PrometheusStats};
