//! `concurrency_scheduler`: a queue in front of the slots of a key.

use std::borrow::Cow;
use std::sync::Arc;

use super::keys::Keys;
use super::quota::{details, free, passed};
use super::supply::{Ask, Grant, Source, Take};
use super::workload::Workloads;
use crate::engine::clock::Nanos;
use crate::engine::limiters::concurrency_limiter::{Slots, key_of};
use crate::engine::limiters::ledger::{Ledger, Seen};
use crate::engine::limiters::rate_limiter::{Key, bucket_label};
use crate::engine::limiters::{DEADLINE_MARGIN, Decided, Scheduled, Surroundings};
use crate::engine::report::{LimiterDetails, LimiterReason};
use crate::engine::request_id::RequestId;
use crate::engine::stages::{Flow, NO_DEADLINE};
use crate::engine::store::Loss;
use crate::policy;

/// One concurrency scheduler of a policy.
///
/// An Agent polls for free slots, admits late, refuses early and loses slots; here a slot that is
/// given back or expires goes to the head of the queue at once, and a request waits until 10 ms
/// before its deadline. As there, a request without a deadline and a queue timeout does not wait.
#[derive(Debug)]
pub(crate) struct ConcurrencyScheduler {
    workloads: Workloads,
    /// Shared with the scheduler that takes over in a reload.
    keys: Arc<Keys<Ledger>>,
}

impl ConcurrencyScheduler {
    pub(crate) fn new(spec: &policy::ConcurrencyScheduler, around: &Surroundings) -> Self {
        let slots = Slots::new(&spec.slots);
        let limits = slots.limits(around.limits);
        let lasts = slots.lifetime().saturating_add(1);
        Self {
            workloads: Workloads::new(&spec.scheduler),
            keys: Arc::new(Keys::new(slots, limits, lasts, &around.clock)),
        }
    }

    /// The scheduler of a changed policy with the slots and queues of this one; `None` where those
    /// are others.
    pub(crate) fn successor(&self, spec: &policy::ConcurrencyScheduler) -> Option<Self> {
        let same = self.slots().label_key == spec.slots.limit_by_label_key;
        same.then(|| Self {
            workloads: Workloads::new(&spec.scheduler),
            keys: Arc::clone(&self.keys),
        })
    }

    /// Goes by the numbers of its policy, now that it is in force.
    pub(crate) fn take_over(&self, spec: &policy::ConcurrencyScheduler, now: Nanos) {
        let slots = self.slots();
        slots.take_over(&spec.slots);
        let lasts = slots.lifetime().saturating_add(1);
        self.keys.set_times(slots.max_idle(), lasts);
        self.keys.serve(now);
    }

    pub(crate) fn slots(&self) -> &Slots {
        self.keys.rules()
    }

    /// New values of the signals; with more room, those who wait come in.
    pub(crate) fn set(&self, max_concurrency: f64, pass_through: f64, now: Nanos) {
        self.slots().set(max_concurrency, pass_through);
        self.keys.serve(now);
    }

    pub(crate) fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    pub(crate) fn denied_code(&self) -> i32 {
        self.workloads.denied_code()
    }

    pub(crate) fn schedule(&self, flow: &Flow<'_, '_>, now: Nanos) -> Scheduled {
        if self.slots().capacity().is_none() {
            return passed(LimiterReason::Unspecified);
        }
        let Key::Bucket(key) = self.slots().key(flow) else {
            return passed(LimiterReason::KeyNotFound);
        };
        let request = self.workloads.request(flow, now, None);
        if request.tokens == 0.0 {
            return free();
        }
        self.keys.line(key, now).schedule(&request, now)
    }

    /// Frees a slot of the key that a label names.
    pub(crate) fn give_back(&self, label: &str, id: RequestId, now: Nanos) -> bool {
        key_of(self.slots().label_key.as_deref(), label)
            .and_then(|key| self.keys.known(key))
            .is_some_and(|line| line.put_back(0.0, Some(id), now))
    }

    pub(crate) fn report(&self, flow: &Flow<'_, '_>, decided: &Decided) -> LimiterDetails {
        let label = match self.slots().key(flow) {
            Key::Bucket(value) if decided.looked => {
                bucket_label(self.slots().label_key.as_deref(), value)
            }
            _ => Cow::Borrowed(""),
        };
        LimiterDetails::ConcurrencyScheduler {
            label,
            scheduler: details(&self.workloads, flow, decided, None),
            request_id: decided.request_id,
        }
    }

    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.keys.evicted()
    }
}

impl Source for Ledger {
    type Rules = Slots;

    /// A head that waits for a slot is not in service yet, as far as its flow is concerned: service
    /// is the instant in which it is granted one. So flows that come again and again starve none
    /// that waits.
    fn overtaking(_: &Slots) -> u32 {
        0
    }

    fn new(_: Nanos) -> Self {
        Self::new()
    }

    fn take_at_once(&mut self, slots: &Slots, ask: &Ask) -> Option<Grant> {
        match enter(self, slots, ask) {
            (Some(seen), grant) if seen.slot.is_some() => Some(grant),
            _ => None,
        }
    }

    fn take(&mut self, slots: &Slots, ask: &Ask) -> Take {
        match enter(self, slots, ask) {
            (None, grant) => Take::Refused(grant),
            (Some(seen), grant) if seen.slot.is_some() => Take::Granted(grant),
            (Some(_), grant) if ask.deadline == NO_DEADLINE => Take::Refused(grant),
            _ => Take::NotBefore(self.next_expiry().unwrap_or(Nanos::MAX)),
        }
    }

    fn put_back(&mut self, _: &Slots, _: f64, grant: &Grant, now: Nanos) -> bool {
        grant.slot.is_some_and(|id| self.leave(id, now))
    }

    fn loss(&mut self, _: &Slots, used: Nanos, now: Nanos) -> Loss {
        match self.taken(now) {
            None => Loss::none(used),
            Some(tokens) => Loss {
                until: Nanos::MAX,
                tokens,
                used,
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

/// `None` when it is too late to look.
fn enter(ledger: &mut Ledger, slots: &Slots, ask: &Ask) -> (Option<Seen>, Grant) {
    if ask.deadline != NO_DEADLINE && ask.deadline.saturating_sub(ask.now) <= DEADLINE_MARGIN {
        return (None, Grant::default());
    }
    // Whoever waited for slots that nobody counts any more may go.
    let capacity = slots.capacity().unwrap_or(f64::INFINITY);
    let seen = ledger.enter(ask.want, capacity, ask.now, slots.lifetime());
    let grant = Grant {
        remaining: seen.remaining,
        current: seen.current,
        slot: seen.slot,
    };
    (Some(seen), grant)
}
