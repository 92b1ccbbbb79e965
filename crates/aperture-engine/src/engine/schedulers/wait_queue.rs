//! A queue of requests in front of a source of tokens.
//!
//! An event that may let the head of the queue proceed decides for the head at once, then for the
//! requests behind it as far as the tokens reach, and wakes them. So no waiter polls, and a waiter
//! that leaves only has to be removed.

use std::sync::Arc;
use std::task::Waker;

use smallvec::SmallVec;

use super::ScheduleResult;
use super::token_source::{SourceReply, TakeRequest, TokenGrant, TokenSource};
use super::waiter::{Waiter, WaiterQueue};
use super::wfq::{Arrival, MAX_COST, Wfq, workload_id};
use super::workload::{FairnessSeed, WorkloadRequest};
use crate::engine::clock::{Clock, Nanos, nanos};
use crate::engine::decision::{ComponentDecision, DecisionWithSlot, OrderShift};
use crate::engine::held_slots::{HeldSlot, SlotOwner};
use crate::engine::request_id::RequestId;
use crate::engine::shared::ReplyObserver;
use crate::engine::sync::{Mutex, MutexGuard, lock};

/// How many requests are decided at once. Between batches, other threads get the lock.
const BATCH_SIZE: usize = 32;

/// The queue of one key.
#[derive(Debug)]
pub(crate) struct WaitQueue<S: TokenSource> {
    rules: Arc<S::Rules>,
    clock: Arc<dyn Clock>,
    state: Mutex<State<S>>,
}

#[derive(Debug)]
pub(crate) struct State<S> {
    pub(crate) source: S,
    queue: Wfq<usize>,
    waiters: slab::Slab<WaitEntry>,
    /// The index, in `queue`, of the request in service.
    head: Option<usize>,
    seed: FairnessSeed,
}

/// A request in the queue, until it has received its decision.
#[derive(Debug)]
struct WaitEntry {
    tokens: f64,
    deadline: Nanos,
    give_up_at: Nanos,
    stage: WaitStage,
    /// Set once the request is granted.
    overtaken: Option<OrderShift>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug)]
enum WaitStage {
    /// Waits behind others. Its index in the queue.
    Queued(usize),
    /// At the head, without tokens. Asks again at this time, or when tokens are returned.
    Blocked(usize, Nanos),
    /// At the head, with tokens reserved from this time on.
    Reserved(usize, Nanos, TokenGrant),
    Done(bool, TokenGrant),
}

type Wakers = SmallVec<[Waker; BATCH_SIZE]>;

impl<S: TokenSource> WaitQueue<S> {
    /// Creates the queue of a key.
    pub(crate) fn new(
        rules: &Arc<S::Rules>,
        clock: &Arc<dyn Clock>,
        key: &str,
        now: Nanos,
    ) -> Arc<Self> {
        Arc::new_cyclic(|queue| Self {
            rules: Arc::clone(rules),
            clock: Arc::clone(clock),
            state: Mutex::new(State {
                source: S::new(rules, key, queue, now),
                queue: Wfq::new(S::max_overtaking(rules)),
                waiters: slab::Slab::new(),
                head: None,
                seed: FairnessSeed::new(now),
            }),
        })
    }

    /// Reads or changes the source of the tokens.
    pub(crate) fn with_source<R>(&self, act: impl FnOnce(&S::Rules, &mut S) -> R) -> R {
        act(&self.rules, &mut lock(&self.state).source)
    }

    /// Returns true if flows wait in the queue.
    pub(crate) fn is_open(&self) -> bool {
        lock(&self.state).queue.is_open()
    }

    /// Decides about a request, or puts it in the queue.
    pub(crate) fn schedule(
        self: &Arc<Self>,
        request: &WorkloadRequest<'_>,
        now: Nanos,
    ) -> ScheduleResult {
        let tokens = request.tokens;
        let take_request = TakeRequest {
            now,
            tokens,
            deadline: request.deadline,
        };
        let mut state = lock(&self.state);
        if state.head_is_overdue(now) {
            drop(state);
            self.serve(now);
            state = lock(&self.state);
        }
        if !state.queue.is_open()
            && let Some(grant) = state.source.take_immediately(&self.rules, &take_request)
        {
            state.source.record_demand(tokens, true);
            drop(state);
            return ScheduleResult::Decided(self.decision(true, tokens, &grant, None));
        }
        self.enqueue(state, request, now)
    }

