//! Reads `sampler`, which accepts a share of the flows.

use super::{
    CircuitBuilder, ComponentLocation, DENIED_STATUS, DecidingComponent, DocumentNode, PolicyError,
    non_empty,
};
use crate::policy::decode::{Field, FieldValue, Object, Section};
use crate::policy::model::{ComponentKind, Port, Sampler, Selector};
use crate::policy::ports::{self, InPort};
use crate::policy::{selector, status_code};

/// The fields of a sampler.
pub(super) static FIELDS: Section = Section::new(
    "Sampler",
    &[
        &[
            Field::optional(
                "in_ports",
                FieldValue::Section(&IN_PORTS),
                "The signal of the sampler. Without it, every flow is rejected.",
            ),
            Field::required(
                "parameters",
                FieldValue::Section(&PARAMETERS),
                "The flows and their sample.",
            ),
        ],
        PASS_THROUGH,
    ],
);

static IN_PORTS: Section = Section::new(
    "",
    &[&[ports::port(
        "accept_percentage",
        "The share of the flows to accept, from 0 to 100.",
    )]],
);

/// The parameters of a sampler, also of the one inside of a load ramp.
pub(super) static PARAMETERS: Section = Section::new(
    "Parameters of a sampler",
    &[&[
        selector::SELECTORS,
        Field::optional(
            "session_label_key",
            FieldValue::Text,
            "The label by whose value flows are accepted or rejected, the same value alike. Without \
             it, each flow is decided at random.",
        ),
        Field::with_default(
            "ramp_mode",
            FieldValue::Boolean,
            "false",
            "Whether the sampler decides about flows in ramp mode, and about no others. Always true \
             within a load ramp.",
        ),
        DENIED_STATUS,
    ]],
);

/// The fields for values of the session label that always pass.
pub(super) const PASS_THROUGH: &[Field] = &[
    Field::optional(
        "pass_through_label_values",
        FieldValue::Texts,
        "Values of the session label whose flows always pass.",
    ),
    Field::optional(
        "pass_through_label_values_config_key",
        FieldValue::Text,
        "Has no effect, as on an Agent.",
    ),
];

pub(super) fn read<'t>(
    node: DocumentNode<'t>,
    location: &ComponentLocation,
    circuit: &mut CircuitBuilder<'t>,
) -> Result<(), PolicyError> {
    let fields = node.object(&FIELDS)?;
    let in_ports = fields.object("in_ports", &IN_PORTS)?;
    let input = in_ports
        .and_then(|in_ports| in_ports.get("accept_percentage"))
        .map(|node| ports::in_port(node, location.scope))
        .transpose()?;
    if input.is_none() {
        fields.node.warn(
            "rejects every flow: without `in_ports.accept_percentage` the percentage stays 0",
        );
    }
    let (selectors, mut settings) = settings(fields.required("parameters")?)?;
    pass_through(&fields, circuit, &mut settings)?;
    add(location, selectors, settings, input, circuit);
    Ok(())
}

/// Reads the `parameters` of a sampler.
pub(super) fn settings(node: DocumentNode<'_>) -> Result<(Vec<Selector>, Sampler), PolicyError> {
    let fields = node.object(&PARAMETERS)?;
    let mut sampler = Sampler {
        accept_percentage: None,
        session_label_key: fields.text("session_label_key")?.and_then(non_empty),
        ramp_mode: fields.boolean("ramp_mode", false)?,
        denied_response_status_code: 0,
        pass_through_label_values: Vec::new(),
    };
    if let Some(node) = fields.scalar("denied_response_status_code") {
        sampler.denied_response_status_code = status_code::decode(&node)?;
    }
    Ok((selector::selectors(&fields, "selectors")?, sampler))
}

/// Reads the values of the session label that always pass, for a sampler or for a ramp around one.
pub(super) fn pass_through<'t>(
    fields: &Object<'t>,
    circuit: &CircuitBuilder<'t>,
    sampler: &mut Sampler,
) -> Result<(), PolicyError> {
    if let Some(list) = fields.get("pass_through_label_values") {
        for node in list.list()? {
            sampler.pass_through_label_values.push(node.text()?.into());
        }
    }
    if let Some(key) = fields.text("pass_through_label_values_config_key")?
        && let Some(node) = circuit.dynamic_value(key)
    {
        node.warn(
            "has no effect, as on an Agent: the values of `pass_through_label_values` still \
             apply",
        );
    }
    Ok(())
}

/// Adds a sampler, also the one inside of a ramp.
pub(super) fn add<'t>(
    location: &ComponentLocation,
    selectors: Vec<Selector>,
    settings: Sampler,
    input: Option<InPort<'t>>,
    circuit: &mut CircuitBuilder<'t>,
) {
    let is_wired = input.is_some();
    let component = DecidingComponent::new("sampler", location, selectors, move |inputs| {
        let mut sampler = settings.clone();
        sampler.accept_percentage = is_wired.then(|| inputs.port(0)).transpose()?;
        let warning = match sampler.accept_percentage {
            Some(Port::Constant(percentage)) if percentage.is_nan() => {
                Some(match sampler.ramp_mode {
                    true => "rejects everything: its percentage is invalid",
                    false => "lets everything pass: its percentage is invalid",
                })
            }
            Some(Port::Constant(percentage)) if percentage <= 0.0 => {
                Some("rejects everything: its percentage is not more than zero")
            }
            _ => None,
        };
        if let (Some(warning), Some(port)) = (warning, inputs.ports.first()) {
            port.node.warn(warning);
        }
        Ok(ComponentKind::Sampler(sampler))
    });
    circuit.add(component.with_ports(location, input.into_iter().collect(), Vec::new()));
}
