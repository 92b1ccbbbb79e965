//! The `rate_limiter` of an engine with a shared store: a token bucket per key in the store.

use std::sync::Arc;

use super::bucket_inputs::BucketInputs;
use super::key_bucket::{BucketDecision, BucketRules, bucket_rules};
use super::shared_account::{AccountDecision, AccountRequest, SharedAccounts};
use super::shared_buckets::SharedBuckets;
use super::{FlowKey, requested_tokens};
use super::{Limiter, RateLimiter, SharedLimiter};
use crate::engine::clock::{DecisionTime, Nanos, nanos};
use crate::engine::component::{
    ComponentContext, FillTimes, FromPolicy, PolicyComponent, ReportedKind,
};
use crate::engine::control::{Actuator, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use crate::engine::engine_flow::{DEADLINE_MARGIN, EngineFlow};
use crate::engine::schedulers::ScheduleResult;
use crate::engine::shared::{
    BucketSettings, StoreAbsence, StoreAccess, StoreAnswer, TokensMode, TokensOutcome, take_tokens,
};
use crate::engine::store::StoreLimits;
use crate::engine::taken_tokens::{CorrectionRules, TakenTokens};
use crate::policy::{self, ComponentKind, CountOnly};

/// One rate limiter of a policy, whose buckets are in the shared store.
///
/// With lazy sync, each engine spends from an account per key that is charged to the bucket in the
/// background.
#[derive(Debug)]
pub(crate) struct SharedRateLimiter {
    store: StoreAccess,
    label_key: Option<Arc<str>>,
    tokens_key: Option<Arc<str>>,
    denied_code: i32,
    rules: BucketRules,
    inputs: Arc<BucketInputs>,
    count_only: Option<CountOnly>,
    /// The buckets of flows that may correct the tokens that they took.
    buckets: Arc<SharedBuckets>,
    /// The time between two syncs, with lazy sync.
    sync_period: Nanos,
    /// The accounts, with lazy sync. Shared with the limiter that takes over in a reload.
    accounts: Option<Arc<SharedAccounts>>,
    /// Decides without the store, by this engine's share of the limit.
    share: RateLimiter,
}

impl SharedRateLimiter {
    fn current(&self) -> BucketRules {
        self.inputs.apply(&self.rules)
    }

    fn key<'a>(&self, flow: &EngineFlow<'a, '_>) -> FlowKey<'a> {
        match &self.label_key {
            _ if self.inputs.passes_all() => FlowKey::Missing,
            None => FlowKey::Present(""),
            Some(label) => match flow.labels.get(label) {
                None => FlowKey::Missing,
                Some(value) => FlowKey::Present(value),
            },
        }
    }

    /// Sets the share of the limit that this engine decides by without the store.
    fn adjust_share(&self, now: Nanos) {
        let params = self.current().params;
        let setting = Setting::Bucket {
            capacity: self.store.share_of(params.capacity),
            fill: self.store.fill_share_of(params.fill),
            pass_through: f64::NAN,
        };
        self.share.apply(setting, now);
    }

    fn decide_by_share(&self, flow: &EngineFlow<'_, '_>, now: Nanos) -> DecisionWithSlot {
        self.adjust_share(now);
        let DecisionWithSlot { decision, slot } = self.share.decide(flow, &DecisionTime::at(now));
        let decision = ComponentDecision {
            without_store: true,
            ..decision
        };
        DecisionWithSlot { decision, slot }
    }

    /// Decides without the store, which is slow or away.
    fn decide_without_store(&self, flow: &EngineFlow<'_, '_>, now: Nanos) -> DecisionWithSlot {
        self.store.count_without_store();
        match self.store.absence() {
            StoreAbsence::LocalShare => self.decide_by_share(flow, now),
            StoreAbsence::Open => DecisionWithSlot::from(ComponentDecision {
                without_store: true,
                ..ComponentDecision::ACCEPTED
            }),
            StoreAbsence::Closed => DecisionWithSlot::from(ComponentDecision {
                without_store: true,
                ..ComponentDecision::REJECTED
            }),
        }
    }

    /// Returns a decision, with the record of the tokens if the end of the flow may correct them.
    fn decision(&self, result: &BucketDecision, key: &str, tokens: f64) -> DecisionWithSlot {
        let settles = self.tokens_key.is_some();
        let corrects = settles || self.count_only.is_some();
        let slot = (result.granted && corrects).then(|| {
            let rules = CorrectionRules {
                settles,
                count_only: self.count_only.clone(),
            };
            let buckets: Arc<SharedBuckets> = Arc::clone(&self.buckets);
            TakenTokens::hold(buckets, key, tokens, rules)
        });
        DecisionWithSlot {
            decision: decision_of(result, tokens),
            slot,
        }
    }

    /// Decides by the account of the key, if it has tokens. `None` means that the store is asked.
    fn decide_by_account(
        &self,
        flow: &EngineFlow<'_, '_>,
        request: &AccountRequest<'_>,
    ) -> Option<DecisionWithSlot> {
        let accounts = self.accounts.as_deref()?;
        match accounts.decide(&self.store, request) {
            AccountDecision::Decided(result) => {
                Some(self.decision(&result, request.key, request.tokens))
            }
            AccountDecision::Ask => None,
            AccountDecision::Absent => Some(self.decide_without_store(flow, request.now)),
        }
    }
}

impl FromPolicy for SharedRateLimiter {
    type Spec = policy::RateLimiter;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        RateLimiter::spec(kind)
    }

    fn new(spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        let shared = context.shared.as_ref()?;
        let bucket = &spec.bucket;
        let label_key = bucket.limit_by_label_key.clone();
        let rules = bucket_rules(bucket, context);
        let limits = StoreLimits {
            max_idle: rules.max_idle,
            keys: label_key.as_ref().map_or(1, |_| context.limits.keys),
            ..context.limits
        };
        let store = shared.access(ReportedKind::RateLimiter, label_key.as_deref());
        let inputs = Arc::new(BucketInputs::new(bucket));
        Some(Self {
            buckets: Arc::new(SharedBuckets::new(
                store.clone(),
                rules,
                Arc::clone(&inputs),
            )),
            store,
            label_key,
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            rules,
            inputs,
            count_only: spec.count_only.clone(),
            sync_period: rules.params.interval / i64::from(bucket.lazy_sync.unwrap_or(1).max(1)),
            accounts: bucket
                .lazy_sync
                .map(|_| Arc::new(SharedAccounts::new(limits))),
            share: RateLimiter::create(spec, context).adjustable(bucket),
        })
    }

    /// Returns the limiter of a changed policy. The buckets are in the store; the accounts and the
    /// share continue.
    fn successor(&self, spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        let share = self.share.successor(spec, context)?;
        let next = Self::new(spec, context)?;
        let params = self.current().params;
        let pass_through = self.inputs.pass_through.get();
        next.inputs.set(params.capacity, params.fill, pass_through);
        next.inputs.set_constants(&spec.bucket);
        Some(Self {
            accounts: self.accounts.clone(),
            share: share.adjustable(&spec.bucket),
            ..next
        })
    }

    fn take_over(&self, from: &Self, spec: &Self::Spec, context: &ComponentContext, now: Nanos) {
        from.adjust_share(now);
        self.adjust_share(now);
        self.share.take_over(&from.share, spec, context, now);
        if let Some(accounts) = &self.accounts {
            accounts.set_max_idle(self.rules.max_idle);
        }
    }
}

