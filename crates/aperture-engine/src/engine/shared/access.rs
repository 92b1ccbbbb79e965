//! The shared store as the components of an engine use it: keys, shares, and questions.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::ask::{StoreAnswer, StoreAsk};
use super::call::{ReplyObserver, StoreCall, leave, return_tokens};
use super::{
    BucketSettings, EnterSlots, LeaveSlots, SharedStore, SlotListener, StoreAbsence, StoreKey,
    StoreOperation, StoreReply, TakeTokens, TokensMode,
};
use crate::engine::clock::{Nanos, duration, nanos};
use crate::engine::component::ReportedKind;
use crate::engine::engine_flow::{DEADLINE_MARGIN, NO_DEADLINE};
use crate::engine::request_id::RequestId;

/// The version of the derivation of keys. Engines that derive keys in another way share no state.
pub(crate) const KEY_VERSION: u8 = 1;
/// An index beyond every table of slots in process.
const NO_ENTRY: u32 = u32::MAX;

/// The shared store of an engine, and the component that is made.
#[derive(Clone, Debug)]
pub(crate) struct SharedContext {
    store: Arc<dyn SharedStore>,
    /// Counts the decisions without the store.
    without_store: Arc<AtomicU64>,
    policy: Arc<str>,
    component: Arc<str>,
}

impl SharedContext {
    pub(crate) fn new(store: Arc<dyn SharedStore>) -> Self {
        Self {
            store,
            without_store: Arc::default(),
            policy: Arc::from(""),
            component: Arc::from(""),
        }
    }

    pub(crate) fn of_component(&self, policy: &Arc<str>, component: &Arc<str>) -> Self {
        Self {
            policy: Arc::clone(policy),
            component: Arc::clone(component),
            ..self.clone()
        }
    }

    /// Returns the number of decisions without the store.
    pub(crate) fn without_store(&self) -> u64 {
        self.without_store.load(Ordering::Relaxed)
    }

    /// Returns the store for a component of this kind that limits by this label.
    pub(crate) fn access(&self, kind: ReportedKind, label_key: Option<&str>) -> StoreAccess {
        let mut prefix = Sha256::new().chain_update([KEY_VERSION]);
        for text in [&*self.policy, &*self.component, kind.name()] {
            add_text(&mut prefix, text);
        }
        match label_key {
            None => prefix.update([0]),
            Some(key) => {
                prefix.update([1]);
                add_text(&mut prefix, key);
            }
        }
        StoreAccess {
            store: Arc::clone(&self.store),
            without_store: Arc::clone(&self.without_store),
            prefix,
        }
    }
}

/// The shared store as one component uses it.
#[derive(Clone)]
pub(crate) struct StoreAccess {
    store: Arc<dyn SharedStore>,
    without_store: Arc<AtomicU64>,
    /// The hash of what all keys of the component have in common.
    prefix: Sha256,
}

impl StoreAccess {
    /// Returns the key of a value of the label, or of the empty value if the component limits by no
    /// label.
    pub(crate) fn key(&self, value: &str) -> StoreKey {
        let mut hash = self.prefix.clone();
        add_text(&mut hash, value);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        StoreKey::from_bytes(bytes)
    }

    pub(crate) fn is_available(&self) -> bool {
        self.store.is_available()
    }

    /// Returns how flows are decided without the store.
    pub(crate) fn absence(&self) -> StoreAbsence {
        self.store.absence()
    }

    /// Counts a decision without the store, which was slow or away.
    pub(crate) fn count_without_store(&self) {
        self.without_store.fetch_add(1, Ordering::Relaxed);
        self.store.decided_without();
    }

    /// Returns this engine's share of a capacity: rounded up to a whole token or slot and at least
    /// 1, but never more than the capacity.
    pub(crate) fn share_of(&self, capacity: f64) -> f64 {
        match capacity > 0.0 {
            true => (capacity / self.nodes()).ceil().max(1.0).min(capacity),
            false => capacity,
        }
    }

    /// Returns this engine's share of a fill amount.
    pub(crate) fn fill_share_of(&self, fill: f64) -> f64 {
        fill / self.nodes()
    }

