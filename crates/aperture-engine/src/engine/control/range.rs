//! The curve of a `range_driven_load_scheduler`.

use crate::policy::{PolynomialRange, Signal};

/// Returns the load multiplier for a signal: a power curve between the thresholds. Beyond them, it
/// is the multiplier of the throttling threshold on its side, and 1, which does not throttle, on
/// the other side.
pub(super) fn multiplier(range: &PolynomialRange, signal: Signal) -> Signal {
    let ((low, low_multiplier), (high, high_multiplier)) = (range.low, range.high);
    let fraction = if low == high && !signal.is_nan() {
        if signal <= low { 0.0 } else { 1.0 }
    } else {
        (signal - low) / (high - low)
    };
    if fraction.is_nan() {
        return Signal::NAN;
    }
    let (before, after) = if low_multiplier >= high_multiplier {
        (1.0, high_multiplier)
    } else {
        (low_multiplier, 1.0)
    };
    if fraction < 0.0 {
        before
    } else if fraction > 1.0 {
        after
    } else {
        low_multiplier + fraction.powf(range.degree) * (high_multiplier - low_multiplier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FALLING: PolynomialRange = PolynomialRange {
        low: (2.0, 1.0),
        high: (8.0, 0.2),
        degree: 2.0,
    };

    fn all(range: &PolynomialRange, signals: &[f64]) -> Vec<f64> {
        signals
            .iter()
            .map(|signal| (multiplier(range, *signal) * 1e9).round() / 1e9)
            .collect()
    }

    #[test]
    fn a_falling_curve_throttles_more_the_higher_the_signal() {
        let signals = [f64::NEG_INFINITY, 1.0, 2.0, 5.0, 8.0, 9.0, f64::INFINITY];
        assert_eq!(all(&FALLING, &signals), [1.0, 1.0, 1.0, 0.8, 0.2, 0.2, 0.2]);
    }

    #[test]
    fn a_rising_curve_throttles_more_the_lower_the_signal() {
        let rising = PolynomialRange {
            low: (2.0, 0.2),
            high: (8.0, 0.9),
            degree: 1.0,
        };
        assert_eq!(
            all(&rising, &[0.0, 2.0, 5.0, 8.0, 9.0]),
            [0.2, 0.2, 0.55, 0.9, 1.0]
        );
    }

    #[test]
    fn equal_thresholds_are_a_step() {
        let step = PolynomialRange {
            low: (5.0, 1.0),
            high: (5.0, 0.3),
            degree: 1.0,
        };
        assert_eq!(all(&step, &[4.0, 5.0, 5.1]), [1.0, 1.0, 0.3]);
    }

    #[test]
    fn an_invalid_signal_gives_an_invalid_multiplier() {
        assert!(multiplier(&FALLING, Signal::NAN).is_nan());
    }
}
