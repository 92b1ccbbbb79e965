//! The `concurrency_scheduler`: a queue in front of the slots of a key.

use std::sync::{Arc, Weak};

use super::accepted::{accept_unlimited, accept_without_tokens};
use super::queue_store::QueueStore;
use super::token_source::{SourceReply, TakeRequest, TokenGrant, TokenSource};
use super::wait_queue::WaitQueue;
use super::workload::Workloads;
use super::{ScheduleResult, Scheduler};
use crate::engine::clock::{DecisionTime, Nanos};
use crate::engine::component::{
    ComponentContext, FromPolicy, LabelledSlots, PolicyComponent, ReportedKind,
};
use crate::engine::control::{Actuator, Setting};
use crate::engine::decision::DecisionStep;
use crate::engine::engine_flow::{DEADLINE_MARGIN, EngineFlow, NO_DEADLINE};
use crate::engine::limiters::FlowKey;
use crate::engine::limiters::concurrency_limiter::{SlotRules, key_from_label};
use crate::engine::limiters::in_flight_slots::{Admission, InFlightSlots};
use crate::engine::request_id::RequestId;
use crate::engine::store::EvictionLoss;
use crate::policy::{self, ComponentKind};

/// One concurrency scheduler of a policy.
///
/// An Agent polls for free slots, admits late, rejects early and loses slots. Here, a slot that is
/// returned or expires goes to the head of the queue at once, and a request waits until 10 ms
/// before its deadline. As on an Agent, a request with neither a deadline nor a queue timeout does
/// not wait.
#[derive(Debug)]
pub(crate) struct ConcurrencyScheduler {
    workloads: Workloads,
    /// Shared with the scheduler that takes over in a reload.
    queues: Arc<QueueStore<InFlightSlots>>,
}

impl ConcurrencyScheduler {
    fn slot_rules(&self) -> &SlotRules {
        self.queues.rules()
    }
}

impl FromPolicy for ConcurrencyScheduler {
    type Spec = policy::ConcurrencyScheduler;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        match kind {
            ComponentKind::ConcurrencyScheduler(spec) => Some(spec),
            _ => None,
        }
    }

    fn new(spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        if context.shared.is_some() {
            return None;
        }
        let rules = SlotRules::new(&spec.slots);
        let limits = rules.limits(context.limits);
        let min_retention = rules.lifetime().saturating_add(1);
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

    /// Returns the scheduler of a changed policy, sharing the slots and queues of this one. Returns
    /// `None` if the scheduler limits by another label, because they are different ones then.
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

impl Scheduler for ConcurrencyScheduler {
    fn schedule(&self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> ScheduleResult {
        if self.slot_rules().capacity().is_none() {
            return accept_unlimited(false);
        }
        let FlowKey::Present(key) = self.slot_rules().key(flow) else {
            return accept_unlimited(true);
        };
        let now = time.now();
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

impl PolicyComponent for ConcurrencyScheduler {
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

    fn keys(&self) -> usize {
        self.queues.len()
    }

    fn evicted(&self) -> u64 {
        self.queues.evicted()
    }
}

impl LabelledSlots for ConcurrencyScheduler {
    fn are_limited(&self) -> bool {
        self.slot_rules().capacity().is_some()
    }

    fn return_slot(&self, label: &str, id: RequestId, now: Nanos) -> bool {
        key_from_label(self.slot_rules().label_key.as_deref(), label)
            .and_then(|key| self.queues.existing(key))
            .is_some_and(|queue| queue.return_tokens(0.0, Some(id), now))
    }
}

impl Actuator for ConcurrencyScheduler {
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

impl TokenSource for InFlightSlots {
    type Rules = SlotRules;
    type Outbox = ();

    /// A head that waits for a slot is not in service yet: service is the instant in which it gets
    /// the slot. So no newcomer overtakes a waiting request, and a steady stream of newcomers
    /// starves none.
    fn max_overtaking(_: &SlotRules) -> u32 {
        0
    }

    fn new(_: &SlotRules, _: &str, _: &Weak<WaitQueue<Self>>, _: Nanos) -> Self {
        Self::new()
    }

    fn take_immediately(&mut self, rules: &SlotRules, request: &TakeRequest) -> Option<TokenGrant> {
        match enter(self, rules, request) {
            (Some(admission), grant) if admission.slot.is_some() => Some(grant),
            _ => None,
        }
    }

    fn take(&mut self, rules: &SlotRules, request: &TakeRequest) -> SourceReply {
        match enter(self, rules, request) {
            (None, grant) => SourceReply::Rejected(grant),
            (Some(admission), grant) if admission.slot.is_some() => SourceReply::Granted(grant),
            (Some(_), grant) if request.deadline == NO_DEADLINE => SourceReply::Rejected(grant),
            _ => SourceReply::RetryAt(self.next_expiry().unwrap_or(Nanos::MAX)),
        }
    }

    fn return_tokens(&mut self, _: &SlotRules, _: f64, grant: &TokenGrant, now: Nanos) -> bool {
        grant.slot.is_some_and(|id| self.leave(id, now))
    }

    fn release_slot(&mut self, id: RequestId) {
        self.remove(id);
    }

    fn eviction_loss(&mut self, _: &SlotRules, last_used: Nanos, now: Nanos) -> EvictionLoss {
        match self.tokens_in_flight(now) {
            None => EvictionLoss::none(last_used),
            Some(tokens) => EvictionLoss {
                restored_at: Nanos::MAX,
                tokens,
                last_used,
            },
        }
    }

    fn give_up_at(deadline: Nanos) -> Nanos {
        match deadline {
            NO_DEADLINE => NO_DEADLINE,
            deadline => deadline.saturating_sub(DEADLINE_MARGIN),
        }
    }
}

/// Tries to take a slot. Returns `None` if too little time is left to look.
fn enter(
    slots: &mut InFlightSlots,
    rules: &SlotRules,
    request: &TakeRequest,
) -> (Option<Admission>, TokenGrant) {
    if request.deadline != NO_DEADLINE
        && request.deadline.saturating_sub(request.now) <= DEADLINE_MARGIN
    {
        return (None, TokenGrant::default());
    }
    // If the limit was lifted meanwhile, accept every waiting request.
    let capacity = rules.capacity().unwrap_or(f64::INFINITY);
    let admission = slots.enter(request.tokens, capacity, request.now, rules.lifetime());
    let grant = TokenGrant {
        remaining: admission.remaining,
        current: admission.current,
        slot: admission.slot,
        without_store: false,
    };
    (Some(admission), grant)
}
