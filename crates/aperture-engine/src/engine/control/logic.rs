//! `and`, `or`, `inverter`, `switcher`, `first_valid`: the operations on truth values.

use crate::policy::Signal;

/// Returns the truth value of a signal: zero is false, any other number is true, and an invalid
/// signal has none.
pub(super) fn truth(signal: Signal) -> Option<bool> {
    (!signal.is_nan()).then_some(signal != 0.0)
}

/// Returns true if the signal is valid and not zero.
pub(super) fn is_true(signal: Signal) -> bool {
    truth(signal) == Some(true)
}

/// Returns one, zero, or an invalid signal.
pub(super) fn signal(truth: Option<bool>) -> Signal {
    match truth {
        Some(true) => 1.0,
        Some(false) => 0.0,
        None => Signal::NAN,
    }
}

/// Is false if any input is false, and true without inputs.
pub(super) fn and(inputs: &[Signal]) -> Signal {
    signal(combine(inputs, false))
}

/// Is true if any input is true, and false without inputs.
pub(super) fn or(inputs: &[Signal]) -> Signal {
    signal(combine(inputs, true))
}

/// Returns `decisive` if any input has that value, the opposite if all inputs have the opposite
/// value, else `None`.
fn combine(inputs: &[Signal], decisive: bool) -> Option<bool> {
    let mut has_invalid = false;
    for input in inputs {
        match truth(*input) {
            Some(found) if found == decisive => return Some(decisive),
            Some(_) => {}
            None => has_invalid = true,
        }
    }
    (!has_invalid).then_some(!decisive)
}

pub(super) fn invert(input: Signal) -> Signal {
    signal(truth(input).map(|truth| !truth))
}

/// An invalid switch counts as off.
pub(super) fn switch(switch: Signal, on: Signal, off: Signal) -> Signal {
    if is_true(switch) { on } else { off }
}

pub(super) fn first_valid(inputs: &[Signal]) -> Signal {
    let mut valid = inputs.iter().copied().filter(|input| !input.is_nan());
    valid.next().unwrap_or(Signal::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Signal = 1.0;
    const F: Signal = 0.0;
    const U: Signal = Signal::NAN;

    #[test]
    fn an_invalid_input_matters_only_if_it_could_decide() {
        for (inputs, all, any) in [
            (&[][..], T, F),
            (&[T, T], T, T),
            (&[T, F], F, T),
            (&[F, F], F, F),
            (&[T, U], U, T),
            (&[F, U], F, U),
            (&[U], U, U),
            (&[U, F, T], F, T),
            (&[-0.5, f64::INFINITY], T, T),
        ] {
            assert_eq!(truth(and(inputs)), truth(all), "and {inputs:?}");
            assert_eq!(truth(or(inputs)), truth(any), "or {inputs:?}");
        }
        assert_eq!((invert(T), invert(F), invert(7.0)), (F, T, F));
        assert!(invert(U).is_nan());
    }

    #[test]
    fn an_invalid_switch_is_off() {
        assert_eq!(switch(T, 3.0, 4.0), 3.0);
        assert_eq!(switch(F, 3.0, 4.0), 4.0);
        assert_eq!(switch(U, 3.0, 4.0), 4.0);
        assert!(switch(T, U, 4.0).is_nan());
    }

    #[test]
    fn infinity_is_valid() {
        assert_eq!(first_valid(&[U, f64::INFINITY, 1.0]), f64::INFINITY);
        assert!(first_valid(&[U]).is_nan());
        assert!(first_valid(&[]).is_nan());
    }
}
