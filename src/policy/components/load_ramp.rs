//! `load_ramp`: a sampler whose percentage is led through steps.

use super::signal_generator::{Generator, steps};
use super::{At, Circuit, Place, PolicyError, Wired, nested_circuit, positive, sampler};
use crate::policy::decode::Object;
use crate::policy::model::RampStep;
use crate::policy::ports::{self, InPort, OutPort};

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = at.object(&[
        "in_ports",
        "out_ports",
        "parameters",
        "pass_through_label_values",
        "pass_through_label_values_config_key",
    ])?;
    let inputs = ports::optional(&fields, &["forward", "backward", "reset"], place.scope)?;
    let known = &["accept_percentage", "at_start", "at_end"];
    let outputs = ports::out_ports(&fields, known, place.scope)?;
    let parameters = fields.required("parameters")?;
    add(parameters, Some(&fields), place, inputs, outputs, circuit)
}

/// Adds a ramp, also that of a blueprint, where nothing but its parameters is given.
pub(in crate::policy) fn add<'t>(
    parameters: At<'t>,
    component: Option<&Object<'t>>,
    place: &Place,
    inputs: Vec<InPort<'t>>,
    outputs: Vec<OutPort<'t>>,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    let fields = parameters.object(&["sampler", "steps"])?;
    let (selectors, mut settings) = sampler::settings(fields.required("sampler")?)?;
    settings.ramp_mode = true;
    if let Some(component) = component {
        sampler::pass_through(component, circuit, &mut settings)?;
    }
    let steps = steps(&fields.required("steps")?, step)?;

    let at = &fields.at;
    let inner = circuit.open(&place.id);
    const NAMES: [&str; 3] = ["PERCENTAGE", "AT_START", "AT_END"];
    circuit.add(Wired {
        id: format!("{}.0", place.id),
        inputs,
        outputs: NAMES.map(|name| ports::inner(at, inner, name)).into(),
        part: Box::new(Generator(steps)),
    });
    let sampling = Place {
        id: format!("{}.1", place.id),
        scope: inner,
    };
    let percentage = ports::hearing(at, inner, NAMES[0]);
    sampler::add(&sampling, selectors, settings, Some(percentage), circuit);
    for (name, output) in NAMES.into_iter().zip(outputs) {
        circuit.add(Wired {
            id: place.id.clone(),
            inputs: vec![ports::hearing(at, inner, name)],
            outputs: vec![output],
            part: Box::new(nested_circuit::Wire),
        });
    }
    Ok(())
}

fn step(at: At<'_>) -> Result<RampStep, PolicyError> {
    let fields = at.object(&["target_accept_percentage", "duration"])?;
    let target = fields.number("target_accept_percentage", 0.0)?;
    if !(0.0..=100.0).contains(&target) {
        return Err(fields
            .at
            .error("`target_accept_percentage` is from 0 to 100"));
    }
    Ok(RampStep {
        target_accept_percentage: target,
        duration: positive(fields.required("duration")?.duration()?),
    })
}
