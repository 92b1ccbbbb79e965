//! Reads `load_ramp`: a sampler whose percentage follows steps.

use super::signal_generator::{SignalGeneratorBehaviour, steps};
use super::{
    CircuitBuilder, ComponentLocation, DocumentNode, PolicyError, SignalForwarder, WiredComponent,
    non_negative, sampler,
};
use crate::policy::decode::{Bounds, Field, FieldValue, Object, Section};
use crate::policy::model::RampStep;
use crate::policy::ports::{self, InPort, OutPort};

/// The fields of a load ramp.
pub(super) static FIELDS: Section = Section::new(
    "Load ramp",
    &[
        &[
            Field::optional(
                "in_ports",
                FieldValue::Section(&super::signal_generator::IN_PORTS),
                "The signals that move the ramp.",
            ),
            Field::optional(
                "out_ports",
                FieldValue::Section(&OUT_PORTS),
                "Where the ramp is.",
            ),
            Field::required(
                "parameters",
                FieldValue::Section(&PARAMETERS),
                "The flows and the steps.",
            ),
        ],
        sampler::PASS_THROUGH,
    ],
);

static OUT_PORTS: Section = Section::new(
    "",
    &[&[
        ports::output("accept_percentage", "The share of the flows to accept."),
        ports::output("at_start", "Whether the ramp is at its first step."),
        ports::output("at_end", "Whether the ramp is at the end of its last step."),
    ]],
);

/// The parameters of a load ramp, also of the one of a blueprint.
pub(in crate::policy) static PARAMETERS: Section = Section::new(
    "Parameters of a load ramp",
    &[&[
        Field::required(
            "sampler",
            FieldValue::Section(&sampler::PARAMETERS),
            "The flows and their sample.",
        ),
        Field::required(
            "steps",
            FieldValue::List(&STEP),
            "The steps, of which at least one is required.",
        ),
    ]],
);

static STEP: Section = Section::new(
    "Step of a load ramp",
    &[&[
        Field::with_default(
            "target_accept_percentage",
            FieldValue::Number(Bounds::Within(0.0, 100.0)),
            "0",
            "The share of the flows to accept at the end of the step.",
        ),
        Field::required("duration", FieldValue::Duration, "How long the step takes."),
    ]],
);

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    let inputs =
        ports::optional_in_ports(&fields, &super::signal_generator::IN_PORTS, location.scope)?;
    let outputs = ports::out_ports(&fields, &OUT_PORTS, location.scope)?;
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
    let fields = parameters.object(&PARAMETERS)?;
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
            behaviour: Box::new(SignalForwarder),
        });
    }
    Ok(())
}

fn step(node: DocumentNode<'_>) -> Result<RampStep, PolicyError> {
    let fields = node.object(&STEP)?;
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
