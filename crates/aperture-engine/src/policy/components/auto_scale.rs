//! Reads `auto_scale`, which scales the service. The embedded engine does not scale, so it has no
//! effect.

use std::rc::Rc;

use super::{
    CircuitBuilder, ComponentBehaviour, ComponentLocation, DocumentNode, FoldedSignal,
    InputSignals, PolicyError, WiredComponent, load_scheduler,
};
use crate::policy::decode::{Field, FieldValue, Given, Object, Section};
use crate::policy::ports::{self, InPort, OutPort};

/// The fields of the component, which has no effect.
pub(super) static FIELDS: Section = Section::choice(
    "Auto scale",
    Given::ExactlyOne,
    &[&[
        Field::optional(
            "pod_scaler",
            FieldValue::Section(&POD_SCALER),
            "Sets the number of pods.",
        ),
        Field::optional(
            "auto_scaler",
            FieldValue::Section(&AUTO_SCALER),
            "Scales by controllers.",
        ),
    ]],
);

static POD_SCALER: Section = Section::new(
    "Pod scaler",
    &[
        &[
            Field::optional(
                "in_ports",
                FieldValue::Section(&POD_SCALER_IN_PORTS),
                "The input.",
            ),
            Field::optional(
                "out_ports",
                FieldValue::Section(&POD_SCALER_OUT_PORTS),
                "The scale. A signal that depends on it is refused.",
            ),
        ],
        load_scheduler::DRY_RUN,
        &[Field::required(
            "kubernetes_object_selector",
            FieldValue::Mapping,
            "The object to scale.",
        )],
    ],
);

static POD_SCALER_IN_PORTS: Section =
    Section::new("", &[&[ports::port("replicas", "The number of pods.")]]);

static POD_SCALER_OUT_PORTS: Section = Section::new(
    "",
    &[&[
        ports::output("actual_replicas", "The number of pods that run."),
        ports::output(
            "configured_replicas",
            "The number of pods that are configured.",
        ),
    ]],
);

static AUTO_SCALER: Section = Section::new(
    "Auto scaler",
    &[
        &[
            Field::required("scaling_backend", FieldValue::Mapping, "What is scaled."),
            Field::optional(
                "scale_out_controllers",
                FieldValue::List(&SCALE_CONTROLLER),
                "The controllers that add.",
            ),
            Field::optional(
                "scale_in_controllers",
                FieldValue::List(&SCALE_CONTROLLER),
                "The controllers that remove.",
            ),
            Field::optional(
                "out_ports",
                FieldValue::Section(&AUTO_SCALER_OUT_PORTS),
                "The scale. A signal that depends on it is refused.",
            ),
            Field::optional(
                "scaling_parameters",
                FieldValue::Mapping,
                "How far and how fast.",
            ),
        ],
        load_scheduler::DRY_RUN,
    ],
);

static AUTO_SCALER_OUT_PORTS: Section = Section::new(
    "",
    &[&[
        ports::output("actual_scale", "The scale in force."),
        ports::output("configured_scale", "The scale that is configured."),
        ports::output("desired_scale", "The scale that the controllers want."),
    ]],
);

static SCALE_CONTROLLER: Section = Section::new(
    "Scale controller",
    &[&[
        Field::required(
            "controller",
            FieldValue::Section(&CONTROLLER),
            "The controller.",
        ),
        Field::optional(
            "alerter",
            FieldValue::Unchecked("a mapping", "{}"),
            "Not read.",
        ),
    ]],
);

static CONTROLLER: Section = Section::choice(
    "Controller",
    Given::ExactlyOne,
    &[&[
        Field::optional(
            "gradient",
            FieldValue::Section(&GRADIENT),
            "Scales by the ratio of a signal and its setpoint.",
        ),
        Field::optional(
            "periodic",
            FieldValue::Section(&PERIODIC),
            "Scales in intervals.",
        ),
    ]],
);

static GRADIENT: Section = Section::new(
    "",
    &[&[
        Field::optional(
            "in_ports",
            FieldValue::Section(&GRADIENT_IN_PORTS),
            "The inputs.",
        ),
        CONTROLLER_PARAMETERS,
    ]],
);

static GRADIENT_IN_PORTS: Section = Section::new(
    "",
    &[&[
        ports::port("signal", "The value that is measured."),
        ports::port("setpoint", "The value that is wanted."),
    ]],
);

