//! Corrects the tokens of flows that a quota scheduler has accepted.

use std::sync::{Arc, Weak};

use super::ScheduleResult;
use super::queue_store::QueueStore;
use super::quota_tokens::QuotaTokens;
use super::shared_tokens::SharedTokens;
use crate::engine::clock::nanos;
use crate::engine::shared::{StoreReply, TokensMode, take_tokens};
use crate::engine::taken_tokens::{CorrectionRules, TakenTokens, TokenOwner};

const SETTLES: CorrectionRules = CorrectionRules {
    settles: true,
    count_only: None,
};

/// Adds the record of the tokens that a flow takes, for the flow to hold until its end.
pub(super) fn with_taken<O: TokenOwner + 'static>(
    scheduled: ScheduleResult,
    owner: &Arc<O>,
    key: &str,
    tokens: f64,
) -> ScheduleResult {
    let taken = || TakenTokens::hold(Arc::<O>::clone(owner), key, tokens, SETTLES);
    match scheduled {
        ScheduleResult::Decided(mut decided) => {
            if !decided.decision.dropped && !decided.decision.without_store {
                decided.slot = Some(taken());
            }
            ScheduleResult::Decided(decided)
        }
        ScheduleResult::Queued(waiter) => ScheduleResult::Queued(waiter.with_taken(taken())),
        // The record is added to the decision by the answer of the store.
        ScheduleResult::Asks(ask) => ScheduleResult::Asks(ask),
    }
}

impl TokenOwner for QueueStore<QuotaTokens> {
    fn correct(&self, key: &str, tokens: f64) {
        let now = nanos(self.clock().now());
        // The head of the queue asks anew if tokens came back: they may be available earlier.
        let again = tokens < 0.0;
        self.queue(key, now).change_rules(again, now, |source| {
            source.correct(self.rules(), tokens, now);
        });
    }
}

impl TokenOwner for QueueStore<SharedTokens> {
    /// Corrects the bucket in the store. While the store is away, the estimate stays.
    fn correct(&self, key: &str, tokens: f64) {
        let Some(bucket) = self.rules().quota.current().shared_settings() else {
            return;
        };
        let operation = take_tokens(
            self.rules().store.key(key),
            bucket,
            tokens,
            TokensMode::Correct,
        );
        let queue = self.existing(key).map(|queue| Arc::downgrade(&queue));
        let clock = Arc::clone(self.clock());
        let reply = StoreReply::new(move |outcome| {
            let queue = queue.as_ref().and_then(Weak::upgrade);
            if let (Some(queue), Ok(_)) = (queue, outcome)
                && tokens < 0.0
            {
                queue.change_rules(true, nanos(clock.now()), |_| {});
            }
        });
        self.rules().store.submit(operation, reply);
    }
}
