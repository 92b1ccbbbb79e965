//! Reads `load_ramp`: a sampler whose percentage follows steps.

use super::signal_generator::{SignalGeneratorBehaviour, steps};
use super::{
    CircuitBuilder, ComponentLocation, DocumentNode, PolicyError, WiredComponent, nested_circuit,
    non_negative, sampler,
};
use crate::policy::decode::Object;
use crate::policy::model::RampStep;
use crate::policy::ports::{self, InPort, OutPort};

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&[
        "in_ports",
        "out_ports",
        "parameters",
        "pass_through_label_values",
        "pass_through_label_values_config_key",
    ])?;
    let inputs =
        ports::optional_in_ports(&fields, &["forward", "backward", "reset"], location.scope)?;
    let known = &["accept_percentage", "at_start", "at_end"];
    let outputs = ports::out_ports(&fields, known, location.scope)?;
    let parameters = fields.required("parameters")?;
    add(
        parameters,
        Some(&fields),
        location,
        inputs,
        outputs,
        circuit,
    )
}

/// Adds a ramp. `component` is `None` for the ramp of a blueprint, which has only parameters.
pub(in crate::policy) fn add<'t>(
    parameters: DocumentNode<'t>,
    component: Option<&Object<'t>>,
    location: &ComponentLocation,
    inputs: Vec<InPort<'t>>,
    outputs: Vec<OutPort<'t>>,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = parameters.object(&["sampler", "steps"])?;
    let (selectors, mut settings) = sampler::settings(fields.required("sampler")?)?;
    settings.ramp_mode = true;
    if let Some(component) = component {
        sampler::pass_through(component, circuit, &mut settings)?;
    }
    let steps = steps(&fields.required("steps")?, step)?;

    let node = &fields.node;
    let inner = circuit.open_scope(&location.id);
    const NAMES: [&str; 3] = ["PERCENTAGE", "AT_START", "AT_END"];
    circuit.add(WiredComponent {
        id: format!("{}.0", location.id),
        inputs,
        outputs: NAMES
            .map(|name| ports::inner_out_port(node, inner, name))
            .into(),
        behaviour: Box::new(SignalGeneratorBehaviour(steps)),
    });
    let sampling = ComponentLocation {
        id: format!("{}.1", location.id),
        scope: inner,
    };
    let percentage = ports::inner_in_port(node, inner, NAMES[0]);
    sampler::add(&sampling, selectors, settings, Some(percentage), circuit);
    for (name, output) in NAMES.into_iter().zip(outputs) {
        circuit.add(WiredComponent {
            id: location.id.clone(),
            inputs: vec![ports::inner_in_port(node, inner, name)],
            outputs: vec![output],
            behaviour: Box::new(nested_circuit::SignalForwarder),
        });
    }
    Ok(())
}

fn step(node: DocumentNode<'_>) -> Result<RampStep, PolicyError> {
    let fields = node.object(&["target_accept_percentage", "duration"])?;
    let target = fields.number("target_accept_percentage", 0.0)?;
    if !(0.0..=100.0).contains(&target) {
        return Err(fields
            .node
            .error("`target_accept_percentage` must be from 0 to 100"));
    }
    Ok(RampStep {
        target_accept_percentage: target,
        duration: non_negative(fields.required("duration")?.duration()?),
    })
}
