//! Troubles that may come thousands a second are logged once each ten.

use std::sync::Mutex;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(10);

/// What was not logged since it was logged last.
#[derive(Debug, Default)]
pub(super) struct Seldom(Mutex<Option<(Instant, u64)>>);

impl Seldom {
    /// How many are to be logged now; `None` is not now. Nobody waits for a log.
    pub(super) fn due(&self) -> Option<u64> {
        let mut last = self.0.try_lock().ok()?;
        match &mut *last {
            Some((at, unsaid)) if at.elapsed() < EVERY => {
                *unsaid += 1;
                None
            }
            last => {
                let unsaid = last.map_or(0, |(_, unsaid)| unsaid);
                *last = Some((Instant::now(), 0));
                Some(unsaid + 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_at_once_and_the_others_are_not() {
        let seldom = Seldom::default();
        assert_eq!(seldom.due(), Some(1));
        assert_eq!(seldom.due(), None);
    }
}
