//! `gradient_controller`: turns a control by how far a signal is from its setpoint.

use crate::policy::Signal;

#[derive(Clone, Copy, Debug)]
pub(super) struct Gradient {
    pub(super) slope: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// The signals at its in-ports; an invalid bound is none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inputs {
    pub(super) signal: Signal,
    pub(super) setpoint: Signal,
    pub(super) control: Signal,
    pub(super) max: Signal,
    pub(super) min: Signal,
}

impl Gradient {
    pub(super) fn compute(&self, inputs: Inputs) -> Signal {
        let Inputs {
            signal,
            setpoint,
            control,
            max,
            min,
        } = inputs;
        // Checked first: any number to the power of zero is one, also one that is none.
        if signal.is_nan() || setpoint.is_nan() || control.is_nan() || setpoint == 0.0 {
            return Signal::NAN;
        }
        let mut gradient = (signal / setpoint).powf(self.slope);
        if gradient < self.min {
            gradient = self.min;
        }
        if gradient > self.max {
            gradient = self.max;
        }
        let output = control * gradient;
        if output.is_nan() {
            return output;
        }
        // `min` and `max` of floats pass over what is no number.
        output.min(max).max(min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(signal: f64, setpoint: f64, control: f64) -> Inputs {
        Inputs {
            signal,
            setpoint,
            control,
            max: Signal::NAN,
            min: Signal::NAN,
        }
    }

    const HALVING: Gradient = Gradient {
        slope: -1.0,
        min: 0.1,
        max: 1.0,
    };

    #[test]
    fn a_negative_slope_answers_a_high_signal_with_less() {
        assert_eq!(HALVING.compute(inputs(10.0, 5.0, 1.0)), 0.5);
        assert_eq!(HALVING.compute(inputs(10.0, 5.0, 0.5)), 0.25);
        assert_eq!(HALVING.compute(inputs(2.0, 5.0, 0.5)), 0.5);
        assert_eq!(HALVING.compute(inputs(1e9, 5.0, 0.5)), 0.05);
        assert_eq!(HALVING.compute(inputs(f64::INFINITY, 5.0, 1.0)), 0.1);
    }

    #[test]
    fn bounds_hold_the_output() {
        let bounded = Inputs {
            max: 0.4,
            min: 0.3,
            ..inputs(10.0, 5.0, 1.0)
        };
        assert_eq!(HALVING.compute(bounded), 0.4);
        assert_eq!(
            HALVING.compute(Inputs {
                control: 0.1,
                ..bounded
            }),
            0.3
        );
    }

    #[test]
    fn what_is_invalid_stays_so() {
        for (signal, setpoint, control) in [
            (Signal::NAN, 5.0, 1.0),
            (1.0, Signal::NAN, 1.0),
            (1.0, 5.0, Signal::NAN),
            (1.0, 0.0, 1.0),
        ] {
            let output = HALVING.compute(inputs(signal, setpoint, control));
            assert!(output.is_nan(), "{signal} {setpoint} {control}");
        }
        // The root of a negative number.
        let root = Gradient {
            slope: 0.5,
            ..HALVING
        };
        assert!(root.compute(inputs(-1.0, 4.0, 1.0)).is_nan());
    }
}
