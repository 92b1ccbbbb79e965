//! What was answered last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use super::PrometheusStats;

/// Locked for the moment of a look-up: whoever reads it must not wait.
#[derive(Default)]
pub(super) struct Table(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    answers: HashMap<Arc<str>, Answer>,
    answered: u64,
    failed: u64,
}

struct Answer {
    /// `None` where it was of no use.
    value: Option<f64>,
    good_until: Instant,
}

impl Table {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn latest(&self, query: &str) -> Option<f64> {
        let inner = self.lock();
        let answer = inner.answers.get(query)?;
        answer.value.filter(|_| Instant::now() < answer.good_until)
    }

    /// Counts an answer, and tells of it where it is another kind than the one before.
    pub(super) fn put(&self, query: &Arc<str>, answer: Result<f64, String>, good_until: Instant) {
        let mut inner = self.lock();
        match &answer {
            Ok(_) => inner.answered += 1,
            Err(_) => inner.failed += 1,
        }
        let value = answer.as_ref().ok().copied();
        let before = inner
            .answers
            .insert(Arc::clone(query), Answer { value, good_until });
        drop(inner);
        let was_good = before.map(|before| before.value.is_some());
        match answer {
            Ok(_) if was_good == Some(false) => {
                log_event!(info, query = &**query, "Prometheus answers again");
            }
            Err(why) if was_good != Some(false) => {
                log_event!(
                    warn,
                    query = &**query,
                    "a signal is invalid: Prometheus {why}"
                );
            }
            _ => {}
        }
    }

    pub(super) fn retain(&self, keep: impl Fn(&Arc<str>) -> bool) {
        self.lock().answers.retain(|query, _| keep(query));
    }

    pub(super) fn stats(&self) -> PrometheusStats {
        let inner = self.lock();
        let invalid = inner.answers.values().filter(|one| one.value.is_none());
        PrometheusStats {
            queries: inner.answers.len(),
            invalid: invalid.count(),
            answered: inner.answered,
            failed: inner.failed,
        }
    }
}
