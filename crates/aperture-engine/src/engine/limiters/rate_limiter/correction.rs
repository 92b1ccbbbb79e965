//! Corrects the tokens of flows that are in flight, by the rules in force when they end.

use std::sync::Arc;

use super::{BucketStore, KeyBuckets, RateLimiter};
use crate::engine::clock::{Nanos, nanos};
use crate::engine::held_slots::HeldSlot;
use crate::engine::limiters::bucket_inputs::BucketInputs;
use crate::engine::limiters::key_bucket::BucketRules;
use crate::engine::sync::lock;
use crate::engine::taken_tokens::{CorrectionRules, TakenTokens, TokenOwner};

/// The rules of the buckets that are in force, which a reload changes while flows are in flight.
#[derive(Debug)]
pub(super) struct RulesInForce {
    rules: BucketRules,
    inputs: Option<Arc<BucketInputs>>,
    sync_period: Nanos,
}

impl RulesInForce {
    pub(super) const fn new(
        rules: BucketRules,
        inputs: Option<Arc<BucketInputs>>,
        sync_period: Nanos,
    ) -> Self {
        Self {
            rules,
            inputs,
            sync_period,
        }
    }

    fn current(&self) -> (BucketRules, Nanos) {
        let rules = match &self.inputs {
            None => self.rules,
            Some(inputs) => inputs.apply(&self.rules),
        };
        (rules, self.sync_period)
    }
}

impl RateLimiter {
    /// Returns true if the end of a flow may correct the tokens that it takes.
    #[inline(always)]
    pub(super) const fn corrects(&self) -> bool {
        self.tokens_key.is_some() || self.count_only.is_some()
    }

    /// Returns the record of the tokens that a flow took, for the flow to hold until its end.
    pub(super) fn taken(&self, key: &str, tokens: f64) -> HeldSlot {
        let buckets: Arc<KeyBuckets> = Arc::clone(&self.buckets);
        let rules = CorrectionRules {
            settles: self.tokens_key.is_some(),
            count_only: self.count_only.clone(),
        };
        TakenTokens::hold(buckets, key, tokens, rules)
    }

    /// Puts the rules of this limiter in force for flows that are in flight.
    pub(super) fn put_in_force(&self) {
        let inputs = self.inputs.clone();
        *lock(&self.buckets.in_force) = RulesInForce::new(self.rules, inputs, self.sync_period);
    }
}

impl TokenOwner for KeyBuckets {
    fn correct(&self, key: &str, tokens: f64) {
        let (rules, period) = lock(&self.in_force).current();
        let now = nanos(self.clock.now());
        match &self.store {
            BucketStore::Plain(store) => {
                store.update(key, now, &rules, |state| state.correct(&rules, now, tokens));
            }
            BucketStore::Lazy(store) => store.update(key, now, &rules, |state| {
                state.correct(&rules, period, now, tokens);
            }),
        }
    }
}
