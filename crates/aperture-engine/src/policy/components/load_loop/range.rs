//! Reads `range_driven_load_scheduler`: a curve over the signal determines the load.

use super::{FIELDS, LoopPorts, add_common_components, check_alerter, read_ports};
use crate::policy::PolicyError;
use crate::policy::circuit::CircuitBuilder;
use crate::policy::components::{
    ComponentLocation, RuntimeComponent, gradient_controller, load_scheduler,
};
use crate::policy::decode::DocumentNode;
use crate::policy::model::{Comparison, Op, PolynomialRange};

pub(in crate::policy) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(FIELDS)?;
    let ports = read_ports(
        &fields,
        &["signal", "overload_confirmation"],
        location,
        circuit,
    )?;
    range(fields.required("parameters")?, location, ports, circuit)
}

/// Adds a load scheduler whose load multiplier follows a curve over the signal. The confirmation
/// does not affect the multiplier.
fn range<'t>(
    parameters: DocumentNode<'t>,
    location: &ComponentLocation,
    ports: LoopPorts<'t>,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = parameters.object(&[
        "load_scheduler",
        "low_throttle_threshold",
        "high_throttle_threshold",
        "degree",
        "alerter",
    ])?;
    let settings = load_scheduler::settings(fields.required("load_scheduler")?)?;
    let curve = PolynomialRange {
        low: threshold(fields.required("low_throttle_threshold")?)?,
        high: threshold(fields.required("high_throttle_threshold")?)?,
        degree: gradient_controller::not_zero(&fields, "degree")?,
    };
    check_alerter(&fields)?;

    let LoopPorts {
        signal,
        confirmation,
        outputs,
        dry_run,
        ..
    } = ports;
    let mut builder = add_common_components(
        fields.node.clone(),
        location,
        confirmation,
        outputs,
        dry_run,
        settings,
        circuit,
    );
    builder.add(
        6,
        vec![signal],
        "MULTIPLIER",
        RuntimeComponent(Op::PolynomialRange(curve)),
    );
    let (multiplier, one) = (builder.input("MULTIPLIER"), builder.constant(1.0));
    builder.add_decider(7, multiplier, Comparison::Lt, one, "OVERLOAD");
    let (multiplier, one) = (builder.input("MULTIPLIER"), builder.constant(1.0));
    builder.add_decider(8, multiplier, Comparison::Gte, one, "PASS_THROUGH");
    Ok(())
}

fn threshold(node: DocumentNode<'_>) -> Result<(f64, f64), PolicyError> {
    let fields = node.object(&["signal_value", "load_multiplier"])?;
    let multiplier = fields.number("load_multiplier", 0.0)?;
    if !(0.0..=1.0).contains(&multiplier) {
        return Err(fields.node.error("`load_multiplier` must be from 0 to 1"));
    }
    Ok((fields.number("signal_value", 0.0)?, multiplier))
}
