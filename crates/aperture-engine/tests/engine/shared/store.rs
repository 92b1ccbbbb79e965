//! A shared store in memory, whose replies a test completes, delays, drops or refuses.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tower_aperture::engine::shared::{
    BucketSettings, EnterSlots, LeaveSlots, SharedCaches, SharedStore, SlotListener, SlotsOutcome,
    StoreAbsence, StoreError, StoreKey, StoreOperation, StoreOutcome, StoreReply, TakeTokens,
    TokensMode, TokensOutcome,
};
use tower_aperture::engine::{Clock, ManualClock, RequestId};

use super::cache_store::FakeCaches;

/// The deadline of the store.
pub(super) const DEADLINE: Duration = Duration::from_millis(20);

/// When the store replies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Replies {
    /// Inside of `submit`.
    AtOnce,
    /// When the test delivers them.
    Held,
    /// From a thread of their own.
    OnThread,
}

/// The store as one engine sees it. Clones of a value are one engine; `node` makes another.
#[derive(Clone, Debug)]
pub(super) struct FakeStore {
    shared: Arc<Shared>,
    node: usize,
}

#[derive(Debug)]
struct Shared {
    clock: ManualClock,
    state: Mutex<State>,
    caches: Option<Arc<FakeCaches>>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) replies: Replies,
    pub(super) available: bool,
    pub(super) nodes: u32,
    pub(super) absence: StoreAbsence,
    pub(super) without: usize,
    pub(super) submitted: Vec<StoreOperation>,
    held: VecDeque<(usize, StoreOperation, StoreReply)>,
    buckets: HashMap<StoreKey, Bucket>,
    slots: HashMap<StoreKey, Vec<Slot>>,
    listeners: Vec<(usize, StoreKey, Weak<dyn SlotListener>)>,
    engines: usize,
}

#[derive(Debug)]
struct Bucket {
    available: f64,
    filled_at: Duration,
    /// The remembered rejection: until when, and of how many tokens.
    rejection: Option<(Duration, f64)>,
    settings: BucketSettings,
}

impl Bucket {
    fn fill(&mut self, now: Duration) {
        let settings = &self.settings;
        let passed = (now - self.filled_at).as_secs_f64() / settings.interval.as_secs_f64();
        self.filled_at = now;
        self.available = (self.available + settings.fill * passed).min(settings.capacity);
    }
}

#[derive(Debug)]
struct Slot {
    id: RequestId,
    tokens: f64,
    expires_at: Duration,
}

impl FakeStore {
    pub(super) fn new(clock: &ManualClock, replies: Replies) -> Self {
        Self::build(clock, replies, None)
    }

    /// Returns a store in which engines share their caches, too.
    pub(super) fn with_caches(clock: &ManualClock, replies: Replies) -> Self {
        Self::build(
            clock,
            replies,
            Some(Arc::new(FakeCaches::new(clock, replies))),
        )
    }

    /// Returns the caches of a store that has some.
    pub(super) fn fake_caches(&self) -> &FakeCaches {
        self.shared
            .caches
            .as_ref()
            .expect("it was made with caches")
    }

