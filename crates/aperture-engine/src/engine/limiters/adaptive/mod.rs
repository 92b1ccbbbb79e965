//! The concurrency limiter that finds its limit: bounds the flows in flight per key by their
//! latency.
//!
//! This is not a component of Aperture. In reports and metrics it is a concurrency limiter.

mod gradient;
mod key;
mod learned;
#[cfg(test)]
mod tests;
mod tuning;
mod vegas;
mod window;

use std::sync::Arc;

use arc_swap::ArcSwap;

use self::key::{KeySlots, StoredKey};
use self::learned::Learned;
use self::tuning::Tuning;
use super::Limiter;
use super::concurrency_limiter::{SlotRules, decision_of, key_from_label};
use super::{FlowKey, requested_tokens};
use crate::engine::clock::{Clock, DecisionTime, Nanos};
use crate::engine::component::{
    ComponentContext, FromPolicy, LabelledSlots, PolicyComponent, ReportedKind,
};
use crate::engine::control::{Actuator, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use crate::engine::engine_flow::{DEADLINE_MARGIN, EngineFlow};
use crate::engine::held_slots::HeldSlot;
use crate::engine::request_id::RequestId;
use crate::engine::store::{Store, StoredState};
use crate::policy::{self, ComponentKind};
use aperture_core::{FlowOutcome, FlowStatus};

/// One adaptive concurrency limiter of a policy.
#[derive(Debug)]
pub(crate) struct AdaptiveLimiter {
    tokens_key: Option<Arc<str>>,
    denied_code: i32,
    /// This, `tuning` and `keys` are shared with the limiter that takes over in a reload.
    rules: Arc<SlotRules>,
    tuning: Arc<ArcSwap<Tuning>>,
    keys: Arc<Store<StoredKey>>,
    clock: Arc<dyn Clock>,
}

/// The limits in force of all keys of a limiter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LimitsInForce {
    pub(crate) keys: usize,
    pub(crate) lowest: f64,
    pub(crate) mean: f64,
    pub(crate) highest: f64,
}

impl AdaptiveLimiter {
    fn key_slots(&self, key: &str, now: Nanos) -> Arc<KeySlots> {
        let lifetime = self.rules.lifetime();
        let max_idle = self.rules.max_idle();
        self.keys.update(key, now, &max_idle, |entry| {
            if entry.expires_at(max_idle) <= now {
                entry.slots = None;
            }
            entry.last_used = now.max(entry.last_used);
            // One nanosecond after the lifetime of the slot, because the last nanosecond still
            // counts.
            let held_until = entry.last_used.saturating_add(lifetime).saturating_add(1);
            entry.held_until = held_until.max(entry.held_until);
            let slots = entry
                .slots
                .get_or_insert_with(|| Arc::new(KeySlots::new(&self.tuning, &self.clock)));
            Arc::clone(slots)
        })
    }
}

impl FromPolicy for AdaptiveLimiter {
    type Spec = policy::AdaptiveConcurrencyLimiter;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        match kind {
            ComponentKind::AdaptiveConcurrencyLimiter(spec) => Some(spec),
            _ => None,
        }
    }

    fn new(spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        let rules = SlotRules::new(&spec.slots);
        Some(Self {
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            keys: Arc::new(Store::new(rules.limits(context.limits))),
            rules: Arc::new(rules),
            tuning: Arc::new(ArcSwap::from_pointee(Tuning::new(&spec.adaptive))),
            clock: Arc::clone(&context.clock),
        })
    }

    /// Returns the limiter of a changed policy, sharing the slots and the learned limits of this
    /// one. Returns `None` if the limiter limits by another label, because its keys are different
    /// ones then.
    fn successor(&self, spec: &Self::Spec, _: &ComponentContext) -> Option<Self> {
        let same = self.rules.label_key == spec.slots.limit_by_label_key;
        same.then(|| Self {
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            rules: Arc::clone(&self.rules),
            tuning: Arc::clone(&self.tuning),
            keys: Arc::clone(&self.keys),
            clock: Arc::clone(&self.clock),
        })
    }

    /// Applies the values of its policy, now that the policy is in force.
    fn take_over(&self, _: &Self, spec: &Self::Spec, _: &ComponentContext, _: Nanos) {
        self.rules.take_over(&spec.slots);
        self.tuning.store(Arc::new(Tuning::new(&spec.adaptive)));
        self.keys.set_max_idle(self.rules.max_idle());
    }
}

impl Limiter for AdaptiveLimiter {
    fn decide(&self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> DecisionWithSlot {
        let tokens = requested_tokens(self.tokens_key.as_deref(), flow);
        let (Some(_), FlowKey::Present(key)) = (self.rules.capacity(), self.rules.key(flow)) else {
            return ComponentDecision::not_evaluated(tokens).into();
        };
        if flow.time_left <= DEADLINE_MARGIN {
            return ComponentDecision::REJECTED.into();
        }
        let now = time.now();
        let key_slots = self.key_slots(key, now);
        let admission = key_slots.enter(tokens, now, self.rules.lifetime());
        DecisionWithSlot {
            slot: admission.slot.map(|id| HeldSlot::new(key_slots, id)),
            decision: decision_of(admission, tokens),
        }
    }
}

impl PolicyComponent for AdaptiveLimiter {
    fn reported_kind(&self) -> ReportedKind {
        ReportedKind::ConcurrencyLimiter
    }

    fn step(&self) -> DecisionStep {
        DecisionStep::Limiters
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

    fn limits_in_force(&self) -> Option<LimitsInForce> {
        let (mut keys, mut sum) = (0_u32, 0.0);
        let (mut lowest, mut highest) = (f64::INFINITY, 0.0_f64);
        self.keys.each(|entry| {
            if let Some(slots) = &entry.slots {
                let limit = slots.limit();
                keys = keys.saturating_add(1);
                sum += limit;
                lowest = lowest.min(limit);
                highest = highest.max(limit);
            }
        });
        let tuning = **self.tuning.load();
        let new_key = Learned::new(&tuning).in_force(&tuning);
        Some(match keys {
            0 => LimitsInForce {
                keys: 0,
                lowest: new_key,
                mean: new_key,
                highest: new_key,
            },
            keys => LimitsInForce {
                keys: keys as usize,
                lowest,
                mean: sum / f64::from(keys),
                highest,
            },
        })
    }

    fn keys(&self) -> usize {
        self.keys.len()
    }

    fn evicted(&self) -> u64 {
        self.keys.evicted()
    }
}

impl LabelledSlots for AdaptiveLimiter {
    fn are_limited(&self) -> bool {
        self.rules.capacity().is_some()
    }

    /// A flow that ends by reference has no outcome. It counts as one that was served.
    fn return_slot(&self, label: &str, id: RequestId, now: Nanos) -> bool {
        let Some(key) = key_from_label(self.rules.label_key.as_deref(), label) else {
            return false;
        };
        let slots = self.keys.peek(key, |entry| entry.slots.clone()).flatten();
        slots.is_some_and(|slots| slots.end(id, FlowOutcome::new(FlowStatus::Ok), now))
    }
}

impl Actuator for AdaptiveLimiter {
    /// Applies `pass_through`; the limit is not that of the circuit.
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
