//! The slots of a concurrency scheduler in a shared store, from which the head of the queue takes.

use std::sync::Weak;

use super::token_source::{SourceReply, TakeRequest, TokenGrant, TokenSource};
use super::wait_queue::WaitQueue;
use crate::engine::clock::{Nanos, nanos};
use crate::engine::engine_flow::{DEADLINE_MARGIN, NO_DEADLINE};
use crate::engine::limiters::concurrency_limiter::SlotRules;
use crate::engine::limiters::in_flight_slots::InFlightSlots;
use crate::engine::request_id::RequestId;
use crate::engine::shared::{
    SlotListener, SlotsOutcome, StoreAbsence, StoreAccess, StoreAnswer, StoreAsk, StoreKey,
    StoreOperation, StoreOutbox, enter_slots,
};
use crate::engine::store::EvictionLoss;

/// The time after which the head of a queue asks the store again, if no engine announced a free
/// slot.
const ASK_AGAIN: Nanos = 100_000_000;

/// The rules that hold for the slots of all keys of the scheduler.
#[derive(Debug)]
pub(crate) struct SharedSlotRules {
    pub(super) store: StoreAccess,
    pub(super) slots: SlotRules,
}

impl SharedSlotRules {
    /// Returns this engine's share of the slots. A limit that was lifted has no end.
    fn share(&self) -> f64 {
        let capacity = self.slots.capacity();
        capacity.map_or(f64::INFINITY, |capacity| self.store.share_of(capacity))
    }
}

/// The slots of a key in the store.
#[derive(Debug)]
pub(crate) struct SharedSlots {
    key: StoreKey,
    queue: Weak<WaitQueue<Self>>,
    listens: bool,
    /// The question of the head of the queue, one at a time.
    ask: Option<StoreAsk>,
    /// The capacity that the head was rejected by.
    asked_capacity: f64,
    /// When the head asks again.
    ask_again_at: Nanos,
    /// True if a slot was returned since the head asked.
    freed: bool,
    /// The slots of this engine's share, for the time without the store.
    share: InFlightSlots,
    outbox: StoreOutbox,
}

impl SharedSlots {
    /// Takes a slot of this engine's share, if one is free.
    pub(super) fn take_share(
        &mut self,
        rules: &SharedSlotRules,
        request: &TakeRequest,
    ) -> Option<TokenGrant> {
        if time_left(request) <= DEADLINE_MARGIN {
            return None;
        }
        let (capacity, lifetime) = (rules.share(), rules.slots.lifetime());
        let admission = self
            .share
            .enter(request.tokens, capacity, request.now, lifetime);
        admission.slot.map(|id| TokenGrant {
            remaining: admission.remaining,
            current: admission.current,
            slot: Some(id),
            without_store: true,
        })
    }

    /// Returns a slot of this engine's share. Returns false if it is none.
    pub(super) fn return_share(&mut self, id: RequestId, now: Nanos) -> bool {
        let returned = self.share.leave(id, now);
        self.freed |= returned;
        returned
    }

    /// Decides for the head without the store, which is slow or away.
    fn take_without_store(
        &mut self,
        rules: &SharedSlotRules,
        request: &TakeRequest,
    ) -> SourceReply {
        let without_store = TokenGrant {
            without_store: true,
            ..TokenGrant::default()
        };
        let reply = match rules.store.absence() {
            StoreAbsence::Open => SourceReply::Granted(without_store),
            StoreAbsence::Closed => SourceReply::Rejected(without_store),
            StoreAbsence::LocalShare => match self.take_share(rules, request) {
                Some(grant) => SourceReply::Granted(grant),
                None if request.deadline == NO_DEADLINE => SourceReply::Rejected(without_store),
                None => {
                    let expiry = self.share.next_expiry().unwrap_or(Nanos::MAX);
                    return self.wait_until(rules.share(), expiry, request.now);
                }
            },
        };
        rules.store.count_without_store();
        reply
    }

    /// Makes the head wait until a slot is returned, or until this time.
    fn wait_until(&mut self, capacity: f64, expiry: Nanos, now: Nanos) -> SourceReply {
        self.asked_capacity = capacity;
        self.ask_again_at = expiry.min(now.saturating_add(ASK_AGAIN));
        self.freed = false;
        SourceReply::RetryAt(self.ask_again_at)
    }

    /// Continues with the answer of the store. Returns `None` if the head asks again at once.
    fn take_answer(
        &mut self,
        rules: &SharedSlotRules,
        request: &TakeRequest,
        answer: &StoreAnswer,
    ) -> Option<SourceReply> {
        let (Some(outcome), StoreOperation::Enter(enter)) = (answer.slots(), answer.operation())
        else {
            return Some(self.take_without_store(rules, request));
        };
        let grant = TokenGrant {
            remaining: enter.capacity - outcome.current,
            current: outcome.current,
            slot: outcome.granted.then_some(enter.id),
            without_store: false,
        };
        let SlotsOutcome {
            granted,
            next_expiry,
            ..
        } = outcome;
        match granted {
            true => {
                self.ask_again_at = Nanos::MIN;
                Some(SourceReply::Granted(grant))
            }
            false if request.deadline == NO_DEADLINE => Some(SourceReply::Rejected(grant)),
            // A slot was returned after the store had answered.
            false if self.freed => None,
            false => {
                let expiry = next_expiry.map_or(Nanos::MAX, |time| {
                    request.now.saturating_add(nanos(time)).saturating_add(1)
                });
                Some(self.wait_until(enter.capacity, expiry, request.now))
            }
        }
    }
}

