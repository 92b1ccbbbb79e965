//! `and`, `or`, `inverter`, `switcher`, `first_valid`: signals that choose.

use crate::policy::Signal;

/// What a signal says when it is asked for yes or no: zero is no, any other number is yes, and an
/// invalid signal does not say.
pub(super) fn truth(signal: Signal) -> Option<bool> {
    (!signal.is_nan()).then_some(signal != 0.0)
}

/// A yes that leaves no doubt.
pub(super) fn is_true(signal: Signal) -> bool {
    truth(signal) == Some(true)
}

/// One, zero, or invalid.
pub(super) fn signal(truth: Option<bool>) -> Signal {
    match truth {
        Some(true) => 1.0,
        Some(false) => 0.0,
        None => Signal::NAN,
    }
}

/// A single no decides; all of none hold.
pub(super) fn and(inputs: &[Signal]) -> Signal {
    signal(unless(inputs, false))
}

/// A single yes decides; none of none holds.
pub(super) fn or(inputs: &[Signal]) -> Signal {
    signal(unless(inputs, true))
}

/// `decisive` where one input is that; the opposite where all are; unknown between.
fn unless(inputs: &[Signal], decisive: bool) -> Option<bool> {
    let mut doubt = false;
    for input in inputs {
        match truth(*input) {
            Some(found) if found == decisive => return Some(decisive),
            Some(_) => {}
            None => doubt = true,
        }
    }
    (!doubt).then_some(!decisive)
}

pub(super) fn invert(input: Signal) -> Signal {
    signal(truth(input).map(|truth| !truth))
}

/// Doubt switches off.
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
    fn doubt_matters_only_where_it_could_decide() {
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
    fn a_switch_in_doubt_is_off() {
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
