//! The last answer to each query.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::PrometheusStats;
use super::answer::Answer;

/// Locked for the moment of a look-up: whoever reads it must not wait.
#[derive(Default)]
pub(super) struct Table(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    answers: HashMap<Arc<str>, Last>,
    answered: u64,
    empty: u64,
    failed: u64,
}

struct Last {
    kind: Kind,
    good_until: Instant,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Number(f64),
    Empty,
    Failed,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn latest(&self, query: &str) -> Option<f64> {
        let inner = self.lock();
        let last = inner.answers.get(query)?;
        match last.kind {
            Kind::Number(value) if Instant::now() < last.good_until => Some(value),
            _ => None,
        }
    }

    /// Counts an answer, and logs it where it is of another kind than the one before.
    pub(super) fn put(
        &self,
        query: &Arc<str>,
        answer: &Result<Answer, String>,
        good_until: Instant,
    ) {
        let mut inner = self.lock();
        let kind = match answer {
            Ok(Answer::Number(value)) => {
                inner.answered += 1;
                Kind::Number(*value)
            }
            Ok(Answer::Empty) => {
                inner.empty += 1;
                Kind::Empty
            }
            Err(_) => {
                inner.failed += 1;
                Kind::Failed
            }
        };
        let before = inner
            .answers
            .insert(Arc::clone(query), Last { kind, good_until });
        drop(inner);
        let before = before.map(|before| before.kind);
        match (answer, before) {
            (Err(_), Some(Kind::Failed)) | (Ok(Answer::Empty), Some(Kind::Empty)) => {}
            (Err(why), _) => {
                log_event!(
                    warn,
                    query = &**query,
                    "a signal is invalid: Prometheus {why}"
                );
                let _ = why;
            }
            (Ok(Answer::Empty), _) => {
                log_event!(
                    info,
                    query = &**query,
                    "a signal is invalid until Prometheus has a series for its query"
                );
            }
            (Ok(Answer::Number(_)), Some(Kind::Failed | Kind::Empty)) => {
                log_event!(info, query = &**query, "Prometheus answers again");
            }
            (Ok(Answer::Number(_)), _) => {}
        }
    }

    pub(super) fn retain(&self, keep: impl Fn(&Arc<str>) -> bool) {
        self.lock().answers.retain(|query, _| keep(query));
    }

    pub(super) fn stats(&self) -> PrometheusStats {
        let inner = self.lock();
        let last = inner.answers.values();
        let invalid = last.filter(|last| !matches!(last.kind, Kind::Number(_)));
        PrometheusStats {
            queries: inner.answers.len(),
            invalid: invalid.count(),
            answered: inner.answered,
            empty: inner.empty,
            failed: inner.failed,
        }
    }
}
