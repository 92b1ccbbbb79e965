//! The `concurrency_limiter`: bounds the flows in flight per key.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::in_flight_slots::{Admission, InFlightSlots};
use super::{FlowKey, Limiter, requested_tokens};
use crate::engine::atomic_signal::AtomicSignal;
use crate::engine::clock::{Clock, DecisionTime, Nanos, nanos};
use crate::engine::component::{
    ComponentContext, FromPolicy, LabelledSlots, PolicyComponent, ReportedKind,
};
use crate::engine::control::{Actuator, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use crate::engine::engine_flow::{DEADLINE_MARGIN, EngineFlow};
use crate::engine::held_slots::{HeldSlot, SlotOwner};
use crate::engine::request_id::RequestId;
use crate::engine::store::{EvictionLoss, Store, StoreLimits, StoredState};
use crate::engine::sync::{Mutex, lock};
use crate::policy::{self, ComponentKind};

/// One concurrency limiter of a policy.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimiter {
    tokens_key: Option<Arc<str>>,
    denied_code: i32,
    /// This and `keys` are shared with the limiter that takes over in a reload.
    rules: Arc<SlotRules>,
    keys: Arc<Store<LimiterKey>>,
    clock: Arc<dyn Clock>,
}

/// What a policy sets for slots, in concurrency limiters and concurrency schedulers alike.
#[derive(Debug)]
pub(crate) struct SlotRules {
    pub(crate) label_key: Option<Arc<str>>,
    lifetime: AtomicI64,
    max_idle: AtomicI64,
    /// The signals; NaN means invalid.
    max_concurrency: AtomicSignal,
    pass_through: AtomicSignal,
}

impl SlotRules {
    pub(crate) fn new(spec: &policy::Slots) -> Self {
        Self {
            label_key: spec.limit_by_label_key.clone(),
            lifetime: AtomicI64::new(nanos(spec.max_inflight_duration)),
            max_idle: AtomicI64::new(max_idle(spec)),
            max_concurrency: AtomicSignal::new(spec.max_concurrency.initial()),
            pass_through: AtomicSignal::new(spec.pass_through.initial()),
        }
    }

    /// Takes over the values of a changed policy. Flows in flight keep the lifetime that was in
    /// force when they began.
    pub(crate) fn take_over(&self, spec: &policy::Slots) {
        let lifetime = nanos(spec.max_inflight_duration);
        self.lifetime.store(lifetime, Ordering::Relaxed);
        self.max_idle.store(max_idle(spec), Ordering::Relaxed);
        self.max_concurrency.set_if_constant(spec.max_concurrency);
        self.pass_through.set_if_constant(spec.pass_through);
    }

    pub(crate) fn lifetime(&self) -> Nanos {
        self.lifetime.load(Ordering::Relaxed)
    }

    pub(crate) fn max_idle(&self) -> Nanos {
        self.max_idle.load(Ordering::Relaxed)
    }

    /// Sets new values of the signals.
    pub(crate) fn set(&self, max_concurrency: f64, pass_through: f64) {
        self.max_concurrency.set(max_concurrency);
        self.pass_through.set(pass_through);
    }

    /// Returns the capacity in tokens, or `None` if the component accepts every flow.
    pub(crate) fn capacity(&self) -> Option<f64> {
        let pass = self.pass_through.get();
        let capacity = self.max_concurrency.get();
        let open = capacity.is_nan() || !(pass.is_nan() || pass == 0.0);
        (!open).then_some(capacity)
    }

    /// Returns the label key that the component limits by, or `None` if it accepts every flow.
    pub(crate) fn active_label_key(&self) -> Option<&str> {
        self.capacity().and(self.label_key.as_deref())
    }

    #[inline(always)]
    pub(crate) fn key<'a>(&self, flow: &EngineFlow<'a, '_>) -> FlowKey<'a> {
        match &self.label_key {
            None => FlowKey::Present(""),
            Some(label) => match flow.labels.get(label) {
                None => FlowKey::Missing,
                Some(value) => FlowKey::Present(value),
            },
        }
    }

