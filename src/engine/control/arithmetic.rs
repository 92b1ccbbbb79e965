//! `arithmetic_combinator`: two numbers make one.

use crate::policy::{Arithmetic, Signal};

/// What is invalid stays so, and what is divided by zero becomes it; the operators on bits drop
/// the fractions.
pub(super) fn combine(operator: Arithmetic, left: Signal, right: Signal) -> Signal {
    if left.is_nan() || right.is_nan() {
        return Signal::NAN;
    }
    let (bits, others) = (left as i64, right as i64);
    let places = u32::try_from(others);
    match operator {
        Arithmetic::Add => left + right,
        Arithmetic::Sub => left - right,
        Arithmetic::Mul => left * right,
        Arithmetic::Div if right == 0.0 => Signal::NAN,
        Arithmetic::Div => left / right,
        Arithmetic::Xor => (bits ^ others) as Signal,
        // A negative shift has no meaning; one beyond the width leaves nothing.
        Arithmetic::Lshift => places.map_or(Signal::NAN, |places| {
            bits.checked_shl(places).unwrap_or(0) as Signal
        }),
        Arithmetic::Rshift => {
            places.map_or(Signal::NAN, |places| (bits >> places.min(63)) as Signal)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_do_as_named() {
        for (operator, left, right, result) in [
            (Arithmetic::Add, 1.0, 2.0, 3.0),
            (Arithmetic::Sub, 5.0, 1.0, 4.0),
            (Arithmetic::Mul, 1.5, 2.0, 3.0),
            (Arithmetic::Div, 6.0, 4.0, 1.5),
            (Arithmetic::Div, f64::INFINITY, 2.0, f64::INFINITY),
            (Arithmetic::Xor, 6.9, 3.0, 5.0),
            (Arithmetic::Lshift, 1.0, 3.0, 8.0),
            (Arithmetic::Lshift, 1.0, 64.0, 0.0),
            (Arithmetic::Rshift, -9.0, 99.0, -1.0),
        ] {
            assert_eq!(combine(operator, left, right), result, "{operator:?}");
        }
        assert!(combine(Arithmetic::Div, 0.0, 0.0).is_nan());
        assert!(combine(Arithmetic::Add, Signal::NAN, 0.0).is_nan());
        assert!(combine(Arithmetic::Rshift, 1.0, -1.0).is_nan());
    }
}
