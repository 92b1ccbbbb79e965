//! The meter of builds with the feature `metrics`, which records through the facade of that name.

mod control_point;

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ahash::RandomState;
use arc_swap::ArcSwap;
use metrics::{Counter, counter};
use tokio::time::Instant;

use self::control_point::ControlPointMetrics;
use super::{CheckTimer, EndCounter, LookupOutcome, Meter};
use crate::flow::{CacheEvent, FlowStatus, Verdict};
use crate::metrics::{
    CACHE_ANSWERS, CACHE_LOOKUPS, CACHE_WRITES, LABELS_DROPPED, LABELS_SHORTENED,
    MAX_CONTROL_POINTS, OTHER, describe,
};

type MetricsByControlPoint = HashMap<Arc<str>, Arc<ControlPointMetrics>, RandomState>;

/// The metrics of one client.
#[derive(Default)]
pub(crate) struct ClientMeter {
    /// Read by every flow and rarely changed.
    by_control_point: ArcSwap<MetricsByControlPoint>,
    /// The metrics of all control points beyond [`MAX_CONTROL_POINTS`].
    other: OnceLock<Arc<ControlPointMetrics>>,
    labels_dropped: OnceLock<Counter>,
    labels_shortened: OnceLock<Counter>,
    result_cache: LookupCounters,
    global_cache: LookupCounters,
    cache_answers: OnceLock<[Counter; 2]>,
    cache_writes: OnceLock<[Counter; 2]>,
}

#[derive(Default)]
struct LookupCounters {
    hit: OnceLock<Counter>,
    miss: OnceLock<Counter>,
    refused: OnceLock<Counter>,
}

impl ClientMeter {
    fn of_control_point(&self, control_point: &str) -> Arc<ControlPointMetrics> {
        let known = self.by_control_point.load();
        match known.get(control_point) {
            Some(metrics) => Arc::clone(metrics),
            None => self.add(&known, control_point),
        }
    }

    #[cold]
    fn add(&self, known: &MetricsByControlPoint, control_point: &str) -> Arc<ControlPointMetrics> {
        if known.is_empty() {
            describe();
            self.register();
        }
        if known.len() < MAX_CONTROL_POINTS {
            let name: Arc<str> = control_point.into();
            let new = Arc::new(ControlPointMetrics::new(Arc::clone(&name)));
            self.by_control_point.rcu(|known| {
                if known.len() >= MAX_CONTROL_POINTS || known.contains_key(&name) {
                    return Arc::clone(known);
                }
                let mut extended = MetricsByControlPoint::clone(known);
                extended.insert(Arc::clone(&name), Arc::clone(&new));
                Arc::new(extended)
            });
            // Another thread may have added this control point first, or the last one that fits.
            if let Some(metrics) = self.by_control_point.load().get(&name) {
                return Arc::clone(metrics);
            }
        }
        let other = self.other.get_or_init(|| {
            log_event!(
                warn,
                most = MAX_CONTROL_POINTS,
                "too many control points for metrics: new ones are counted as `other`"
            );
            Arc::new(ControlPointMetrics::new(OTHER.into()))
        });
        Arc::clone(other)
    }

    /// Registers counters at zero with the first flow. A counter that first appears with its first
    /// failure would show no increase.
    fn register(&self) {
        self.count_labels_dropped(0);
        self.count_labels_shortened(0);
        self.cache_answers();
        self.cache_writes();
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
}

impl Meter for ClientMeter {
    type CheckTimer = FlowCheckTimer;

    fn start_check(&self, control_point: &str) -> FlowCheckTimer {
        FlowCheckTimer {
            metrics: Some(self.of_control_point(control_point)),
            started: Instant::now(),
            queue_time: QueueTime::None,
        }
    }

    fn count_labels_dropped(&self, dropped: u32) {
        let counter = self.labels_dropped.get_or_init(|| counter!(LABELS_DROPPED));
        counter.increment(dropped.into());
    }

    fn count_labels_shortened(&self, shortened: u32) {
        let counter = self
            .labels_shortened
            .get_or_init(|| counter!(LABELS_SHORTENED));
        counter.increment(shortened.into());
    }

