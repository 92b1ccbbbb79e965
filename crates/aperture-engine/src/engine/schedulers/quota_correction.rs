//! Corrects the tokens of flows that a quota scheduler has accepted.

use std::sync::Arc;

use super::ScheduleResult;
use super::queue_store::QueueStore;
use super::quota::QuotaScheduler;
use super::quota_tokens::QuotaTokens;
use crate::engine::clock::nanos;
use crate::engine::held_slots::HeldSlot;
use crate::engine::taken_tokens::{CorrectionRules, TakenTokens, TokenOwner};

impl QuotaScheduler {
    /// Adds the record of the tokens that a flow takes, for the flow to hold until its end.
    pub(super) fn with_taken(
        &self,
        scheduled: ScheduleResult,
        key: &str,
        tokens: f64,
    ) -> ScheduleResult {
        match scheduled {
            ScheduleResult::Decided(mut decided) => {
                if !decided.decision.dropped {
                    decided.slot = Some(self.taken(key, tokens));
                }
                ScheduleResult::Decided(decided)
            }
            ScheduleResult::Queued(waiter) => {
                ScheduleResult::Queued(waiter.with_taken(self.taken(key, tokens)))
            }
        }
    }

    fn taken(&self, key: &str, tokens: f64) -> HeldSlot {
        let queues: Arc<QueueStore<QuotaTokens>> = Arc::clone(self.queues());
        let rules = CorrectionRules {
            settles: true,
            count_only: None,
        };
        TakenTokens::hold(queues, key, tokens, rules)
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
