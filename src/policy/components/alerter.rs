//! `alerter`: sends alerts, and decides nothing.

use super::{At, Circuit, Part, Place, PolicyError, Wired};
use crate::policy::ports::{self, InPort};

struct Alerter;

impl Part for Alerter {}

pub(super) fn read<'t>(
    at: At<'t>,
    place: &Place,
    circuit: &mut Circuit<'t>,
) -> Result<(), PolicyError> {
    at.warn("has no effect: the embedded engine sends no alerts");
    let fields = at.object(&["in_ports", "parameters"])?;
    check_parameters(fields.required("parameters")?)?;
    let inputs = ports::optional(&fields, &["signal"], place.scope)?;
    circuit.add(alerter(place, inputs));
    Ok(())
}

/// What an alert is called and where it goes.
pub(in crate::policy) fn check_parameters(at: At<'_>) -> Result<(), PolicyError> {
    let fields = at.object(&[
        "alert_name",
        "severity",
        "resolve_timeout",
        "alert_channels",
        "labels",
    ])?;
    fields.required_text("alert_name")?;
    if let Some(at) = fields.scalar("severity") {
        at.one_of(&["info", "warn", "crit"])?;
    }
    if let Some(at) = fields.scalar("resolve_timeout") {
        at.duration()?;
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

/// An alerter, also for what blueprints expand to.
pub(in crate::policy) fn alerter<'t>(place: &Place, inputs: Vec<InPort<'t>>) -> Wired<'t> {
    Wired {
        id: place.id.clone(),
        inputs,
        outputs: Vec::new(),
        part: Box::new(Alerter),
    }
}
