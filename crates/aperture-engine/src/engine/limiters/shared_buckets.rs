//! The buckets of a shared rate limiter as flows in flight correct them.

use std::sync::Arc;

use super::bucket_inputs::BucketInputs;
use super::key_bucket::BucketRules;
use crate::engine::shared::{StoreAccess, StoreReply, TokensMode, take_tokens};
use crate::engine::taken_tokens::TokenOwner;

/// The buckets in the store, with the rules that were in force when the flow began.
#[derive(Debug)]
pub(super) struct SharedBuckets {
    store: StoreAccess,
    rules: BucketRules,
    inputs: Arc<BucketInputs>,
}

impl SharedBuckets {
    pub(super) const fn new(
        store: StoreAccess,
        rules: BucketRules,
        inputs: Arc<BucketInputs>,
    ) -> Self {
        Self {
            store,
            rules,
            inputs,
        }
    }
}

impl TokenOwner for SharedBuckets {
    /// Corrects the bucket in the store. While the store is away, the estimate stays.
    fn correct(&self, key: &str, tokens: f64) {
        let rules = self.inputs.apply(&self.rules);
        if let Some(bucket) = rules.shared_settings() {
            let key = self.store.key(key);
            let operation = take_tokens(key, bucket, tokens, TokensMode::Correct);
            // No flow waits for the outcome.
            self.store.submit(operation, StoreReply::new(|_| {}));
        }
    }
}
