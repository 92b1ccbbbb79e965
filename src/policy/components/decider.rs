//! `decider`: compares two numbers.

use std::time::Duration;

use super::{At, Carried, Circuit, Inputs, Op, Part, Place, PolicyError, Wired, positive};
use crate::policy::model::Comparison;
use crate::policy::ports;

struct Decider {
    comparison: Comparison,
    /// How long the comparison must have held before the output follows.
    true_for: Duration,
}

impl Part for Decider {
    fn carry(&self, inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        if inputs.values.iter().any(Carried::is_invalid) {
            return vec![Carried::Steady(0.0)];
        }
        let Some(values) = inputs.all_steady() else {
            return vec![inputs.computed(0)];
        };
        vec![match self.comparison.holds(values[0], values[1]) {
            false => Carried::Steady(0.0),
            true if self.true_for.is_zero() => Carried::Steady(1.0),
            true => inputs.computed(0),
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
    pub(in crate::policy) fn named(name: &str) -> Self {
        match name {
            "gt" => Self::Gt,
            "lt" => Self::Lt,
            "gte" => Self::Gte,
            "lte" => Self::Lte,
            "eq" => Self::Eq,
            _ => Self::Neq,
        }
    }

    /// False when a side is invalid.
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
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&["in_ports", "operator", "true_for", "false_for", "out_ports"])?;
    let operator = fields
        .required("operator")?
        .one_of(&["gt", "lt", "gte", "lte", "eq", "neq"])?;
    let mut times = [Duration::ZERO; 2];
    for (time, key) in times.iter_mut().zip(["true_for", "false_for"]) {
        if let Some(at) = fields.scalar(key) {
            *time = positive(at.duration()?);
        }
    }
    if times[0] != times[1] && !times[1].is_zero() {
        fields
            .at
            .warn("`false_for` has no effect, as on an Agent: `true_for` delays both ways");
    }
    circuit.add(Wired {
        id: place.id.clone(),
        inputs: ports::optional(&fields, &["lhs", "rhs"], place.scope)?,
        outputs: ports::out_ports(&fields, &["output"], place.scope)?,
        part: decider(Comparison::named(operator), times[0]),
    });
    Ok(())
}

/// A decider, also for what other components and blueprints consist of.
pub(in crate::policy) fn decider<'t>(
    comparison: Comparison,
    true_for: Duration,
) -> Box<dyn Part + 't> {
    Box::new(Decider {
        comparison,
        true_for,
    })
}
