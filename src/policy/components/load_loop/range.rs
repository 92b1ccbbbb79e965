//! `range_driven_load_scheduler`: a curve over the signal says how much load there may be.

use super::{CONTENT, Ports, around, check_alerter, ports};
use crate::policy::PolicyError;
use crate::policy::circuit::Circuit;
use crate::policy::components::{Computed, Place, gradient_controller, load_scheduler};
use crate::policy::decode::At;
use crate::policy::model::{Comparison, Op, PolynomialRange};

pub(in crate::policy) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(CONTENT)?;
    let ports = ports(
        &fields,
        &["signal", "overload_confirmation"],
        place,
        circuit,
    )?;
    range(fields.required("parameters")?, place, ports, circuit)
}

/// As much load as a curve over the signal says; the confirmation changes nothing about that.
fn range<'t>(
    parameters: At<'t>,
    place: &Place,
    ports: Ports<'t>,
    circuit: &mut Circuit<'t>,
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

    let Ports {
        signal,
        confirmation,
        outputs,
        dry_run,
        ..
    } = ports;
    let mut parts = around(
        fields.at.clone(),
        place,
        confirmation,
        outputs,
        dry_run,
        settings,
        circuit,
    );
    parts.part(
        6,
        vec![signal],
        "MULTIPLIER",
        Computed(Op::PolynomialRange(curve)),
    );
    let (multiplier, one) = (parts.hear("MULTIPLIER"), parts.constant(1.0));
    parts.compare(7, multiplier, Comparison::Lt, one, "OVERLOAD");
    let (multiplier, one) = (parts.hear("MULTIPLIER"), parts.constant(1.0));
    parts.compare(8, multiplier, Comparison::Gte, one, "PASS_THROUGH");
    Ok(())
}

fn threshold(at: At<'_>) -> Result<(f64, f64), PolicyError> {
    let fields = at.object(&["signal_value", "load_multiplier"])?;
    let multiplier = fields.number("load_multiplier", 0.0)?;
    if !(0.0..=1.0).contains(&multiplier) {
        return Err(fields.at.error("`load_multiplier` is from 0 to 1"));
    }
    Ok((fields.number("signal_value", 0.0)?, multiplier))
}
