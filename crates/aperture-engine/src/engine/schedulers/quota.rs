//! The `quota_scheduler`: a queue and a token bucket per key.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use super::queue_store::QueueStore;
use super::token_source::{SourceReply, TakeRequest, TokenGrant, TokenSource};
use super::workload::Workloads;
use super::{ScheduleResult, Scheduler};
use crate::engine::clock::Nanos;
use crate::engine::component::{
    ComponentContext, FillTimes, FromPolicy, PolicyComponent, ReportedKind,
};
use crate::engine::control::{Actuator, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use crate::engine::engine_flow::{DEADLINE_MARGIN, EngineFlow, NO_DEADLINE};
use crate::engine::limiters::BucketParams;
use crate::engine::limiters::bucket::CapacityHighWater;
use crate::engine::limiters::bucket_inputs::BucketInputs;
use crate::engine::limiters::flow_key::FlowKey;
use crate::engine::limiters::key_bucket::{
    BucketDecision, BucketRequest, BucketRules, PlainBucket, bucket_rules,
};
use crate::engine::limiters::lazy_sync::LazySyncAccount;
use crate::engine::store::{EvictionLoss, StoreLimits, StoredState};
use crate::engine::sync::Mutex;
use crate::engine::sync::lock;
use crate::policy::{self, ComponentKind};

/// How many newcomers may overtake a flow that waits for tokens.
pub(super) const MAX_OVERTAKING: u32 = 3;

/// One quota scheduler of a policy.
#[derive(Debug)]
pub(crate) struct QuotaScheduler {
    label_key: Option<Arc<str>>,
    workloads: Workloads,
    /// Shared with the scheduler that takes over in a reload.
    queues: Arc<QueueStore<QuotaTokens>>,
}

/// The rules that hold for all buckets of the scheduler.
#[derive(Debug)]
pub(crate) struct QuotaRules {
    inputs: BucketInputs,
    interval: AtomicI64,
    max_idle: AtomicI64,
    continuous: AtomicBool,
    delayed: AtomicBool,
    upstream: bool,
    lazy: bool,
    /// The time between two syncs, with lazy sync.
    sync_period: AtomicI64,
    high_water: Mutex<CapacityHighWater>,
}

impl QuotaScheduler {
    /// Returns the signals.
    fn inputs(&self) -> &BucketInputs {
        &self.queues.rules().inputs
    }

    fn key<'a>(&self, flow: &EngineFlow<'a, '_>) -> FlowKey<'a> {
        match &self.label_key {
            None => FlowKey::Present(""),
            Some(label) => flow
                .labels
                .get(label)
                .map_or(FlowKey::Missing, FlowKey::Present),
        }
    }
}

impl FromPolicy for QuotaScheduler {
    type Spec = policy::QuotaScheduler;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        match kind {
            ComponentKind::QuotaScheduler(spec) => Some(spec),
            _ => None,
        }
    }

    fn new(spec: &Self::Spec, context: &ComponentContext) -> Self {
        let bucket = &spec.bucket;
        let rules = bucket_rules(bucket, context);
        let limits = StoreLimits {
            max_idle: rules.max_idle,
            keys: match bucket.limit_by_label_key {
                Some(_) => context.limits.keys,
                None => 1,
            },
            ..context.limits
        };
        let quota_rules = QuotaRules {
            inputs: BucketInputs::new(bucket),
            interval: AtomicI64::new(rules.params.interval),
            max_idle: AtomicI64::new(rules.max_idle),
            continuous: AtomicBool::new(rules.params.continuous),
            delayed: AtomicBool::new(rules.params.delayed),
            upstream: rules.params.upstream,
            lazy: bucket.lazy_sync.is_some(),
            sync_period: AtomicI64::new(sync_period(bucket, &rules)),
            high_water: Mutex::new(CapacityHighWater::NONE),
        };
        Self {
            label_key: bucket.limit_by_label_key.clone(),
            workloads: Workloads::new(&spec.scheduler),
            queues: Arc::new(QueueStore::new(quota_rules, limits, 0, &context.clock)),
        }
    }

    /// Returns the scheduler of a changed policy, sharing the buckets and queues of this one.
    /// Returns `None` if they are different ones, because the label or the kind of sync has
    /// changed.
    fn successor(&self, spec: &Self::Spec, _: &ComponentContext) -> Option<Self> {
        let lazy = spec.bucket.lazy_sync.is_some();
        let same = self.label_key == spec.bucket.limit_by_label_key;
        (same && self.queues.rules().lazy == lazy).then(|| Self {
            label_key: self.label_key.clone(),
            workloads: Workloads::new(&spec.scheduler),
            queues: Arc::clone(&self.queues),
        })
    }

    /// Applies the values of its policy, now that the policy is in force.
    fn take_over(&self, _: &Self, spec: &Self::Spec, context: &ComponentContext, now: Nanos) {
        let quota_rules = self.queues.rules();
        let from = quota_rules.current();
        let rules = bucket_rules(&spec.bucket, context);
        quota_rules.take_over(&spec.bucket, &rules);
        self.queues.set_retention(rules.max_idle, 0);
        let to = quota_rules.current();
        if from.params == to.params {
            return;
        }
        let more = lock(&quota_rules.high_water).record_change(&from.params, &to.params, now);
        let faster = to.params.time_to_fill(1.0) < from.params.time_to_fill(1.0);
        let again = to.params.fill > 0.0 && (faster || more > 0.0);
        self.queues.change_rules(again, now, |tokens| {
            tokens.migrate(&from, &to, more, now);
        });
    }
}

