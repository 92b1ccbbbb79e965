//! `arithmetic_combinator`: two numbers make one.

use super::{At, Carried, Circuit, Inputs, Part, Place, PolicyError, Wired};
use crate::policy::ports;

struct Arithmetic {
    operator: &'static str,
}

impl Part for Arithmetic {
    fn carry(&self, inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        vec![match inputs.all_steady() {
            Ok(values) => Carried::Steady(combine(self.operator, values[0], values[1])),
            // An invalid side makes the result invalid whatever the other does.
            Err(_) if inputs.values.iter().any(Carried::is_invalid) => Carried::INVALID,
            Err(origin) => Carried::Changing(origin),
        }]
    }
}

/// Anything over zero is invalid; the operators on bits drop the fractions.
fn combine(operator: &str, left: f64, right: f64) -> f64 {
    if left.is_nan() || right.is_nan() {
        return f64::NAN;
    }
    let (bits, others) = (left as i64, right as i64);
    let places = u32::try_from(others);
    match operator {
        "add" => left + right,
        "sub" => left - right,
        "mul" => left * right,
        "div" if right == 0.0 => f64::NAN,
        "div" => left / right,
        "xor" => (bits ^ others) as f64,
        // A negative shift has no meaning; one beyond the width leaves nothing.
        "lshift" => places.map_or(f64::NAN, |places| {
            bits.checked_shl(places).unwrap_or(0) as f64
        }),
        _ => places.map_or(f64::NAN, |places| (bits >> places.min(63)) as f64),
    }
}

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&["in_ports", "operator", "out_ports"])?;
    let operator = fields
        .required("operator")?
        .one_of(&["add", "sub", "mul", "div", "xor", "lshift", "rshift"])?;
    let inputs = ports::optional(&fields, &["lhs", "rhs"], place.scope)?;
    let output = ports::out_port(&fields, &["output"], place.scope)?;
    circuit.add(Wired {
        id: place.id.clone(),
        inputs,
        outputs: vec![output],
        part: Box::new(Arithmetic { operator }),
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::combine;

    #[test]
    fn operators_do_as_named() {
        for (operator, left, right, result) in [
            ("add", 1.0, 2.0, 3.0),
            ("sub", 5.0, 1.0, 4.0),
            ("mul", 1.5, 2.0, 3.0),
            ("div", 6.0, 4.0, 1.5),
            ("xor", 6.9, 3.0, 5.0),
            ("lshift", 1.0, 3.0, 8.0),
            ("lshift", 1.0, 64.0, 0.0),
            ("rshift", 9.0, 1.0, 4.0),
            ("rshift", -9.0, 99.0, -1.0),
            ("div", f64::INFINITY, 2.0, f64::INFINITY),
        ] {
            assert_eq!(
                combine(operator, left, right),
                result,
                "{left} {operator} {right}"
            );
        }
        for (operator, left, right) in [
            ("div", 1.0, 0.0),
            ("add", f64::NAN, 1.0),
            ("xor", 1.0, f64::NAN),
            ("lshift", 1.0, -1.0),
            ("sub", f64::INFINITY, f64::INFINITY),
        ] {
            assert!(
                combine(operator, left, right).is_nan(),
                "{left} {operator} {right}"
            );
        }
    }
}
