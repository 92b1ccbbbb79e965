//! The `rate_limiter`: a token bucket per key.

use std::borrow::Cow;
use std::sync::Arc;

use super::bucket::{BucketParams, CapacityHighWater, TakeMode, TokenBucket};
use super::lazy_sync::LazySyncAccount;
use super::{ComponentContext, ComponentDecision, DEADLINE_MARGIN};
use crate::engine::atomic_signal::AtomicSignal;
use crate::engine::clock::{Nanos, nanos};
use crate::engine::report::{LimiterDetails, LimiterReason};
use crate::engine::stages::{EngineFlow, NO_DEADLINE};
use crate::engine::store::{EvictionLoss, Store, StoreLimits, StoredState, lock};
use crate::engine::sync::Mutex;
use crate::policy;

/// One rate limiter of a policy.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    label_key: Option<Arc<str>>,
    tokens_key: Option<Arc<str>>,
    denied_code: i32,
    rules: BucketRules,
    /// Whether the limiter accepts every flow; ignored if there are `inputs`.
    passes_all: bool,
    /// The current signals, if at least one of them changes.
    inputs: Option<Box<BucketInputs>>,
    /// The time between two syncs, with lazy sync.
    sync_period: Nanos,
    /// Shared with the limiter that takes over in a reload.
    buckets: Arc<KeyBuckets>,
}

/// The current signals of a bucket; NaN means invalid.
#[derive(Debug)]
pub(crate) struct BucketInputs {
    capacity: AtomicSignal,
    fill: AtomicSignal,
    pass_through: AtomicSignal,
}

impl BucketInputs {
    pub(crate) fn new(bucket: &policy::Bucket) -> Self {
        Self {
            capacity: AtomicSignal::new(bucket.bucket_capacity.initial()),
            fill: AtomicSignal::new(bucket.fill_amount.initial()),
            pass_through: AtomicSignal::new(bucket.pass_through.initial()),
        }
    }

    pub(crate) fn set(&self, capacity: f64, fill: f64, pass_through: f64) {
        self.capacity.set(capacity);
        self.fill.set(fill);
        self.pass_through.set(pass_through);
    }

    /// Takes over the constants of a policy and leaves the signals that a circuit sets unchanged.
    pub(crate) fn set_constants(&self, bucket: &policy::Bucket) {
        self.capacity.set_if_constant(bucket.bucket_capacity);
        self.fill.set_if_constant(bucket.fill_amount);
        self.pass_through.set_if_constant(bucket.pass_through);
    }

    pub(crate) fn passes_all(&self) -> bool {
        let (capacity, fill) = (self.capacity.get(), self.fill.get());
        policy::passes_through(capacity, fill, self.pass_through.get())
    }

    /// Returns the rules with the current signals.
    pub(crate) fn apply(&self, rules: &BucketRules) -> BucketRules {
        let params = BucketParams {
            capacity: self.capacity.get(),
            fill: self.fill.get(),
            ..rules.params
        };
        BucketRules { params, ..*rules }
    }
}

#[derive(Debug)]
struct KeyBuckets {
    store: BucketStore,
    high_water: Mutex<CapacityHighWater>,
}

#[derive(Debug)]
enum BucketStore {
    Plain(Store<PlainBucket>),
    Lazy(Store<LazySyncAccount>),
}

/// The rules that hold for all keys of a component.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BucketRules {
    pub(crate) params: BucketParams,
    pub(crate) max_idle: Nanos,
}

/// Returns the rules of the buckets that a policy describes.
pub(crate) fn bucket_rules(bucket: &policy::Bucket, context: &ComponentContext) -> BucketRules {
    let params = BucketParams {
        capacity: bucket.bucket_capacity.initial(),
        fill: bucket.fill_amount.initial(),
        // The loader refuses zero. The division must not depend on that.
        interval: nanos(bucket.interval).max(1),
        continuous: bucket.continuous_fill,
        delayed: bucket.delay_initial_fill,
        upstream: context.upstream_buckets,
    };
    // With a time of zero, an Agent never expires an idle key.
    let max_idle = match nanos(bucket.max_idle_time) {
        0 => Nanos::MAX,
        time => time,
    };
    BucketRules { params, max_idle }
}

/// A request for tokens from the bucket of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BucketRequest {
    pub(crate) now: Nanos,
    pub(crate) tokens: f64,
    /// Time until the deadline, or [`NO_DEADLINE`].
    pub(crate) time_left: Nanos,
}

/// The result of taking tokens from the bucket of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BucketDecision {
    pub(crate) granted: bool,
    pub(crate) wait: Nanos,
    /// Whether the request would be rejected however long it waited.
    pub(crate) unsatisfiable: bool,
    pub(crate) remaining: f64,
    pub(crate) current: f64,
}

