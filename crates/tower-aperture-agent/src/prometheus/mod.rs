//! Signals from a Prometheus: the PromQL queries of policies.

mod client;
mod collector;
mod error;
mod latest;
mod response;
mod schedule;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::time::{MissedTickBehavior, interval};

use self::client::{QUERY_TIMEOUT, QueryClient};
pub(super) use self::collector::PrometheusCollector;
pub use self::error::PrometheusError;
use self::latest::LatestResults;
pub use self::latest::PrometheusStats;
use self::schedule::{QuerySchedule, REFRESH_INTERVAL, Shared};
use aperture_engine::engine::{Engine, EngineMode, SignalSource};

/// Runs the PromQL queries of policies on a Prometheus, over its HTTP API.
///
/// Pass a clone to [`EngineBuilder::signal_source`](tower_aperture::engine::EngineBuilder::signal_source),
/// and run [`follow`](Self::follow) with the engine in a task. It sends the queries of the policies
/// in force, each at the `evaluation_interval` of its policy (10 s by default, at least 1 s). The
/// engine reads the latest result without waiting.
///
/// A query must return one number: a scalar, or a vector of one series. A result without a series
/// makes the signal invalid until the next result, and is not a failure. All other results make the
/// signal invalid and are failures: several series, `NaN`, an error, more than 256 KiB, no response
/// within 5 s. Failures are counted ([`stats`](Self::stats)), and logged when they begin and end. A
/// result that is not renewed expires after two intervals and 5 s.
///
/// The query that has been due longest runs first. Queries whose last run took a second or less run
/// up to 8 at a time. All others run in a group of their own, up to 16 at a time, so that slow
/// queries do not delay quick ones.
///
/// Cloning is cheap; clones share the results.
///
/// ```no_run
/// use tower_aperture::Engine;
/// use tower_aperture_agent::Prometheus;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let prometheus = Prometheus::new("http://127.0.0.1:9090")?;
/// let engine = Engine::builder()
///     .policy_folder("policies")
///     .signal_source(prometheus.clone())
///     .build()?;
/// let followed = engine.clone();
/// let fetching = tokio::spawn(async move { prometheus.follow(&followed).await });
/// # fetching.abort();
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Prometheus {
    shared: Arc<Shared>,
}

impl Prometheus {
    /// Creates a client of the Prometheus at a URL such as `http://prometheus:9090` or
    /// `https://example.com/prometheus`.
    ///
    /// A user and password in the URL are sent as basic authentication, and never shown. `https`
    /// trusts the system's roots. Does no I/O apart from reading the roots.
    ///
    /// # Errors
    ///
    /// Returns an error when the URL is not valid or is neither `http` nor `https`, or when there
    /// are no roots to trust.
    pub fn new(url: &str) -> Result<Self, PrometheusError> {
        Self::with(url, None)
    }

    /// Like [`new`](Self::new), and trusts these PEM certificates instead of the system's roots.
    ///
    /// ```
    /// use tower_aperture_agent::Prometheus;
    ///
    /// let error = Prometheus::trusting("https://127.0.0.1:9090", b"no certificate").unwrap_err();
    /// assert!(error.to_string().contains("certificate"), "{error}");
    /// ```
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new), and when the PEM text contains no certificate or an invalid one.
    pub fn trusting(url: &str, pem: &[u8]) -> Result<Self, PrometheusError> {
        Self::with(url, Some(pem))
    }

    fn with(url: &str, pem: Option<&[u8]>) -> Result<Self, PrometheusError> {
        Ok(Self {
            shared: Arc::new(Shared {
                client: ArcSwap::from_pointee(QueryClient::new(url, pem, QUERY_TIMEOUT)?),
                results: LatestResults::default(),
            }),
        })
    }

    /// Trusts these PEM certificates from the next query on, instead of the previous roots, in this
    /// value and its clones. Running queries are not affected. Does no I/O.
    ///
    /// ```no_run
    /// use tower_aperture_agent::{Prometheus, PrometheusError};
    ///
    /// fn renewed(prometheus: &Prometheus, authorities: &[u8]) -> Result<(), PrometheusError> {
    ///     prometheus.replace_authorities(authorities)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error when the PEM text contains no certificate, or one that cannot be used. In
    /// that case nothing changes.
    pub fn replace_authorities(&self, pem: &[u8]) -> Result<(), PrometheusError> {
        let before = self.shared.client.load_full();
        let client = QueryClient::new(before.url(), Some(pem), QUERY_TIMEOUT)?;
        self.shared.client.store(Arc::new(client));
        Ok(())
    }

    /// Returns the current counters.
    #[must_use]
    pub fn stats(&self) -> PrometheusStats {
        self.shared.results.stats()
    }

    /// Runs the queries of the engine's policies for as long as the future is polled; it never
    /// completes.
    ///
    /// Requires a tokio runtime with I/O and time. It notices reloaded policies within a second.
    /// Poll only one such future per `Prometheus`: two would send every query twice.
    pub async fn follow<M: EngineMode>(&self, engine: &Engine<M>) {
        let mut schedule = QuerySchedule::default();
        let mut refresh = interval(REFRESH_INTERVAL);
        // After the machine was suspended, one refresh is enough.
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = refresh.tick() => {
                    schedule.refresh(&engine.queries());
                    self.shared.results.retain(|text| schedule.contains(text));
                }
                () = schedule.finished() => {}
            }
            schedule.start_due(&self.shared);
        }
    }
}

impl SignalSource for Prometheus {
    fn latest(&self, query: &str) -> Option<f64> {
        self.shared.results.latest(query)
    }
}

/// Shows the URL without user and password.
impl fmt::Debug for Prometheus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prometheus")
            .field("url", &self.shared.client.load().display_url())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
