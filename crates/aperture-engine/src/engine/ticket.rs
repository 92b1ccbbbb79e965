//! The ticket of a flow: the slots that it holds, and results beside its decision.

use std::fmt;
use std::sync::Arc;

use super::flux_meter::FlowTimer;
use super::request_id::RequestId;
use crate::flow::{CacheLookup, FlowOutcome, HttpExtras, Quota, Ticket};

/// An owner of slots, to which they are returned.
pub(crate) trait SlotOwner: Send + Sync {
    /// Returns a slot and wakes the next waiter. Returns false if the slot is not held any more.
    fn return_slot(&self, id: RequestId) -> bool;

    /// Returns a slot for callers that ignore whether it was still held. Implementations may skip
    /// reading the clock.
    fn release_slot(&self, id: RequestId) {
        self.return_slot(id);
    }
}

/// A slot that a flow holds. Dropping it returns the slot.
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

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut HeldSlot> {
        let others = self.others.iter_mut().flat_map(|others| others.iter_mut());
        self.first.iter_mut().chain(others)
    }
}

impl HeldSlot {
    pub(crate) fn new(by: Arc<dyn SlotOwner>, id: RequestId) -> Self {
        Self { by: Some(by), id }
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

/// A flow that an [`Engine`](super::Engine) has decided about, with the concurrency slots it holds.
///
/// The slots are returned when the flow ends or the ticket is dropped, also by a panic or a
/// cancelled future, and at the latest after their `max_inflight_duration`.
///
/// ```
/// use tower_aperture::engine::Engine;
/// use tower_aperture::{Check, Decider, FlowOutcome, FlowParams, FlowStatus, Ticket, Verdict};
///
/// let engine = Engine::builder().build()?;
/// match engine.decide("checkout", &FlowParams::new()) {
///     Check::Ready(Verdict::Accepted(ticket)) => ticket.end(FlowOutcome::new(FlowStatus::Ok)),
///     _ => unreachable!("nothing limits it"),
/// }
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a ticket returns its slots at once"]
pub struct EngineTicket {
    held: HeldSlots,
    /// Results beside the decision, if the flow asked for any.
    extras: Option<Box<TicketExtras>>,
    /// Measures how long the flow takes, if a meter selects it.
    flow_timer: Option<FlowTimer>,
}

/// The results beside a decision that a flow asked for.
#[derive(Debug, Default)]
pub(super) struct TicketExtras {
    /// The result of the cache lookup.
    pub(super) cached: Option<CacheLookup>,
    pub(super) quotas: Vec<Quota>,
    pub(super) http: Option<Box<HttpExtras>>,
}

impl TicketExtras {
    /// Returns the extras in a box, or `None` if they are empty, as they mostly are.
    pub(super) fn boxed(self) -> Option<Box<Self>> {
        let has_extras = self.cached.is_some() || !self.quotas.is_empty() || self.http.is_some();
        has_extras.then(|| Box::new(self))
    }
}

impl EngineTicket {
    #[inline(always)]
    pub(super) const fn new(held: HeldSlots) -> Self {
        Self {
            held,
            extras: None,
            flow_timer: None,
        }
    }

    pub(super) fn with_flow_timer(mut self, flow_timer: Option<FlowTimer>) -> Self {
        self.flow_timer = flow_timer;
        self
    }

    pub(super) fn with_extras(mut self, extras: TicketExtras) -> Self {
        self.extras = extras.boxed();
        self
    }

    pub(super) fn with_http_extras(mut self, extras: Option<Box<HttpExtras>>) -> Self {
        if extras.is_some() {
            self.extras.get_or_insert_default().http = extras;
        }
        self
    }

    /// Returns the result of the cache lookup, unless it was taken.
    #[doc(hidden)]
    pub fn cache_lookup(&self) -> Option<&CacheLookup> {
        self.extras.as_ref()?.cached.as_ref()
    }

    /// Drops the ticket and keeps its slots: they are held until they are passed to
    /// [`Engine::flow_end`](super::Engine::flow_end), or until they expire.
    ///
    /// For servers, which receive the end of the flow in another call.
    pub fn leave_open(mut self) {
        for held in self.held.iter_mut() {
            held.by = None;
        }
    }

    /// Returns one slot, and whether it was still held.
    #[doc(hidden)]
    pub fn return_slot(&mut self, id: RequestId) -> bool {
        let held = self.held.iter_mut().find(|held| held.id == id);
        let by = held.and_then(|held| held.by.take());
        by.is_some_and(|by| by.return_slot(id))
    }
}

impl Ticket for EngineTicket {
    fn end(self, outcome: FlowOutcome) {
        if let Some(flow_timer) = self.flow_timer {
            flow_timer.end(outcome);
        }
    }

    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        self.extras.as_mut()?.cached.take()
    }

    fn take_quotas(&mut self) -> Vec<Quota> {
        let extras = self.extras.as_mut();
        extras
            .map(|extras| std::mem::take(&mut extras.quotas))
            .unwrap_or_default()
    }

    fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        self.extras.as_mut()?.http.take()
    }
}
