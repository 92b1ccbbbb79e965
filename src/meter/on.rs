use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ahash::RandomState;
use arc_swap::ArcSwap;
use metrics::Counter;
use tokio::time::Instant;

use super::series::Series;
use crate::flow::{CacheLookup, CacheValue, FlowStatus, Verdict};
use crate::metrics::{CACHE_LOOKUPS, LABELS_DROPPED, MAX_CONTROL_POINTS, OTHER, describe};

type Known = HashMap<Arc<str>, Arc<Series>, RandomState>;

/// The metrics of one client.
#[derive(Default)]
pub(crate) struct Meter {
    /// Read by every flow and hardly ever changed.
    known: ArcSwap<Known>,
    /// Control points beyond what is told apart.
    other: OnceLock<Arc<Series>>,
    labels_dropped: OnceLock<Counter>,
    result_cache: Lookups,
    global_cache: Lookups,
}

#[derive(Default)]
struct Lookups {
    hit: OnceLock<Counter>,
    miss: OnceLock<Counter>,
    refused: OnceLock<Counter>,
}

impl Meter {
    /// A question about a flow is asked now.
    pub(crate) fn ask(&self, control_point: &str) -> Asked {
        Asked {
            series: Some(self.series(control_point)),
            begun: Instant::now(),
            wait: Wait::None,
        }
    }

    fn series(&self, control_point: &str) -> Arc<Series> {
        let known = self.known.load();
        match known.get(control_point) {
            Some(series) => Arc::clone(series),
            None => self.add(&known, control_point),
        }
    }

    #[cold]
    fn add(&self, known: &Known, control_point: &str) -> Arc<Series> {
        if known.is_empty() {
            describe();
            self.labels_dropped(0);
        }
        if known.len() < MAX_CONTROL_POINTS {
            let name: Arc<str> = control_point.into();
            let new = Arc::new(Series::new(Arc::clone(&name)));
            self.known.rcu(|known| {
                if known.len() >= MAX_CONTROL_POINTS || known.contains_key(&name) {
                    return Arc::clone(known);
                }
                let mut more = Known::clone(known);
                more.insert(Arc::clone(&name), Arc::clone(&new));
                Arc::new(more)
            });
            // Another thread may have been faster, with this control point or with the last one.
            if let Some(series) = self.known.load().get(&name) {
                return Arc::clone(series);
            }
        }
        let other = self.other.get_or_init(|| {
            log_event!(
                warn,
                most = MAX_CONTROL_POINTS,
                "there are too many control points for metrics: new ones are counted as `other`"
            );
            Arc::new(Series::new(OTHER.into()))
        });
        Arc::clone(other)
    }

    pub(crate) fn labels_dropped(&self, dropped: u32) {
        let counter = self
            .labels_dropped
            .get_or_init(|| metrics::counter!(LABELS_DROPPED));
        counter.increment(dropped.into());
    }

    /// What the caches had for a flow.
    pub(crate) fn looked_up(&self, lookup: &CacheLookup) {
        if let Some(value) = &lookup.result {
            self.looked_up_result(value);
        }
        for (_, value) in &lookup.global {
            self.looked_up_global(value);
        }
    }

    pub(crate) fn looked_up_result(&self, value: &CacheValue) {
        self.result_cache.count("result", value);
    }

    pub(crate) fn looked_up_global(&self, value: &CacheValue) {
        self.global_cache.count("global", value);
    }
}

impl Lookups {
    fn count(&self, cache: &'static str, value: &CacheValue) {
        let (slot, outcome) = match value {
            Ok(Some(_)) => (&self.hit, "hit"),
            Ok(None) => (&self.miss, "miss"),
            Err(_) => (&self.refused, "refused"),
        };
        let counter = || metrics::counter!(CACHE_LOOKUPS, "cache" => cache, "outcome" => outcome);
        slot.get_or_init(counter).increment(1);
    }
}

/// A question under way; dropped without an answer, it was abandoned.
pub(crate) struct Asked {
    /// Taken by the answer.
    series: Option<Arc<Series>>,
    begun: Instant,
    wait: Wait,
}

/// Whether a flow waits in a scheduler.
enum Wait {
    None,
    /// In process, since it was asked.
    Here,
    /// At an Agent, so long.
    There(Duration),
}

impl Asked {
    /// For who waits for the answer.
    pub(crate) const fn pass_on(&mut self) -> Self {
        Self {
            series: self.series.take(),
            begun: self.begun,
            wait: Wait::None,
        }
    }

    /// It is not decided at once: it waits in process.
    pub(crate) const fn waits(&mut self) {
        self.wait = Wait::Here;
    }

    /// How long it waited elsewhere, if it did.
    pub(crate) fn waited(&mut self, time: impl FnOnce() -> Option<Duration>) {
        if let Some(time) = time() {
            self.wait = Wait::There(time);
        }
    }

    pub(crate) fn answered<T>(&mut self, verdict: &Verdict<T>) -> Held {
        let Some(series) = self.series.take() else {
            return Held(None);
        };
        let took = self.begun.elapsed();
        series.decided(verdict);
        series.checked(took);
        match self.wait {
            Wait::None => {}
            Wait::Here => series.queued(took),
            Wait::There(waited) => series.queued(waited),
        }
        match verdict {
            Verdict::Accepted(_) | Verdict::Rejected(..) => Held(Some(series)),
            // It has no end.
            Verdict::Unreachable(_) => Held(None),
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(series) = &self.series {
            series.abandoned();
        }
    }
}

/// An answered flow; dropped without an end, it failed. By default it is nobody's.
#[derive(Default)]
pub(crate) struct Held(Option<Arc<Series>>);

impl Held {
    pub(crate) fn ended(mut self, status: FlowStatus) {
        self.end(status);
    }

    fn end(&mut self, status: FlowStatus) {
        if let Some(series) = mem::take(&mut self.0) {
            series.ended(status);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.end(FlowStatus::Error);
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Held")
    }
}