    fn build(clock: &ManualClock, replies: Replies, caches: Option<Arc<FakeCaches>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                clock: clock.clone(),
                caches,
                state: Mutex::new(State {
                    replies,
                    available: true,
                    nodes: 1,
                    absence: StoreAbsence::LocalShare,
                    without: 0,
                    submitted: Vec::new(),
                    held: VecDeque::new(),
                    buckets: HashMap::new(),
                    slots: HashMap::new(),
                    listeners: Vec::new(),
                    engines: 1,
                }),
            }),
            node: 0,
        }
    }

    /// Returns the store as another engine sees it.
    pub(super) fn node(&self) -> Self {
        let mut state = self.state();
        let node = state.engines;
        state.engines += 1;
        Self {
            shared: Arc::clone(&self.shared),
            node,
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no test panics meanwhile")
    }

    /// Returns the number of operations without a reply.
    pub(super) fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Carries out the operation at this place among those without a reply, and replies.
    pub(super) fn deliver(&self, at: usize) {
        let held = self.state().held.remove(at);
        let (node, operation, reply) = held.expect("an operation waits");
        self.carry_out(node, operation, reply);
    }

    /// Carries out all operations, also those that their replies cause, and returns how many.
    pub(super) fn deliver_all(&self) -> usize {
        let mut delivered = 0;
        while self.held() > 0 {
            self.deliver(0);
            delivered += 1;
        }
        delivered
    }

    /// Carries out the first two operations in their order, and completes the first one last.
    pub(super) fn deliver_out_of_order(&self) {
        let held = self.state().held.pop_front();
        let (node, operation, reply) = held.expect("an operation waits");
        let (sender, receiver) = std::sync::mpsc::channel();
        let keep = StoreReply::new(move |outcome| sender.send(outcome).expect("it is received"));
        self.carry_out(node, operation, keep);
        self.deliver(0);
        reply.complete(receiver.recv().expect("it was carried out"));
    }

    /// Takes an operation away without carrying it out, and replies with an error, or not at all.
    pub(super) fn refuse(&self, at: usize, drops: bool) {
        let held = self.state().held.remove(at);
        let (_, _, reply) = held.expect("an operation waits");
        match drops {
            true => drop(reply),
            false => reply.complete(Err(StoreError::Refused("test".into()))),
        }
    }

    /// Carries out an operation and loses the reply.
    pub(super) fn lose_reply(&self, at: usize) {
        let held = self.state().held.remove(at);
        let (node, operation, reply) = held.expect("an operation waits");
        self.carry_out(node, operation, StoreReply::new(drop));
        drop(reply);
    }

    /// Returns the kind of the operation at this place.
    pub(super) fn held_operation(&self, at: usize) -> StoreOperation {
        self.state().held[at].1
    }

    /// Returns the tokens of all buckets. A store without buckets has none.
    pub(super) fn tokens(&self) -> f64 {
        let now = self.shared.clock.now();
        let mut state = self.state();
        let buckets = state.buckets.values_mut();
        buckets
            .map(|bucket| {
                bucket.fill(now);
                bucket.available
            })
            .sum()
    }

    /// Returns the number of slots that are held.
    pub(super) fn slots(&self) -> usize {
        let now = self.shared.clock.now();
        let state = self.state();
        let slots = state.slots.values().flatten();
        slots.filter(|slot| slot.expires_at > now).count()
    }

    /// Frees a slot without a notice to anyone.
    pub(super) fn free_silently(&self) {
        self.state().slots.clear();
    }

    fn carry_out(&self, node: usize, operation: StoreOperation, reply: StoreReply) {
        let now = self.shared.clock.now();
        let mut state = self.state();
        let outcome = match operation {
            StoreOperation::Take(take) => StoreOutcome::Tokens(state.take(&take, now)),
            StoreOperation::Enter(enter) => StoreOutcome::Slots(state.enter(&enter, now)),
            StoreOperation::Leave(leave) => StoreOutcome::Left(state.leave(&leave)),
            other => panic!("an unknown operation: {other:?}"),
        };
        let mut listeners = Vec::new();
        if let (StoreOperation::Leave(leave), StoreOutcome::Left(true)) = (operation, outcome) {
            let others = state.listeners.iter();
            let others = others.filter(|(other, key, _)| *other != node && *key == leave.key);
            listeners.extend(others.filter_map(|(_, _, listener)| listener.upgrade()));
        }
        drop(state);
        reply.complete(Ok(outcome));
        for listener in listeners {
            listener.slots_freed();
        }
    }
}

