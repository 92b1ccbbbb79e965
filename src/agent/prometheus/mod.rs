//! Signals from a Prometheus: what policies ask in PromQL.

mod answer;
mod client;
mod series;
mod table;
mod turns;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::time::{MissedTickBehavior, interval};

use self::client::Client;
pub(super) use self::series::OfPrometheus;
use self::table::Table;
use self::turns::Turns;
use crate::engine::{Engine, SignalSource};
use crate::flow::Cause;

/// How often we look for queries that are due, or new.
const LOOK: Duration = Duration::from_secs(1);
/// As long as an Agent's Controller waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Answers the queries of policies from a Prometheus, over its HTTP API.
///
/// Give a clone to [`EngineBuilder::signal_source`](crate::engine::EngineBuilder::signal_source),
/// and let a task [`follow`](Self::follow) the engine: it asks what the policies in force ask,
/// each text at the `evaluation_interval` of its policy (10 s where that says nothing, 1 s at
/// least), and the engine reads what came last, without waiting. Answers of one number are understood: a scalar,
/// or a vector of one series. An answer without a series makes the signal invalid until the next
/// answer, and is no failure. Anything else makes it invalid too: several series, `NaN`, an error,
/// more than 256 KiB, no answer within 5 s. It is counted
/// ([`stats`](Self::stats)), and logged when it begins and when it ends. An answer that is not
/// renewed is forgotten after two intervals and 5 s.
///
/// The query that is due longest is asked next. Queries whose last answer took a second or less are
/// asked 8 at a time; all others have turns of their own, 16 at most, so that slow queries do not
/// delay them.
///
/// Cloning is cheap; clones share what was answered.
///
/// ```no_run
/// use tower_aperture::Engine;
/// use tower_aperture::agent::Prometheus;
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

struct Shared {
    client: ArcSwap<Client>,
    table: Table,
}

/// What a [`Prometheus`] has counted since it was made.
///
/// ```
/// use tower_aperture::agent::{Prometheus, PrometheusStats};
///
/// let prometheus = Prometheus::new("http://127.0.0.1:9090")?;
/// let PrometheusStats { queries, invalid, answered, empty, failed, .. } = prometheus.stats();
/// assert_eq!((queries, invalid, answered, empty, failed), (0, 0, 0, 0, 0));
/// # Ok::<(), tower_aperture::agent::PrometheusError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrometheusStats {
    /// Queries that are followed.
    pub queries: usize,
    /// Those of them whose last answer was not a number; signals made of them are invalid.
    pub invalid: usize,
    /// Answers of one number.
    pub answered: u64,
    /// Answers without a series: the query is right, and nothing matches it now.
    pub empty: u64,
    /// Answers of no use, and those that did not come.
    pub failed: u64,
}

/// A Prometheus that cannot be asked: an address that makes no sense, or no certificates to trust.
/// The [`source`](std::error::Error::source) says more, where there is more to say.
///
/// ```
/// use tower_aperture::agent::{Prometheus, PrometheusError};
///
/// let error: PrometheusError = Prometheus::new("prometheus:9090").unwrap_err();
/// assert!(error.to_string().contains("http://"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrometheusError {
    message: &'static str,
    cause: Cause,
}

impl PrometheusError {
    const fn new(message: &'static str) -> Self {
        Self {
            message,
            cause: Cause::NONE,
        }
    }

    fn with(
        message: &'static str,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            message,
            cause: Cause::new(cause),
        }
    }
}

impl fmt::Display for PrometheusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message)
    }
}

impl std::error::Error for PrometheusError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.get()
    }
}

impl Prometheus {
    /// The Prometheus at a URL such as `http://prometheus:9090` or `https://example.com/prometheus`.
    ///
    /// A user and password in it are sent as basic authentication, and shown nowhere. `https`
    /// trusts the system's roots. Does no I/O but for reading those.
    ///
    /// # Errors
    ///
    /// When the URL is none, is neither `http` nor `https`, or when there are no roots to trust.
    pub fn new(url: &str) -> Result<Self, PrometheusError> {
        Self::with(url, None)
    }

    /// Like [`new`](Self::new), trusting these PEM certificates instead of the system's roots.
    ///
    /// ```
    /// use tower_aperture::agent::Prometheus;
    ///
    /// let error = Prometheus::trusting("https://127.0.0.1:9090", b"no certificate").unwrap_err();
    /// assert!(error.to_string().contains("certificate"), "{error}");
    /// ```
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and when there is no certificate in it or one that makes no sense.
    pub fn trusting(url: &str, pem: &[u8]) -> Result<Self, PrometheusError> {
        Self::with(url, Some(pem))
    }

    fn with(url: &str, pem: Option<&[u8]>) -> Result<Self, PrometheusError> {
        Ok(Self {
            shared: Arc::new(Shared {
                client: ArcSwap::from_pointee(Client::new(url, pem, TIMEOUT)?),
                table: Table::default(),
            }),
        })
    }

    /// Trusts these PEM certificates from the next query on, instead of the roots that were trusted
    /// before; clones do too. Queries under way end as they began. Does no I/O.
    ///
    /// ```no_run
    /// use tower_aperture::agent::{Prometheus, PrometheusError};
    ///
    /// fn renewed(prometheus: &Prometheus, authorities: &[u8]) -> Result<(), PrometheusError> {
    ///     prometheus.replace_authorities(authorities)
    /// }
    /// ```
    ///
    /// # Errors
    ///
    /// When there is no certificate in the PEM text, or one that cannot be used. Nothing changes
    /// then.
    pub fn replace_authorities(&self, pem: &[u8]) -> Result<(), PrometheusError> {
        let before = self.shared.client.load_full();
        let client = Client::new(before.url(), Some(pem), TIMEOUT)?;
        self.shared.client.store(Arc::new(client));
        Ok(())
    }

    /// What was counted so far.
    #[must_use]
    pub fn stats(&self) -> PrometheusStats {
        self.shared.table.stats()
    }

    /// Asks what the engine's policies ask, for as long as the future is polled; it has no end.
    ///
    /// Needs a tokio runtime with I/O and time. Policies that are reloaded are noticed within a
    /// second. One such future for a `Prometheus`: two would ask everything twice.
    pub async fn follow(&self, engine: &Engine) {
        let mut turns = Turns::default();
        let mut look = interval(LOOK);
        // After a machine slept, there is one answer that counts.
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {
                    turns.look(&engine.queries());
                    self.shared.table.retain(|text| turns.knows(text));
                }
                () = turns.finished() => {}
            }
            turns.begin(&self.shared);
        }
    }
}

impl SignalSource for Prometheus {
    fn latest(&self, query: &str) -> Option<f64> {
        self.shared.table.latest(query)
    }
}

/// Without the user and password that its URL may have.
impl fmt::Debug for Prometheus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prometheus")
            .field("url", &self.shared.client.load().shown())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