    /// Puts a request in the queue, and decides about it if its turn comes at once.
    #[inline(never)]
    fn enqueue(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, State<S>>,
        request: &WorkloadRequest<'_>,
        now: Nanos,
    ) -> ScheduleResult {
        let tokens = request.tokens;
        let inverse_priority = (1.0 / request.priority).min(MAX_COST);
        let arrival = Arrival {
            workload: &workload_id(request.workload, inverse_priority),
            fairness: state.seed.queue(request.fairness, now),
            tokens,
            inverse_priority,
        };
        let id = state.waiters.insert(WaitEntry {
            tokens,
            deadline: request.deadline,
            give_up_at: S::give_up_at(request.deadline),
            stage: WaitStage::Queued(0),
            overtaken: None,
            waker: None,
        });
        let (request_index, opens) = state.queue.arrive(&arrival, id);
        state.waiters[id].stage = WaitStage::Queued(request_index);
        let mut wakers = Wakers::new();
        if opens {
            state.head = Some(request_index);
            state.advance(&self.rules, now, &mut wakers);
        }
        if let WaitStage::Done(granted, grant) = state.waiters[id].stage {
            let removed = state.waiters.remove(id);
            state.source.record_demand(tokens, granted);
            let outbox = state.source.take_outbox();
            drop(state);
            S::send(&self.rules, outbox);
            return ScheduleResult::Decided(self.decision(
                granted,
                tokens,
                &grant,
                removed.overtaken,
            ));
        }
        let next_poll_at = state.waiters[id].next_poll_at();
        let outbox = state.source.take_outbox();
        drop(state);
        if S::send(&self.rules, outbox) {
            self.serve(now);
        }
        let queue: Arc<dyn WaiterQueue> = Arc::<Self>::clone(self);
        ScheduleResult::Queued(Waiter::new(queue, id, next_poll_at))
    }

    /// Returns the decision about a request.
    pub(super) fn decision(
        self: &Arc<Self>,
        granted: bool,
        tokens: f64,
        grant: &TokenGrant,
        overtaken: Option<OrderShift>,
    ) -> DecisionWithSlot {
        let slot = grant.slot.filter(|_| granted).map(|id| {
            let owner: Arc<dyn SlotOwner> = Arc::<Self>::clone(self);
            HeldSlot::new(owner, id)
        });
        DecisionWithSlot {
            decision: ComponentDecision {
                remaining: grant.remaining,
                current: grant.current,
                consumed: if granted { tokens } else { 0.0 },
                dropped: !granted,
                request_id: grant.slot,
                without_store: grant.without_store,
                overtaken,
                ..ComponentDecision::REJECTED
            },
            slot,
        }
    }

    /// Decides for the heads of the queue as far as the tokens reach, and wakes them.
    pub(crate) fn serve(&self, now: Nanos) {
        loop {
            let mut wakers = Wakers::new();
            let mut state = lock(&self.state);
            let more = state.advance(&self.rules, now, &mut wakers);
            let outbox = state.source.take_outbox();
            drop(state);
            for waker in wakers {
                waker.wake();
            }
            let replied = S::send(&self.rules, outbox);
            if !more && !replied {
                return;
            }
        }
    }

    /// Like [`serve`](Self::serve), at the time of the clock.
    pub(super) fn serve_now(&self) {
        self.serve(nanos(self.clock.now()));
    }

    /// Migrates the source to changed rules and decides by them for the heads of the queue.
    ///
    /// With `again`, cancels the reservation of the head and requests its tokens anew: under the
    /// changed rules they may be available earlier.
    pub(crate) fn change_rules(&self, again: bool, now: Nanos, change: impl FnOnce(&mut S)) {
        let mut state = lock(&self.state);
        if again
            && let Some(id) = state.head_waiter()
            && let State {
                source, waiters, ..
            } = &mut *state
            && let Some(entry) = waiters.get_mut(id)
            && let WaitStage::Reserved(request_index, until, grant) = entry.stage
            && until > now
        {
            entry.stage = WaitStage::Queued(request_index);
            source.cancel_reserved(&self.rules, entry.tokens, &grant, now);
        }
        change(&mut state.source);
        let has_head = state.head.is_some();
        let outbox = state.source.take_outbox();
        drop(state);
        S::send(&self.rules, outbox);
        if has_head {
            self.serve(now);
        }
    }

