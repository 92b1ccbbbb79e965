//! Reads `rate_limiter`: a token bucket for each value of a label.

use super::alerter::ALERTER;
use super::bucket::{self, TokenConsumer};
use super::keyed::{KeyState, KeyedComponent};
use super::{
    DocumentNode, InputSignals, LIMITER_OUT_PORTS, PolicyError, REQUEST_PARAMETERS,
    request_parameters,
};
use crate::policy::decode::{Field, FieldValue, Object, Section};
use crate::policy::model::{Bucket, ComponentKind, RateLimiter};
use crate::policy::selector;

/// The fields of a rate limiter.
static FIELDS: Section = Section::new(
    "Rate limiter",
    &[&[
        bucket::IN_PORTS,
        LIMITER_OUT_PORTS,
        selector::SELECTORS,
        PARAMETERS,
        REQUEST_PARAMETERS,
    ]],
);

/// The fields of the section of a values file.
pub(super) static VALUES: Section = Section::new(
    "Rate limiter of a blueprint",
    &[
        bucket::CONSTANTS,
        &[selector::SELECTORS, PARAMETERS, REQUEST_PARAMETERS, ALERTER],
    ],
);

const PARAMETERS: Field = Field::required(
    "parameters",
    FieldValue::Section(&bucket::PARAMETERS),
    "How buckets are filled, and by which label.",
);

impl KeyedComponent for RateLimiter {
    const NAME: &'static str = "rate limiter";
    const FIELDS: &'static Section = &FIELDS;
    const VALUES: &'static Section = &VALUES;
    type State = Bucket;

    fn settings(fields: &Object<'_>) -> Result<Self, PolicyError> {
        Ok(Self {
            bucket: Bucket::parameters(fields.required("parameters")?)?,
            request: request_parameters(fields)?,
            count_only: None,
        })
    }

    fn with_signals(
        &self,
        node: &DocumentNode<'_>,
        inputs: &InputSignals<'_, '_>,
    ) -> Result<ComponentKind, PolicyError> {
        let consumer = TokenConsumer::RateLimiter {
            tokens_from_label: self.request.tokens_label_key.is_some(),
        };
        Ok(ComponentKind::RateLimiter(Self {
            bucket: bucket::with_signals(&self.bucket, node, inputs, consumer)?,
            request: self.request.clone(),
            count_only: self.count_only.clone(),
        }))
    }
}