impl TokenSource for SharedSlots {
    type Rules = SharedSlotRules;
    type Outbox = (StoreOutbox, Weak<WaitQueue<Self>>);

    /// As for slots in process.
    fn max_overtaking(_: &SharedSlotRules) -> u32 {
        0
    }

    fn new(rules: &SharedSlotRules, key: &str, queue: &Weak<WaitQueue<Self>>, _: Nanos) -> Self {
        Self {
            key: rules.store.key(key),
            queue: Weak::clone(queue),
            listens: false,
            ask: None,
            asked_capacity: 0.0,
            ask_again_at: Nanos::MIN,
            freed: false,
            share: InFlightSlots::new(),
            outbox: StoreOutbox::default(),
        }
    }

    /// Takes a slot without the store. With it, its caller has asked, or the head asks.
    fn take_immediately(
        &mut self,
        rules: &SharedSlotRules,
        request: &TakeRequest,
    ) -> Option<TokenGrant> {
        let is_finite = rules.slots.capacity().is_some_and(f64::is_finite);
        let shares = rules.store.absence() == StoreAbsence::LocalShare;
        if is_finite && (rules.store.is_available() || !shares) {
            return None;
        }
        self.take_share(rules, request)
    }

    fn take(&mut self, rules: &SharedSlotRules, request: &TakeRequest) -> SourceReply {
        if time_left(request) <= DEADLINE_MARGIN {
            self.head_left();
            return SourceReply::Rejected(TokenGrant::default());
        }
        let capacity = rules.slots.capacity().unwrap_or(f64::INFINITY);
        if let Some(ask) = &mut self.ask {
            let Some(answer) = ask.try_answer(request.now) else {
                return SourceReply::RetryAt(ask.decide_at());
            };
            self.ask = None;
            if let Some(reply) = self.take_answer(rules, request, &answer) {
                return reply;
            }
        } else if !self.freed && request.now < self.ask_again_at && capacity <= self.asked_capacity
        {
            return SourceReply::RetryAt(self.ask_again_at);
        }
        if !capacity.is_finite() {
            // If the limit was lifted meanwhile, accept every waiting request.
            return match self.take_share(rules, request) {
                Some(grant) => SourceReply::Granted(grant),
                None => SourceReply::Rejected(TokenGrant::default()),
            };
        }
        if !rules.store.is_available() {
            return self.take_without_store(rules, request);
        }
        if !self.listens {
            self.listens = true;
            self.outbox.listen(self.key);
        }
        self.freed = false;
        let lifetime = rules.slots.lifetime();
        let operation = enter_slots(self.key, request.tokens, capacity, lifetime, true);
        let freed: Weak<dyn SlotListener> = Weak::<WaitQueue<Self>>::clone(&self.queue);
        let observer = Weak::<WaitQueue<Self>>::clone(&self.queue);
        let store = &rules.store;
        let ask = store.prepare(operation, observer, Some(freed), request.now);
        let decide_at = ask.decide_at();
        self.outbox.ask(&ask);
        self.ask = Some(ask);
        SourceReply::RetryAt(decide_at)
    }

    fn return_tokens(
        &mut self,
        _: &SharedSlotRules,
        _: f64,
        grant: &TokenGrant,
        now: Nanos,
    ) -> bool {
        let Some(id) = grant.slot else {
            return false;
        };
        if !self.return_share(id, now) {
            self.outbox.return_slot(self.key, id);
        }
        true
    }

    fn release_slot(&mut self, id: RequestId) {
        let released = self.share.remove(id);
        self.freed |= released;
        if !released {
            self.outbox.return_slot(self.key, id);
        }
    }

    fn head_left(&mut self) {
        self.ask_again_at = Nanos::MIN;
        if let Some(ask) = self.ask.take() {
            self.outbox.leave(ask);
        }
    }

    fn take_outbox(&mut self) -> Self::Outbox {
        (std::mem::take(&mut self.outbox), Weak::clone(&self.queue))
    }

    fn send(rules: &SharedSlotRules, (outbox, queue): Self::Outbox) -> bool {
        let freed: Weak<dyn SlotListener> = queue;
        outbox.send(&rules.store, Some(&freed))
    }

    /// The slots are in the store, and are not evicted with their queue.
    fn eviction_loss(&mut self, _: &SharedSlotRules, last_used: Nanos, now: Nanos) -> EvictionLoss {
        match self.share.tokens_in_flight(now) {
            None => EvictionLoss::none(last_used),
            Some(tokens) => EvictionLoss {
                restored_at: Nanos::MAX,
                tokens,
                last_used,
            },
        }
    }
}

/// Slots of the key were returned, here or by another engine: the head asks again.
impl SlotListener for WaitQueue<SharedSlots> {
    fn slots_freed(&self) {
        self.with_source(|_, source| source.freed = true);
        self.serve_now();
    }
}

fn time_left(request: &TakeRequest) -> Nanos {
    match request.deadline {
        NO_DEADLINE => NO_DEADLINE,
        deadline => deadline.saturating_sub(request.now),
    }
}
