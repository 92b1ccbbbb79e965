//! The `quota_scheduler`: a queue and a token bucket per key.

use std::sync::Arc;

use super::accepted::{accept_unlimited, accept_without_tokens};
use super::queue_store::QueueStore;
use super::quota_correction::with_taken;
use super::quota_tokens::{QuotaRules, QuotaTokens};
use super::workload::Workloads;
use super::{ScheduleResult, Scheduler};
use crate::engine::clock::{DecisionTime, Nanos};
use crate::engine::component::{
    ComponentContext, FillTimes, FromPolicy, PolicyComponent, ReportedKind,
};
use crate::engine::control::{Actuator, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep};
use crate::engine::engine_flow::EngineFlow;
use crate::engine::limiters::FlowKey;
use crate::engine::limiters::bucket_inputs::BucketInputs;
use crate::engine::limiters::key_bucket::bucket_rules;
use crate::engine::store::StoreLimits;
use crate::engine::sync::lock;
use crate::policy::{self, ComponentKind};

/// One quota scheduler of a policy.
#[derive(Debug)]
pub(crate) struct QuotaScheduler {
    label_key: Option<Arc<str>>,
    workloads: Workloads,
    /// Shared with the scheduler that takes over in a reload.
    queues: Arc<QueueStore<QuotaTokens>>,
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

    fn new(spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        if context.shared.is_some() {
            return None;
        }
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
        let quota_rules = QuotaRules::new(bucket, &rules);
        Some(Self {
            label_key: bucket.limit_by_label_key.clone(),
            workloads: Workloads::new(&spec.scheduler),
            queues: Arc::new(QueueStore::new(quota_rules, limits, 0, &context.clock)),
        })
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
    fn schedule(&self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> ScheduleResult {
        if self.inputs().passes_all() {
            return accept_unlimited(false);
        }
        let FlowKey::Present(key) = self.key(flow) else {
            return accept_unlimited(true);
        };
        let now = time.now();
        let request = self.workloads.request(flow, now, None);
        let scheduled = match request.tokens == 0.0 {
            true => accept_without_tokens(),
            false => self.queues.queue(key, now).schedule(&request, now),
        };
        match self.workloads.counts_tokens(&request) {
            true => with_taken(scheduled, &self.queues, key, request.tokens),
            false => scheduled,
        }
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

    fn revert(&self, flow: &EngineFlow<'_, '_>, decision: &ComponentDecision, now: Nanos) {
        let consumed = decision.consumed;
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
