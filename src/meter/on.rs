use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ahash::RandomState;
use arc_swap::ArcSwap;
use metrics::{Counter, counter};
use tokio::time::Instant;

use super::series::Series;
use crate::flow::{CacheEvent, CacheLookup, CacheValue, FlowStatus, Verdict};
use crate::metrics::{
    CACHE_ANSWERS, CACHE_LOOKUPS, CACHE_WRITES, LABELS_DROPPED, LABELS_SHORTENED,
    MAX_CONTROL_POINTS, OTHER, describe,
};

type Known = HashMap<Arc<str>, Arc<Series>, RandomState>;

/// The metrics of one client.
#[derive(Default)]
pub(crate) struct Meter {
    /// Read by every flow and hardly ever changed.
    known: ArcSwap<Known>,
    /// Control points beyond what is told apart.
    other: OnceLock<Arc<Series>>,
    labels_dropped: OnceLock<Counter>,
    labels_shortened: OnceLock<Counter>,
    result_cache: Lookups,
    global_cache: Lookups,
    cache_answers: OnceLock<[Counter; 2]>,
    cache_writes: OnceLock<[Counter; 2]>,
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
            self.register();
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

    /// What is there from the first flow on, at zero: a series that begins with what went wrong
    /// shows no rise.
    fn register(&self) {
        self.labels_dropped(0);
        self.labels_shortened(0);
        self.cache_answers();
        self.cache_writes();
    }

    pub(crate) fn labels_dropped(&self, dropped: u32) {
        let counter = self.labels_dropped.get_or_init(|| counter!(LABELS_DROPPED));
        counter.increment(dropped.into());
    }

    pub(crate) fn labels_shortened(&self, shortened: u32) {
        let counter = self
            .labels_shortened
            .get_or_init(|| counter!(LABELS_SHORTENED));
        counter.increment(shortened.into());
    }

    fn cache_answers(&self) -> &[Counter; 2] {
        let counter = |outcome| counter!(CACHE_ANSWERS, "outcome" => outcome);
        self.cache_answers
            .get_or_init(|| ["answered", "unreadable"].map(counter))
    }

    fn cache_writes(&self) -> &[Counter; 2] {
        let counter = |result| counter!(CACHE_WRITES, "result" => result);
        self.cache_writes
            .get_or_init(|| ["delivered", "failed"].map(counter))
    }

    pub(crate) fn cached(&self, event: CacheEvent) {
        let [answered, unreadable] = self.cache_answers();
        match event {
            CacheEvent::Answered => answered.increment(1),
            CacheEvent::Unreadable => unreadable.increment(1),
        }
    }

    /// A change to the caches of an engine was made in the background.
    pub(crate) fn wrote(&self, done: bool) {
        let [delivered, failed] = self.cache_writes();
        if done {
            delivered.increment(1);
        } else {
            failed.increment(1);
        }
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
        let counter = || counter!(CACHE_LOOKUPS, "cache" => cache, "outcome" => outcome);
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

    /// `shadow`: it runs in any case. `undecided`: no component decided about it.
    pub(crate) fn answered<T>(
        &mut self,
        verdict: &Verdict<T>,
        shadow: bool,
        undecided: bool,
    ) -> Held {
        let Some(series) = self.series.take() else {
            return Held(None);
        };
        let took = self.begun.elapsed();
        series.decided(verdict);
        if shadow && matches!(verdict, Verdict::Rejected(..)) {
            series.shadowed();
        }
        if undecided {
            series.undecided();
        }
        if matches!(verdict, Verdict::Unreachable(error) if error.is_late()) {
            series.late();
        }
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
