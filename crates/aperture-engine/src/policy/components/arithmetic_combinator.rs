//! Reads `arithmetic_combinator`, which combines two numbers.

use super::{
    CircuitBuilder, ComponentBehaviour, ComponentLocation, DocumentNode, FoldedSignal,
    InputSignals, Op, PolicyError, WiredComponent,
};
use crate::policy::decode::{Field, FieldValue, Section};
use crate::policy::model::Arithmetic;
use crate::policy::ports;

/// The fields of an arithmetic combinator.
pub(super) static FIELDS: Section = Section::new(
    "Arithmetic combinator",
    &[&[
        Field::optional("in_ports", FieldValue::Section(&IN_PORTS), "The operands."),
        Field::required(
            "operator",
            FieldValue::OneOf(&["add", "sub", "mul", "div", "xor", "lshift", "rshift"]),
            "The operation. Division by zero is invalid.",
        ),
        ports::OUTPUT,
    ]],
);

static IN_PORTS: Section = Section::new(
    "",
    &[&[
        ports::port("lhs", "The left operand."),
        ports::port("rhs", "The right operand."),
    ]],
);

struct ArithmeticCombinator(Arithmetic);

impl ComponentBehaviour for ArithmeticCombinator {
    fn fold_outputs(&self, inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        // An invalid operand makes the result invalid, even while the other operand changes.
        if inputs.values.iter().any(FoldedSignal::is_invalid) {
            return vec![FoldedSignal::INVALID];
        }
        vec![inputs.folded(|values| self.0.combine(values[0], values[1]))]
    }

    fn op(&self) -> Option<Op> {
        Some(Op::Arithmetic(self.0))
    }
}

impl Arithmetic {
    fn from_name(name: &str) -> Self {
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

    /// Combines two operands. Division by zero is invalid; the bitwise operators truncate their
    /// operands to integers.
    pub(crate) fn combine(self, left: f64, right: f64) -> f64 {
        if left.is_nan() || right.is_nan() {
            return f64::NAN;
        }
        let (bits, other) = (left as i64, right as i64);
        let shift = u32::try_from(other);
        match self {
            Self::Add => left + right,
            Self::Sub => left - right,
            Self::Mul => left * right,
            Self::Div if right == 0.0 => f64::NAN,
            Self::Div => left / right,
            Self::Xor => (bits ^ other) as f64,
            // A negative shift is invalid; a left shift beyond the width gives zero.
            Self::Lshift => shift.map_or(f64::NAN, |shift| {
                bits.checked_shl(shift).unwrap_or(0) as f64
            }),
            Self::Rshift => shift.map_or(f64::NAN, |shift| (bits >> shift.min(63)) as f64),
        }
    }
}

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    let operator = fields
        .required("operator")?
        .one_of(&["add", "sub", "mul", "div", "xor", "lshift", "rshift"])?;
    let inputs = ports::optional_in_ports(&fields, &IN_PORTS, location.scope)?;
    let outputs = ports::out_ports(&fields, &ports::ONE_OUTPUT, location.scope)?;
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs,
        outputs,
        behaviour: combinator(Arithmetic::from_name(operator)),
    });
    Ok(())
}

/// Returns a combinator, also for the expansion of other components and of blueprints.
pub(in crate::policy) fn combinator<'t>(operator: Arithmetic) -> Box<dyn ComponentBehaviour + 't> {
    Box::new(ArithmeticCombinator(operator))
}

#[cfg(test)]
mod tests {
    use super::Arithmetic;

    #[test]
    fn operators_compute_their_results() {
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
                Arithmetic::from_name(operator).combine(left, right),
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
                Arithmetic::from_name(operator)
                    .combine(left, right)
                    .is_nan(),
                "{left} {operator} {right}"
            );
        }
    }
}
