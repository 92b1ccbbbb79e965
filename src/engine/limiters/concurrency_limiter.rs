//! `concurrency_limiter`: so many flows of a key at a time.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::ledger::{Ledger, Seen};
use super::rate_limiter::{Key, bucket_label, tokens_of};
use super::{DEADLINE_MARGIN, Decided};
use crate::engine::atomic_signal::AtomicSignal;
use crate::engine::clock::{Clock, Nanos, nanos};
use crate::engine::report::{LimiterDetails, LimiterReason};
use crate::engine::request_id::RequestId;
use crate::engine::stages::Flow;
use crate::engine::store::{Kept, Limits, Loss, Store, lock};
use crate::engine::sync::Mutex;
use crate::engine::ticket::{Held, Holder};
use crate::policy;

/// One concurrency limiter of a policy.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimiter {
    tokens_key: Option<Arc<str>>,
    denied_code: i32,
    /// Both are shared with the limiter that takes over in a reload.
    slots: Arc<Slots>,
    keys: Arc<Store<Entry>>,
    clock: Arc<dyn Clock>,
}

/// What a policy says about ledgers, of limiters and schedulers alike.
#[derive(Debug)]
pub(crate) struct Slots {
    pub(crate) label_key: Option<Arc<str>>,
    lifetime: AtomicI64,
    max_idle: AtomicI64,
    /// NaN is invalid.
    max_concurrency: AtomicSignal,
    pass_through: AtomicSignal,
}

impl Slots {
    pub(crate) fn new(spec: &policy::Slots) -> Self {
        Self {
            label_key: spec.limit_by_label_key.clone(),
            lifetime: AtomicI64::new(nanos(spec.max_inflight_duration)),
            max_idle: AtomicI64::new(max_idle(spec)),
            max_concurrency: AtomicSignal::new(spec.max_concurrency.initial()),
            pass_through: AtomicSignal::new(spec.pass_through.initial()),
        }
    }

    /// Takes over what a changed policy says. What is in flight stays in flight, for as long as it
    /// was allowed to when it began.
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

    /// New values of the signals.
    pub(crate) fn set(&self, max_concurrency: f64, pass_through: f64) {
        self.max_concurrency.set(max_concurrency);
        self.pass_through.set(pass_through);
    }

    /// `None` lets everything pass.
    pub(crate) fn capacity(&self) -> Option<f64> {
        let pass = self.pass_through.get();
        let capacity = self.max_concurrency.get();
        let open = capacity.is_nan() || !(pass.is_nan() || pass == 0.0);
        (!open).then_some(capacity)
    }

    /// The label that it limits by, unless everything passes.
    pub(crate) fn label_in_use(&self) -> Option<&str> {
        self.capacity().and(self.label_key.as_deref())
    }

    #[inline(always)]
    pub(crate) fn key<'a>(&self, flow: &Flow<'a, '_>) -> Key<'a> {
        match &self.label_key {
            None => Key::Bucket(""),
            Some(label) => match flow.labels.get(label) {
                None => Key::Missing,
                Some(value) => Key::Bucket(value),
            },
        }
    }

    pub(crate) fn limits(&self, limits: Limits) -> Limits {
        let max_idle = self.max_idle();
        match self.label_key {
            Some(_) => Limits { max_idle, ..limits },
            None => Limits {
                max_idle,
                keys: 1,
                ..limits
            },
        }
    }
}

/// As for buckets: zero is never.
fn max_idle(spec: &policy::Slots) -> Nanos {
    match nanos(spec.max_idle_time) {
        0 => Nanos::MAX,
        time => time,
    }
}

/// A key as its store keeps it.
#[derive(Debug)]
struct Entry {
    key: Option<Arc<InFlight>>,
    used: Nanos,
    /// The last of its slots has expired by then.
    held_until: Nanos,
}

/// The flows in flight of a key, shared with the tickets of those flows.
#[derive(Debug)]
struct InFlight {
    ledger: Mutex<Ledger>,
    clock: Arc<dyn Clock>,
}

impl Kept for Entry {
    type Rules = ();

    fn new() -> Self {
        Self {
            key: None,
            used: Nanos::MIN,
            held_until: Nanos::MIN,
        }
    }

    fn forget_at(&self, max_idle: Nanos) -> Nanos {
        self.used.saturating_add(max_idle).max(self.held_until)
    }

    fn loss(&self, (): &(), now: Nanos) -> Loss {
        let Some(key) = &self.key else {
            return Loss::none(self.used);
        };
        match lock(&key.ledger).taken(now) {
            Some(tokens) => Loss {
                until: Nanos::MAX,
                tokens,
                used: self.used,
            },
            // A flow that is being decided is about to take one.
            None if Arc::strong_count(key) > 1 => Loss::all(self.used),
            None => Loss::none(self.used),
        }
    }
}

impl Holder for InFlight {
    fn give_back(&self, id: RequestId) -> bool {
        let now = nanos(self.clock.now());
        lock(&self.ledger).leave(id, now)
    }

    fn let_go(&self, id: RequestId) {
        lock(&self.ledger).forget(id);
    }
}