    pub(crate) fn limits(&self, limits: StoreLimits) -> StoreLimits {
        let max_idle = self.max_idle();
        match self.label_key {
            Some(_) => StoreLimits { max_idle, ..limits },
            None => StoreLimits {
                max_idle,
                keys: 1,
                ..limits
            },
        }
    }
}

/// Returns the idle time after which a key expires. Zero means never, as for buckets.
fn max_idle(spec: &policy::Slots) -> Nanos {
    match nanos(spec.max_idle_time) {
        0 => Nanos::MAX,
        time => time,
    }
}

/// A key of a concurrency limiter in its store.
#[derive(Debug)]
struct LimiterKey {
    slots: Option<Arc<KeySlots>>,
    last_used: Nanos,
    /// By this time the last slot of the key has expired.
    held_until: Nanos,
}

/// The flows in flight of a key, shared with the tickets of those flows.
#[derive(Debug)]
struct KeySlots {
    slots: Mutex<InFlightSlots>,
    clock: Arc<dyn Clock>,
}

impl StoredState for LimiterKey {
    type Rules = ();

    fn new() -> Self {
        Self {
            slots: None,
            last_used: Nanos::MIN,
            held_until: Nanos::MIN,
        }
    }

    fn expires_at(&self, max_idle: Nanos) -> Nanos {
        self.last_used.saturating_add(max_idle).max(self.held_until)
    }

    fn eviction_loss(&self, (): &(), now: Nanos) -> EvictionLoss {
        let Some(slots) = &self.slots else {
            return EvictionLoss::none(self.last_used);
        };
        match lock(&slots.slots).tokens_in_flight(now) {
            Some(tokens) => EvictionLoss {
                restored_at: Nanos::MAX,
                tokens,
                last_used: self.last_used,
            },
            // A flow that is being decided is about to take a slot.
            None if Arc::strong_count(slots) > 1 => EvictionLoss::all(self.last_used),
            None => EvictionLoss::none(self.last_used),
        }
    }
}

impl SlotOwner for KeySlots {
    fn return_slot(&self, id: RequestId) -> bool {
        let now = nanos(self.clock.now());
        lock(&self.slots).leave(id, now)
    }

    fn release_slot(&self, id: RequestId) {
        lock(&self.slots).remove(id);
    }
}

impl ConcurrencyLimiter {
    fn key_slots(&self, key: &str, now: Nanos) -> Arc<KeySlots> {
        let lifetime = self.rules.lifetime();
        let max_idle = self.rules.max_idle();
        self.keys.update(key, now, &(), |entry| {
            if entry.expires_at(max_idle) <= now {
                entry.slots = None;
            }
            entry.last_used = now.max(entry.last_used);
            // One nanosecond after the lifetime of the slot, because the last nanosecond still
            // counts.
            let held_until = entry.last_used.saturating_add(lifetime).saturating_add(1);
            entry.held_until = held_until.max(entry.held_until);
            let slots = entry.slots.get_or_insert_with(|| {
                Arc::new(KeySlots {
                    slots: Mutex::new(InFlightSlots::new()),
                    clock: Arc::clone(&self.clock),
                })
            });
            Arc::clone(slots)
        })
    }

    /// Creates the limiter without state.
    pub(super) fn create(spec: &policy::ConcurrencyLimiter, context: &ComponentContext) -> Self {
        let rules = SlotRules::new(&spec.slots);
        Self {
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            keys: Arc::new(Store::new(rules.limits(context.limits))),
            rules: Arc::new(rules),
            clock: Arc::clone(&context.clock),
        }
    }
}

