//! The `concurrency_limiter` of an engine with a shared store: the slots of a key are in the store.

use std::sync::Arc;

use super::concurrency_limiter::{SlotRules, key_from_label};
use super::{ConcurrencyLimiter, Limiter, SharedLimiter};
use super::{FlowKey, requested_tokens};
use crate::engine::clock::{DecisionTime, Nanos};
use crate::engine::component::{
    ComponentContext, FromPolicy, LabelledSlots, PolicyComponent, ReportedKind, StartedReturn,
};
use crate::engine::control::{Actuator, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use crate::engine::engine_flow::{DEADLINE_MARGIN, EngineFlow};
use crate::engine::request_id::RequestId;
use crate::engine::schedulers::ScheduleResult;
use crate::engine::shared::{StoreAbsence, StoreAccess, StoreAnswer, StoreOperation, enter_slots};
use crate::policy::{self, ComponentKind};

/// One concurrency limiter of a policy, whose slots are in the shared store.
#[derive(Debug)]
pub(crate) struct SharedConcurrencyLimiter {
    store: StoreAccess,
    tokens_key: Option<Arc<str>>,
    denied_code: i32,
    /// Shared with the limiter that takes over in a reload.
    rules: Arc<SlotRules>,
    /// Decides without the store, by this engine's share of the slots.
    share: ConcurrencyLimiter,
}

impl SharedConcurrencyLimiter {
    fn decide_by_share(
        &self,
        flow: &EngineFlow<'_, '_>,
        capacity: f64,
        now: Nanos,
    ) -> DecisionWithSlot {
        let setting = Setting::Slots {
            max_concurrency: self.store.share_of(capacity),
            pass_through: f64::NAN,
        };
        self.share.apply(setting, now);
        let mut decided = self.share.decide(flow, &DecisionTime::at(now));
        decided.decision.without_store = true;
        decided
    }

    /// Decides without the store, which is slow or away.
    fn decide_without_store(
        &self,
        flow: &EngineFlow<'_, '_>,
        capacity: f64,
        now: Nanos,
    ) -> DecisionWithSlot {
        self.store.count_without_store();
        match self.store.absence() {
            StoreAbsence::LocalShare => self.decide_by_share(flow, capacity, now),
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
}

impl FromPolicy for SharedConcurrencyLimiter {
    type Spec = policy::ConcurrencyLimiter;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        ConcurrencyLimiter::spec(kind)
    }

    fn new(spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        let shared = context.shared.as_ref()?;
        let rules = SlotRules::new(&spec.slots);
        let label_key = rules.label_key.as_deref();
        Some(Self {
            store: shared.access(ReportedKind::ConcurrencyLimiter, label_key),
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            rules: Arc::new(rules),
            share: ConcurrencyLimiter::create(spec, context),
        })
    }

    /// Returns the limiter of a changed policy. The slots are in the store; the share continues.
    fn successor(&self, spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        Some(Self {
            share: self.share.successor(spec, context)?,
            store: self.store.clone(),
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            rules: Arc::clone(&self.rules),
        })
    }

    fn take_over(&self, from: &Self, spec: &Self::Spec, context: &ComponentContext, now: Nanos) {
        self.rules.take_over(&spec.slots);
        self.share.take_over(&from.share, spec, context, now);
    }
}

impl SharedLimiter for SharedConcurrencyLimiter {
    fn ask(&self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> ScheduleResult {
        let tokens = requested_tokens(self.tokens_key.as_deref(), flow);
        let (Some(capacity), FlowKey::Present(key)) = (self.rules.capacity(), self.rules.key(flow))
        else {
            let decision = ComponentDecision::not_evaluated(tokens);
            return ScheduleResult::Decided(decision.into());
        };
        if flow.time_left <= DEADLINE_MARGIN {
            return ScheduleResult::Decided(ComponentDecision::REJECTED.into());
        }
        let now = time.now();
        // A limit that is not finite is none that engines could share.
        if !capacity.is_finite() {
            return ScheduleResult::Decided(self.decide_by_share(flow, capacity, now));
        }
        if !self.store.is_available() {
            return ScheduleResult::Decided(self.decide_without_store(flow, capacity, now));
        }
        let key = self.store.key(key);
        let operation = enter_slots(key, tokens, capacity, self.rules.lifetime(), false);
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
        let StoreOperation::Enter(enter) = *answer.operation() else {
            return ComponentDecision::REJECTED.into();
        };
        let Some(outcome) = answer.slots() else {
            let flow = flow.decided_in_time();
            return self.decide_without_store(&flow, enter.capacity, now);
        };
        DecisionWithSlot {
            decision: ComponentDecision {
                dropped: !outcome.granted,
                remaining: enter.capacity - outcome.current,
                current: outcome.current,
                consumed: if outcome.granted { enter.tokens } else { 0.0 },
                // A rejected flow has an id as well; no slot belongs to it.
                request_id: Some(enter.id),
                ..ComponentDecision::REJECTED
            },
            slot: match outcome.granted {
                true => answer.into_slot(),
                false => None,
            },
        }
    }
}

impl PolicyComponent for SharedConcurrencyLimiter {
    fn reported_kind(&self) -> ReportedKind {
        ReportedKind::ConcurrencyLimiter
    }

    fn step(&self) -> DecisionStep {
        DecisionStep::SharedLimiters
    }

    fn denied_code(&self) -> i32 {
        self.denied_code
    }

    fn label_key(&self) -> Option<&str> {
        self.rules.label_key.as_deref()
    }

    fn required_label_key(&self) -> Option<&str> {
        self.rules.active_label_key()
    }

    fn slots(&self) -> Option<&dyn LabelledSlots> {
        Some(self)
    }

    /// Counts the keys with state in this process.
    fn keys(&self) -> usize {
        self.share.keys()
    }

    fn evicted(&self) -> u64 {
        self.share.evicted()
    }
}

impl LabelledSlots for SharedConcurrencyLimiter {
    fn are_limited(&self) -> bool {
        self.rules.capacity().is_some()
    }

    /// Returns true once the return is submitted.
    fn return_slot(&self, label: &str, id: RequestId, now: Nanos) -> bool {
        let Some(key) = key_from_label(self.rules.label_key.as_deref(), label) else {
            return false;
        };
        if !self.share.return_slot(label, id, now) {
            self.store.leave(self.store.key(key), id, None);
        }
        true
    }

    fn start_return(&self, label: &str, id: RequestId, now: Nanos) -> StartedReturn {
        let Some(key) = key_from_label(self.rules.label_key.as_deref(), label) else {
            return StartedReturn::Done(false);
        };
        if self.share.return_slot(label, id, now) {
            return StartedReturn::Done(true);
        }
        let key = self.store.key(key);
        StartedReturn::Asked(self.store.start_leave(key, id, None, now))
    }
}

impl Actuator for SharedConcurrencyLimiter {
    fn apply(&self, setting: Setting, _: Nanos) -> bool {
        let Setting::Slots {
            max_concurrency,
            pass_through,
        } = setting
        else {
            return false;
        };
        self.rules.set(max_concurrency, pass_through);
        true
    }
}
