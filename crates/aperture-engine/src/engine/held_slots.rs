//! The slots that a flow holds until it ends, and the tokens that its end may correct.

use std::fmt;
use std::slice;
use std::sync::Arc;

use super::request_id::RequestId;
use aperture_core::FlowOutcome;

/// An owner of slots, to which they are returned, or of tokens that the flow may correct.
pub(crate) trait SlotOwner: Send + Sync {
    /// Returns a slot and wakes the next waiter. Returns false if the slot is not held any more.
    fn return_slot(&self, id: RequestId) -> bool;

    /// Returns a slot for callers that ignore whether it was still held. Implementations may skip
    /// reading the clock.
    fn release_slot(&self, id: RequestId) {
        self.return_slot(id);
    }

    /// Records that the head of a flow's response is there.
    fn response_started(&self, _id: RequestId, _outcome: FlowOutcome) {}

    /// Like [`return_slot`](Self::return_slot), for a flow that ended with an outcome.
    fn return_ended(&self, id: RequestId, _outcome: FlowOutcome) -> bool {
        self.return_slot(id)
    }

    /// Like [`release_slot`](Self::release_slot), for a flow that ended with an outcome.
    fn release_ended(&self, id: RequestId, _outcome: FlowOutcome) {
        self.release_slot(id);
    }

    /// Corrects the tokens that the flow took to what it costs. Does nothing for slots.
    fn settle(&self, _actual_tokens: f64) {}
}

/// A slot that a flow holds, or the record of tokens that it took. Dropping it returns the slot, and
/// leaves the tokens taken.
pub(crate) struct HeldSlot {
    /// `None` if the slot was returned, or was left open.
    by: Option<Arc<dyn SlotOwner>>,
    id: RequestId,
}

/// The slots of one flow. Most flows hold none or one.
// Not a `SmallVec`: tickets are moved often, and each word counts.
#[derive(Debug, Default)]
pub(crate) enum HeldSlots {
    #[default]
    None,
    One(HeldSlot),
    // One word, so that tickets stay small.
    #[allow(clippy::box_collection)]
    Many(Box<Vec<HeldSlot>>),
}

impl HeldSlots {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self::None
    }

    #[inline(always)]
    pub(crate) fn of(first: Option<HeldSlot>) -> Self {
        match first {
            None => Self::None,
            Some(first) => Self::One(first),
        }
    }

    /// Returns true if the flow holds nothing.
    #[inline(always)]
    pub(crate) const fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(crate) fn push(&mut self, held: HeldSlot) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(held),
            Self::One(first) => Self::Many(Box::new(vec![first, held])),
            Self::Many(mut all) => {
                all.push(held);
                Self::Many(all)
            }
        };
    }

    pub(crate) fn extend(&mut self, all: impl Iterator<Item = HeldSlot>) {
        for held in all {
            self.push(held);
        }
    }

    /// Keeps the slots held after the value is dropped.
    pub(crate) fn leave_open(&mut self) {
        for held in self.all_mut() {
            held.by = None;
        }
    }

    /// Records that the head of the flow's response is there.
    #[inline]
    pub(crate) fn response_started(&mut self, outcome: FlowOutcome) {
        for held in self.all() {
            if let Some(by) = &held.by {
                by.response_started(held.id, outcome);
            }
        }
    }

    /// Returns all slots of a flow that ended with this outcome.
    #[inline(always)]
    pub(crate) fn end(self, outcome: FlowOutcome) {
        match self {
            Self::None => {}
            Self::One(held) => held.end(outcome),
            Self::Many(all) => all.into_iter().for_each(|held| held.end(outcome)),
        }
    }

    /// Returns one slot of a flow that ended with this outcome, and whether it was still held.
    pub(crate) fn return_slot(&mut self, id: RequestId, outcome: FlowOutcome) -> bool {
        let held = self.all_mut().iter_mut().find(|held| held.id == id);
        let by = held.and_then(|held| held.by.take());
        by.is_some_and(|by| by.return_ended(id, outcome))
    }

    /// Corrects the tokens that the flow took.
    pub(crate) fn settle(&self, actual_tokens: f64) {
        let owners = self.all().iter().filter_map(|held| held.by.as_ref());
        owners.for_each(|by| by.settle(actual_tokens));
    }

    #[inline]
    fn all(&self) -> &[HeldSlot] {
        match self {
            Self::None => &[],
            Self::One(held) => slice::from_ref(held),
            Self::Many(all) => all,
        }
    }

    #[inline]
    fn all_mut(&mut self) -> &mut [HeldSlot] {
        match self {
            Self::None => &mut [],
            Self::One(held) => slice::from_mut(held),
            Self::Many(all) => all,
        }
    }
}

impl HeldSlot {
    pub(crate) fn new(by: Arc<dyn SlotOwner>, id: RequestId) -> Self {
        Self { by: Some(by), id }
    }

    /// Returns the slot of a flow that ended with this outcome.
    #[inline(always)]
    fn end(mut self, outcome: FlowOutcome) {
        if let Some(by) = self.by.take() {
            by.release_ended(self.id, outcome);
        }
    }

    /// Returns the record of tokens that a flow took.
    pub(crate) fn of_tokens(taken: Arc<dyn SlotOwner>) -> Self {
        Self::new(taken, RequestId::NOT_A_SLOT)
    }
}

impl Drop for HeldSlot {
    fn drop(&mut self) {
        if let Some(by) = self.by.take() {
            by.release_slot(self.id);
        }
    }
}

impl fmt::Debug for HeldSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}