impl Scheduler for QuotaScheduler {
    fn schedule(&self, flow: &EngineFlow<'_, '_>, now: Nanos) -> ScheduleResult {
        if self.inputs().passes_all() {
            return accept_unlimited(false);
        }
        let FlowKey::Present(key) = self.key(flow) else {
            return accept_unlimited(true);
        };
        let request = self.workloads.request(flow, now, None);
        if request.tokens == 0.0 {
            return accept_without_tokens();
        }
        self.queues.queue(key, now).schedule(&request, now)
    }

    fn workloads(&self) -> &Workloads {
        &self.workloads
    }
}

impl PolicyComponent for QuotaScheduler {
    fn reported_kind(&self) -> ReportedKind {
        ReportedKind::QuotaScheduler
    }

    fn step(&self) -> DecisionStep {
        DecisionStep::Schedulers
    }

    fn denied_code(&self) -> i32 {
        self.workloads.denied_code()
    }

    fn revert(&self, flow: &EngineFlow<'_, '_>, consumed: f64, now: Nanos) {
        if let FlowKey::Present(key) = self.key(flow)
            && consumed > 0.0
            && !self.inputs().passes_all()
        {
            self.queues
                .queue(key, now)
                .return_tokens(consumed, None, now);
        }
    }

    fn label_key(&self) -> Option<&str> {
        self.label_key.as_deref()
    }

    fn required_label_key(&self) -> Option<&str> {
        self.label_key
            .as_deref()
            .filter(|_| !self.inputs().passes_all())
    }

    fn fill_times(&self, remaining: f64) -> Option<FillTimes> {
        Some(self.queues.rules().current().params.fill_times(remaining))
    }

    fn keys(&self) -> usize {
        self.queues.len()
    }

    fn evicted(&self) -> u64 {
        self.queues.evicted()
    }
}

impl Actuator for QuotaScheduler {
    fn apply(&self, setting: Setting, _: Nanos) -> bool {
        let Setting::Bucket {
            capacity,
            fill,
            pass_through,
        } = setting
        else {
            return false;
        };
        self.inputs().set(capacity, fill, pass_through);
        true
    }
}

/// Accepts a flow without a queue, because the scheduler does not limit it, or because the flow
/// lacks its label.
pub(super) fn accept_unlimited(key_missing: bool) -> ScheduleResult {
    let decision = ComponentDecision {
        key_missing,
        ..ComponentDecision::not_evaluated(0.0)
    };
    ScheduleResult::Decided(DecisionWithSlot::from(decision))
}

/// Accepts a flow without a queue, because it needs no tokens.
pub(super) fn accept_without_tokens() -> ScheduleResult {
    let decision = ComponentDecision {
        key_missing: false,
        evaluated: true,
        ..ComponentDecision::not_evaluated(0.0)
    };
    ScheduleResult::Decided(DecisionWithSlot::from(decision))
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
    /// Returns the rules with the current signals.
    fn current(&self) -> BucketRules {
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

    fn take_over(&self, bucket: &policy::Bucket, rules: &BucketRules) {
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
    fn migrate(&mut self, from: &BucketRules, to: &BucketRules, more: f64, now: Nanos) {
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
}

impl TokenSource for QuotaTokens {
    type Rules = QuotaRules;

    /// As many as in recordings of Agents. An Agent has no bound, so a steady stream of newcomers
    /// starves waiting flows there.
    fn max_overtaking(quota_rules: &QuotaRules) -> u32 {
        match quota_rules.upstream {
            true => u32::MAX,
            false => MAX_OVERTAKING,
        }
    }

    fn new(_: Nanos) -> Self {
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
    }
}