impl State {
    fn take(&mut self, take: &TakeTokens, now: Duration) -> TokensOutcome {
        let settings = &take.bucket;
        let bucket = self.buckets.entry(take.key).or_insert(Bucket {
            available: settings.capacity,
            filled_at: now,
            rejection: None,
            settings: *settings,
        });
        bucket.fill(now);
        bucket.settings = *settings;
        let missing = take.tokens - bucket.available;
        let filling = |tokens: f64| match settings.fill > 0.0 {
            true => Some(settings.interval.mul_f64(tokens / settings.fill)),
            false => None,
        };
        let wait = match missing > 0.0 {
            true => filling(missing),
            false => Some(Duration::ZERO),
        };
        let unsatisfiable = take.tokens > settings.capacity;
        let remembered = bucket
            .rejection
            .filter(|(until, want)| *until > now && *want >= take.tokens);
        let granted = match take.mode {
            TokensMode::Immediate => missing <= 0.0 && remembered.is_none(),
            TokensMode::Within(longest) => {
                wait.is_some_and(|wait| longest.is_none_or(|longest| wait <= longest))
            }
            TokensMode::Correct => {
                bucket.rejection = None;
                true
            }
            other => panic!("an unknown mode: {other:?}"),
        };
        let mut told = wait.unwrap_or_default();
        if granted {
            let after = bucket.available - take.tokens;
            let lowest = match take.mode {
                TokensMode::Correct => bucket.available.min(-settings.capacity),
                _ => f64::NEG_INFINITY,
            };
            bucket.available = after.max(lowest).min(settings.capacity);
        } else if let Some((until, _)) = remembered {
            told = until - now;
        } else if unsatisfiable {
            told = Duration::ZERO;
        } else if take.mode == TokensMode::Immediate && !told.is_zero() {
            bucket.rejection = Some((now + told, take.tokens));
        }
        TokensOutcome {
            granted,
            wait: told,
            unsatisfiable: unsatisfiable && !granted,
            remaining: bucket.available,
            current: settings.capacity - bucket.available,
        }
    }

    fn enter(&mut self, enter: &EnterSlots, now: Duration) -> SlotsOutcome {
        let slots = self.slots.entry(enter.key).or_default();
        slots.retain(|slot| slot.expires_at > now);
        let current = slots.iter().map(|slot| slot.tokens).sum();
        let granted = current < enter.capacity;
        if granted {
            assert!(slots.iter().all(|slot| slot.id != enter.id), "a fresh id");
            slots.push(Slot {
                id: enter.id,
                tokens: enter.tokens,
                expires_at: now + enter.lifetime,
            });
        }
        let oldest = slots.iter().map(|slot| slot.expires_at).min();
        SlotsOutcome {
            granted,
            current,
            next_expiry: oldest.map(|at| at - now),
        }
    }

    fn leave(&mut self, leave: &LeaveSlots) -> bool {
        let slots = self.slots.entry(leave.key).or_default();
        let before = slots.len();
        slots.retain(|slot| slot.id != leave.id);
        slots.len() < before
    }
}

impl SharedStore for FakeStore {
    fn submit(&self, operation: StoreOperation, reply: StoreReply) {
        let mut state = self.state();
        state.submitted.push(operation);
        match state.replies {
            Replies::AtOnce => {
                drop(state);
                self.carry_out(self.node, operation, reply);
            }
            Replies::Held => state.held.push_back((self.node, operation, reply)),
            Replies::OnThread => {
                drop(state);
                let store = self.clone();
                std::thread::spawn(move || store.carry_out(store.node, operation, reply));
            }
        }
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }

    fn is_available(&self) -> bool {
        self.state().available
    }

    fn nodes(&self) -> u32 {
        self.state().nodes
    }

    fn absence(&self) -> StoreAbsence {
        self.state().absence
    }

    fn decided_without(&self) {
        self.state().without += 1;
    }

    fn listen(&self, key: StoreKey, listener: Weak<dyn SlotListener>) {
        self.state().listeners.push((self.node, key, listener));
    }

    fn caches(&self) -> Option<Arc<dyn SharedCaches>> {
        let caches = Arc::clone(self.shared.caches.as_ref()?);
        Some(caches)
    }
}
