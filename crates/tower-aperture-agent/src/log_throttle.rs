//! Limits how often one kind of problem is logged.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Lets the first event be logged immediately, and the number of further ones at most once per
/// period.
#[derive(Debug)]
pub(super) struct LogThrottle {
    period: Duration,
    /// The time of the last log entry, and the number of events since then.
    last: Mutex<Option<(Instant, u64)>>,
}

impl LogThrottle {
    pub(super) const fn new(period: Duration) -> Self {
        Self {
            period,
            last: Mutex::new(None),
        }
    }

    /// Returns the number of events to log now, or `None` while the period lasts. Never blocks.
    pub(super) fn due(&self) -> Option<u64> {
        let mut last = self.last.try_lock().ok()?;
        match &mut *last {
            Some((at, unlogged)) if at.elapsed() < self.period => {
                *unlogged += 1;
                None
            }
            last => {
                let unlogged = last.map_or(0, |(_, unlogged)| unlogged);
                *last = Some((Instant::now(), 0));
                Some(unlogged + 1)
            }
        }
    }
}

impl Default for LogThrottle {
    /// Once every ten seconds.
    fn default() -> Self {
        Self::new(Duration::from_secs(10))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_event_is_due_at_once_and_later_ones_after_the_period() {
        let throttle = LogThrottle::default();
        assert_eq!(throttle.due(), Some(1));
        assert_eq!(throttle.due(), None);
        let always = LogThrottle::new(Duration::ZERO);
        assert_eq!((always.due(), always.due()), (Some(1), Some(1)));
    }
}
