//! The control points of flows that no policy selects.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::clock::{DecisionTime, duration};
use super::snapshot::Snapshot;
use super::sync::{AtomicU64, Mutex, lock};
use aperture_core::first_seen::FirstSeen;

/// Longer names are neither kept nor logged, because clients may have made them up.
const MAX_NAME_BYTES: usize = 256;
/// The number of control points that are logged by name. Further ones are logged as a number.
const MAX_LOGGED_BY_NAME: usize = 8;
/// The least time between two log events with a number of control points, in seconds.
const COUNT_PERIOD_SECS: u64 = 60;

/// The control points of flows that no policy selects.
///
/// At most 1024 of them are kept, because clients may make names up.
#[derive(Debug, Default)]
pub(super) struct UnselectedControlPoints {
    seen: FirstSeen,
    names: Mutex<Vec<Arc<str>>>,
    /// The control points that no log event has named or counted yet.
    unlogged: AtomicU64,
    /// When the next log event with a number is due, in seconds on the clock of the engine.
    next_count: AtomicU64,
}

impl UnselectedControlPoints {
    /// Records the control point of a flow that no component selects, and warns about control
    /// points that no policy selects at all: about the first ones by name, about further ones by
    /// their number, once a minute.
    #[inline(never)]
    pub(super) fn note(&self, live: &Snapshot, control_point: &str, time: &DecisionTime<'_>) {
        if control_point.len() > MAX_NAME_BYTES || live.selects(control_point) {
            return;
        }
        if self.seen.is_new(control_point) {
            self.add(control_point, duration(time.now()).as_secs());
        }
        if self.unlogged.load(Relaxed) > 0 {
            self.log_count(duration(time.now()).as_secs());
        }
    }

    #[cold]
    fn add(&self, control_point: &str, now: u64) {
        let known = {
            let mut names = lock(&self.names);
            names.push(control_point.into());
            names.len()
        };
        if known <= MAX_LOGGED_BY_NAME {
            log_event!(
                warn,
                control_point,
                "no policy selects this control point: its flows are not limited"
            );
            let next = now.saturating_add(COUNT_PERIOD_SECS);
            self.next_count.store(next, Relaxed);
        } else {
            self.unlogged.fetch_add(1, Relaxed);
        }
        if self.seen.is_full() {
            log_event!(
                warn,
                most = aperture_core::first_seen::MAX_VALUES,
                "many control points are selected by no policy: further ones are not counted"
            );
        }
    }

    /// Logs how many control points were added without a log event, if that is due.
    #[cold]
    fn log_count(&self, now: u64) {
        let due = self.next_count.load(Relaxed);
        let next = now.saturating_add(COUNT_PERIOD_SECS);
        // Of several threads, one logs.
        if now >= due
            && self
                .next_count
                .compare_exchange(due, next, Relaxed, Relaxed)
                .is_ok()
        {
            let _control_points = self.unlogged.swap(0, Relaxed);
            log_event!(
                warn,
                "{_control_points} more control points are selected by no policy: their flows are \
                 not limited, and `Engine::describe` lists them"
            );
        }
    }

    /// Returns the recorded names that no policy in force selects, sorted.
    pub(super) fn names(&self, live: &Snapshot) -> Vec<Arc<str>> {
        let mut names = lock(&self.names).clone();
        names.retain(|name| !live.selects(name));
        names.sort_unstable();
        names
    }
}
