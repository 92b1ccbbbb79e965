//! The clocks of the engine, and its nanoseconds.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::sync::{AtomicU64, Mutex, lock};

/// Nanoseconds since the clock's origin; the type covers 292 years.
pub(crate) type Nanos = i64;

/// Converts a duration; saturates at `Nanos::MAX`.
#[inline]
pub(crate) fn nanos(duration: Duration) -> Nanos {
    const SECOND: u64 = 1_000_000_000;
    let seconds = duration.as_secs();
    // `as_nanos` would compute with 128 bits, and this runs for each request.
    if seconds < Nanos::MAX as u64 / SECOND {
        (seconds * SECOND + u64::from(duration.subsec_nanos())) as Nanos
    } else {
        Nanos::MAX
    }
}

/// Converts nanoseconds; negative values become zero.
pub(crate) fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// The time of one decision. Reads the clock when a component first needs the time, and not again.
#[derive(Debug)]
pub(crate) struct DecisionTime<'a> {
    /// `None` once the clock was read.
    clock: Cell<Option<&'a dyn Clock>>,
    now: Cell<Nanos>,
}

impl<'a> DecisionTime<'a> {
    #[inline(always)]
    pub(crate) const fn new(clock: &'a dyn Clock) -> Self {
        Self {
            clock: Cell::new(Some(clock)),
            now: Cell::new(0),
        }
    }

    /// Returns a time that was read before.
    pub(crate) const fn at(now: Nanos) -> Self {
        Self {
            clock: Cell::new(None),
            now: Cell::new(now),
        }
    }

    #[inline(always)]
    pub(crate) fn now(&self) -> Nanos {
        if let Some(clock) = self.clock.take() {
            self.now.set(nanos(clock.now()));
        }
        self.now.get()
    }
}

/// A source of time for an [`Engine`](super::Engine).
///
/// The engine reads the clock at most once for a decision, from any thread, so reading must be
/// cheap.
///
/// ```
/// use std::time::{Duration, Instant};
/// use tower_aperture::engine::Clock;
///
/// /// A clock for load tests: a minute passes each second.
/// #[derive(Debug)]
/// struct Fast(Instant);
///
/// impl Clock for Fast {
///     fn now(&self) -> Duration {
///         self.0.elapsed() * 60
///     }
/// }
///
/// assert!(Fast(Instant::now()).now() < Duration::from_secs(60));
/// ```
pub trait Clock: fmt::Debug + Send + Sync {
    /// Returns the time since the clock's own origin; must never decrease.
    ///
    /// The engine uses nanoseconds; beyond 292 years the time saturates.
    fn now(&self) -> Duration;

    /// Registers `waker` to be woken when this clock reaches `time`. Returns true if the clock does
    /// so.
    ///
    /// The default implementation returns false: waiting flows then sleep on Tokio's timer for the
    /// time by which this clock is behind `time`, and check again. A second call does not replace
    /// the first, so a waker may be woken for a time that no flow waits for any more.
    fn wake_at(&self, _time: Duration, _waker: &Waker) -> bool {
        false
    }
}

/// The default clock of an engine: the system's monotonic clock, or Tokio's paused clock in a test
/// that pauses it.
#[derive(Debug)]
pub(crate) struct SystemClock(Instant);

impl SystemClock {
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A clock for tests that moves only when it is advanced.
///
/// Clones show the same time, so keep one and give the other to the engine. Only advancing the
/// clock wakes waiting flows; no timer runs.
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::engine::{Clock, ManualClock};
///
/// let clock = ManualClock::new();
/// let shown = clock.clone();
/// clock.advance(Duration::from_millis(1500));
/// assert_eq!(shown.now(), Duration::from_millis(1500));
/// ```
#[derive(Clone, Debug, Default)]
pub struct ManualClock(Arc<ManualClockState>);

#[derive(Debug, Default)]
struct ManualClockState {
    now: AtomicU64,
    alarms: Mutex<BTreeMap<u64, Vec<Waker>>>,
}

impl ManualClock {
    /// Creates a clock that shows zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Advances the clock by `step`; it saturates at 584 years.
    pub fn advance(&self, step: Duration) {
        let step = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX);
        // Relaxed suffices: no other memory depends on the time.
        let _ = self
            .0
            .now
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                Some(now.saturating_add(step))
            });
        self.wake_due();
    }

    /// Advances the clock to a time since zero; a time in the past has no effect.
    pub fn advance_to(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.now.fetch_max(time, Ordering::Relaxed);
        self.wake_due();
    }

    /// Returns the earliest time that a flow waits for, or waited for when it was last polled.
    ///
    /// A simulation that advances from one such time to the next, and polls in between, misses
    /// none.
    #[must_use]
    pub fn next_alarm(&self) -> Option<Duration> {
        let alarms = lock(&self.0.alarms);
        let (time, _) = alarms.first_key_value()?;
        Some(Duration::from_nanos(*time))
    }

    fn wake_due(&self) {
        let now = self.0.now.load(Ordering::Relaxed);
        let due = {
            let mut alarms = lock(&self.0.alarms);
            let later = match now.checked_add(1) {
                Some(next) => alarms.split_off(&next),
                None => BTreeMap::new(),
            };
            std::mem::replace(&mut *alarms, later)
        };
        for waker in due.into_values().flatten() {
            waker.wake();
        }
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.now.load(Ordering::Relaxed))
    }

    fn wake_at(&self, time: Duration, waker: &Waker) -> bool {
        let at = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut alarms = lock(&self.0.alarms);
        let wakers = alarms.entry(at).or_default();
        // A repeated poll usually passes the same waker.
        if !wakers.last().is_some_and(|last| last.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        drop(alarms);
        // The time may have been reached since the alarms were locked.
        if self.now() >= time {
            self.wake_due();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_times_saturate() {
        assert_eq!(nanos(Duration::new(3, 7)), 3_000_000_007);
        assert_eq!(nanos(Duration::MAX), Nanos::MAX);
        let nearly = Duration::from_secs(9_223_372_035) + Duration::from_nanos(999_999_999);
        assert_eq!(nanos(nearly), 9_223_372_035_999_999_999);
    }

    #[test]
    fn a_manual_clock_never_goes_back() {
        let clock = ManualClock::new();
        clock.advance_to(Duration::from_secs(2));
        clock.advance_to(Duration::from_secs(1));
        assert_eq!(clock.now(), Duration::from_secs(2));
        clock.advance(Duration::MAX);
        assert_eq!(nanos(clock.now()), Nanos::MAX);
    }
}
