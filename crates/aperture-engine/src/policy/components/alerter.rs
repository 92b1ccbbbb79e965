//! Reads `alerter`. The embedded engine sends no alerts, so it has no effect.

use super::{
    CircuitBuilder, ComponentBehaviour, ComponentLocation, DocumentNode, PolicyError,
    WiredComponent,
};
use crate::policy::ports::{self, InPort};

struct Alerter;

impl ComponentBehaviour for Alerter {}

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    node.warn("has no effect: the embedded engine sends no alerts");
    let fields = node.object(&["in_ports", "parameters"])?;
    check_parameters(fields.required("parameters")?)?;
    let inputs = ports::optional_in_ports(&fields, &["signal"], location.scope)?;
    circuit.add(alerter(location, inputs));
    Ok(())
}

/// Checks the parameters of an alerter.
pub(in crate::policy) fn check_parameters(node: DocumentNode<'_>) -> Result<(), PolicyError> {
    let fields = node.object(&[
        "alert_name",
        "severity",
        "resolve_timeout",
        "alert_channels",
        "labels",
    ])?;
    fields.required_text("alert_name")?;
    if let Some(node) = fields.scalar("severity") {
        node.one_of(&["info", "warn", "crit"])?;
    }
    if let Some(node) = fields.scalar("resolve_timeout") {
        node.duration()?;
    }
    if let Some(channels) = fields.get("alert_channels") {
        for channel in channels.list()? {
            channel.text()?;
        }
    }
    if let Some(labels) = fields.get("labels") {
        for (_, value) in labels.free_map()? {
            value.text()?;
        }
    }
    Ok(())
}

/// Returns an alerter, also for the expansion of load schedulers and blueprints.
pub(in crate::policy) fn alerter<'t>(
    location: &ComponentLocation,
    inputs: Vec<InPort<'t>>,
) -> WiredComponent<'t> {
    WiredComponent {
        id: location.id.clone(),
        inputs,
        outputs: Vec::new(),
        behaviour: Box::new(Alerter),
    }
}
