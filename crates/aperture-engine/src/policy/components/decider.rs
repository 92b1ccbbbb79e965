//! Reads `decider`, which compares two numbers.

use std::time::Duration;

use super::{
    CircuitBuilder, ComponentBehaviour, ComponentLocation, DocumentNode, FoldedSignal,
    InputSignals, Op, PolicyError, WiredComponent, non_negative,
};
use crate::policy::decode::{Field, FieldValue, Section};
use crate::policy::model::Comparison;
use crate::policy::ports;

/// The fields of a decider.
pub(super) static FIELDS: Section = Section::new(
    "Decider",
    &[&[
        Field::optional("in_ports", FieldValue::Section(&IN_PORTS), "The operands."),
        Field::required(
            "operator",
            FieldValue::OneOf(&["gt", "lt", "gte", "lte", "eq", "neq"]),
            "The comparison of `lhs` with `rhs`.",
        ),
        Field::with_default(
            "true_for",
            FieldValue::Duration,
            "0s",
            "How long the comparison must have held before the output changes.",
        ),
        Field::optional(
            "false_for",
            FieldValue::Duration,
            "Has no effect, as on an Agent.",
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

struct DeciderBehaviour {
    comparison: Comparison,
    /// How long the comparison must have held before the output changes.
    true_for: Duration,
}

impl ComponentBehaviour for DeciderBehaviour {
    fn fold_outputs(&self, inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        if inputs.values.iter().any(FoldedSignal::is_invalid) {
            return vec![FoldedSignal::Constant(0.0)];
        }
        let Some(values) = inputs.all_constant() else {
            return vec![inputs.at_runtime(0)];
        };
        vec![match self.comparison.holds(values[0], values[1]) {
            false => FoldedSignal::Constant(0.0),
            true if self.true_for.is_zero() => FoldedSignal::Constant(1.0),
            true => inputs.at_runtime(0),
        }]
    }

    fn op(&self) -> Option<Op> {
        Some(Op::Decider {
            comparison: self.comparison,
            true_for: self.true_for,
        })
    }
}

impl Comparison {
    pub(in crate::policy) fn from_name(name: &str) -> Self {
        match name {
            "gt" => Self::Gt,
            "lt" => Self::Lt,
            "gte" => Self::Gte,
            "lte" => Self::Lte,
            "eq" => Self::Eq,
            _ => Self::Neq,
        }
    }

    /// Returns the result of the comparison; false if an operand is invalid.
    pub(crate) fn holds(self, left: f64, right: f64) -> bool {
        if left.is_nan() || right.is_nan() {
            return false;
        }
        match self {
            Self::Gt => left > right,
            Self::Lt => left < right,
            Self::Gte => left >= right,
            Self::Lte => left <= right,
            Self::Eq => left == right,
            Self::Neq => left != right,
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
        .one_of(&["gt", "lt", "gte", "lte", "eq", "neq"])?;
    let mut times = [Duration::ZERO; 2];
    for (time, key) in times.iter_mut().zip(["true_for", "false_for"]) {
        if let Some(node) = fields.scalar(key) {
            *time = non_negative(node.duration()?);
        }
    }
    if times[0] != times[1] && !times[1].is_zero() {
        fields
            .node
            .warn("`false_for` has no effect, as on an Agent: `true_for` delays both ways");
    }
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: ports::optional_in_ports(&fields, &IN_PORTS, location.scope)?,
        outputs: ports::out_ports(&fields, &ports::ONE_OUTPUT, location.scope)?,
        behaviour: decider(Comparison::from_name(operator), times[0]),
    });
    Ok(())
}

/// Returns a decider, also for the expansion of other components and of blueprints.
pub(in crate::policy) fn decider<'t>(
    comparison: Comparison,
    true_for: Duration,
) -> Box<dyn ComponentBehaviour + 't> {
    Box::new(DeciderBehaviour {
        comparison,
        true_for,
    })
}
