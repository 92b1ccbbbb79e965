//! `decider`: compares two signals, and changes its output after a delay.

use crate::engine::clock::Nanos;
use crate::policy::{Comparison, Signal};

#[derive(Clone, Debug)]
pub(super) struct SignalDecider {
    comparison: Comparison,
    /// How long the opposite must hold until the output changes, in both directions.
    true_for: Nanos,
    output: bool,
    /// The time since which the opposite holds.
    differs_since: Option<Nanos>,
}

impl SignalDecider {
    pub(super) fn new(comparison: Comparison, true_for: Nanos) -> Self {
        Self {
            comparison,
            true_for,
            output: false,
            differs_since: None,
        }
    }

    pub(super) fn tick(&mut self, left: Signal, right: Signal, now: Nanos) -> Signal {
        let holds = self.comparison.holds(left, right);
        if holds == self.output {
            self.differs_since = None;
        } else {
            let since = *self.differs_since.get_or_insert(now);
            if now.saturating_sub(since) >= self.true_for {
                self.output = holds;
                self.differs_since = None;
            }
        }
        super::logic::signal(Some(self.output))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_output_changes_after_the_opposite_has_held_for_true_for() {
        let mut decider = SignalDecider::new(Comparison::Gt, 2);
        let outputs: Vec<f64> = [0, 1, 0, 1, 1, 1, 0, 0, 1, 0, 0, 0]
            .into_iter()
            .zip(0..)
            .map(|(signal, now)| decider.tick(f64::from(signal), 0.5, now))
            .collect();
        let expected = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0].map(f64::from);
        assert_eq!(outputs, expected);
    }

    #[test]
    fn without_true_for_the_output_changes_immediately() {
        let mut decider = SignalDecider::new(Comparison::Gt, 0);
        assert_eq!(decider.tick(1.0, 0.5, 0), 1.0);
        assert_eq!(decider.tick(0.0, 0.5, 0), 0.0);
    }
}
