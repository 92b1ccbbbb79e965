use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::store::lock;
use super::sync::{AtomicU64, Mutex};

/// Nanoseconds since the clock's origin; 292 years fit.
pub(crate) type Nanos = i64;

/// What does not fit is as far away as can be said.
#[inline]
pub(crate) fn nanos(duration: Duration) -> Nanos {
    const SECOND: u64 = 1_000_000_000;
    let seconds = duration.as_secs();
    // Not by way of `as_nanos`: 128 bits are not needed, and each request comes by here.
    if seconds < Nanos::MAX as u64 / SECOND {
        (seconds * SECOND + u64::from(duration.subsec_nanos())) as Nanos
    } else {
        Nanos::MAX
    }
}

/// Nothing is negative.
pub(crate) fn duration(nanos: Nanos) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

/// What an [`Engine`](super::Engine) takes for the time.
///
/// Read at most once a decision, from any thread, so it has to be cheap.
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
    /// Time since the clock's own origin, whatever that is; never less than before.
    ///
    /// Nanoseconds count; from 292 years on time stands still.
    fn now(&self) -> Duration;

    /// Sees to it that `waker` is woken when this clock comes to show `time`; true if it does.
    ///
    /// A clock need not: by default flows that wait sleep on Tokio's timer for as long as this
    /// clock lags behind `time`, and look again. Calling it again replaces nothing, so a waker may
    /// be woken for a time that nobody waits for any more.
    fn wake_at(&self, _time: Duration, _waker: &Waker) -> bool {
        false
    }
}

/// The clock of an engine that is given none: the system's monotonic clock, or Tokio's paused one
/// in a test that pauses it.
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

/// A clock for tests: it stands still until it is told to move on.
///
/// Clones show the same time, so keep one and give the other to the engine. Flows that wait are
/// woken by moving it on, and by nothing else; no timer runs.
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
pub struct ManualClock(Arc<Manual>);

#[derive(Debug, Default)]
struct Manual {
    now: AtomicU64,
    alarms: Mutex<BTreeMap<u64, Vec<Waker>>>,
}

impl ManualClock {
    /// A clock that shows zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves on by a step; it stops at 584 years.
    pub fn advance(&self, step: Duration) {
        let step = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX);
        // Relaxed: the time is all there is to see.
        let _ = self
            .0
            .now
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                Some(now.saturating_add(step))
            });
        self.ring();
    }

    /// Moves on to a time since zero; a time that has passed already changes nothing.
    pub fn advance_to(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.now.fetch_max(time, Ordering::Relaxed);
        self.ring();
    }

    /// The next time that a flow waits for, or waited for when it was asked last.
    ///
    /// Moving on from one such time to the next, and polling between, is how a simulation misses
    /// none.
    #[must_use]
    pub fn next_alarm(&self) -> Option<Duration> {
        let alarms = lock(&self.0.alarms);
        let (time, _) = alarms.first_key_value()?;
        Some(Duration::from_nanos(*time))
    }

    fn ring(&self) {
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
        // Who asks again and again asks with the same one.
        if !wakers.last().is_some_and(|last| last.will_wake(waker)) {
            wakers.push(waker.clone());
        }
        drop(alarms);
        // It may have come to pass meanwhile.
        if self.now() >= time {
            self.ring();
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
