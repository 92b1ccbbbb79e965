use std::fmt;
use std::sync::Arc;

use super::flux_meter::Metered;
use super::request_id::RequestId;
use crate::flow::{CacheLookup, FlowOutcome, HttpExtras, Quota, Ticket};

/// Where slots are given back.
pub(crate) trait Holder: Send + Sync {
    /// Frees a slot and wakes who waits for it; false when it is not held any more.
    fn give_back(&self, id: RequestId) -> bool;

    /// The same where nobody asks whether it was still held, which may take a look at the clock.
    fn let_go(&self, id: RequestId) {
        self.give_back(id);
    }
}

/// A slot that a flow holds; dropping it gives it back.
pub(crate) struct Held {
    /// `None` when it was given back, or is left to others.
    by: Option<Arc<dyn Holder>>,
    id: RequestId,
}

/// The slots of one flow; most hold none or one.
// No vector with room for one: tickets are moved often, and each word counts.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    first: Option<Held>,
    #[allow(clippy::box_collection)] // One word.
    others: Option<Box<Vec<Held>>>,
}

impl Slots {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self {
            first: None,
            others: None,
        }
    }

    #[inline(always)]
    pub(crate) const fn of(first: Option<Held>) -> Self {
        Self {
            first,
            others: None,
        }
    }

    pub(crate) fn push(&mut self, held: Held) {
        if self.first.is_none() {
            self.first = Some(held);
        } else {
            self.others.get_or_insert_default().push(held);
        }
    }

    pub(crate) fn extend(&mut self, all: impl Iterator<Item = Held>) {
        for held in all {
            self.push(held);
        }
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Held> {
        let others = self.others.iter_mut().flat_map(|others| others.iter_mut());
        self.first.iter_mut().chain(others)
    }
}

impl Held {
    pub(crate) fn new(by: Arc<dyn Holder>, id: RequestId) -> Self {
        Self { by: Some(by), id }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(by) = self.by.take() {
            by.let_go(self.id);
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

/// A flow that an [`Engine`](super::Engine) has answered, with the concurrency slots it holds.
///
/// They are free again when the flow ends or the ticket is dropped, by a panic or by whoever gave
/// up; and at the latest after their `max_inflight_duration`.
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
#[must_use = "a ticket that is dropped gives its slots back at once"]
pub struct EngineTicket {
    held: Slots,
    /// What there is to tell beside the decision, for a flow that asked.
    told: Option<Box<Told>>,
    /// What is to know how long the flow takes.
    metered: Option<Metered>,
}

/// What a flow asked for.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// What the caches had.
    pub(super) cached: Option<CacheLookup>,
    pub(super) quotas: Vec<Quota>,
    pub(super) http: Option<Box<HttpExtras>>,
}

impl Told {
    /// `None` where there is nothing to tell, as it mostly is.
    pub(super) fn boxed(self) -> Option<Box<Self>> {
        let tells = self.cached.is_some() || !self.quotas.is_empty() || self.http.is_some();
        tells.then(|| Box::new(self))
    }
}

impl EngineTicket {
    #[inline(always)]
    pub(super) const fn new(held: Slots) -> Self {
        Self {
            held,
            told: None,
            metered: None,
        }
    }

    pub(super) fn metered(mut self, metered: Option<Metered>) -> Self {
        self.metered = metered;
        self
    }

    pub(super) fn told(mut self, told: Told) -> Self {
        self.told = told.boxed();
        self
    }

    pub(super) fn and_extras(mut self, extras: Option<Box<HttpExtras>>) -> Self {
        if extras.is_some() {
            self.told.get_or_insert_default().http = extras;
        }
        self
    }

    /// What the caches had, unless it was taken.
    #[cfg(feature = "metrics")]
    pub(crate) fn cache_lookup(&self) -> Option<&CacheLookup> {
        self.told.as_ref()?.cached.as_ref()
    }

    /// Gives up the ticket and keeps its slots: they are held until
    /// [`Engine::flow_end`](super::Engine::flow_end) names them, or until they expire.
    ///
    /// For those who answer others, and hear of the flow's end in another call.
    pub fn leave_open(mut self) {
        for held in self.held.iter_mut() {
            held.by = None;
        }
    }

    /// Gives one slot back, and says whether it was still held.
    pub(crate) fn give_back(&mut self, id: RequestId) -> bool {
        let held = self.held.iter_mut().find(|held| held.id == id);
        let by = held.and_then(|held| held.by.take());
        by.is_some_and(|by| by.give_back(id))
    }
}

impl Ticket for EngineTicket {
    fn end(self, outcome: FlowOutcome) {
        if let Some(metered) = self.metered {
            metered.end(outcome);
        }
    }

    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        self.told.as_mut()?.cached.take()
    }

    fn take_quotas(&mut self) -> Vec<Quota> {
        let told = self.told.as_mut();
        told.map(|told| std::mem::take(&mut told.quotas))
            .unwrap_or_default()
    }

    fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        self.told.as_mut()?.http.take()
    }
}
