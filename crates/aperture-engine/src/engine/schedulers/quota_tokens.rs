//! The tokens of a quota scheduler: a bucket per key, from which the head of a queue may reserve.

use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use super::token_source::{MAX_OVERTAKING, SourceReply, TakeRequest, TokenGrant, TokenSource};
use super::wait_queue::WaitQueue;
use crate::engine::clock::Nanos;
use crate::engine::engine_flow::{DEADLINE_MARGIN, NO_DEADLINE};
use crate::engine::limiters::BucketParams;
use crate::engine::limiters::bucket_inputs::BucketInputs;
use crate::engine::limiters::capacity_high_water::CapacityHighWater;
use crate::engine::limiters::key_bucket::{
    BucketDecision, BucketRequest, BucketRules, PlainBucket,
};
use crate::engine::limiters::lazy_sync::LazySyncAccount;
use crate::engine::store::{EvictionLoss, StoredState};
use crate::engine::sync::Mutex;
use crate::policy;

/// The rules that hold for all buckets of the scheduler.
#[derive(Debug)]
pub(crate) struct QuotaRules {
    pub(super) inputs: BucketInputs,
    interval: AtomicI64,
    max_idle: AtomicI64,
    continuous: AtomicBool,
    delayed: AtomicBool,
    upstream: bool,
    pub(super) lazy: bool,
    /// The time between two syncs, with lazy sync.
    sync_period: AtomicI64,
    pub(super) high_water: Mutex<CapacityHighWater>,
}

/// The bucket of a key.
#[derive(Debug)]
pub(crate) struct QuotaTokens {
    account: KeyAccount,
    /// The account without the tokens that are reserved for the head of the queue. It replaces the
    /// account if the head leaves, because subtracting tokens and adding them again is not exact.
    without_reserved: Option<Box<KeyAccount>>,
}

#[derive(Clone, Copy, Debug)]
enum KeyAccount {
    New,
    Plain(PlainBucket),
    Lazy(LazySyncAccount),
}

impl KeyAccount {
    /// Creates the account, of the kind that the policy asks for, at its first use.
    fn initialised(&mut self, quota_rules: &QuotaRules) -> &mut Self {
        if matches!(self, Self::New) {
            *self = match quota_rules.lazy {
                false => Self::Plain(PlainBucket::new()),
                true => Self::Lazy(LazySyncAccount::new()),
            };
        }
        self
    }

    /// Takes tokens without waiting. A cached rejection rejects the request.
    fn take(
        &mut self,
        quota_rules: &QuotaRules,
        rules: &BucketRules,
        request: &BucketRequest,
    ) -> BucketDecision {
        match self.initialised(quota_rules) {
            Self::Plain(state) => state.take(rules, request),
            Self::Lazy(state) => state.take(rules, quota_rules.sync_period(), request),
            Self::New => BucketDecision::REJECTED,
        }
    }

    /// Takes tokens, also such that are filled in before the deadline.
    fn take_with_wait(
        &mut self,
        quota_rules: &QuotaRules,
        rules: &BucketRules,
        request: &TakeRequest,
    ) -> BucketDecision {
        let TakeRequest {
            now,
            tokens,
            deadline,
        } = *request;
        match self.initialised(quota_rules) {
            Self::Plain(state) => state.take_with_wait(rules, now, tokens, deadline),
            Self::Lazy(state) => {
                state.take_with_wait(rules, quota_rules.sync_period(), now, tokens, deadline)
            }
            Self::New => BucketDecision::REJECTED,
        }
    }

    fn return_tokens(&mut self, rules: &BucketRules, now: Nanos, tokens: f64) {
        match self {
            Self::New => {}
            Self::Plain(state) => state.return_tokens(rules, now, tokens),
            Self::Lazy(state) => state.return_tokens(rules, now, tokens),
        }
    }
}

/// Returns the time between two syncs, with lazy sync.
fn sync_period(bucket: &policy::Bucket, rules: &BucketRules) -> Nanos {
    rules.params.interval / i64::from(bucket.lazy_sync.unwrap_or(1).max(1))
}

impl QuotaRules {
    /// Returns the rules that a policy describes, with the initial signals.
    pub(super) fn new(bucket: &policy::Bucket, rules: &BucketRules) -> Self {
        Self {
            inputs: BucketInputs::new(bucket),
            interval: AtomicI64::new(rules.params.interval),
            max_idle: AtomicI64::new(rules.max_idle),
            continuous: AtomicBool::new(rules.params.continuous),
            delayed: AtomicBool::new(rules.params.delayed),
            upstream: rules.params.upstream,
            lazy: bucket.lazy_sync.is_some(),
            sync_period: AtomicI64::new(sync_period(bucket, rules)),
            high_water: Mutex::new(CapacityHighWater::NONE),
        }
    }

    /// Returns the rules with the current signals.
    pub(super) fn current(&self) -> BucketRules {
        let params = BucketParams {
            capacity: f64::NAN,
            fill: f64::NAN,
            interval: self.interval.load(Ordering::Relaxed),
            continuous: self.continuous.load(Ordering::Relaxed),
            delayed: self.delayed.load(Ordering::Relaxed),
            upstream: self.upstream,
        };
        let max_idle = self.max_idle.load(Ordering::Relaxed);
        self.inputs.apply(&BucketRules { params, max_idle })
    }

    fn sync_period(&self) -> Nanos {
        self.sync_period.load(Ordering::Relaxed)
    }