    fn count_cache_event(&self, event: CacheEvent) {
        let [answered, unreadable] = self.cache_answers();
        match event {
            CacheEvent::Answered => answered.increment(1),
            CacheEvent::Unreadable => unreadable.increment(1),
            _ => {}
        }
    }

    fn count_cache_write(&self, done: bool) {
        let [delivered, failed] = self.cache_writes();
        if done {
            delivered.increment(1);
        } else {
            failed.increment(1);
        }
    }

    fn count_result_lookup(&self, outcome: LookupOutcome) {
        self.result_cache.count("result", outcome);
    }

    fn count_global_lookup(&self, outcome: LookupOutcome) {
        self.global_cache.count("global", outcome);
    }
}

impl LookupCounters {
    fn count(&self, cache: &'static str, outcome: LookupOutcome) {
        let (counter, outcome) = match outcome {
            LookupOutcome::Hit => (&self.hit, "hit"),
            LookupOutcome::Miss => (&self.miss, "miss"),
            LookupOutcome::Refused => (&self.refused, "refused"),
        };
        let new = || counter!(CACHE_LOOKUPS, "cache" => cache, "outcome" => outcome);
        counter.get_or_init(new).increment(1);
    }
}

/// The timer of one check.
pub(crate) struct FlowCheckTimer {
    /// `None` after the verdict.
    metrics: Option<Arc<ControlPointMetrics>>,
    started: Instant,
    queue_time: QueueTime,
}

/// The time that a flow waits in schedulers.
enum QueueTime {
    None,
    /// The flow waits in process: the time is that of the whole check.
    WholeCheck,
    /// The flow waited at an Agent for this time.
    Reported(Duration),
}

impl CheckTimer for FlowCheckTimer {
    type EndCounter = FlowEndCounter;

    fn take(&mut self) -> Self {
        Self {
            metrics: self.metrics.take(),
            started: self.started,
            queue_time: QueueTime::None,
        }
    }

    fn mark_queued(&mut self) {
        self.queue_time = QueueTime::WholeCheck;
    }

    fn set_queue_time(&mut self, time: impl FnOnce() -> Option<Duration>) {
        if let Some(time) = time() {
            self.queue_time = QueueTime::Reported(time);
        }
    }

    fn stop<T>(&mut self, verdict: &Verdict<T>, shadow: bool, undecided: bool) -> FlowEndCounter {
        let Some(metrics) = self.metrics.take() else {
            return FlowEndCounter(None);
        };
        let took = self.started.elapsed();
        metrics.count_verdict(verdict);
        if shadow && matches!(verdict, Verdict::Rejected(..)) {
            metrics.count_shadowed();
        }
        if undecided {
            metrics.count_undecided();
        }
        if matches!(verdict, Verdict::Unreachable(error) if error.is_late()) {
            metrics.count_late();
        }
        metrics.record_check(took);
        match self.queue_time {
            QueueTime::None => {}
            QueueTime::WholeCheck => metrics.record_queue(took),
            QueueTime::Reported(time) => metrics.record_queue(time),
        }
        match verdict {
            Verdict::Accepted(_) | Verdict::Rejected(..) => FlowEndCounter(Some(metrics)),
            // An unreachable flow reports no end.
            Verdict::Unreachable(_) => FlowEndCounter(None),
        }
    }
}

impl Drop for FlowCheckTimer {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.count_abandoned();
        }
    }
}

/// The counter of the end of one flow; `None` counts nothing.
#[derive(Default)]
pub(crate) struct FlowEndCounter(Option<Arc<ControlPointMetrics>>);

impl EndCounter for FlowEndCounter {
    fn count_end(mut self, status: FlowStatus) {
        self.end(status);
    }

    fn is_active(&self) -> bool {
        self.0.is_some()
    }
}

impl FlowEndCounter {
    fn end(&mut self, status: FlowStatus) {
        if let Some(metrics) = mem::take(&mut self.0) {
            metrics.count_end(status);
        }
    }
}

impl Drop for FlowEndCounter {
    fn drop(&mut self) {
        self.end(FlowStatus::Error);
    }
}

impl fmt::Debug for FlowEndCounter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndCounter")
    }
}
