//! `signal_generator`: the steps of a load ramp.

use super::logic::is_true;
use crate::policy::{RampStep, Signal};

/// Moves forward and backward along the steps, a tick at a time.
///
/// It ends one tick before the last target, and begins each step at the target of the step before,
/// so a ramp that must reach its last target repeats the last step.
#[derive(Clone, Debug)]
pub(super) struct SignalGenerator {
    /// The target of each step, and its length in ticks, at least one.
    steps: Box<[(f64, u64)]>,
    step: usize,
    tick: u64,
    at_start: bool,
    at_end: bool,
}

impl SignalGenerator {
    /// Creates the generator at the start of its steps; `steps` must not be empty.
    pub(super) fn new(steps: &[RampStep], ticks: impl Fn(&RampStep) -> u64) -> Self {
        Self {
            steps: steps
                .iter()
                .map(|step| (step.target_accept_percentage, ticks(step).max(1)))
                .collect(),
            step: 0,
            tick: 0,
            at_start: true,
            at_end: false,
        }
    }

    /// Returns the percentage, and whether it is at the start and at the end.
    pub(super) fn tick(&mut self, forward: Signal, backward: Signal, reset: Signal) -> [Signal; 3] {
        let (forward, backward) = (is_true(forward), is_true(backward));
        if is_true(reset) {
            (self.step, self.tick) = (0, 0);
            (self.at_start, self.at_end) = (true, false);
        } else if forward && !backward {
            self.forward();
        } else if backward && !forward {
            self.backward();
        }
        let flag = |flag| super::logic::signal(Some(flag));
        [self.percentage(), flag(self.at_start), flag(self.at_end)]
    }

    fn length(&self) -> u64 {
        self.steps.get(self.step).map_or(1, |(_, ticks)| *ticks)
    }

    fn forward(&mut self) {
        self.at_start = false;
        if self.at_end {
            return;
        }
        self.tick += 1;
        if self.tick < self.length() {
            return;
        }
        if self.step + 1 < self.steps.len() {
            self.step += 1;
            self.tick = 0;
        } else {
            self.tick = self.length() - 1;
            self.at_end = true;
        }
    }

    fn backward(&mut self) {
        self.at_end = false;
        if self.at_start {
            return;
        }
        if self.tick > 0 {
            self.tick -= 1;
        } else if self.step > 0 {
            self.step -= 1;
            self.tick = self.length() - 1;
        } else {
            self.at_start = true;
        }
    }

    fn percentage(&self) -> Signal {
        let target = |step: usize| {
            self.steps
                .get(step)
                .map_or(Signal::NAN, |(target, _)| *target)
        };
        let to = target(self.step);
        match self.step.checked_sub(1).map(target) {
            Some(from) if from != to => {
                from + (to - from) * self.tick as f64 / self.length() as f64
            }
            _ => to,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn ramp(steps: &[(f64, u64)]) -> SignalGenerator {
        let steps: Vec<RampStep> = steps
            .iter()
            .map(|(target, seconds)| RampStep {
                target_accept_percentage: *target,
                duration: Duration::from_secs(*seconds),
            })
            .collect();
        SignalGenerator::new(&steps, |step| step.duration.as_secs())
    }

    fn walk(ramp: &mut SignalGenerator, ticks: usize, forward: f64, backward: f64) -> Vec<f64> {
        (0..ticks)
            .map(|_| {
                let [percentage, ..] = ramp.tick(forward, backward, Signal::NAN);
                (percentage * 1000.0).round() / 1000.0
            })
            .collect()
    }

    #[test]
    fn it_climbs_between_targets_and_ends_one_tick_before_the_last() {
        let mut ramp = ramp(&[(10.0, 2), (50.0, 4), (90.0, 2), (100.0, 3)]);
        assert_eq!(
            walk(&mut ramp, 12, 1.0, 0.0),
            [
                10.0, 10.0, 20.0, 30.0, 40.0, 50.0, 70.0, 90.0, 93.333, 96.667, 96.667, 96.667
            ]
        );
        assert_eq!(ramp.tick(1.0, 0.0, 0.0)[1..], [0.0, 1.0]);
    }

    #[test]
    fn a_step_of_one_tick_stays_at_the_target_before_it() {
        let mut single = ramp(&[(0.0, 1), (100.0, 1)]);
        assert_eq!(walk(&mut single, 4, 1.0, 0.0), [0.0; 4]);
        let mut long = ramp(&[(0.0, 1), (100.0, 300)]);
        assert_eq!(walk(&mut long, 400, 1.0, 0.0).last(), Some(&99.667));
    }

    #[test]
    fn backward_retraces_the_steps() {
        let mut ramp = ramp(&[(10.0, 2), (50.0, 4)]);
        walk(&mut ramp, 20, 1.0, 0.0);
        assert_eq!(
            walk(&mut ramp, 8, 0.0, 1.0),
            [30.0, 20.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0]
        );
        assert_eq!(ramp.tick(0.0, 1.0, 0.0)[1..], [1.0, 0.0]);
    }

    #[test]
    fn contradictory_and_invalid_inputs_hold_the_percentage() {
        let mut ramp = ramp(&[(10.0, 1), (50.0, 4)]);
        walk(&mut ramp, 2, 1.0, 0.0);
        assert_eq!(walk(&mut ramp, 2, 1.0, 1.0), [20.0; 2]);
        assert_eq!(walk(&mut ramp, 2, Signal::NAN, Signal::NAN), [20.0; 2]);
        assert_eq!(ramp.tick(1.0, 0.0, 1.0), [10.0, 1.0, 0.0]);
    }
}
