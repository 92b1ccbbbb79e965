//! Signals from a Prometheus: what policies ask in PromQL.

mod client;
mod series;
mod table;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::client::Client;
pub(super) use self::series::OfPrometheus;
use self::table::Table;
use crate::engine::{Engine, PolicyQuery, SignalSource};
use crate::flow::Cause;

/// How often we look for queries that are due, or new.
const LOOK: Duration = Duration::from_secs(1);
/// As long as an Agent's Controller waits for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A Prometheus is asked so much at a time.
const AT_ONCE: usize = 8;

/// Answers the queries of policies from a Prometheus, over its HTTP API.
///
/// Give a clone to [`EngineBuilder::signal_source`](crate::engine::EngineBuilder::signal_source),
/// and let a task [`follow`](Self::follow) the engine: it asks what the policies in force ask,
/// each text at the `evaluation_interval` of its policy (10 s where that says nothing, 1 s at
/// least), and the engine reads what came last, without waiting. Answers of one number are understood: a scalar,
/// or a vector of one series. Anything else makes the signal invalid until the next answer: no
/// series or several, `NaN`, an error, no answer within 5 s. It is counted
/// ([`stats`](Self::stats)), and logged when it begins and when it ends. An answer that nobody
/// renews is forgotten after two intervals and 5 s.
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
    client: Client,
    table: Table,
}

/// What a [`Prometheus`] has counted since it was made.
///
/// ```
/// use tower_aperture::agent::{Prometheus, PrometheusStats};
///
/// let prometheus = Prometheus::new("http://127.0.0.1:9090")?;
/// let PrometheusStats { queries, invalid, answered, failed, .. } = prometheus.stats();
/// assert_eq!((queries, invalid, answered, failed), (0, 0, 0, 0));
/// # Ok::<(), tower_aperture::agent::PrometheusError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrometheusStats {
    /// Queries that are followed.
    pub queries: usize,
    /// Those of them whose last answer was of no use; signals made of them are invalid.
    pub invalid: usize,
    /// Answers of one number.
    pub answered: u64,
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
                client: Client::new(url, pem, TIMEOUT)?,
                table: Table::default(),
            }),
        })
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
        let mut round = Round::default();
        let mut look = interval(LOOK);
        // After a machine slept, there is one answer that counts.
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                Some(done) = round.fetches.join_next() => {
                    if let Ok(text) = done {
                        round.under_way.remove(&text);
                    }
                }
            }
            round.ask_what_is_due(&self.shared, &engine.queries());
        }
    }
}

/// What one follower knows. Its fetches end with it.
#[derive(Default)]
struct Round {
    due: HashMap<Arc<str>, Instant>,
    under_way: HashSet<Arc<str>>,
    fetches: JoinSet<Arc<str>>,
}

impl Round {
    fn ask_what_is_due(&mut self, shared: &Arc<Shared>, queries: &[PolicyQuery]) {
        let now = Instant::now();
        if self.fetches.is_empty() {
            // A fetch that panicked could not say so.
            self.under_way.clear();
        }
        let asked: HashSet<&Arc<str>> = queries.iter().map(|query| &query.text).collect();
        self.due.retain(|text, _| asked.contains(text));
        shared.table.retain(|text| asked.contains(text));
        for query in queries {
            let due = self.due.entry(Arc::clone(&query.text)).or_insert(now);
            // Looks are not on the dot.
            if *due > now + LOOK / 2
                || self.under_way.len() >= AT_ONCE
                || !self.under_way.insert(Arc::clone(&query.text))
            {
                continue;
            }
            let interval = query.interval.max(LOOK);
            *due = now + interval;
            let (shared, text) = (Arc::clone(shared), Arc::clone(&query.text));
            self.fetches.spawn(async move {
                let answer = shared.client.ask(&text).await;
                shared
                    .table
                    .put(&text, answer, Instant::now() + interval * 2 + TIMEOUT);
                text
            });
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
            .field("url", &self.shared.client.shown())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
