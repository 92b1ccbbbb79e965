//! `auto_scale`: scales what serves the flows, which the engine does not do.

use std::rc::Rc;

use super::{At, Carried, Circuit, Inputs, Part, Place, PolicyError, Wired, load_scheduler};
use crate::policy::decode::Object;
use crate::policy::ports::{self, InPort, OutPort};

/// What is said of scaling wherever a policy has it.
pub(in crate::policy) const NOTE: &str = "has no effect here: the embedded engine scales nothing";

struct AutoScale(Rc<str>);

impl Part for AutoScale {
    /// A limit by a scale that nothing reports would let everything pass: what depends on it is
    /// refused by name.
    fn carry(&self, _inputs: &Inputs<'_, '_>) -> Vec<Carried> {
        vec![Carried::Beyond(Rc::clone(&self.0)); 3]
    }
}

/// A component that scales, also of what blueprints expand to.
pub(in crate::policy) fn auto_scale<'t>(
    at: &At<'t>,
    place: &Place,
    inputs: Vec<InPort<'t>>,
    outputs: Vec<OutPort<'t>>,
    circuit: &mut Circuit<'t>,
) {
    at.warn(NOTE);
    circuit.scales(at);
    circuit.add(Wired {
        id: place.id.clone(),
        inputs,
        outputs,
        part: Box::new(AutoScale(Rc::from(format!(
            "the scale that `{}` reports",
            place.id
        )))),
    });
}

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    const KINDS: &[&str] = &["pod_scaler", "auto_scaler"];
    let whole = at.clone();
    let fields = at.object(KINDS)?;
    let (inputs, outputs) = match fields.only(KINDS)? {
        None => return Err(whole.error("a component without a kind")),
        Some(("pod_scaler", at)) => pod_scaler(at, place, circuit)?,
        Some((_, at)) => auto_scaler(at, place, circuit)?,
    };
    auto_scale(&whole, place, inputs, outputs, circuit);
    Ok(())
}

/// What leads into a component and out of it.
type Wires<'t> = (Vec<InPort<'t>>, Vec<OutPort<'t>>);

fn pod_scaler<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &Circuit<'t>,
) -> Result<Wires<'t>, PolicyError> {
    let fields = at.object(&[
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
        ports::optional(&fields, &["replicas"], place.scope)?,
        ports::out_ports(&fields, outputs, place.scope)?,
    ))
}

fn auto_scaler<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &Circuit<'t>,
) -> Result<Wires<'t>, PolicyError> {
    let fields = at.object(&[
        "scaling_backend",
        "scale_out_controllers",
        "scale_in_controllers",
        "out_ports",
        "scaling_parameters",
        "dry_run",
        "dry_run_config_key",
    ])?;
    fields.required("scaling_backend")?.free_map()?;
    if let Some(at) = fields.get("scaling_parameters") {
        at.free_map()?;
    }
    load_scheduler::dry_run(&fields, circuit)?;
    let mut inputs = Vec::new();
    for list in ["scale_out_controllers", "scale_in_controllers"] {
        let Some(list) = fields.get(list) else {
            continue;
        };
        for at in list.list()? {
            let fields = at.object(&["controller", "alerter"])?;
            inputs.extend(controller(&fields, place)?);
        }
    }
    let outputs = &["actual_scale", "configured_scale", "desired_scale"];
    Ok((inputs, ports::out_ports(&fields, outputs, place.scope)?))
}

/// What a controller hears; a periodic one hears nothing.
fn controller<'t>(fields: &Object<'t>, place: &Place) -> Result<Vec<InPort<'t>>, PolicyError> {
    const KINDS: &[&str] = &["gradient", "periodic"];
    let controller = fields.required("controller")?;
    let whole = controller.clone();
    let kinds = controller.object(KINDS)?;
    match kinds.only(KINDS)? {
        None => Err(whole.error("a controller without a kind")),
        Some(("gradient", at)) => {
            let fields = at.object(&["in_ports", "parameters"])?;
            ports::optional(&fields, &["signal", "setpoint"], place.scope)
        }
        Some((_, at)) => at.object(&["parameters"]).map(|_| Vec::new()),
    }
}