    /// Returns tokens or a slot and serves the queue. Returns false if the slot was not held.
    pub(crate) fn return_tokens(&self, tokens: f64, slot: Option<RequestId>, now: Nanos) -> bool {
        let grant = TokenGrant {
            slot,
            ..TokenGrant::default()
        };
        self.return_grant(tokens, &grant, now)
    }

    /// Like [`return_tokens`](Self::return_tokens), for what `grant` granted.
    pub(crate) fn return_grant(&self, tokens: f64, grant: &TokenGrant, now: Nanos) -> bool {
        let mut state = lock(&self.state);
        let returned = state.source.return_tokens(&self.rules, tokens, grant, now);
        let has_head = state.head.is_some();
        let outbox = state.source.take_outbox();
        drop(state);
        S::send(&self.rules, outbox);
        if has_head {
            self.serve(now);
        }
        returned
    }
}

/// The head of the queue waits for the reply of a shared store.
impl<S: TokenSource> ReplyObserver for WaitQueue<S> {
    fn replied(&self) {
        self.serve_now();
    }
}

impl<S: TokenSource> SlotOwner for WaitQueue<S> {
    fn return_slot(&self, id: RequestId) -> bool {
        self.return_tokens(0.0, Some(id), nanos(self.clock.now()))
    }

    /// Reads the clock only if a flow waits for the slot.
    fn release_slot(&self, id: RequestId) {
        let mut state = lock(&self.state);
        state.source.release_slot(id);
        let has_head = state.head.is_some();
        let outbox = state.source.take_outbox();
        drop(state);
        S::send(&self.rules, outbox);
        if has_head {
            self.serve_now();
        }
    }
}

impl WaitEntry {
    fn next_poll_at(&self) -> Nanos {
        match self.stage {
            WaitStage::Queued(_) => self.give_up_at,
            WaitStage::Blocked(_, retry_at) => self.give_up_at.min(retry_at),
            WaitStage::Reserved(_, retry_at, _) => retry_at,
            WaitStage::Done(..) => Nanos::MIN,
        }
    }
}

impl<S: TokenSource> State<S> {
    fn head_waiter(&self) -> Option<usize> {
        self.queue.payload(self.head?).copied()
    }

    /// Returns true if the head should have been polled by now and was not. Other callers then
    /// advance the queue in its place.
    fn head_is_overdue(&self, now: Nanos) -> bool {
        let head = self.head_waiter().and_then(|id| self.waiters.get(id));
        head.is_some_and(|entry| entry.next_poll_at() <= now)
    }

    /// Decides for heads of the queue. Returns true if a batch is complete and there may be more to
    /// do.
    fn advance(&mut self, rules: &S::Rules, now: Nanos, wakers: &mut Wakers) -> bool {
        while let Some(request_index) = self.head {
            if wakers.len() >= BATCH_SIZE {
                return true;
            }
            let Some(id) = self.head_waiter() else {
                return false;
            };
            let Some(entry) = self.waiters.get_mut(id) else {
                return false;
            };
            let take_request = TakeRequest {
                now,
                tokens: entry.tokens,
                deadline: entry.deadline,
            };
            let taken = match entry.stage {
                WaitStage::Reserved(_, until, grant) if until <= now => {
                    self.source.use_reserved();
                    SourceReply::Granted(grant)
                }
                WaitStage::Reserved(..) | WaitStage::Done(..) => return false,
                WaitStage::Queued(_) | WaitStage::Blocked(..) if now >= entry.give_up_at => {
                    self.source.head_left();
                    SourceReply::Rejected(TokenGrant::default())
                }
                WaitStage::Queued(_) | WaitStage::Blocked(..) => {
                    self.source.take(rules, &take_request)
                }
            };
            let (granted, grant) = match taken {
                SourceReply::Granted(grant) => (true, grant),
                SourceReply::Rejected(grant) => (false, grant),
                SourceReply::GrantedFrom(until, grant) if until <= now => {
                    self.source.use_reserved();
                    (true, grant)
                }
                SourceReply::GrantedFrom(until, grant) => {
                    entry.stage = WaitStage::Reserved(request_index, until, grant);
                    // Its timer is still set for the time at which it would have been rejected.
                    wakers.extend(entry.waker.take());
                    return false;
                }
                SourceReply::RetryAt(retry_at) => {
                    let earlier = retry_at < entry.next_poll_at();
                    entry.stage = WaitStage::Blocked(request_index, retry_at);
                    if earlier {
                        wakers.extend(entry.waker.take());
                    }
                    return false;
                }
            };
            entry.stage = WaitStage::Done(granted, grant);
            let overtaken = self.queue.overtaken(request_index).filter(|_| granted);
            entry.overtaken = overtaken.map(|tokens| OrderShift {
                overtook: tokens.workload,
                overtook_in_workload: tokens.fairness,
            });
            wakers.extend(entry.waker.take());
            self.head = self.queue.served(request_index, granted).1;
        }
        false
    }

