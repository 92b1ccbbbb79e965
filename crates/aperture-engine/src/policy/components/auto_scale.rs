//! Reads `auto_scale`, which scales the service. The embedded engine does not scale, so it has no
//! effect.

use std::rc::Rc;

use super::{
    CircuitBuilder, ComponentBehaviour, ComponentLocation, DocumentNode, FoldedSignal,
    InputSignals, PolicyError, WiredComponent, load_scheduler,
};
use crate::policy::decode::Object;
use crate::policy::ports::{self, InPort, OutPort};

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
    const KINDS: &[&str] = &["pod_scaler", "auto_scaler"];
    let whole = node.clone();
    let fields = node.object(KINDS)?;
    let (inputs, outputs) = match fields.only(KINDS)? {
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
    let fields = node.object(&[
        "in_ports",
        "out_ports",
        "dry_run",
        "dry_run_config_key",
        "kubernetes_object_selector",
    ])?;
    fields.required("kubernetes_object_selector")?.free_map()?;
    load_scheduler::dry_run(&fields, circuit)?;
    let outputs = &["actual_replicas", "configured_replicas"];
    Ok((
        ports::optional_in_ports(&fields, &["replicas"], location.scope)?,
        ports::out_ports(&fields, outputs, location.scope)?,
    ))
}

fn auto_scaler<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &CircuitBuilder<'t>,
) -> Result<ComponentPorts<'t>, PolicyError> {
    let fields = node.object(&[
        "scaling_backend",
        "scale_out_controllers",
        "scale_in_controllers",
        "out_ports",
        "scaling_parameters",
        "dry_run",
        "dry_run_config_key",
    ])?;
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
            let fields = node.object(&["controller", "alerter"])?;
            inputs.extend(controller(&fields, location)?);
        }
    }
    let outputs = &["actual_scale", "configured_scale", "desired_scale"];
    Ok((inputs, ports::out_ports(&fields, outputs, location.scope)?))
}

/// Returns the in-ports of a controller. A periodic controller has none.
fn controller<'t>(
    fields: &Object<'t>,
    location: &ComponentLocation,
) -> Result<Vec<InPort<'t>>, PolicyError> {
    const KINDS: &[&str] = &["gradient", "periodic"];
    let controller = fields.required("controller")?;
    let whole = controller.clone();
    let kinds = controller.object(KINDS)?;
    match kinds.only(KINDS)? {
        None => Err(whole.error("the controller has no kind")),
        Some(("gradient", node)) => {
            let fields = node.object(&["in_ports", "parameters"])?;
            ports::optional_in_ports(&fields, &["signal", "setpoint"], location.scope)
        }
        Some((_, node)) => node.object(&["parameters"]).map(|_| Vec::new()),
    }
}
