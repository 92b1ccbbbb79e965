//! The counters of an engine.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// The counters of an engine since it was built, for metrics.
///
/// ```
/// use tower_aperture::engine::{CheckInput, Engine};
/// use tower_aperture::FlowParams;
///
/// let engine = Engine::builder().build()?;
/// engine.check(&CheckInput::new("checkout", &FlowParams::new()));
/// let stats = engine.stats();
/// assert_eq!((stats.accepted, stats.rejected, stats.keys), (1, 0, 0));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineStats {
    /// Accepted flows.
    pub accepted: u64,
    /// Accepted flows that no component decided about: no component selects their control point and
    /// labels, or each one skipped the flow because it lacks a label. They run without any limit.
    pub undecided: u64,
    /// Rejected flows.
    pub rejected: u64,
    /// Keys with state, over all components. An idle key counts until it is removed.
    pub keys: usize,
    /// Keys that were evicted because a component held [`max_keys`](super::EngineBuilder::max_keys)
    /// keys: they start anew when they are used again.
    pub evicted: u64,
    /// Decisions of policies in a [dry run](super::EngineBuilder::dry_run) that would have rejected
    /// a flow; a flow counts once for each component.
    pub dry_run_rejections: u64,
    /// Failures of Rego modules of classifiers, including exceeded bounds, which left their labels
    /// unset; see [`Engine::check_http`](super::Engine::check_http).
    pub classifier_failures: u64,
    /// Loads of policies that were put in force after the first one.
    pub reloads: u64,
    /// Loads of policies that failed because a policy was refused or could not be read.
    pub failed_reloads: u64,
    /// Decisions of components that were made without the
    /// [shared store](super::EngineBuilder::shared), because it was slow or away.
    pub decided_without_store: u64,
    /// Operations on caches in the [shared store](super::EngineBuilder::shared) that it did not
    /// answer in time, or refused; a call counts once for each key.
    pub cache_failures: u64,
}

/// Counts failures of Rego modules of classifiers, and limits how often they are logged.
#[derive(Debug)]
pub(crate) struct ClassifierFailures {
    count: AtomicU64,
    started: Instant,
    /// The earliest time of the next log line, in seconds after `started`.
    next_log: AtomicU64,
}

/// The minimum time between two log lines.
const LOG_INTERVAL_SECONDS: u64 = 60;

impl Default for ClassifierFailures {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            started: Instant::now(),
            next_log: AtomicU64::new(0),
        }
    }
}

impl ClassifierFailures {
    /// Counts a failure, and logs its description at most once a minute.
    pub(crate) fn count(&self, describe: impl FnOnce() -> String) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let now = self.started.elapsed().as_secs();
        let due = self.next_log.load(Ordering::Relaxed);
        let may_log = now >= due
            && self
                .next_log
                .compare_exchange(
                    due,
                    now + LOG_INTERVAL_SECONDS,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok();
        if may_log {
            let text = describe();
            log_event!(warn, "{text}");
        }
    }

    pub(crate) fn sum(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// Counts successful and failed reloads.
#[derive(Debug, Default)]
pub(crate) struct ReloadCounters {
    done: AtomicU64,
    failed: AtomicU64,
}

impl ReloadCounters {
    pub(crate) fn count(&self, done: bool) {
        let counter = if done { &self.done } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the numbers of successful and failed reloads.
    pub(crate) fn sums(&self) -> (u64, u64) {
        (
            self.done.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
        )
    }
}
