//! The tokens of a quota scheduler in a shared store: the head of the queue reserves them there.

use std::sync::Weak;

use super::quota_tokens::{QuotaRules, QuotaTokens};
use super::token_source::{SourceReply, TakeRequest, TokenGrant, TokenSource};
use super::wait_queue::WaitQueue;
use crate::engine::clock::{Nanos, duration, nanos};
use crate::engine::engine_flow::{DEADLINE_MARGIN, NO_DEADLINE};
use crate::engine::limiters::key_bucket::BucketRules;
use crate::engine::shared::{
    StoreAbsence, StoreAccess, StoreAsk, StoreKey, StoreOutbox, TokensMode, take_tokens,
};
use crate::engine::store::EvictionLoss;
use crate::policy;

/// The rules that hold for all buckets of the scheduler.
#[derive(Debug)]
pub(crate) struct SharedQuotaRules {
    pub(super) store: StoreAccess,
    /// The limit of all engines together.
    pub(super) quota: QuotaRules,
    /// This engine's share of it.
    pub(super) share: QuotaRules,
}

impl SharedQuotaRules {
    pub(super) fn new(store: StoreAccess, bucket: &policy::Bucket, rules: &BucketRules) -> Self {
        Self {
            store,
            quota: QuotaRules::new(bucket, rules),
            share: QuotaRules::new(bucket, rules),
        }
    }

    /// Returns this engine's share of the limit as it is now.
    pub(super) fn adjusted_share(&self) -> &QuotaRules {
        let params = self.quota.current().params;
        let capacity = self.store.share_of(params.capacity);
        let fill = self.store.fill_share_of(params.fill);
        self.share.inputs.set(capacity, fill, f64::NAN);
        &self.share
    }
}

/// The bucket of a key in the store.
#[derive(Debug)]
pub(crate) struct SharedTokens {
    key: StoreKey,
    queue: Weak<WaitQueue<Self>>,
    /// The question of the head of the queue, one at a time.
    ask: Option<StoreAsk>,
    /// The bucket of this engine's share, for the time without the store.
    share: QuotaTokens,
    outbox: StoreOutbox,
}

impl SharedTokens {
    /// Takes tokens of this engine's share, if they are available.
    pub(super) fn take_share(
        &mut self,
        rules: &SharedQuotaRules,
        request: &TakeRequest,
    ) -> Option<TokenGrant> {
        let share = rules.adjusted_share();
        self.share
            .take_immediately(share, request)
            .map(without_store)
    }

    /// Continues the share under changed rules.
    pub(super) fn migrate_share(
        &mut self,
        from: &BucketRules,
        to: &BucketRules,
        more: f64,
        now: Nanos,
    ) {
        self.share.migrate(from, to, more, now);
    }

    /// Takes tokens of this engine's share for the head of the queue.
    fn take_share_with_wait(
        &mut self,
        rules: &SharedQuotaRules,
        request: &TakeRequest,
    ) -> SourceReply {
        match self.share.take(rules.adjusted_share(), request) {
            SourceReply::Granted(grant) => SourceReply::Granted(without_store(grant)),
            SourceReply::Rejected(grant) => SourceReply::Rejected(without_store(grant)),
            SourceReply::GrantedFrom(until, grant) => {
                SourceReply::GrantedFrom(until, without_store(grant))
            }
            retry => retry,
        }
    }

    /// Decides for the head without the store, which is slow or away.
    fn take_without_store(
        &mut self,
        rules: &SharedQuotaRules,
        request: &TakeRequest,
    ) -> SourceReply {
        rules.store.count_without_store();
        match rules.store.absence() {
            StoreAbsence::LocalShare => self.take_share_with_wait(rules, request),
            StoreAbsence::Open => SourceReply::Granted(without_store(TokenGrant::default())),
            StoreAbsence::Closed => SourceReply::Rejected(without_store(TokenGrant::default())),
        }
    }

    fn return_to_store(&mut self, rules: &SharedQuotaRules, tokens: f64) {
        if let Some(bucket) = rules.quota.current().shared_settings() {
            self.outbox.return_tokens(self.key, bucket, tokens);
        }
    }
}

impl TokenSource for SharedTokens {
    type Rules = SharedQuotaRules;
    type Outbox = StoreOutbox;

    fn max_overtaking(rules: &SharedQuotaRules) -> u32 {
        QuotaTokens::max_overtaking(&rules.quota)
    }

