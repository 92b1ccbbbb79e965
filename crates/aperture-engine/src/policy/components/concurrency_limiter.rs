//! Reads `concurrency_limiter`: slots for flows in flight, for each value of a label.

use super::alerter::ALERTER;
use super::keyed::{KeyState, KeyedComponent};
use super::{
    DocumentNode, InputSignals, LIMITER_OUT_PORTS, PolicyError, REQUEST_PARAMETERS,
    request_parameters, slots,
};
use crate::policy::decode::{Field, FieldValue, Object, Section};
use crate::policy::model::{ComponentKind, ConcurrencyLimiter, Slots};
use crate::policy::selector;

/// The fields of a concurrency limiter.
static FIELDS: Section = Section::new(
    "Concurrency limiter",
    &[&[
        slots::IN_PORTS,
        LIMITER_OUT_PORTS,
        selector::SELECTORS,
        PARAMETERS,
        REQUEST_PARAMETERS,
    ]],
);

/// The fields of the section of a values file.
pub(super) static VALUES: Section = Section::new(
    "Concurrency limiter of a blueprint",
    &[
        slots::CONSTANTS,
        &[selector::SELECTORS, PARAMETERS, REQUEST_PARAMETERS, ALERTER],
    ],
);

const PARAMETERS: Field = Field::required(
    "parameters",
    FieldValue::Section(&slots::PARAMETERS),
    "How long slots are held, and by which label.",
);

impl KeyedComponent for ConcurrencyLimiter {
    const NAME: &'static str = "concurrency limiter";
    const FIELDS: &'static Section = &FIELDS;
    const VALUES: &'static Section = &VALUES;
    type State = Slots;

    fn settings(fields: &Object<'_>) -> Result<Self, PolicyError> {
        Ok(Self {
            slots: Slots::parameters(fields.required("parameters")?)?,
            request: request_parameters(fields)?,
        })
    }

    fn with_signals(
        &self,
        node: &DocumentNode<'_>,
        inputs: &InputSignals<'_, '_>,
    ) -> Result<ComponentKind, PolicyError> {
        Ok(ComponentKind::ConcurrencyLimiter(Self {
            slots: slots::with_signals(&self.slots, node, inputs)?,
            request: self.request.clone(),
        }))
    }
}