impl BucketDecision {
    /// A rejection without a look at the bucket.
    pub(crate) const REJECTED: Self = Self {
        granted: false,
        wait: 0,
        unsatisfiable: false,
        remaining: 0.0,
        current: 0.0,
    };
}

/// The key by which a flow is limited.
pub(crate) enum FlowKey<'a> {
    Present(&'a str),
    Missing,
}

impl RateLimiter {
    pub(crate) fn new(spec: &policy::RateLimiter, context: &ComponentContext) -> Self {
        let bucket = &spec.bucket;
        let limits = context.limits;
        let rules = bucket_rules(bucket, context);
        let BucketRules { params, max_idle } = rules;
        let pass_through = bucket.pass_through.initial();
        let ports = [
            bucket.bucket_capacity,
            bucket.fill_amount,
            bucket.pass_through,
        ];
        let changing = |port: &policy::Port| matches!(port, policy::Port::Changing(_));
        let changes = ports.iter().any(changing);
        let passes_all = policy::passes_through(params.capacity, params.fill, pass_through);
        let limits = StoreLimits { max_idle, ..limits };
        let limits = match bucket.limit_by_label_key {
            Some(_) => limits,
            None => StoreLimits { keys: 1, ..limits },
        };
        let store = match bucket.lazy_sync {
            Some(_) => BucketStore::Lazy(Store::new(limits)),
            None => BucketStore::Plain(Store::new(limits)),
        };
        let syncs = bucket.lazy_sync.unwrap_or(1).max(1);
        Self {
            label_key: bucket.limit_by_label_key.clone(),
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            rules,
            passes_all,
            inputs: changes.then(|| Box::new(BucketInputs::new(bucket))),
            sync_period: params.interval / i64::from(syncs),
            buckets: Arc::new(KeyBuckets {
                store,
                high_water: Mutex::new(CapacityHighWater::NONE),
            }),
        }
    }

    /// Returns the limiter of a changed policy, sharing the buckets of this one. Returns `None` if
    /// the buckets are different ones, because the label or the kind of sync has changed.
    pub(super) fn successor(
        &self,
        spec: &policy::RateLimiter,
        context: &ComponentContext,
    ) -> Option<Self> {
        let mut next = Self::new(spec, context);
        let lazy = |one: &Self| matches!(one.buckets.store, BucketStore::Lazy(_));
        if next.label_key != self.label_key || lazy(&next) != lazy(self) {
            return None;
        }
        if let Some(inputs) = &next.inputs {
            let params = self.bucket_params();
            let pass_through = match &self.inputs {
                Some(inputs) => inputs.pass_through.get(),
                None => f64::NAN,
            };
            inputs.set(params.capacity, params.fill, pass_through);
            inputs.set_constants(&spec.bucket);
        }
        next.buckets = Arc::clone(&self.buckets);
        Some(next)
    }

    /// Migrates the buckets to these rules, now that they are in force.
    pub(super) fn take_over(&self, from: &Self, now: Nanos) {
        let (from, to) = (from.current(), self.current());
        let KeyBuckets { store, high_water } = &*self.buckets;
        let more = match from.params == to.params {
            true => None,
            false => Some(lock(high_water).record_change(&from.params, &to.params, now)),
        };
        match store {
            BucketStore::Plain(store) => {
                store.set_max_idle(to.max_idle);
                if let Some(more) = more {
                    store.each_mut(|state| state.migrate(&from, &to, more, now));
                }
            }
            BucketStore::Lazy(store) => {
                store.set_max_idle(to.max_idle);
                if let Some(more) = more {
                    store.each_mut(|state| state.migrate(&from, &to, more, now));
                }
            }
        }
    }

    fn current(&self) -> BucketRules {
        match &self.inputs {
            None => self.rules,
            Some(inputs) => inputs.apply(&self.rules),
        }
    }

    /// Returns the signals, if at least one of them changes.
    pub(crate) fn inputs(&self) -> Option<&BucketInputs> {
        self.inputs.as_deref()
    }

    pub(super) fn bucket_params(&self) -> BucketParams {
        self.current().params
    }

    #[inline]
    fn passes_all_now(&self) -> bool {
        match &self.inputs {
            None => self.passes_all,
            Some(inputs) => inputs.passes_all(),
        }
    }

    /// Returns the label key that the limiter limits by, or `None` if it accepts every flow.
    pub(super) fn active_label_key(&self) -> Option<&str> {
        self.label_key.as_deref().filter(|_| !self.passes_all_now())
    }

    pub(super) fn denied_code(&self) -> i32 {
        self.denied_code
    }

