//! The latest result of each query.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::response::QueryResult;

/// The counters of a [`Prometheus`](super::Prometheus) since it was created.
///
/// ```
/// use tower_aperture_agent::{Prometheus, PrometheusStats};
///
/// let prometheus = Prometheus::new("http://127.0.0.1:9090")?;
/// let PrometheusStats { queries, invalid, answered, empty, failed, .. } = prometheus.stats();
/// assert_eq!((queries, invalid, answered, empty, failed), (0, 0, 0, 0, 0));
/// # Ok::<(), tower_aperture_agent::PrometheusError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PrometheusStats {
    /// Queries that are run.
    pub queries: usize,
    /// Queries whose last result was not a number; signals made of them are invalid.
    pub invalid: usize,
    /// Results of one number.
    pub answered: u64,
    /// Results without a series: the query is valid and matches no series at present.
    pub empty: u64,
    /// Queries that failed, timed out, or returned something other than one number.
    pub failed: u64,
}

/// The latest results by query. The lock is held only for a lookup, because readers must not wait.
#[derive(Default)]
pub(super) struct LatestResults(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    results: HashMap<Arc<str>, LatestResult>,
    answered: u64,
    empty: u64,
    failed: u64,
}

struct LatestResult {
    kind: Kind,
    valid_until: Instant,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Number(f64),
    Empty,
    Failed,
}

impl LatestResults {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number that a query returned last, unless it has expired.
    pub(super) fn latest(&self, query: &str) -> Option<f64> {
        let inner = self.lock();
        let last = inner.results.get(query)?;
        match last.kind {
            Kind::Number(value) if Instant::now() < last.valid_until => Some(value),
            _ => None,
        }
    }

    /// Stores and counts a result, and logs it if its kind differs from that of the previous one.
    pub(super) fn record(
        &self,
        query: &Arc<str>,
        result: &Result<QueryResult, String>,
        valid_until: Instant,
    ) {
        let mut inner = self.lock();
        let kind = match result {
            Ok(QueryResult::Number(value)) => {
                inner.answered += 1;
                Kind::Number(*value)
            }
            Ok(QueryResult::Empty) => {
                inner.empty += 1;
                Kind::Empty
            }
            Err(_) => {
                inner.failed += 1;
                Kind::Failed
            }
        };
        let before = inner
            .results
            .insert(Arc::clone(query), LatestResult { kind, valid_until });
        drop(inner);
        let before = before.map(|before| before.kind);
        match (result, before) {
            (Err(_), Some(Kind::Failed)) | (Ok(QueryResult::Empty), Some(Kind::Empty)) => {}
            (Err(reason), _) => {
                log_event!(
                    warn,
                    query = &**query,
                    "a signal is invalid: Prometheus {reason}"
                );
            }
            (Ok(QueryResult::Empty), _) => {
                log_event!(
                    info,
                    query = &**query,
                    "a signal is invalid until Prometheus has a series for its query"
                );
            }
            (Ok(QueryResult::Number(_)), Some(Kind::Failed | Kind::Empty)) => {
                log_event!(info, query = &**query, "Prometheus returns a number again");
            }
            (Ok(QueryResult::Number(_)), _) => {}
        }
    }

    /// Removes the results of all queries for which `keep` returns false.
    pub(super) fn retain(&self, keep: impl Fn(&Arc<str>) -> bool) {
        self.lock().results.retain(|query, _| keep(query));
    }

    pub(super) fn stats(&self) -> PrometheusStats {
        let inner = self.lock();
        let last = inner.results.values();
        let invalid = last.filter(|last| !matches!(last.kind, Kind::Number(_)));
        PrometheusStats {
            queries: inner.results.len(),
            invalid: invalid.count(),
            answered: inner.answered,
            empty: inner.empty,
            failed: inner.failed,
        }
    }
}
