//! `arithmetic_combinator`: two numbers make one.

use super::{At, Carried, Circuit, Inputs, Op, Part, Place, PolicyError, Wired};
use crate::policy::model::Arithmetic;
use crate::policy::ports;

struct Combinator(Arithmetic);

impl Part for Combinator {
    fn carry(&self, inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        // An invalid side makes the result invalid whatever the other does.
        if inputs.values.iter().any(Carried::is_invalid) {
            return vec![Carried::INVALID];
        }
        vec![inputs.folded(|values| self.0.combine(values[0], values[1]))]
    }

    fn op(&self) -> Option<Op> {
        Some(Op::Arithmetic(self.0))
    }
}

impl Arithmetic {
    fn named(name: &str) -> Self {
        match name {
            "add" => Self::Add,
            "sub" => Self::Sub,
            "mul" => Self::Mul,
            "div" => Self::Div,
            "xor" => Self::Xor,
            "lshift" => Self::Lshift,
            _ => Self::Rshift,
        }
    }

    /// Anything over zero is invalid; the operators on bits drop the fractions.
    pub(crate) fn combine(self, left: f64, right: f64) -> f64 {
        if left.is_nan() || right.is_nan() {
            return f64::NAN;
        }
        let (bits, others) = (left as i64, right as i64);
        let places = u32::try_from(others);
        match self {
            Self::Add => left + right,
            Self::Sub => left - right,
            Self::Mul => left * right,
            Self::Div if right == 0.0 => f64::NAN,
            Self::Div => left / right,
            Self::Xor => (bits ^ others) as f64,
            // A negative shift has no meaning; one beyond the width leaves nothing.
            Self::Lshift => places.map_or(f64::NAN, |places| {
                bits.checked_shl(places).unwrap_or(0) as f64
            }),
            Self::Rshift => places.map_or(f64::NAN, |places| (bits >> places.min(63)) as f64),
        }
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
    let outputs = ports::out_ports(&fields, &["output"], place.scope)?;
    circuit.add(Wired {
        id: place.id.clone(),
        inputs,
        outputs,
        part: combinator(Arithmetic::named(operator)),
    });
    Ok(())
}

/// A combinator, also for what other components and blueprints consist of.
pub(in crate::policy) fn combinator<'t>(operator: Arithmetic) -> Box<dyn Part + 't> {
    Box::new(Combinator(operator))
}

#[cfg(test)]
mod tests {
    use super::Arithmetic;

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
                Arithmetic::named(operator).combine(left, right),
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
                Arithmetic::named(operator).combine(left, right).is_nan(),
                "{left} {operator} {right}"
            );
        }
    }
}
