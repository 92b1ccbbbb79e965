//! The `rate_limiter`: a token bucket per key.

mod correction;

use std::sync::Arc;

use self::correction::RulesInForce;
use super::bucket_inputs::BucketInputs;
use super::capacity_high_water::CapacityHighWater;
use super::key_bucket::{BucketDecision, BucketRequest, BucketRules, PlainBucket, bucket_rules};
use super::lazy_sync::LazySyncAccount;
use super::{FlowKey, Limiter, requested_tokens};
use crate::engine::clock::{Clock, DecisionTime, Nanos};
use crate::engine::component::{
    ComponentContext, FillTimes, FromPolicy, PolicyComponent, ReportedKind,
};
use crate::engine::control::{Actuator, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use crate::engine::engine_flow::{EngineFlow, NO_DEADLINE};
use crate::engine::store::{Store, StoreLimits};
use crate::engine::sync::{Mutex, lock};
use crate::policy::{self, ComponentKind, CountOnly};

/// One rate limiter of a policy.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    label_key: Option<Arc<str>>,
    tokens_key: Option<Arc<str>>,
    denied_code: i32,
    count_only: Option<CountOnly>,
    rules: BucketRules,
    /// Whether the limiter accepts every flow; ignored if there are `inputs`.
    passes_all: bool,
    /// The current signals, if at least one of them changes.
    inputs: Option<Arc<BucketInputs>>,
    /// The time between two syncs, with lazy sync.
    sync_period: Nanos,
    /// Shared with the limiter that takes over in a reload.
    buckets: Arc<KeyBuckets>,
}

#[derive(Debug)]
struct KeyBuckets {
    store: BucketStore,
    high_water: Mutex<CapacityHighWater>,
    in_force: Mutex<RulesInForce>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
enum BucketStore {
    Plain(Store<PlainBucket>),
    Lazy(Store<LazySyncAccount>),
}

impl RateLimiter {
    fn current(&self) -> BucketRules {
        match &self.inputs {
            None => self.rules,
            Some(inputs) => inputs.apply(&self.rules),
        }
    }

    #[inline]
    fn passes_all_now(&self) -> bool {
        match &self.inputs {
            None => self.passes_all,
            Some(inputs) => inputs.passes_all(),
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

    /// Returns the limiter with settings that may change at any time.
    pub(super) fn adjustable(mut self, bucket: &policy::Bucket) -> Self {
        self.inputs
            .get_or_insert_with(|| Arc::new(BucketInputs::new(bucket)));
        self.put_in_force();
        self
    }

    /// Creates the limiter without state.
    pub(super) fn create(spec: &policy::RateLimiter, context: &ComponentContext) -> Self {
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
        let sync_period = params.interval / i64::from(syncs);
        let inputs = changes.then(|| Arc::new(BucketInputs::new(bucket)));
        let in_force = RulesInForce::new(rules, inputs.clone(), sync_period);
        Self {
            label_key: bucket.limit_by_label_key.clone(),
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            count_only: spec.count_only.clone(),
            rules,
            passes_all,
            inputs,
            sync_period,
            buckets: Arc::new(KeyBuckets {
                store,
                high_water: Mutex::new(CapacityHighWater::NONE),
                in_force: Mutex::new(in_force),
                clock: Arc::clone(&context.clock),
            }),
        }
    }
}

impl FromPolicy for RateLimiter {
    type Spec = policy::RateLimiter;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        match kind {
            ComponentKind::RateLimiter(spec) => Some(spec),
            _ => None,
        }
    }

    fn new(spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        let in_process = context.shared.is_none();
        in_process.then(|| Self::create(spec, context))
    }

    /// Returns the limiter of a changed policy, sharing the buckets of this one. Returns `None` if
    /// the buckets are different ones, because the label or the kind of sync has changed.
    fn successor(&self, spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        let mut next = Self::create(spec, context);
        let lazy = |one: &Self| matches!(one.buckets.store, BucketStore::Lazy(_));
        if next.label_key != self.label_key || lazy(&next) != lazy(self) {
            return None;
        }
        if let Some(inputs) = &next.inputs {
            let params = self.current().params;
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
    fn take_over(&self, from: &Self, _: &Self::Spec, _: &ComponentContext, now: Nanos) {
        let (from, to) = (from.current(), self.current());
        self.put_in_force();
        let KeyBuckets {
            store, high_water, ..
        } = &*self.buckets;
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
}

impl Limiter for RateLimiter {
    #[inline(always)]
    fn decide(&self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> DecisionWithSlot {
        let tokens = requested_tokens(self.tokens_key.as_deref(), flow);
        let FlowKey::Present(key) = self.key(flow) else {
            return ComponentDecision::not_evaluated(tokens).into();
        };
        let request = BucketRequest {
            now: time.now(),
            tokens,
            time_left: flow.time_left,
        };
        let result = self.take(key, &request);
        let records = result.granted && self.corrects();
        let slot = records.then(|| self.taken(key, tokens));
        let decision = ComponentDecision {
            dropped: !result.granted,
            key_missing: false,
            wait: result.wait,
            unsatisfiable: result.unsatisfiable,
            remaining: result.remaining,
            current: result.current,
            consumed: if result.granted { tokens } else { 0.0 },
            request_id: None,
            evaluated: true,
            without_store: false,
            queued: 0,
            overtaken: None,
        };
        DecisionWithSlot { decision, slot }
    }
}

impl PolicyComponent for RateLimiter {
    fn reported_kind(&self) -> ReportedKind {
        ReportedKind::RateLimiter
    }

    fn step(&self) -> DecisionStep {
        DecisionStep::Limiters
    }

    fn denied_code(&self) -> i32 {
        self.denied_code
    }

    /// Uses the normal take path, as an Agent does: a cached rejection discards the returned
    /// tokens.
    fn revert(&self, flow: &EngineFlow<'_, '_>, decision: &ComponentDecision, now: Nanos) {
        let consumed = decision.consumed;
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

    fn label_key(&self) -> Option<&str> {
        self.label_key.as_deref()
    }

    fn required_label_key(&self) -> Option<&str> {
        self.label_key.as_deref().filter(|_| !self.passes_all_now())
    }

    fn fill_times(&self, remaining: f64) -> Option<FillTimes> {
        Some(self.current().params.fill_times(remaining))
    }

    fn keys(&self) -> usize {
        match &self.buckets.store {
            BucketStore::Plain(store) => store.len(),
            BucketStore::Lazy(store) => store.len(),
        }
    }

    fn evicted(&self) -> u64 {
        match &self.buckets.store {
            BucketStore::Plain(store) => store.evicted(),
            BucketStore::Lazy(store) => store.evicted(),
        }
    }
}

impl Actuator for RateLimiter {
    fn apply(&self, setting: Setting, _: Nanos) -> bool {
        let Setting::Bucket {
            capacity,
            fill,
            pass_through,
        } = setting
        else {
            return false;
        };
        // A limiter without inputs has constant settings only.
        if let Some(inputs) = &self.inputs {
            inputs.set(capacity, fill, pass_through);
        }
        true
    }
}
