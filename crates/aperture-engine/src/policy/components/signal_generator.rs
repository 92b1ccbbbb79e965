//! Reads `signal_generator`, which moves a signal through steps.

use super::{
    CircuitBuilder, ComponentBehaviour, ComponentLocation, DocumentNode, FoldedSignal,
    InputSignals, Op, PolicyError, WiredComponent, non_negative,
};
use crate::policy::decode::{Field, FieldValue, Section};
use crate::policy::model::RampStep;
use crate::policy::ports;

/// The fields of a signal generator.
pub(super) static FIELDS: Section = Section::new(
    "Signal generator",
    &[&[
        Field::optional(
            "in_ports",
            FieldValue::Section(&IN_PORTS),
            "The signals that move the generator.",
        ),
        Field::optional(
            "out_ports",
            FieldValue::Section(&OUT_PORTS),
            "Where the generator is.",
        ),
        Field::required("parameters", FieldValue::Section(&PARAMETERS), "The steps."),
    ]],
);

/// The in-ports of signal generators and load ramps.
pub(super) static IN_PORTS: Section = Section::new(
    "",
    &[&[
        ports::port("forward", "Moves towards the end while it alone is on."),
        ports::port("backward", "Moves towards the start while it alone is on."),
        ports::port("reset", "Moves to the start while it is on."),
    ]],
);

static OUT_PORTS: Section = Section::new(
    "",
    &[&[
        ports::output("output", "The signal."),
        ports::output("at_start", "Whether the generator is at its first step."),
        ports::output(
            "at_end",
            "Whether the generator is at the end of its last step.",
        ),
    ]],
);

static PARAMETERS: Section = Section::new(
    "",
    &[&[Field::required(
        "steps",
        FieldValue::List(&STEP),
        "The steps, of which at least one is required.",
    )]],
);

static STEP: Section = Section::new(
    "Step of a signal generator",
    &[&[
        Field::optional(
            "target_output",
            FieldValue::Section(&ports::CONSTANT_SIGNAL),
            "The signal at the end of the step; zero without it.",
        ),
        Field::required("duration", FieldValue::Duration, "How long the step takes."),
    ]],
);

/// A generator. Its inputs move it forward, backward, or back to the start.
pub(super) struct SignalGeneratorBehaviour(pub(super) Vec<RampStep>);

impl ComponentBehaviour for SignalGeneratorBehaviour {
    fn fold_outputs(&self, inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        let on = |value: &f64| !value.is_nan() && *value != 0.0;
        let moves = |values: Vec<f64>| on(&values[0]) && !on(&values[1]) && !on(&values[2]);
        if inputs.all_constant().is_none_or(moves) {
            return (0..3).map(|port| inputs.at_runtime(port)).collect();
        }
        // It never leaves the first step.
        let first = self
            .0
            .first()
            .map_or(f64::NAN, |step| step.target_accept_percentage);
        [first, 1.0, 0.0].map(FoldedSignal::Constant).into()
    }

    fn op(&self) -> Option<Op> {
        let steps = self.0.clone();
        Some(Op::SignalGenerator { steps })
    }
}

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    let parameters = fields.required("parameters")?.object(&PARAMETERS)?;
    let target = |node: DocumentNode<'t>| {
        let fields = node.object(&STEP)?;
        let target = fields.get("target_output").map(ports::constant_signal);
        Ok(RampStep {
            target_accept_percentage: target.transpose()?.unwrap_or(0.0),
            duration: non_negative(fields.required("duration")?.duration()?),
        })
    };
    let steps = steps(&parameters.required("steps")?, target)?;
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs: ports::optional_in_ports(&fields, &IN_PORTS, location.scope)?,
        outputs: ports::out_ports(&fields, &OUT_PORTS, location.scope)?,
        behaviour: Box::new(SignalGeneratorBehaviour(steps)),
    });
    Ok(())
}

/// Reads a list of at least one step.
pub(super) fn steps<'t>(
    list: &DocumentNode<'t>,
    read: impl Fn(DocumentNode<'t>) -> Result<RampStep, PolicyError>,
) -> Result<Vec<RampStep>, PolicyError> {
    let steps = list.list()?;
    if steps.is_empty() {
        return Err(list.error("at least one step is required"));
    }
    steps.into_iter().map(read).collect()
}