static PERIODIC: Section = Section::new("", &[&[CONTROLLER_PARAMETERS]]);

const CONTROLLER_PARAMETERS: Field = Field::optional(
    "parameters",
    FieldValue::Unchecked("a mapping", "{}"),
    "Not read.",
);

/// The warning for every use of scaling.
pub(in crate::policy) const NO_SCALING: &str =
    "has no effect here: the embedded engine does not scale";

struct AutoScale(Rc<str>);

impl ComponentBehaviour for AutoScale {
    /// Marks the outputs as unsupported, so that a component which depends on them is refused by
    /// name: a limit by a scale that is never reported would let every flow pass.
    fn fold_outputs(&self, _inputs: &InputSignals<'_, '_>) -> Vec<FoldedSignal> {
        vec![FoldedSignal::Unsupported(Rc::clone(&self.0)); 3]
    }
}

/// Adds a component that scales, also for the expansion of blueprints.
pub(in crate::policy) fn auto_scale<'t>(
    node: &DocumentNode<'t>,
    location: &ComponentLocation,
    inputs: Vec<InPort<'t>>,
    outputs: Vec<OutPort<'t>>,
    circuit: &mut CircuitBuilder<'t>,
) {
    node.warn(NO_SCALING);
    circuit.record_scaling(node);
    circuit.add(WiredComponent {
        id: location.id.clone(),
        inputs,
        outputs,
        behaviour: Box::new(AutoScale(Rc::from(format!(
            "the scale that `{}` reports",
            location.id
        )))),
    });
}

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let whole = node.clone();
    let fields = node.object(&FIELDS)?;
    let (inputs, outputs) = match fields.only()? {
        None => return Err(whole.error("the component has no kind")),
        Some(("pod_scaler", node)) => pod_scaler(node, location, circuit)?,
        Some((_, node)) => auto_scaler(node, location, circuit)?,
    };
    auto_scale(&whole, location, inputs, outputs, circuit);
    Ok(())
}

/// The in-ports and out-ports of a component.
type ComponentPorts<'t> = (Vec<InPort<'t>>, Vec<OutPort<'t>>);

fn pod_scaler<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &CircuitBuilder<'t>,
) -> Result<ComponentPorts<'t>, PolicyError> {
    let fields = node.object(&POD_SCALER)?;
    fields.required("kubernetes_object_selector")?.free_map()?;
    load_scheduler::dry_run(&fields, circuit)?;
    Ok((
        ports::optional_in_ports(&fields, &POD_SCALER_IN_PORTS, location.scope)?,
        ports::out_ports(&fields, &POD_SCALER_OUT_PORTS, location.scope)?,
    ))
}

fn auto_scaler<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &CircuitBuilder<'t>,
) -> Result<ComponentPorts<'t>, PolicyError> {
    let fields = node.object(&AUTO_SCALER)?;
    fields.required("scaling_backend")?.free_map()?;
    if let Some(node) = fields.get("scaling_parameters") {
        node.free_map()?;
    }
    load_scheduler::dry_run(&fields, circuit)?;
    let mut inputs = Vec::new();
    for list in ["scale_out_controllers", "scale_in_controllers"] {
        let Some(list) = fields.get(list) else {
            continue;
        };
        for node in list.list()? {
            let fields = node.object(&SCALE_CONTROLLER)?;
            inputs.extend(controller(&fields, location)?);
        }
    }
    let outputs = ports::out_ports(&fields, &AUTO_SCALER_OUT_PORTS, location.scope)?;
    Ok((inputs, outputs))
}

/// Returns the in-ports of a controller. A periodic controller has none.
fn controller<'t>(
    fields: &Object<'t>,
    location: &ComponentLocation,
) -> Result<Vec<InPort<'t>>, PolicyError> {
    let controller = fields.required("controller")?;
    let whole = controller.clone();
    let kinds = controller.object(&CONTROLLER)?;
    match kinds.only()? {
        None => Err(whole.error("the controller has no kind")),
        Some(("gradient", node)) => {
            let fields = node.object(&GRADIENT)?;
            ports::optional_in_ports(&fields, &GRADIENT_IN_PORTS, location.scope)
        }
        Some((_, node)) => node.object(&PERIODIC).map(|_| Vec::new()),
    }
}
