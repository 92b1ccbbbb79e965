//! Reads `concurrency_scheduler`: slots for which flows queue.

use super::alerter::ALERTER;
use super::keyed::{KeyState, KeyedComponent};
use super::scheduler::{self, QueueResource};
use super::{DocumentNode, InputSignals, LIMITER_OUT_PORTS, PolicyError, slots};
use crate::policy::decode::{Field, FieldValue, Object, Section};
use crate::policy::model::{ComponentKind, ConcurrencyScheduler, Slots};
use crate::policy::selector;

/// The fields of a concurrency scheduler.
static FIELDS: Section = Section::new(
    "Concurrency scheduler",
    &[&[
        slots::IN_PORTS,
        LIMITER_OUT_PORTS,
        selector::SELECTORS,
        PARAMETERS,
        scheduler::SCHEDULER,
    ]],
);

/// The fields of the section of a values file.
pub(super) static VALUES: Section = Section::new(
    "Concurrency scheduler of a blueprint",
    &[
        slots::CONSTANTS,
        &[
            selector::SELECTORS,
            PARAMETERS,
            scheduler::SCHEDULER,
            ALERTER,
        ],
    ],
);

const PARAMETERS: Field = Field::required(
    "concurrency_limiter",
    FieldValue::Section(&slots::PARAMETERS),
    "How long slots are held, and by which label.",
);

impl KeyedComponent for ConcurrencyScheduler {
    const NAME: &'static str = "concurrency scheduler";
    const FIELDS: &'static Section = &FIELDS;
    const VALUES: &'static Section = &VALUES;
    type State = Slots;

    fn settings(fields: &Object<'_>) -> Result<Self, PolicyError> {
        Ok(Self {
            slots: Slots::parameters(fields.required("concurrency_limiter")?)?,
            scheduler: scheduler::read(fields, QueueResource::TokensOrSlots)?,
        })
    }

    fn with_signals(
        &self,
        node: &DocumentNode<'_>,
        inputs: &InputSignals<'_, '_>,
    ) -> Result<ComponentKind, PolicyError> {
        Ok(ComponentKind::ConcurrencyScheduler(Self {
            slots: slots::with_signals(&self.slots, node, inputs)?,
            scheduler: self.scheduler.clone(),
        }))
    }
}
