//! The slots that a flow holds until it ends, and the tokens that its end may correct.

use std::fmt;
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
pub(crate) struct HeldSlots {
    first: Option<HeldSlot>,
    #[allow(clippy::box_collection)] // One word.
    others: Option<Box<Vec<HeldSlot>>>,
}

impl HeldSlots {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            others: None,
        }
    }

    #[inline(always)]
    pub(crate) const fn of(first: Option<HeldSlot>) -> Self {
        Self {
            first,
            others: None,
        }
    }

    /// Returns true if the flow holds nothing.
    #[inline]
    pub(crate) const fn is_empty(&self) -> bool {
        self.first.is_none() && self.others.is_none()
    }

    pub(crate) fn push(&mut self, held: HeldSlot) {
        if self.first.is_none() {
            self.first = Some(held);
        } else {
            self.others.get_or_insert_default().push(held);
        }
    }

    pub(crate) fn extend(&mut self, all: impl Iterator<Item = HeldSlot>) {
        for held in all {
            self.push(held);
        }
    }

    /// Keeps the slots held after the value is dropped.
    pub(crate) fn leave_open(&mut self) {
        for held in self.iter_mut() {
            held.by = None;
        }
    }

    /// Records that the head of the flow's response is there.
    #[inline]
    pub(crate) fn response_started(&mut self, outcome: FlowOutcome) {
        for held in self.iter_mut() {
            if let Some(by) = &held.by {
                by.response_started(held.id, outcome);
            }
        }
    }

    /// Returns all slots of a flow that ended with this outcome.
    #[inline]
    pub(crate) fn end(mut self, outcome: FlowOutcome) {
        for held in self.iter_mut() {
            if let Some(by) = held.by.take() {
                by.release_ended(held.id, outcome);
            }
        }
    }

    /// Returns one slot of a flow that ended with this outcome, and whether it was still held.
    pub(crate) fn return_slot(&mut self, id: RequestId, outcome: FlowOutcome) -> bool {
        let held = self.iter_mut().find(|held| held.id == id);
        let by = held.and_then(|held| held.by.take());
        by.is_some_and(|by| by.return_ended(id, outcome))
    }

    /// Corrects the tokens that the flow took.
    pub(crate) fn settle(&self, actual_tokens: f64) {
        self.owners().for_each(|by| by.settle(actual_tokens));
    }

    fn owners(&self) -> impl Iterator<Item = &Arc<dyn SlotOwner>> {
        let others = self.others.iter().flat_map(|others| others.iter());
        let held = self.first.iter().chain(others);
        held.filter_map(|held| held.by.as_ref())
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut HeldSlot> {
        let others = self.others.iter_mut().flat_map(|others| others.iter_mut());
        self.first.iter_mut().chain(others)
    }
}

impl HeldSlot {
    pub(crate) fn new(by: Arc<dyn SlotOwner>, id: RequestId) -> Self {
        Self { by: Some(by), id }
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
