//! `gradient_controller`: scales a control variable by the ratio of a signal to its setpoint.

use crate::policy::Signal;

#[derive(Clone, Copy, Debug)]
pub(super) struct Gradient {
    pub(super) slope: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// The signals at the in-ports; an invalid bound does not apply.
#[derive(Clone, Copy, Debug)]
pub(super) struct GradientInputs {
    pub(super) signal: Signal,
    pub(super) setpoint: Signal,
    pub(super) control: Signal,
    pub(super) max: Signal,
    pub(super) min: Signal,
}

impl Gradient {
    pub(super) fn compute(&self, inputs: GradientInputs) -> Signal {
        let GradientInputs {
            signal,
            setpoint,
            control,
            max,
            min,
        } = inputs;
        // Checked first, because NaN to the power of zero is one.
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
        // `f64::min` and `f64::max` ignore NaN.
        output.min(max).max(min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(signal: f64, setpoint: f64, control: f64) -> GradientInputs {
        GradientInputs {
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
    fn a_negative_slope_lowers_the_control_when_the_signal_is_high() {
        assert_eq!(HALVING.compute(inputs(10.0, 5.0, 1.0)), 0.5);
        assert_eq!(HALVING.compute(inputs(10.0, 5.0, 0.5)), 0.25);
        assert_eq!(HALVING.compute(inputs(2.0, 5.0, 0.5)), 0.5);
        assert_eq!(HALVING.compute(inputs(1e9, 5.0, 0.5)), 0.05);
        assert_eq!(HALVING.compute(inputs(f64::INFINITY, 5.0, 1.0)), 0.1);
    }

    #[test]
    fn the_output_stays_within_its_bounds() {
        let bounded = GradientInputs {
            max: 0.4,
            min: 0.3,
            ..inputs(10.0, 5.0, 1.0)
        };
        assert_eq!(HALVING.compute(bounded), 0.4);
        assert_eq!(
            HALVING.compute(GradientInputs {
                control: 0.1,
                ..bounded
            }),
            0.3
        );
    }

    #[test]
    fn invalid_inputs_give_an_invalid_output() {
        for (signal, setpoint, control) in [
            (Signal::NAN, 5.0, 1.0),
            (1.0, Signal::NAN, 1.0),
            (1.0, 5.0, Signal::NAN),
            (1.0, 0.0, 1.0),
        ] {
            let output = HALVING.compute(inputs(signal, setpoint, control));
            assert!(output.is_nan(), "{signal} {setpoint} {control}");
        }
        // The root of a negative number is invalid.
        let root = Gradient {
            slope: 0.5,
            ..HALVING
        };
        assert!(root.compute(inputs(-1.0, 4.0, 1.0)).is_nan());
    }
}