    /// Removes a request that has not received its decision yet.
    fn remove_waiter(&mut self, rules: &S::Rules, id: usize, now: Nanos) {
        let Some(entry) = self.waiters.get(id) else {
            return;
        };
        self.source.record_demand(entry.tokens, false);
        match entry.stage {
            WaitStage::Queued(request_index) if self.head != Some(request_index) => {
                self.queue.cancel(request_index);
            }
            WaitStage::Queued(request_index) | WaitStage::Blocked(request_index, _) => {
                self.source.head_left();
                self.head = self.queue.served(request_index, false).1;
            }
            WaitStage::Reserved(request_index, _, grant) => {
                self.source
                    .cancel_reserved(rules, entry.tokens, &grant, now);
                self.head = self.queue.served(request_index, false).1;
            }
            WaitStage::Done(true, grant) => {
                self.source.return_tokens(rules, entry.tokens, &grant, now);
            }
            WaitStage::Done(false, _) => {}
        }
    }
}

impl<S: TokenSource> WaiterQueue for WaitQueue<S> {
    fn poll(
        self: Arc<Self>,
        id: usize,
        now: Nanos,
        waker: &Waker,
    ) -> Result<DecisionWithSlot, Nanos> {
        let mut wakers = Wakers::new();
        // Dropped after the lock: dropping the last waker may drop a task that waits in this queue.
        let mut replaced = None;
        let mut guard = lock(&self.state);
        if guard.head_is_overdue(now) && guard.head_waiter() != Some(id) {
            drop(guard);
            self.serve(now);
            guard = lock(&self.state);
        }
        let state = &mut *guard;
        let due = state
            .waiters
            .get(id)
            .is_some_and(|entry| entry.next_poll_at() <= now);
        let mut more = false;
        if due {
            let entry = &mut state.waiters[id];
            // The task is awake, so it needs no waker.
            replaced = entry.waker.take();
            match entry.stage {
                WaitStage::Queued(request_index) if state.head != Some(request_index) => {
                    state.queue.cancel(request_index);
                    state.waiters[id].stage = WaitStage::Done(false, TokenGrant::default());
                }
                WaitStage::Done(..) => {}
                _ => more = state.advance(&self.rules, now, &mut wakers),
            }
        }
        let decided = match state.waiters.get_mut(id) {
            None => Some((false, 0.0, TokenGrant::default(), None)),
            Some(entry) => match entry.stage {
                WaitStage::Done(granted, grant) => {
                    let removed = state.waiters.remove(id);
                    state.source.record_demand(removed.tokens, granted);
                    replaced = replaced.or(removed.waker);
                    Some((granted, removed.tokens, grant, removed.overtaken))
                }
                _ => {
                    let known = entry.waker.as_ref();
                    if !known.is_some_and(|known| known.will_wake(waker))
                        && let Some(before) = entry.waker.replace(waker.clone())
                    {
                        replaced = Some(before);
                    }
                    None
                }
            },
        };
        let next_poll_at = state.waiters.get(id).map(WaitEntry::next_poll_at);
        let outbox = state.source.take_outbox();
        drop(guard);
        drop(replaced);
        for waker in wakers {
            waker.wake();
        }
        let replied = S::send(&self.rules, outbox);
        if more || replied {
            self.serve(now);
        }
        match decided {
            Some((granted, tokens, grant, overtaken)) => {
                Ok(self.decision(granted, tokens, &grant, overtaken))
            }
            None => Err(next_poll_at.unwrap_or(now)),
        }
    }

    fn leave(&self, id: usize) {
        let now = nanos(self.clock.now());
        let mut guard = lock(&self.state);
        let state = &mut *guard;
        state.remove_waiter(&self.rules, id, now);
        let removed = state.waiters.try_remove(id);
        let has_head = state.head.is_some();
        let outbox = state.source.take_outbox();
        drop(guard);
        drop(removed);
        S::send(&self.rules, outbox);
        if has_head {
            self.serve(now);
        }
    }
}
