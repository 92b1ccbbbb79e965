use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
}

/// The clock of an engine that is given none: the system's monotonic clock.
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
/// Clones show the same time, so keep one and give the other to the engine.
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
pub struct ManualClock(Arc<AtomicU64>);

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
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                Some(now.saturating_add(step))
            });
    }

    /// Moves on to a time since zero; a time that has passed already changes nothing.
    pub fn advance_to(&self, time: Duration) {
        let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.fetch_max(time, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
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
