//! `decider`: compares two numbers.

use std::rc::Rc;

use super::{At, Carried, Circuit, Inputs, Part, Place, PolicyError, Wired};
use crate::policy::ports::{self, InPort, OutPort};

struct Decider {
    operator: &'static str,
    /// Only after the comparison has held for a while.
    delayed: bool,
}

impl Part for Decider {
    fn carry(&self, inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        vec![match inputs.all_steady() {
            Err(origin) => Carried::Changing(origin),
            Ok(values) if compare(self.operator, values[0], values[1]) => {
                if self.delayed {
                    Carried::Changing(Rc::from("a decider with `true_for`"))
                } else {
                    Carried::Steady(1.0)
                }
            }
            Ok(_) => Carried::Steady(0.0),
        }]
    }
}

/// False when a side is invalid.
fn compare(operator: &str, left: f64, right: f64) -> bool {
    if left.is_nan() || right.is_nan() {
        return false;
    }
    match operator {
        "gt" => left > right,
        "lt" => left < right,
        "gte" => left >= right,
        "lte" => left <= right,
        "eq" => left == right,
        _ => left != right,
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
    let mut delayed = false;
    for key in ["true_for", "false_for"] {
        if let Some(at) = fields.scalar(key) {
            delayed |= at.duration()? > 0;
        }
    }
    let inputs = ports::optional(&fields, &["lhs", "rhs"], place.scope)?;
    let output = ports::out_port(&fields, &["output"], place.scope)?;
    circuit.add(decider(place, operator, delayed, inputs, output));
    Ok(())
}

/// A decider, also for what blueprints expand to.
pub(in crate::policy) fn decider<'t>(
    place: &Place,
    operator: &'static str,
    delayed: bool,
    inputs: Vec<InPort<'t>>,
    output: OutPort<'t>,
) -> Wired<'t> {
    Wired {
        id: place.id.clone(),
        inputs,
        outputs: vec![output],
        part: Box::new(Decider { operator, delayed }),
    }
}
