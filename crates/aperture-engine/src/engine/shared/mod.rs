//! Limits that several engines share: the interface of the store that they have in common.
//!
//! An engine with a [`SharedStore`] keeps the token buckets and slots of its policies there. The
//! engine opens no connection itself: it submits operations, and the store completes their replies.

mod access;
mod ask;
mod caches;
mod call;
mod operation;
mod outbox;
mod reply;

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

pub use self::caches::SharedCaches;
pub use self::operation::{
    BucketSettings, EnterSlots, LeaveSlots, SlotsOutcome, StoreKey, StoreOperation, StoreOutcome,
    TakeTokens, TokensMode, TokensOutcome,
};
pub use self::reply::{StoreError, StoreReply};

pub(crate) use self::access::{
    KEY_VERSION, SharedContext, StoreAccess, add_text, enter_slots, take_tokens,
};
pub(crate) use self::ask::{StoreAnswer, StoreAsk};
pub(crate) use self::call::ReplyObserver;
pub(crate) use self::outbox::StoreOutbox;

/// A store of token buckets and slots that several engines share.
///
/// The store has one bucket, or one set of slots, for each [`StoreKey`]. It creates them at the
/// first use and forgets them when they have been idle for the time that an operation states.
pub trait SharedStore: fmt::Debug + Send + Sync + 'static {
    /// Starts an operation. The store completes `reply` later, from any thread, or at once.
    ///
    /// Operations that are submitted one after the other, without a pause, should share a round
    /// trip. This never blocks; if the operation cannot be queued, the reply is completed with an
    /// error.
    fn submit(&self, operation: StoreOperation, reply: StoreReply);

    /// Returns the longest time for which a flow waits for one reply. After it the engine decides
    /// as [`absence`](Self::absence) says.
    fn deadline(&self) -> Duration;

    /// Returns false while the store is given up. The engine then submits only operations that
    /// return slots and tokens, and decides at once as [`absence`](Self::absence) says.
    fn is_available(&self) -> bool;

    /// Returns how many engines have used the store lately, including this one; at least 1.
    fn nodes(&self) -> u32;

    /// Returns how flows are decided while the store does not answer.
    fn absence(&self) -> StoreAbsence;

    /// Records that a flow was decided without the store, which was slow or away.
    ///
    /// The store logs this, at most one line a minute, and counts it.
    fn decided_without(&self);

    /// Calls `listener` each time that another engine frees slots of `key`, until the listener is
    /// dropped. The store need not call it for slots that this engine frees.
    fn listen(&self, key: StoreKey, listener: Weak<dyn SlotListener>);

    /// Returns the caches that all engines with this store share. The default is `None`: each
    /// engine then has caches of its own, in process.
    fn caches(&self) -> Option<Arc<dyn SharedCaches>> {
        None
    }
}

/// A store that several engines of this process share, too.
impl<S: SharedStore + ?Sized> SharedStore for Arc<S> {
    fn submit(&self, operation: StoreOperation, reply: StoreReply) {
        (**self).submit(operation, reply);
    }

    fn deadline(&self) -> Duration {
        (**self).deadline()
    }

    fn is_available(&self) -> bool {
        (**self).is_available()
    }

    fn nodes(&self) -> u32 {
        (**self).nodes()
    }

    fn absence(&self) -> StoreAbsence {
        (**self).absence()
    }

    fn decided_without(&self) {
        (**self).decided_without();
    }

    fn listen(&self, key: StoreKey, listener: Weak<dyn SlotListener>) {
        (**self).listen(key, listener);
    }

    fn caches(&self) -> Option<Arc<dyn SharedCaches>> {
        (**self).caches()
    }
}

/// The decision about flows while the shared store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreAbsence {
    /// By this engine's share of each limit, in process: the limit divided by the number of engines
    /// seen lately, rounded up to a whole token or slot, at least 1.
    #[default]
    LocalShare,
    /// Every flow is accepted.
    Open,
    /// Every flow that a shared limit selects is rejected.
    Closed,
}

/// Learns that slots of a key were freed.
pub trait SlotListener: Send + Sync {
    /// Slots of the key that the listener was registered for may be free.
    fn slots_freed(&self);
}
