//! Reads the slots of `concurrency_limiter` and `concurrency_scheduler`.

use super::keyed::KeyState;
use super::{DocumentNode, InputSignals, PolicyError, bucket, non_empty};
use crate::policy::decode::{Bounds, Field, FieldValue, Object, Section};
use crate::policy::model::{Port, Slots};
use crate::policy::ports::{self, InPort, ScopeIndex};

/// The `in_ports` of slots.
pub(super) const IN_PORTS: Field = Field::required(
    "in_ports",
    FieldValue::Section(&IN_PORTS_SECTION),
    "The signals of the slots.",
);

static IN_PORTS_SECTION: Section = Section::new(
    "",
    &[&[
        ports::required_port("max_concurrency", MAX_CONCURRENCY),
        ports::port(
            "pass_through",
            "Lets every flow pass while the signal is valid and not zero.",
        ),
    ]],
);

const MAX_CONCURRENCY: &str = "The slots of a key: the flows that may be in flight.";

/// The same as a plain number, for the values of a blueprint.
pub(super) const CONSTANTS: &[Field] = &[Field::required(
    "max_concurrency",
    FieldValue::Number(Bounds::None),
    MAX_CONCURRENCY,
)];

/// The parameters of slots.
pub(super) static PARAMETERS: Section = Section::new(
    "Slots",
    &[&[
        Field::required(
            "max_inflight_duration",
            FieldValue::PositiveDuration,
            "The time after which a slot is free again, even if its flow has not ended.",
        ),
        Field::optional(
            "limit_by_label_key",
            FieldValue::Text,
            "The label whose values have slots each; flows without the label pass. Without it, all \
             flows share the slots.",
        ),
        bucket::MAX_IDLE_TIME,
    ]],
);

/// The ports are maximum concurrency and pass-through.
impl KeyState for Slots {
    fn in_ports<'t>(
        fields: &Object<'t>,
        scope: ScopeIndex,
    ) -> Result<Vec<InPort<'t>>, PolicyError> {
        let in_ports = fields.required("in_ports")?.object(&IN_PORTS_SECTION)?;
        Ok(vec![
            ports::required_in_port(&in_ports, "max_concurrency", scope)?,
            ports::optional_in_port(&in_ports, "pass_through", scope)?,
        ])
    }

    fn constant_in_ports<'t>(fields: &Object<'t>) -> Result<Vec<InPort<'t>>, PolicyError> {
        Ok(vec![
            ports::number_in_port(fields, "max_concurrency")?,
            ports::unwired(&fields.node),
        ])
    }

    fn parameters(node: DocumentNode<'_>) -> Result<Self, PolicyError> {
        const UNSET: Port = Port::Constant(f64::NAN);
        let parameters = node.object(&PARAMETERS)?;
        Ok(Self {
            max_concurrency: UNSET,
            pass_through: UNSET,
            max_inflight_duration: super::positive_duration(
                &parameters.required("max_inflight_duration")?,
            )?,
            limit_by_label_key: parameters.text("limit_by_label_key")?.and_then(non_empty),
            max_idle_time: bucket::max_idle_time(&parameters)?,
        })
    }
}

/// Returns the slots with their signals, in the order of their ports. Warns about a concurrency
/// that rejects every flow or lets every flow pass.
pub(super) fn with_signals(
    settings: &Slots,
    node: &DocumentNode<'_>,
    inputs: &InputSignals<'_, '_>,
) -> Result<Slots, PolicyError> {
    let slots = Slots {
        max_concurrency: inputs.port(0)?,
        pass_through: inputs.port(1)?,
        ..settings.clone()
    };
    match slots.max_concurrency {
        Port::Constant(value) if value.is_nan() => {
            node.warn("lets everything pass: its concurrency is invalid");
        }
        Port::Constant(value) if value <= 0.0 => {
            node.warn("rejects everything: its concurrency is not more than zero");
        }
        Port::Constant(f64::INFINITY) => {
            node.warn("lets everything pass: its concurrency is infinite");
        }
        _ => {}
    }
    Ok(slots)
}