impl FromPolicy for ConcurrencyLimiter {
    type Spec = policy::ConcurrencyLimiter;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        match kind {
            ComponentKind::ConcurrencyLimiter(spec) => Some(spec),
            _ => None,
        }
    }

    fn new(spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        let in_process = context.shared.is_none();
        in_process.then(|| Self::create(spec, context))
    }

    /// Returns the limiter of a changed policy, sharing the slots of this one. Returns `None` if
    /// the limiter limits by another label, because its slots are different ones then.
    fn successor(&self, spec: &Self::Spec, _: &ComponentContext) -> Option<Self> {
        let same = self.rules.label_key == spec.slots.limit_by_label_key;
        same.then(|| Self {
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            rules: Arc::clone(&self.rules),
            keys: Arc::clone(&self.keys),
            clock: Arc::clone(&self.clock),
        })
    }

    /// Applies the values of its policy, now that the policy is in force.
    fn take_over(&self, _: &Self, spec: &Self::Spec, _: &ComponentContext, _: Nanos) {
        self.rules.take_over(&spec.slots);
        self.keys.set_max_idle(self.rules.max_idle());
    }
}

impl Limiter for ConcurrencyLimiter {
    #[inline(always)]
    fn decide(&self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> DecisionWithSlot {
        let tokens = requested_tokens(self.tokens_key.as_deref(), flow);
        let (Some(capacity), FlowKey::Present(key)) = (self.rules.capacity(), self.rules.key(flow))
        else {
            return ComponentDecision::not_evaluated(tokens).into();
        };
        if flow.time_left <= DEADLINE_MARGIN {
            return ComponentDecision::REJECTED.into();
        }
        let now = time.now();
        let key_slots = self.key_slots(key, now);
        let lifetime = self.rules.lifetime();
        let admission = lock(&key_slots.slots).enter(tokens, capacity, now, lifetime);
        DecisionWithSlot {
            slot: admission.slot.map(|id| HeldSlot::new(key_slots, id)),
            decision: decision_of(admission, tokens),
        }
    }
}

impl PolicyComponent for ConcurrencyLimiter {
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

    fn keys(&self) -> usize {
        self.keys.len()
    }

    fn evicted(&self) -> u64 {
        self.keys.evicted()
    }
}

impl LabelledSlots for ConcurrencyLimiter {
    fn are_limited(&self) -> bool {
        self.rules.capacity().is_some()
    }

    fn return_slot(&self, label: &str, id: RequestId, now: Nanos) -> bool {
        let Some(key) = key_from_label(self.rules.label_key.as_deref(), label) else {
            return false;
        };
        let entry = self.keys.peek(key, |entry| entry.slots.clone());
        entry
            .flatten()
            .is_some_and(|slots| lock(&slots.slots).leave(id, now))
    }
}

impl Actuator for ConcurrencyLimiter {
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

/// Returns the key that a label in a report stands for.
pub(crate) fn key_from_label<'a>(label_key: Option<&str>, label: &'a str) -> Option<&'a str> {
    match label_key {
        None => (label == "default").then_some(""),
        Some(key) => label.strip_prefix(key)?.strip_prefix(':'),
    }
}

/// An index beyond every slot table.
const NO_ENTRY: u32 = u32::MAX;

/// Returns the decision that an admission, or its refusal, is for a flow of `tokens`.
#[inline(always)]
pub(super) fn decision_of(admission: Admission, tokens: f64) -> ComponentDecision {
    let ok = admission.slot.is_some();
    ComponentDecision {
        dropped: !ok,
        key_missing: false,
        wait: 0,
        unsatisfiable: false,
        remaining: admission.remaining,
        current: admission.current,
        consumed: if ok { tokens } else { 0.0 },
        // A rejected flow gets an id as well, as an Agent gives one; no slot belongs to it.
        request_id: admission.slot.or_else(|| Some(RequestId::new(NO_ENTRY))),
        evaluated: true,
        without_store: false,
        queued: 0,
        overtaken: None,
    }
}
