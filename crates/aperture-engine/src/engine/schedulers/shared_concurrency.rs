//! The `concurrency_scheduler` of an engine with a shared store: a queue per key in this process, in
//! front of slots in the store.

use std::sync::{Arc, Weak};

use super::accepted::{accept_unlimited, accept_without_tokens};
use super::queue_store::QueueStore;
use super::shared_slots::{SharedSlotRules, SharedSlots};
use super::token_source::{TakeRequest, TokenGrant};
use super::wait_queue::WaitQueue;
use super::workload::{WorkloadRequest, Workloads};
use super::{ConcurrencyScheduler, ScheduleResult, Scheduler};
use crate::engine::clock::{DecisionTime, Nanos};
use crate::engine::component::{
    ComponentContext, FromPolicy, LabelledSlots, PolicyComponent, ReportedKind, StartedReturn,
};
use crate::engine::control::{Actuator, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use crate::engine::engine_flow::{DEADLINE_MARGIN, EngineFlow, NO_DEADLINE};
use crate::engine::limiters::FlowKey;
use crate::engine::limiters::concurrency_limiter::{SlotRules, key_from_label};
use crate::engine::request_id::RequestId;
use crate::engine::shared::{SlotListener, StoreAbsence, StoreAnswer, StoreOperation, enter_slots};
use crate::policy::{self, ComponentKind};

/// One concurrency scheduler of a policy, whose slots are in the shared store.
///
/// While no flow waits in the queue of a key, flows ask the store side by side. A flow that gets no
/// slot joins the queue. Its head asks again when a slot of the key was returned, by this engine or
/// another one, when the oldest slot expires, and every 100 ms in case that no notice came.
#[derive(Debug)]
pub(crate) struct SharedConcurrencyScheduler {
    workloads: Workloads,
    /// Shared with the scheduler that takes over in a reload.
    queues: Arc<QueueStore<SharedSlots>>,
}

impl SharedConcurrencyScheduler {
    fn rules(&self) -> &SharedSlotRules {
        self.queues.rules()
    }

    fn slot_rules(&self) -> &SlotRules {
        &self.rules().slots
    }
}

/// Decides by this engine's share of the slots, without queueing.
fn decide_by_share(
    queue: &Arc<WaitQueue<SharedSlots>>,
    request: &WorkloadRequest<'_>,
    now: Nanos,
) -> Option<DecisionWithSlot> {
    let take = TakeRequest {
        now,
        tokens: request.tokens,
        deadline: request.deadline,
    };
    let grant = queue.with_source(|rules, source| source.take_share(rules, &take));
    grant.map(|grant| queue.decision(true, request.tokens, &grant, None))
}

/// Decides without the store, which is slow or away.
fn decide_without_store(
    rules: &SharedSlotRules,
    queue: &Arc<WaitQueue<SharedSlots>>,
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

impl FromPolicy for SharedConcurrencyScheduler {
    type Spec = policy::ConcurrencyScheduler;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        ConcurrencyScheduler::spec(kind)
    }

    fn new(spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        let shared = context.shared.as_ref()?;
        let slots = SlotRules::new(&spec.slots);
        let limits = slots.limits(context.limits);
        let min_retention = slots.lifetime().saturating_add(1);
        let label_key = slots.label_key.as_deref();
        let store = shared.access(ReportedKind::ConcurrencyScheduler, label_key);
        let rules = SharedSlotRules { store, slots };
        Some(Self {
            workloads: Workloads::new(&spec.scheduler),
            queues: Arc::new(QueueStore::new(
                rules,
                limits,
                min_retention,
                &context.clock,
            )),
        })
    }

    /// Returns the scheduler of a changed policy, with the queues of this one.
    fn successor(&self, spec: &Self::Spec, _: &ComponentContext) -> Option<Self> {
        let same = self.slot_rules().label_key == spec.slots.limit_by_label_key;
        same.then(|| Self {
            workloads: Workloads::new(&spec.scheduler),
            queues: Arc::clone(&self.queues),
        })
    }

    /// Applies the values of its policy, now that the policy is in force.
    fn take_over(&self, _: &Self, spec: &Self::Spec, _: &ComponentContext, now: Nanos) {
        let rules = self.slot_rules();
        rules.take_over(&spec.slots);
        let min_retention = rules.lifetime().saturating_add(1);
        self.queues.set_retention(rules.max_idle(), min_retention);
        self.queues.serve(now);
    }
}

impl Scheduler for SharedConcurrencyScheduler {
    fn schedule(&self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> ScheduleResult {
        let Some(capacity) = self.slot_rules().capacity() else {
            return accept_unlimited(false);
        };
        let FlowKey::Present(key) = self.slot_rules().key(flow) else {
            return accept_unlimited(true);
        };
        let now = time.now();
        let request = self.workloads.request(flow, now, None);
        if request.tokens == 0.0 {
            return accept_without_tokens();
        }
        let rules = self.rules();
        let queue = self.queues.queue(key, now);
        // Behind the flows that wait already, or by a limit that is none that engines could share.
        if queue.is_open() || !capacity.is_finite() {
            return queue.schedule(&request, now);
        }
        let time_left = match request.deadline {
            NO_DEADLINE => NO_DEADLINE,
            deadline => deadline.saturating_sub(now),
        };
        if time_left <= DEADLINE_MARGIN {
            return ScheduleResult::Decided(ComponentDecision::REJECTED.into());
        }
        if !rules.store.is_available() {
            return decide_without_store(rules, &queue, &request, now);
        }
        let lifetime = rules.slots.lifetime();
        let key = rules.store.key(key);
        let operation = enter_slots(key, request.tokens, capacity, lifetime, false);
        let freed: Weak<dyn SlotListener> = Arc::<WaitQueue<SharedSlots>>::downgrade(&queue);
        match rules.store.ask(operation, Some(freed), time_left, now) {
            Ok(answer) => self.resume(flow, answer, now),
            Err(ask) => ScheduleResult::Asks(ask),
        }
    }

    /// A flow that gets no slot joins the queue.
    fn resume(&self, flow: &EngineFlow<'_, '_>, answer: StoreAnswer, now: Nanos) -> ScheduleResult {
        let (FlowKey::Present(key), StoreOperation::Enter(enter)) =
            (self.slot_rules().key(flow), *answer.operation())
        else {
            return ScheduleResult::Decided(ComponentDecision::REJECTED.into());
        };
        // The queue timeout began when the store was asked.
        let request = self.workloads.request(flow, answer.asked_at(), None);
        let queue = self.queues.queue(key, now);
        match answer.slots() {
            None => {
                let flow = flow.decided_in_time();
                let request = self.workloads.request(&flow, now, None);
                decide_without_store(self.rules(), &queue, &request, now)
            }
            Some(outcome) if outcome.granted => {
                let grant = TokenGrant {
                    remaining: enter.capacity - outcome.current,
                    current: outcome.current,
                    ..TokenGrant::default()
                };
                let mut decided = queue.decision(true, request.tokens, &grant, None);
                decided.decision.request_id = Some(enter.id);
                decided.slot = answer.into_slot();
                ScheduleResult::Decided(decided)
            }
            Some(_) => queue.schedule(&request, now),
        }
    }

    fn workloads(&self) -> &Workloads {
        &self.workloads
    }
}

impl PolicyComponent for SharedConcurrencyScheduler {
    fn reported_kind(&self) -> ReportedKind {
        ReportedKind::ConcurrencyScheduler
    }

    fn step(&self) -> DecisionStep {
        DecisionStep::Concurrency
    }

    fn denied_code(&self) -> i32 {
        self.workloads.denied_code()
    }

    fn label_key(&self) -> Option<&str> {
        self.slot_rules().label_key.as_deref()
    }

    fn required_label_key(&self) -> Option<&str> {
        self.slot_rules().active_label_key()
    }

    fn slots(&self) -> Option<&dyn LabelledSlots> {
        Some(self)
    }

    /// Counts the keys with state in this process.
    fn keys(&self) -> usize {
        self.queues.len()
    }

    fn evicted(&self) -> u64 {
        self.queues.evicted()
    }
}

impl LabelledSlots for SharedConcurrencyScheduler {
    fn are_limited(&self) -> bool {
        self.slot_rules().capacity().is_some()
    }

    /// Returns true once the return is submitted.
    fn return_slot(&self, label: &str, id: RequestId, now: Nanos) -> bool {
        let Some(key) = key_from_label(self.slot_rules().label_key.as_deref(), label) else {
            return false;
        };
        match self.queues.existing(key) {
            Some(queue) => queue.return_tokens(0.0, Some(id), now),
            None => {
                let store = &self.rules().store;
                store.leave(store.key(key), id, None);
                true
            }
        }
    }

    fn start_return(&self, label: &str, id: RequestId, now: Nanos) -> StartedReturn {
        let Some(key) = key_from_label(self.slot_rules().label_key.as_deref(), label) else {
            return StartedReturn::Done(false);
        };
        let queue = self.queues.existing(key);
        if let Some(queue) = &queue
            && queue.with_source(|_, source| source.return_share(id, now))
        {
            queue.serve(now);
            return StartedReturn::Done(true);
        }
        let freed = queue.map(|queue| {
            let freed: Weak<dyn SlotListener> = Arc::<WaitQueue<SharedSlots>>::downgrade(&queue);
            freed
        });
        let store = &self.rules().store;
        StartedReturn::Asked(store.start_leave(store.key(key), id, freed, now))
    }
}

impl Actuator for SharedConcurrencyScheduler {
    /// Serves the queues, because the capacity may have grown.
    fn apply(&self, setting: Setting, now: Nanos) -> bool {
        let Setting::Slots {
            max_concurrency,
            pass_through,
        } = setting
        else {
            return false;
        };
        self.slot_rules().set(max_concurrency, pass_through);
        self.queues.serve(now);
        true
    }
}