impl ConcurrencyLimiter {
    pub(crate) fn new(
        spec: &policy::ConcurrencyLimiter,
        limits: Limits,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let slots = Slots::new(&spec.slots);
        Self {
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            keys: Arc::new(Store::new(slots.limits(limits))),
            slots: Arc::new(slots),
            clock: Arc::clone(clock),
        }
    }

    /// The limiter of a changed policy with the slots of this one; `None` where those are others.
    pub(super) fn successor(&self, spec: &policy::ConcurrencyLimiter) -> Option<Self> {
        let same = self.slots.label_key == spec.slots.limit_by_label_key;
        same.then(|| Self {
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            slots: Arc::clone(&self.slots),
            keys: Arc::clone(&self.keys),
            clock: Arc::clone(&self.clock),
        })
    }

    /// Goes by the numbers of its policy, now that it is in force.
    pub(super) fn take_over(&self, spec: &policy::ConcurrencyLimiter) {
        self.slots.take_over(&spec.slots);
        self.keys.set_max_idle(self.slots.max_idle());
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    pub(super) fn denied_code(&self) -> i32 {
        self.denied_code
    }

    #[inline(always)]
    pub(super) fn decide(&self, flow: &Flow<'_, '_>, now: Nanos) -> (Decided, Option<Held>) {
        let tokens = tokens_of(self.tokens_key.as_deref(), flow);
        let (Some(capacity), Key::Bucket(key)) = (self.slots.capacity(), self.slots.key(flow))
        else {
            return (Decided::untouched(tokens), None);
        };
        if flow.time_left <= DEADLINE_MARGIN {
            return (Decided::REFUSED, None);
        }
        let key = self.at(key, now);
        let lifetime = self.slots.lifetime();
        let seen = lock(&key.ledger).enter(tokens, capacity, now, lifetime);
        let held = seen.slot.map(|id| Held::new(key, id));
        (Decided::seen(seen, tokens), held)
    }

    fn at(&self, key: &str, now: Nanos) -> Arc<InFlight> {
        let lifetime = self.slots.lifetime();
        let max_idle = self.slots.max_idle();
        self.keys.update(key, now, &(), |entry| {
            if entry.forget_at(max_idle) <= now {
                entry.key = None;
            }
            entry.used = now.max(entry.used);
            // One nanosecond more than a slot's last.
            let held_until = entry.used.saturating_add(lifetime).saturating_add(1);
            entry.held_until = held_until.max(entry.held_until);
            let key = entry.key.get_or_insert_with(|| {
                Arc::new(InFlight {
                    ledger: Mutex::new(Ledger::new()),
                    clock: Arc::clone(&self.clock),
                })
            });
            Arc::clone(key)
        })
    }

    /// Frees a slot of the key that a label names.
    pub(crate) fn give_back(&self, label: &str, id: RequestId, now: Nanos) -> bool {
        let Some(key) = key_of(self.slots.label_key.as_deref(), label) else {
            return false;
        };
        let entry = self.keys.look(key, |entry| entry.key.clone());
        entry
            .flatten()
            .is_some_and(|key| lock(&key.ledger).leave(id, now))
    }

    pub(super) fn report(&self, flow: &Flow<'_, '_>, decided: &Decided) -> LimiterDetails {
        let label = match self.slots.key(flow) {
            Key::Bucket(value) if decided.looked => {
                bucket_label(self.slots.label_key.as_deref(), value)
            }
            _ => Cow::Borrowed(""),
        };
        LimiterDetails::ConcurrencyLimiter {
            label,
            tokens: decided.tokens(),
            request_id: decided.request_id,
        }
    }

    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.keys.evicted()
    }
}

/// A key's text, from the label that decisions tell.
pub(crate) fn key_of<'a>(label_key: Option<&str>, label: &'a str) -> Option<&'a str> {
    match label_key {
        None => (label == "default").then_some(""),
        Some(key) => label.strip_prefix(key)?.strip_prefix(':'),
    }
}

/// Where no ledger has an entry.
const NOWHERE: u32 = u32::MAX;

impl Decided {
    /// Let through without having looked: no key, or nothing to limit by.
    pub(crate) const fn untouched(tokens: f64) -> Self {
        Self {
            dropped: false,
            reason: LimiterReason::KeyNotFound,
            wait: 0,
            hopeless: false,
            remaining: 0.0,
            current: 0.0,
            consumed: tokens,
            request_id: None,
            looked: false,
            queued: 0,
            overtaken: None,
        }
    }

    /// No, without having looked.
    pub(crate) const REFUSED: Self = Self {
        dropped: true,
        reason: LimiterReason::Unspecified,
        wait: 0,
        hopeless: false,
        remaining: 0.0,
        current: 0.0,
        consumed: 0.0,
        request_id: None,
        looked: true,
        queued: 0,
        overtaken: None,
    };

    pub(crate) fn seen(seen: Seen, tokens: f64) -> Self {
        let ok = seen.slot.is_some();
        Self {
            dropped: !ok,
            reason: LimiterReason::Unspecified,
            wait: 0,
            hopeless: false,
            remaining: seen.remaining,
            current: seen.current,
            consumed: if ok { tokens } else { 0.0 },
            // One that is turned away is told an id, too; nothing is held under it.
            request_id: seen.slot.or_else(|| Some(RequestId::new(NOWHERE))),
            looked: true,
            queued: 0,
            overtaken: None,
        }
    }
}
