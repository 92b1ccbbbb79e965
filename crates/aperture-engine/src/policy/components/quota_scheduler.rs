//! Reads `quota_scheduler`: a token bucket for which flows queue.

use super::alerter::ALERTER;
use super::bucket::{self, TokenConsumer};
use super::keyed::{KeyState, KeyedComponent};
use super::scheduler::{self, QueueResource};
use super::{DocumentNode, InputSignals, LIMITER_OUT_PORTS, PolicyError};
use crate::policy::decode::{Field, FieldValue, Object, Section};
use crate::policy::model::{Bucket, ComponentKind, QuotaScheduler};
use crate::policy::selector;

/// The fields of a quota scheduler.
static FIELDS: Section = Section::new(
    "Quota scheduler",
    &[&[
        bucket::IN_PORTS,
        LIMITER_OUT_PORTS,
        selector::SELECTORS,
        PARAMETERS,
        scheduler::SCHEDULER,
    ]],
);

/// The fields of the section of a values file.
pub(super) static VALUES: Section = Section::new(
    "Quota scheduler of a blueprint",
    &[
        bucket::CONSTANTS,
        &[
            selector::SELECTORS,
            PARAMETERS,
            scheduler::SCHEDULER,
            ALERTER,
        ],
    ],
);

const PARAMETERS: Field = Field::required(
    "rate_limiter",
    FieldValue::Section(&bucket::PARAMETERS),
    "How buckets are filled, and by which label.",
);

impl KeyedComponent for QuotaScheduler {
    const NAME: &'static str = "quota scheduler";
    const FIELDS: &'static Section = &FIELDS;
    const VALUES: &'static Section = &VALUES;
    type State = Bucket;

    fn settings(fields: &Object<'_>) -> Result<Self, PolicyError> {
        Ok(Self {
            bucket: Bucket::parameters(fields.required("rate_limiter")?)?,
            scheduler: scheduler::read(fields, QueueResource::TokensOrSlots)?,
        })
    }

    fn with_signals(
        &self,
        node: &DocumentNode<'_>,
        inputs: &InputSignals<'_, '_>,
    ) -> Result<ComponentKind, PolicyError> {
        let consumer = TokenConsumer::QuotaScheduler;
        Ok(ComponentKind::QuotaScheduler(Self {
            bucket: bucket::with_signals(&self.bucket, node, inputs, consumer)?,
            scheduler: self.scheduler.clone(),
        }))
    }
}
