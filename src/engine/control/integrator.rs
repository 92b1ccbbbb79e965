//! `integrator`: a sum over time, between bounds.

use super::logic::is_true;
use crate::policy::Signal;

#[derive(Clone, Debug)]
pub(super) struct Integrator {
    sum: f64,
}

/// The signals at its in-ports; an invalid bound is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs {
    pub(super) input: Signal,
    pub(super) reset: Signal,
    pub(super) max: Signal,
    pub(super) min: Signal,
}

impl Integrator {
    pub(super) fn new(initial: f64) -> Self {
        Self { sum: initial }
    }

    pub(super) fn tick(&mut self, inputs: Inputs) -> Signal {
        if is_true(inputs.reset) {
            self.sum = 0.0;
        } else if !inputs.input.is_nan() {
            self.sum += inputs.input;
        }
        // `min` and `max` of floats pass over what is no number.
        self.sum = self.sum.min(inputs.max).max(inputs.min);
        self.sum
    }

    /// Between the ticks that count.
    pub(super) fn held(&self) -> Signal {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Inputs = Inputs {
        input: Signal::NAN,
        reset: Signal::NAN,
        max: Signal::NAN,
        min: Signal::NAN,
    };

    #[test]
    fn it_sums_up_what_is_valid_between_its_bounds() {
        let mut integrator = Integrator::new(2.0);
        let add = |input| Inputs { input, ..NONE };
        assert_eq!(integrator.tick(add(0.5)), 2.5);
        assert_eq!(integrator.tick(NONE), 2.5);
        assert_eq!(integrator.held(), 2.5);
        assert_eq!(
            integrator.tick(Inputs {
                max: 1.0,
                ..add(1.0)
            }),
            1.0
        );
        assert_eq!(
            integrator.tick(Inputs {
                min: 3.0,
                ..add(1.0)
            }),
            3.0
        );
        let crossed = Inputs {
            max: 1.0,
            min: 2.0,
            ..NONE
        };
        assert_eq!(integrator.tick(crossed), 2.0);
    }

    #[test]
    fn a_reset_sets_zero_and_then_the_bounds_hold() {
        let mut integrator = Integrator::new(2.0);
        let reset = Inputs {
            reset: 1.0,
            input: 5.0,
            ..NONE
        };
        assert_eq!(integrator.tick(reset), 0.0);
        assert_eq!(integrator.tick(Inputs { min: 0.5, ..reset }), 0.5);
    }
}