impl SharedLimiter for SharedRateLimiter {
    fn ask(&self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> ScheduleResult {
        let tokens = requested_tokens(self.tokens_key.as_deref(), flow);
        let FlowKey::Present(key) = self.key(flow) else {
            let decision = ComponentDecision::not_evaluated(tokens);
            return ScheduleResult::Decided(decision.into());
        };
        let now = time.now();
        let rules = self.current();
        // A limit that is not finite is none that engines could share.
        let Some(bucket) = rules.shared_settings() else {
            return ScheduleResult::Decided(self.decide_by_share(flow, now));
        };
        if flow.time_left <= DEADLINE_MARGIN {
            let decision = ComponentDecision {
                unsatisfiable: rules.params.cannot_hold(tokens),
                ..ComponentDecision::REJECTED
            };
            return ScheduleResult::Decided(decision.into());
        }
        if !self.store.is_available() {
            return ScheduleResult::Decided(self.decide_without_store(flow, now));
        }
        let request = AccountRequest {
            key,
            tokens,
            params: &rules.params,
            bucket,
            period: self.sync_period,
            now,
        };
        if let Some(decided) = self.decide_by_account(flow, &request) {
            return ScheduleResult::Decided(decided);
        }
        let key = self.store.key(key);
        let operation = take_tokens(key, bucket, tokens, TokensMode::Immediate);
        match self.store.ask(operation, None, flow.time_left, now) {
            Ok(answer) => ScheduleResult::Decided(self.resume(flow, answer, now)),
            Err(ask) => ScheduleResult::Asks(ask),
        }
    }

    fn resume(
        &self,
        flow: &EngineFlow<'_, '_>,
        answer: StoreAnswer,
        now: Nanos,
    ) -> DecisionWithSlot {
        let Some(outcome) = answer.tokens() else {
            return self.decide_without_store(&flow.decided_in_time(), now);
        };
        let tokens = requested_tokens(self.tokens_key.as_deref(), flow);
        let FlowKey::Present(key) = self.key(flow) else {
            return ComponentDecision::not_evaluated(tokens).into();
        };
        if let Some(accounts) = &self.accounts {
            accounts.learn(key, outcome.remaining, answer.asked_at(), self.sync_period);
        }
        self.decision(&bucket_decision(&outcome), key, tokens)
    }
}

impl PolicyComponent for SharedRateLimiter {
    fn reported_kind(&self) -> ReportedKind {
        ReportedKind::RateLimiter
    }

