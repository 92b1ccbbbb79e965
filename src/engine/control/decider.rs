//! `decider`: compares two signals, and may take its time to change its mind.

use crate::engine::clock::Nanos;
use crate::policy::{Comparison, Signal};

#[derive(Clone, Debug)]
pub(super) struct Decider {
    comparison: Comparison,
    /// How long the opposite must hold before it is said, in both directions.
    patience: Nanos,
    says: bool,
    /// Since when the opposite holds.
    doubts_since: Option<Nanos>,
}

impl Decider {
    pub(super) fn new(comparison: Comparison, patience: Nanos) -> Self {
        Self {
            comparison,
            patience,
            says: false,
            doubts_since: None,
        }
    }

    pub(super) fn tick(&mut self, left: Signal, right: Signal, now: Nanos) -> Signal {
        let holds = self.comparison.holds(left, right);
        if holds == self.says {
            self.doubts_since = None;
        } else {
            let since = *self.doubts_since.get_or_insert(now);
            if now.saturating_sub(since) >= self.patience {
                self.says = holds;
                self.doubts_since = None;
            }
        }
        super::logic::signal(Some(self.says))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_changes_when_its_opposite_has_held_for_long_enough() {
        let mut decider = Decider::new(Comparison::Gt, 2);
        let said: Vec<f64> = [0, 1, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0]
            .into_iter()
            .zip(0..)
            .map(|(signal, now)| decider.tick(f64::from(signal), 0.5, now))
            .collect();
        let expected = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0].map(f64::from);
        assert_eq!(said, expected);
    }

    #[test]
    fn without_patience_an_answer_changes_at_once() {
        let mut decider = Decider::new(Comparison::Gt, 0);
        assert_eq!(decider.tick(1.0, 0.5, 0), 1.0);
        assert_eq!(decider.tick(0.0, 0.5, 0), 0.0);
    }
}
