//! Reads `alerter`. The embedded engine sends no alerts, so it has no effect.

use super::{
    CircuitBuilder, ComponentBehaviour, ComponentLocation, DocumentNode, PolicyError,
    WiredComponent,
};
use crate::policy::decode::{Field, FieldValue, Section};
use crate::policy::ports::{self, InPort};

/// The fields of an alerter.
pub(super) static FIELDS: Section = Section::new(
    "Alerter",
    &[&[
        Field::optional(
            "in_ports",
            FieldValue::Section(&IN_PORTS),
            "The signal of the alert.",
        ),
        Field::required("parameters", FieldValue::Section(&PARAMETERS), "The alert."),
    ]],
);

static IN_PORTS: Section = Section::new(
    "",
    &[&[ports::port(
        "signal",
        "An alert is on while it is valid and not zero.",
    )]],
);

/// The parameters of an alert. They are checked, and have no effect.
pub(super) static PARAMETERS: Section = Section::new(
    "Alert",
    &[&[
        Field::required("alert_name", FieldValue::Name, "The name of the alert."),
        Field::with_default(
            "severity",
            FieldValue::OneOf(&["info", "warn", "crit"]),
            "info",
            "How serious it is.",
        ),
        Field::optional(
            "resolve_timeout",
            FieldValue::Duration,
            "How long an alert is shown after it was off.",
        ),
        Field::optional("alert_channels", FieldValue::Texts, "Where alerts go."),
        Field::optional("labels", FieldValue::TextMap, "Labels of the alert."),
    ]],
);

/// The `alerter` of a blueprint with one component.
pub(in crate::policy) const ALERTER: Field = Field::optional(
    "alerter",
    FieldValue::Section(&PARAMETERS),
    "Has no effect: the engine sends no alerts.",
);

/// The `alerter` of a control loop.
pub(super) const REQUIRED_ALERTER: Field = Field::required(
    "alerter",
    FieldValue::Section(&PARAMETERS),
    "Has no effect: the engine sends no alerts.",
);

struct Alerter;

impl ComponentBehaviour for Alerter {}

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    node.warn("has no effect: the embedded engine sends no alerts");
    let fields = node.object(&FIELDS)?;
    check_parameters(fields.required("parameters")?)?;
    let inputs = ports::optional_in_ports(&fields, &IN_PORTS, location.scope)?;
    circuit.add(alerter(location, inputs));
    Ok(())
}

/// Checks the parameters of an alerter.
pub(in crate::policy) fn check_parameters(node: DocumentNode<'_>) -> Result<(), PolicyError> {
    let fields = node.object(&PARAMETERS)?;
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
