//! `integrator`: a bounded sum over time.

use super::logic::is_true;
use crate::policy::Signal;

#[derive(Clone, Debug)]
pub(super) struct Integrator {
    sum: f64,
}

/// The signals at the in-ports; an invalid bound does not apply.
#[derive(Clone, Copy, Debug)]
pub(super) struct IntegratorInputs {
    pub(super) input: Signal,
    pub(super) reset: Signal,
    pub(super) max: Signal,
    pub(super) min: Signal,
}

impl Integrator {
    pub(super) fn new(initial: f64) -> Self {
        Self { sum: initial }
    }

    pub(super) fn tick(&mut self, inputs: IntegratorInputs) -> Signal {
        if is_true(inputs.reset) {
            self.sum = 0.0;
        } else if !inputs.input.is_nan() {
            self.sum += inputs.input;
        }
        // `f64::min` and `f64::max` ignore NaN.
        self.sum = self.sum.min(inputs.max).max(inputs.min);
        self.sum
    }

    /// Returns the sum, for the ticks within a period.
    pub(super) fn current(&self) -> Signal {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_INPUTS: IntegratorInputs = IntegratorInputs {
        input: Signal::NAN,
        reset: Signal::NAN,
        max: Signal::NAN,
        min: Signal::NAN,
    };

    #[test]
    fn it_sums_valid_inputs_within_its_bounds() {
        let mut integrator = Integrator::new(2.0);
        let add = |input| IntegratorInputs { input, ..NO_INPUTS };
        assert_eq!(integrator.tick(add(0.5)), 2.5);
        assert_eq!(integrator.tick(NO_INPUTS), 2.5);
        assert_eq!(integrator.current(), 2.5);
        assert_eq!(
            integrator.tick(IntegratorInputs {
                max: 1.0,
                ..add(1.0)
            }),
            1.0
        );
        assert_eq!(
            integrator.tick(IntegratorInputs {
                min: 3.0,
                ..add(1.0)
            }),
            3.0
        );
        let crossed = IntegratorInputs {
            max: 1.0,
            min: 2.0,
            ..NO_INPUTS
        };
        assert_eq!(integrator.tick(crossed), 2.0);
    }

    #[test]
    fn a_reset_sets_zero_before_the_bounds_apply() {
        let mut integrator = Integrator::new(2.0);
        let reset = IntegratorInputs {
            reset: 1.0,
            input: 5.0,
            ..NO_INPUTS
        };
        assert_eq!(integrator.tick(reset), 0.0);
        assert_eq!(integrator.tick(IntegratorInputs { min: 0.5, ..reset }), 0.5);
    }
}
