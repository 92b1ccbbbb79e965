//! The `quota_scheduler` of an engine with a shared store: a queue per key in this process, in front
//! of a bucket in the store.

use std::sync::Arc;

use super::accepted::{accept_unlimited, accept_without_tokens};
use super::queue_store::QueueStore;
use super::quota_correction::with_taken;
use super::shared_tokens::{SharedQuotaRules, SharedTokens};
use super::token_source::{TakeRequest, TokenGrant};
use super::wait_queue::WaitQueue;
use super::workload::{WorkloadRequest, Workloads};
use super::{QuotaScheduler, ScheduleResult, Scheduler};
use crate::engine::clock::{DecisionTime, Nanos};
use crate::engine::component::{
    ComponentContext, FillTimes, FromPolicy, PolicyComponent, ReportedKind,
};
use crate::engine::control::{Actuator, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use crate::engine::engine_flow::{DEADLINE_MARGIN, EngineFlow, NO_DEADLINE};
use crate::engine::limiters::FlowKey;
use crate::engine::limiters::bucket_inputs::BucketInputs;
use crate::engine::limiters::key_bucket::bucket_rules;
use crate::engine::shared::{StoreAbsence, StoreAnswer, TokensMode, TokensOutcome, take_tokens};
use crate::engine::store::StoreLimits;
use crate::engine::sync::lock;
use crate::policy::{self, ComponentKind};

/// One quota scheduler of a policy, whose buckets are in the shared store.
///
/// While no flow waits in the queue of a key, flows ask the store side by side. A flow that the
/// store has no tokens for joins the queue, whose head reserves tokens in the store.
#[derive(Debug)]
pub(crate) struct SharedQuotaScheduler {
    label_key: Option<Arc<str>>,
    workloads: Workloads,
    /// Shared with the scheduler that takes over in a reload.
    queues: Arc<QueueStore<SharedTokens>>,
}

impl SharedQuotaScheduler {
    fn rules(&self) -> &SharedQuotaRules {
        self.queues.rules()
    }

    /// Returns the signals.
    fn inputs(&self) -> &BucketInputs {
        &self.rules().quota.inputs
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

/// Decides by this engine's share of the limit, without queueing.
fn decide_by_share(
    queue: &Arc<WaitQueue<SharedTokens>>,
    request: &WorkloadRequest<'_>,
    now: Nanos,
) -> Option<DecisionWithSlot> {
    let take = take_request(request, now);
    let grant = queue.with_source(|rules, source| source.take_share(rules, &take));
    grant.map(|grant| queue.decision(true, request.tokens, &grant, None))
}

/// Decides without the store, which is slow or away.
fn decide_without_store(
    rules: &SharedQuotaRules,
    queue: &Arc<WaitQueue<SharedTokens>>,
    request: &WorkloadRequest<'_>,
    now: Nanos,
) -> ScheduleResult {
    let without_store = |granted| {
        let grant = TokenGrant {
            without_store: true,
            ..TokenGrant::default()
        };
        queue.decision(granted, request.tokens, &grant, None)
    };
    rules.store.count_without_store();
    ScheduleResult::Decided(match rules.store.absence() {
        StoreAbsence::LocalShare => match decide_by_share(queue, request, now) {
            Some(decided) => decided,
            None => return queue.schedule(request, now),
        },
        StoreAbsence::Open => without_store(true),
        StoreAbsence::Closed => without_store(false),
    })
}

fn take_request(request: &WorkloadRequest<'_>, now: Nanos) -> TakeRequest {
    TakeRequest {
        now,
        tokens: request.tokens,
        deadline: request.deadline,
    }
}

impl FromPolicy for SharedQuotaScheduler {
    type Spec = policy::QuotaScheduler;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        QuotaScheduler::spec(kind)
    }

    fn new(spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        let shared = context.shared.as_ref()?;
        let bucket = &spec.bucket;
        let rules = bucket_rules(bucket, context);
        let label_key = bucket.limit_by_label_key.clone();
        let limits = StoreLimits {
            max_idle: rules.max_idle,
            keys: label_key.as_ref().map_or(1, |_| context.limits.keys),
            ..context.limits
        };
        let store = shared.access(ReportedKind::QuotaScheduler, label_key.as_deref());
        let rules = SharedQuotaRules::new(store, bucket, &rules);
        Some(Self {
            label_key,
            workloads: Workloads::new(&spec.scheduler),
            queues: Arc::new(QueueStore::new(rules, limits, 0, &context.clock)),
        })
    }

    /// Returns the scheduler of a changed policy, with the queues of this one.
    fn successor(&self, spec: &Self::Spec, _: &ComponentContext) -> Option<Self> {
        let same = self.label_key == spec.bucket.limit_by_label_key;
        (same && self.rules().quota.lazy == spec.bucket.lazy_sync.is_some()).then(|| Self {
            label_key: self.label_key.clone(),
            workloads: Workloads::new(&spec.scheduler),
            queues: Arc::clone(&self.queues),
        })
    }

    /// Applies the values of its policy, now that the policy is in force. The store migrates its
    /// buckets itself.
    fn take_over(&self, _: &Self, spec: &Self::Spec, context: &ComponentContext, now: Nanos) {
        let quota = &self.rules().quota;
        let before = quota.current().params;
        let from = self.rules().adjusted_share().current();
        let rules = bucket_rules(&spec.bucket, context);
        quota.take_over(&spec.bucket, &rules);
        self.rules().share.take_over(&spec.bucket, &rules);
        self.queues.set_retention(rules.max_idle, 0);
        let after = quota.current().params;
        let to = self.rules().adjusted_share().current();
        if before == after && from.params == to.params {
            return;
        }
        let more = lock(&quota.high_water).record_change(&from.params, &to.params, now);
        let again = after.fill > 0.0
            && (after.time_to_fill(1.0) < before.time_to_fill(1.0)
                || after.capacity > before.capacity);
        self.queues.change_rules(again, now, |tokens| {
            tokens.migrate_share(&from, &to, more, now);
        });
    }
}

impl Scheduler for SharedQuotaScheduler {
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
            false => self.ask(key, &request, now),
        };
        match self.workloads.counts_tokens(&request) {
            true => with_taken(scheduled, &self.queues, key, request.tokens),
            false => scheduled,
        }
    }

    /// A flow that the store has no tokens for joins the queue.
    fn resume(&self, flow: &EngineFlow<'_, '_>, answer: StoreAnswer, now: Nanos) -> ScheduleResult {
        let FlowKey::Present(key) = self.key(flow) else {
            return ScheduleResult::Decided(ComponentDecision::REJECTED.into());
        };
        // The queue timeout began when the store was asked.
        let request = self.workloads.request(flow, answer.asked_at(), None);
        let scheduled = match answer.tokens() {
            None => {
                let flow = flow.decided_in_time();
                let request = self.workloads.request(&flow, now, None);
                let queue = self.queues.queue(key, now);
                decide_without_store(self.rules(), &queue, &request, now)
            }
            Some(outcome) => self.decide_by(&outcome, key, &request, now),
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

impl SharedQuotaScheduler {
    /// Asks the store for the tokens of a flow, or lets the flow join the queue.
    fn ask(&self, key: &str, request: &WorkloadRequest<'_>, now: Nanos) -> ScheduleResult {
        let rules = self.rules();
        let queue = self.queues.queue(key, now);
        // Behind the flows that wait already, or by a limit that is none that engines could share.
        let settings = rules.quota.current().shared_settings();
        let (false, Some(bucket)) = (queue.is_open(), settings) else {
            return queue.schedule(request, now);
        };
        let time_left = match request.deadline {
            NO_DEADLINE => NO_DEADLINE,
            deadline => deadline.saturating_sub(now),
        };
        if time_left <= DEADLINE_MARGIN {
            return ScheduleResult::Decided(ComponentDecision::REJECTED.into());
        }
        if !rules.store.is_available() {
            return decide_without_store(rules, &queue, request, now);
        }
        let operation = take_tokens(
            rules.store.key(key),
            bucket,
            request.tokens,
            TokensMode::Immediate,
        );
        match rules.store.ask(operation, None, time_left, now) {
            Err(ask) => ScheduleResult::Asks(ask),
            Ok(answer) => match answer.tokens() {
                Some(outcome) => self.decide_by(&outcome, key, request, now),
                None => decide_without_store(rules, &queue, request, now),
            },
        }
    }

    /// Decides by the outcome of the store. A flow that it has no tokens for joins the queue.
    fn decide_by(
        &self,
        outcome: &TokensOutcome,
        key: &str,
        request: &WorkloadRequest<'_>,
        now: Nanos,
    ) -> ScheduleResult {
        let queue = self.queues.queue(key, now);
        if !outcome.granted {
            return queue.schedule(request, now);
        }
        let grant = TokenGrant {
            remaining: outcome.remaining,
            current: outcome.current,
            ..TokenGrant::default()
        };
        ScheduleResult::Decided(queue.decision(true, request.tokens, &grant, None))
    }
}

impl PolicyComponent for SharedQuotaScheduler {
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
        if let FlowKey::Present(key) = self.key(flow)
            && decision.consumed > 0.0
            && !self.inputs().passes_all()
        {
            let grant = TokenGrant {
                without_store: decision.without_store,
                ..TokenGrant::default()
            };
            let queue = self.queues.queue(key, now);
            queue.return_grant(decision.consumed, &grant, now);
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
        Some(self.rules().quota.current().params.fill_times(remaining))
    }

    /// Counts the keys with state in this process.
    fn keys(&self) -> usize {
        self.queues.len()
    }

    fn evicted(&self) -> u64 {
        self.queues.evicted()
    }
}

impl Actuator for SharedQuotaScheduler {
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