    /// Takes over the values of a changed policy.
    pub(super) fn take_over(&self, bucket: &policy::Bucket, rules: &BucketRules) {
        let BucketRules { params, max_idle } = rules;
        self.interval.store(params.interval, Ordering::Relaxed);
        self.max_idle.store(*max_idle, Ordering::Relaxed);
        self.continuous.store(params.continuous, Ordering::Relaxed);
        self.delayed.store(params.delayed, Ordering::Relaxed);
        self.sync_period
            .store(sync_period(bucket, rules), Ordering::Relaxed);
        self.inputs.set_constants(bucket);
    }
}

impl QuotaTokens {
    /// Continues under changed rules.
    pub(super) fn migrate(&mut self, from: &BucketRules, to: &BucketRules, more: f64, now: Nanos) {
        let accounts = [
            Some(&mut self.account),
            self.without_reserved.as_deref_mut(),
        ];
        for account in accounts.into_iter().flatten() {
            match account {
                KeyAccount::New => {}
                KeyAccount::Plain(state) => state.migrate(from, to, more, now),
                KeyAccount::Lazy(state) => state.migrate(from, to, more, now),
            }
        }
    }

    /// Takes more tokens, also into debt, or returns tokens, for which the amount is negative.
    pub(super) fn correct(&mut self, quota_rules: &QuotaRules, tokens: f64, now: Nanos) {
        let rules = quota_rules.current();
        let accounts = [
            Some(self.account.initialised(quota_rules)),
            self.without_reserved.as_deref_mut(),
        ];
        for account in accounts.into_iter().flatten() {
            match account {
                KeyAccount::New => {}
                KeyAccount::Plain(state) => state.correct(&rules, now, tokens),
                KeyAccount::Lazy(state) => {
                    state.correct(&rules, quota_rules.sync_period(), now, tokens);
                }
            }
        }
    }
}

impl TokenSource for QuotaTokens {
    type Rules = QuotaRules;
    type Outbox = ();

    /// As many as in recordings of Agents. An Agent has no bound, so a steady stream of newcomers
    /// starves waiting flows there.
    fn max_overtaking(quota_rules: &QuotaRules) -> u32 {
        match quota_rules.upstream {
            true => u32::MAX,
            false => MAX_OVERTAKING,
        }
    }

    fn new(_: &QuotaRules, _: &str, _: &Weak<WaitQueue<Self>>, _: Nanos) -> Self {
        Self {
            account: KeyAccount::New,
            without_reserved: None,
        }
    }

    fn take_immediately(
        &mut self,
        quota_rules: &QuotaRules,
        request: &TakeRequest,
    ) -> Option<TokenGrant> {
        let request = BucketRequest {
            now: request.now,
            tokens: request.tokens,
            time_left: time_left(request),
        };
        let result = self
            .account
            .take(quota_rules, &quota_rules.current(), &request);
        result.granted.then(|| grant_from(&result))
    }

    fn take(&mut self, quota_rules: &QuotaRules, request: &TakeRequest) -> SourceReply {
        if time_left(request) <= DEADLINE_MARGIN {
            return SourceReply::Rejected(TokenGrant::default());
        }
        let without_reserved = self.account;
        let result = self
            .account
            .take_with_wait(quota_rules, &quota_rules.current(), request);
        match result.granted {
            false => SourceReply::Rejected(grant_from(&result)),
            true if result.wait > 0 => {
                let without_reserved = match without_reserved {
                    KeyAccount::Lazy(state) => {
                        let rules = quota_rules.current();
                        KeyAccount::Lazy(state.without_waiter(
                            &rules,
                            quota_rules.sync_period(),
                            request.now,
                            request.tokens,
                        ))
                    }
                    without_reserved => without_reserved,
                };
                self.without_reserved = Some(Box::new(without_reserved));
                SourceReply::GrantedFrom(
                    request.now.saturating_add(result.wait),
                    grant_from(&result),
                )
            }
            true => SourceReply::Granted(grant_from(&result)),
        }
    }

    /// On an Agent, a cached rejection discards the returned tokens.
    fn return_tokens(
        &mut self,
        quota_rules: &QuotaRules,
        tokens: f64,
        _: &TokenGrant,
        now: Nanos,
    ) -> bool {
        let rules = quota_rules.current();
        if rules.params.upstream {
            let request = BucketRequest {
                now,
                tokens: -tokens,
                time_left: NO_DEADLINE,
            };
            return self.account.take(quota_rules, &rules, &request).granted;
        }
        self.account.return_tokens(&rules, now, tokens);
        if let Some(without_reserved) = &mut self.without_reserved {
            without_reserved.return_tokens(&rules, now, tokens);
        }
        true
    }

    fn use_reserved(&mut self) {
        self.without_reserved = None;
    }

    fn cancel_reserved(
        &mut self,
        quota_rules: &QuotaRules,
        tokens: f64,
        grant: &TokenGrant,
        now: Nanos,
    ) {
        match self.without_reserved.take() {
            Some(without_reserved) if !quota_rules.upstream => self.account = *without_reserved,
            _ => {
                self.return_tokens(quota_rules, tokens, grant, now);
            }
        }
    }

    fn eviction_loss(
        &mut self,
        quota_rules: &QuotaRules,
        last_used: Nanos,
        now: Nanos,
    ) -> EvictionLoss {
        let rules = quota_rules.current();
        match &self.account {
            KeyAccount::New => EvictionLoss::none(last_used),
            KeyAccount::Plain(state) => state.eviction_loss(&rules, now),
            KeyAccount::Lazy(state) => state.eviction_loss(&rules, now),
        }
    }
}

fn time_left(request: &TakeRequest) -> Nanos {
    match request.deadline {
        NO_DEADLINE => NO_DEADLINE,
        deadline => deadline.saturating_sub(request.now),
    }
}

fn grant_from(result: &BucketDecision) -> TokenGrant {
    TokenGrant {
        remaining: result.remaining,
        current: result.current,
        slot: None,
        without_store: false,
    }
}
