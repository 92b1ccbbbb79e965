use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
#[cfg(feature = "rego")]
use std::time::Instant;

/// What an engine has counted since it was built; read it for your metrics.
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
    /// Flows that were let in.
    pub accepted: u64,
    /// Of those, the ones that no component decided about: none is selected by their control point
    /// and labels, or each was skipped for want of its label. They run without any limit.
    pub undecided: u64,
    /// Flows that were turned away.
    pub rejected: u64,
    /// Keys with state, over all components. An idle key counts until it is swept up.
    pub keys: usize,
    /// Keys that made room for others because a component held
    /// [`max_keys`](super::EngineBuilder::max_keys): they start anew if they come back.
    pub evicted: u64,
    /// Decisions of policies in a [dry run](super::EngineBuilder::dry_run) that would have turned
    /// a flow away; a flow counts once for each component.
    pub dry_run_rejections: u64,
    /// How often the Rego module of a classifier failed or exceeded a bound, so that its labels
    /// stayed unset; see [`Engine::check_http`](super::Engine::check_http).
    pub classifier_failures: u64,
    /// How often changed policies were put in force.
    pub reloads: u64,
    /// How often policies were refused that should have been, or could not be read.
    pub failed_reloads: u64,
}

/// Modules of classifiers that failed.
#[derive(Debug)]
pub(crate) struct Failures {
    count: AtomicU64,
    #[cfg(feature = "rego")]
    since: Instant,
    /// Seconds since then until a failure is logged again.
    #[cfg(feature = "rego")]
    next_log: AtomicU64,
}

/// Seconds between two lines in the log.
#[cfg(feature = "rego")]
const LOG_EVERY: u64 = 60;

impl Default for Failures {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            #[cfg(feature = "rego")]
            since: Instant::now(),
            #[cfg(feature = "rego")]
            next_log: AtomicU64::new(0),
        }
    }
}

impl Failures {
    /// Counts a failure, and logs its description once a minute at most.
    #[cfg(feature = "rego")]
    pub(crate) fn count(&self, describe: impl FnOnce() -> String) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let now = self.since.elapsed().as_secs();
        let due = self.next_log.load(Ordering::Relaxed);
        let free = now >= due
            && self
                .next_log
                .compare_exchange(due, now + LOG_EVERY, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if free {
            let text = describe();
            log_event!(warn, "{text}");
            let _ = text;
        }
    }

    pub(crate) fn sum(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

/// How reloads went.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    done: AtomicU64,
    failed: AtomicU64,
}

impl Reloads {
    pub(crate) fn count(&self, done: bool) {
        let counter = if done { &self.done } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Done and failed.
    pub(crate) fn sums(&self) -> (u64, u64) {
        (
            self.done.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
        )
    }
}

const STRIPES: usize = 16;

/// Counts decisions without one line of memory that all threads fight for.
#[derive(Debug, Default)]
pub(crate) struct Tally([Stripe; STRIPES]);

#[derive(Debug, Default)]
#[repr(align(128))]
struct Stripe {
    accepted: AtomicU64,
    undecided: AtomicU64,
    rejected: AtomicU64,
}

thread_local! {
    static STRIPE: Cell<usize> = const { Cell::new(usize::MAX) };
}

fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let mut own = STRIPE.get();
    if own == usize::MAX {
        own = NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES;
        STRIPE.set(own);
    }
    own % STRIPES
}

impl Tally {
    pub(crate) fn count(&self, accepted: bool) {
        let stripe = &self.0[stripe()];
        let counter = if accepted {
            &stripe.accepted
        } else {
            &stripe.rejected
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Of the accepted flows, one that nothing decided about.
    pub(crate) fn count_undecided(&self) {
        self.0[stripe()].undecided.fetch_add(1, Ordering::Relaxed);
    }

    /// Accepted, undecided and rejected.
    pub(crate) fn sums(&self) -> (u64, u64, u64) {
        let sum = |counter: fn(&Stripe) -> &AtomicU64| {
            let stripes = self.0.iter();
            stripes
                .map(|stripe| counter(stripe).load(Ordering::Relaxed))
                .sum()
        };
        (
            sum(|stripe| &stripe.accepted),
            sum(|stripe| &stripe.undecided),
            sum(|stripe| &stripe.rejected),
        )
    }
}