    fn nodes(&self) -> f64 {
        f64::from(self.store.nodes().max(1))
    }

    /// Returns the longest time that a flow waits for a reply.
    pub(crate) fn deadline(&self) -> Nanos {
        nanos(self.store.deadline())
    }

    /// Asks the store for a flow that has `time_left`. Returns the answer if it is there at once.
    pub(crate) fn ask(
        &self,
        operation: StoreOperation,
        freed: Option<Weak<dyn SlotListener>>,
        time_left: Nanos,
        now: Nanos,
    ) -> Result<StoreAnswer, StoreAsk> {
        // The caller of the flow gets the decision in time, with the store or without it.
        let longest = match time_left {
            NO_DEADLINE => self.deadline(),
            left => self.deadline().min(left.saturating_sub(DEADLINE_MARGIN)),
        };
        let call = StoreCall::new(&self.store, operation, None, freed);
        let mut ask = StoreAsk::new(call, now, now.saturating_add(longest));
        if ask.call().submit()
            && let Some(answer) = ask.try_answer(now)
        {
            return Ok(answer);
        }
        Err(ask)
    }

    /// Returns a question for the head of a queue, which is submitted once the lock of the queue is
    /// released.
    pub(crate) fn prepare(
        &self,
        operation: StoreOperation,
        observer: Weak<dyn ReplyObserver>,
        freed: Option<Weak<dyn SlotListener>>,
        now: Nanos,
    ) -> StoreAsk {
        let call = StoreCall::new(&self.store, operation, Some(observer), freed);
        StoreAsk::new(call, now, now.saturating_add(self.deadline()))
    }

    /// Submits an operation whose outcome only `complete` reads.
    pub(crate) fn submit(&self, operation: StoreOperation, reply: StoreReply) {
        self.store.submit(operation, reply);
    }

    /// Returns tokens that were granted and not used. No flow waits for it.
    pub(crate) fn return_tokens(&self, key: StoreKey, bucket: BucketSettings, tokens: f64) {
        return_tokens(&*self.store, key, bucket, tokens);
    }

    /// Returns a slot. No flow waits for it; `freed` learns when the store has confirmed it.
    pub(crate) fn leave(
        &self,
        key: StoreKey,
        id: RequestId,
        freed: Option<Weak<dyn SlotListener>>,
    ) {
        leave(&*self.store, LeaveSlots { key, id }, freed);
    }

    /// Returns a slot for a caller that waits for the reply.
    pub(crate) fn start_leave(
        &self,
        key: StoreKey,
        id: RequestId,
        freed: Option<Weak<dyn SlotListener>>,
        now: Nanos,
    ) -> StoreAsk {
        let operation = StoreOperation::Leave(LeaveSlots { key, id });
        let call = StoreCall::new(&self.store, operation, None, freed);
        call.submit();
        StoreAsk::new(call, now, now.saturating_add(self.deadline()))
    }

    pub(crate) fn listen(&self, key: StoreKey, listener: Weak<dyn SlotListener>) {
        self.store.listen(key, listener);
    }
}

/// Returns the operation that takes tokens.
pub(crate) const fn take_tokens(
    key: StoreKey,
    bucket: BucketSettings,
    tokens: f64,
    mode: TokensMode,
) -> StoreOperation {
    StoreOperation::Take(TakeTokens {
        key,
        bucket,
        tokens,
        mode,
    })
}

/// Returns the operation that takes a slot with a fresh id.
pub(crate) fn enter_slots(
    key: StoreKey,
    tokens: f64,
    capacity: f64,
    lifetime: Nanos,
    waits: bool,
) -> StoreOperation {
    StoreOperation::Enter(EnterSlots {
        key,
        id: RequestId::new(NO_ENTRY),
        tokens,
        capacity,
        lifetime: duration(lifetime).max(Duration::from_nanos(1)),
        waits,
    })
}

/// Adds a text with its length, so that no two lists of texts have the same hash.
pub(crate) fn add_text(hash: &mut Sha256, text: &str) {
    hash.update((text.len() as u64).to_be_bytes());
    hash.update(text);
}

impl fmt::Debug for StoreAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreAccess")
            .field("store", &self.store)
            .finish_non_exhaustive()
    }
}