    fn step(&self) -> DecisionStep {
        DecisionStep::SharedLimiters
    }

    fn denied_code(&self) -> i32 {
        self.denied_code
    }

    /// Returns the tokens to where they were taken. A remembered rejection does not discard them.
    fn revert(&self, flow: &EngineFlow<'_, '_>, decision: &ComponentDecision, now: Nanos) {
        if decision.without_store {
            return self.share.revert(flow, decision, now);
        }
        let settings: Option<BucketSettings> = self.current().shared_settings();
        if let (FlowKey::Present(key), Some(bucket)) = (self.key(flow), settings) {
            let consumed = decision.consumed;
            let accounts = self.accounts.as_deref();
            if !accounts.is_some_and(|accounts| accounts.return_tokens(key, consumed, &bucket)) {
                let key = self.store.key(key);
                self.store.return_tokens(key, bucket, consumed);
            }
        }
    }

    fn label_key(&self) -> Option<&str> {
        self.label_key.as_deref()
    }

    fn required_label_key(&self) -> Option<&str> {
        self.label_key
            .as_deref()
            .filter(|_| !self.inputs.passes_all())
    }

    fn fill_times(&self, remaining: f64) -> Option<FillTimes> {
        Some(self.current().params.fill_times(remaining))
    }

    /// Counts the keys with state in this process.
    fn keys(&self) -> usize {
        let accounts = self.accounts.as_ref();
        self.share.keys() + accounts.map_or(0, |accounts| accounts.len())
    }

    fn evicted(&self) -> u64 {
        let accounts = self.accounts.as_ref();
        self.share.evicted() + accounts.map_or(0, |accounts| accounts.evicted())
    }
}

impl Actuator for SharedRateLimiter {
    fn apply(&self, setting: Setting, _: Nanos) -> bool {
        let Setting::Bucket {
            capacity,
            fill,
            pass_through,
        } = setting
        else {
            return false;
        };
        self.inputs.set(capacity, fill, pass_through);
        true
    }
}

fn bucket_decision(outcome: &TokensOutcome) -> BucketDecision {
    BucketDecision {
        granted: outcome.granted,
        wait: nanos(outcome.wait),
        unsatisfiable: outcome.unsatisfiable && !outcome.granted,
        remaining: outcome.remaining,
        current: outcome.current,
    }
}

fn decision_of(result: &BucketDecision, tokens: f64) -> ComponentDecision {
    ComponentDecision {
        dropped: !result.granted,
        wait: result.wait,
        unsatisfiable: result.unsatisfiable,
        remaining: result.remaining,
        current: result.current,
        consumed: if result.granted { tokens } else { 0.0 },
        ..ComponentDecision::REJECTED
    }
}