    fn new(rules: &SharedQuotaRules, key: &str, queue: &Weak<WaitQueue<Self>>, now: Nanos) -> Self {
        Self {
            key: rules.store.key(key),
            queue: Weak::clone(queue),
            ask: None,
            share: QuotaTokens::new(&rules.share, key, &Weak::new(), now),
            outbox: StoreOutbox::default(),
        }
    }

    /// Takes tokens without the store. With it, its caller has asked, or the head asks.
    fn take_immediately(
        &mut self,
        rules: &SharedQuotaRules,
        request: &TakeRequest,
    ) -> Option<TokenGrant> {
        let is_finite = rules.quota.current().shared_settings().is_some();
        if is_finite && (rules.store.is_available() || !shares(rules)) {
            return None;
        }
        self.take_share(rules, request)
    }

    fn take(&mut self, rules: &SharedQuotaRules, request: &TakeRequest) -> SourceReply {
        let time_left = match request.deadline {
            NO_DEADLINE => None,
            deadline => Some(deadline.saturating_sub(request.now)),
        };
        if time_left.is_some_and(|left| left <= DEADLINE_MARGIN) {
            self.head_left();
            return SourceReply::Rejected(TokenGrant::default());
        }
        if let Some(ask) = &mut self.ask {
            let Some(answer) = ask.try_answer(request.now) else {
                return SourceReply::RetryAt(ask.decide_at());
            };
            self.ask = None;
            let Some(outcome) = answer.tokens() else {
                return self.take_without_store(rules, request);
            };
            let grant = TokenGrant {
                remaining: outcome.remaining,
                current: outcome.current,
                ..TokenGrant::default()
            };
            // The wait ends before the deadline, which the store was told when it was asked.
            let until = request.now.saturating_add(nanos(outcome.wait));
            return match outcome.granted {
                false => SourceReply::Rejected(grant),
                true if outcome.wait.is_zero() => SourceReply::Granted(grant),
                true => SourceReply::GrantedFrom(until.min(request.deadline), grant),
            };
        }
        let Some(bucket) = rules.quota.current().shared_settings() else {
            return self.take_share_with_wait(rules, request);
        };
        if !rules.store.is_available() {
            return self.take_without_store(rules, request);
        }
        let mode = TokensMode::Within(time_left.map(duration));
        let operation = take_tokens(self.key, bucket, request.tokens, mode);
        let queue = Weak::clone(&self.queue);
        let ask = rules.store.prepare(operation, queue, None, request.now);
        let decide_at = ask.decide_at();
        self.outbox.ask(&ask);
        self.ask = Some(ask);
        SourceReply::RetryAt(decide_at)
    }

    fn return_tokens(
        &mut self,
        rules: &SharedQuotaRules,
        tokens: f64,
        grant: &TokenGrant,
        now: Nanos,
    ) -> bool {
        if grant.without_store {
            return self.share.return_tokens(&rules.share, tokens, grant, now);
        }
        self.return_to_store(rules, tokens);
        true
    }

    fn use_reserved(&mut self) {
        self.share.use_reserved();
    }

    fn cancel_reserved(
        &mut self,
        rules: &SharedQuotaRules,
        tokens: f64,
        grant: &TokenGrant,
        now: Nanos,
    ) {
        if grant.without_store {
            return self.share.cancel_reserved(&rules.share, tokens, grant, now);
        }
        self.return_to_store(rules, tokens);
    }

    fn head_left(&mut self) {
        if let Some(ask) = self.ask.take() {
            self.outbox.leave(ask);
        }
    }

    fn take_outbox(&mut self) -> StoreOutbox {
        std::mem::take(&mut self.outbox)
    }

    fn send(rules: &SharedQuotaRules, outbox: StoreOutbox) -> bool {
        outbox.send(&rules.store, None)
    }

    /// The bucket is in the store, and is not evicted with its queue.
    fn eviction_loss(
        &mut self,
        rules: &SharedQuotaRules,
        last_used: Nanos,
        now: Nanos,
    ) -> EvictionLoss {
        self.share.eviction_loss(&rules.share, last_used, now)
    }
}

/// Returns true if the engine decides by its share of the limit without the store.
fn shares(rules: &SharedQuotaRules) -> bool {
    rules.store.absence() == StoreAbsence::LocalShare
}

const fn without_store(grant: TokenGrant) -> TokenGrant {
    TokenGrant {
        without_store: true,
        ..grant
    }
}