    #[inline(always)]
    pub(super) fn decide(&self, flow: &EngineFlow<'_, '_>, now: Nanos) -> ComponentDecision {
        let tokens = requested_tokens(self.tokens_key.as_deref(), flow);
        let FlowKey::Present(key) = self.key(flow) else {
            return ComponentDecision::not_evaluated(tokens);
        };
        let request = BucketRequest {
            now,
            tokens,
            time_left: flow.time_left,
        };
        let result = self.take(key, &request);
        ComponentDecision {
            dropped: !result.granted,
            reason: LimiterReason::Unspecified,
            wait: result.wait,
            unsatisfiable: result.unsatisfiable,
            remaining: result.remaining,
            current: result.current,
            consumed: if result.granted { tokens } else { 0.0 },
            request_id: None,
            evaluated: true,
            queued: 0,
            overtaken: None,
        }
    }

    /// Uses the normal take path, as an Agent does: a cached rejection discards the returned
    /// tokens.
    pub(super) fn revert(&self, flow: &EngineFlow<'_, '_>, consumed: f64, now: Nanos) {
        if let FlowKey::Present(key) = self.key(flow)
            && consumed > 0.0
        {
            let request = BucketRequest {
                now,
                tokens: -consumed,
                time_left: NO_DEADLINE,
            };
            self.take(key, &request);
        }
    }

    pub(super) fn report(
        &self,
        flow: &EngineFlow<'_, '_>,
        decision: &ComponentDecision,
    ) -> LimiterDetails {
        let label = match self.key(flow) {
            FlowKey::Present(value) if decision.evaluated => {
                key_label(self.label_key.as_deref(), value)
            }
            _ => Cow::Borrowed(""),
        };
        LimiterDetails::RateLimiter {
            label,
            tokens: decision.tokens(),
        }
    }

    pub(super) fn keys(&self) -> usize {
        match &self.buckets.store {
            BucketStore::Plain(store) => store.len(),
            BucketStore::Lazy(store) => store.len(),
        }
    }

    pub(super) fn evicted(&self) -> u64 {
        match &self.buckets.store {
            BucketStore::Plain(store) => store.evicted(),
            BucketStore::Lazy(store) => store.evicted(),
        }
    }

    /// Returns the key of a flow. All keys of a limiter come from one label, so the value of the
    /// label identifies a key.
    #[inline(always)]
    fn key<'a>(&self, flow: &EngineFlow<'a, '_>) -> FlowKey<'a> {
        match &self.label_key {
            _ if self.passes_all_now() => FlowKey::Missing,
            None => FlowKey::Present(""),
            Some(label) => match flow.labels.get(label) {
                None => FlowKey::Missing,
                Some(value) => FlowKey::Present(value),
            },
        }
    }

    // Not inlined, so that only one copy of the functions inlined into it exists.
    #[inline(never)]
    fn take(&self, key: &str, request: &BucketRequest) -> BucketDecision {
        let current;
        let rules = match &self.inputs {
            None => &self.rules,
            Some(inputs) => {
                current = inputs.apply(&self.rules);
                &current
            }
        };
        match &self.buckets.store {
            BucketStore::Plain(store) => {
                store.update(key, request.now, rules, |state| state.take(rules, request))
            }
            BucketStore::Lazy(store) => store.update(key, request.now, rules, |state| {
                state.take(rules, self.sync_period, request)
            }),
        }
    }
}

/// Returns the tokens that a flow asks for. Ignores a label value that is not a number or not
/// finite, because NaN would corrupt the state.
#[inline(always)]
pub(crate) fn requested_tokens(label_key: Option<&str>, flow: &EngineFlow<'_, '_>) -> f64 {
    match label_key {
        None => 1.0,
        Some(key) => parse_tokens_label(key, flow),
    }
}

fn parse_tokens_label(key: &str, flow: &EngineFlow<'_, '_>) -> f64 {
    flow.labels
        .get(key)
        .and_then(policy::parse_number)
        .filter(|tokens| tokens.is_finite())
        .unwrap_or(1.0)
}

/// Returns the label of a key for decisions: the whole text, which the flow holds anyway.
pub(crate) fn key_label(label_key: Option<&str>, value: &str) -> Cow<'static, str> {
    match label_key {
        None => Cow::Borrowed("default"),
        Some(key) => Cow::Owned(format!("{key}:{value}")),
    }
}

/// The state of a key without lazy sync.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainBucket {
    bucket: TokenBucket,
    last_used: Nanos,
    cached_rejection: CachedRejection,
}

/// The last rejection of a key. It is valid until the requested tokens are available.
#[derive(Clone, Copy, Debug)]
struct CachedRejection {
    available_at: Nanos,
    want: f64,
    remaining: f64,
}

impl CachedRejection {
    const NONE: Self = Self {
        available_at: Nanos::MIN,
        want: f64::NEG_INFINITY,
        remaining: 0.0,
    };
}

impl StoredState for PlainBucket {
    type Rules = BucketRules;

    fn new() -> Self {
        Self {
            bucket: TokenBucket::UNUSED,
            last_used: Nanos::MIN,
            cached_rejection: CachedRejection::NONE,
        }
    }

    /// A cached rejection outlives its bucket, as on an Agent.
    fn expires_at(&self, max_idle: Nanos) -> Nanos {
        self.last_used
            .saturating_add(max_idle)
            .max(self.cached_rejection.available_at)
    }

    fn eviction_loss(&self, rules: &BucketRules, now: Nanos) -> EvictionLoss {
        let missing = rules.params.missing(&self.bucket, 0.0, now);
        if missing.is_none() && self.cached_rejection.available_at <= now {
            return EvictionLoss::none(self.last_used);
        }
        let (full_at, tokens) = missing.unwrap_or((now, 0.0));
        EvictionLoss {
            restored_at: full_at.max(self.cached_rejection.available_at),
            tokens,
            last_used: self.last_used,
        }
    }
}

impl PlainBucket {
    /// Records a use and returns its time. Threads read the clock before they take the lock, so a
    /// later time may arrive first; it is kept. A bucket that has idled for `max_idle` becomes full
    /// again.
    #[inline(always)]
    fn touch(&mut self, rules: &BucketRules, now: Nanos) -> Nanos {
        let at = now.max(self.last_used);
        if at.saturating_sub(self.last_used) >= rules.max_idle {
            self.bucket = rules.params.full_bucket(at);
        }
        self.last_used = at;
        at
    }

    /// Continues under changed rules. Discards the cached rejection, so that the new rules decide.
    pub(crate) fn migrate(&mut self, from: &BucketRules, to: &BucketRules, more: f64, now: Nanos) {
        self.cached_rejection = CachedRejection::NONE;
        if self.last_used != Nanos::MIN {
            let now = now.max(self.last_used);
            to.params.migrate(&from.params, &mut self.bucket, more, now);
        }
    }

    /// Takes tokens, also such that are filled in only before the deadline. Ignores the cached
    /// rejection.
    pub(crate) fn take_with_wait(
        &mut self,
        rules: &BucketRules,
        now: Nanos,
        want: f64,
        deadline: Nanos,
    ) -> BucketDecision {
        let params = &rules.params;
        let at = self.touch(rules, now);
        let taken = params.take(&mut self.bucket, at, want, TakeMode::WaitUntil(deadline));
        BucketDecision {
            granted: taken.granted,
            wait: taken.available_at.saturating_sub(now).max(0),
            unsatisfiable: false,
            remaining: taken.remaining,
            current: params.used_tokens(taken.remaining),
        }
    }

    /// Returns tokens that were granted but not used. Ignores the cached rejection.
    pub(crate) fn return_tokens(&mut self, rules: &BucketRules, now: Nanos, tokens: f64) {
        let at = self.touch(rules, now);
        rules
            .params
            .take(&mut self.bucket, at, -tokens, TakeMode::Immediate);
    }

    /// Takes tokens that are available now. Caches a rejection until its tokens are available,
    /// unless that never happens.
    #[inline(always)]
    pub(crate) fn take(&mut self, rules: &BucketRules, request: &BucketRequest) -> BucketDecision {
        let (params, now) = (&rules.params, request.now);
        let unsatisfiable = params.cannot_hold(request.tokens);
        if self.cached_rejection.want >= request.tokens
            && self.cached_rejection.available_at > now
            && !unsatisfiable
        {
            return BucketDecision {
                granted: false,
                wait: self.cached_rejection.available_at - now,
                unsatisfiable: false,
                remaining: self.cached_rejection.remaining,
                current: params.used_tokens(self.cached_rejection.remaining),
            };
        }
        if request.time_left <= DEADLINE_MARGIN {
            return BucketDecision {
                unsatisfiable,
                ..BucketDecision::REJECTED
            };
        }

        let at = self.touch(rules, now);
        let taken = params.take(&mut self.bucket, at, request.tokens, TakeMode::Immediate);
        let mut wait = 0;
        // Like an Agent, report no wait for an infinite debt.
        if !taken.granted && !unsatisfiable && taken.remaining.is_finite() {
            self.cached_rejection = CachedRejection {
                available_at: taken.available_at,
                want: request.tokens,
                remaining: taken.remaining,
            };
            wait = taken.available_at.saturating_sub(now).max(0);
        }
        BucketDecision {
            granted: taken.granted,
            wait,
            unsatisfiable: unsatisfiable && !taken.granted,
            remaining: taken.remaining,
            current: params.used_tokens(taken.remaining),
        }
    }
}
