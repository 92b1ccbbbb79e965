//! The ticket of a flow: the slots that it holds, and results beside its decision.

use std::sync::Arc;

use super::flow_timer::FlowTimer;
use super::held_slots::HeldSlots;
use super::request_id::RequestId;
use aperture_core::{CacheLookup, FlowOutcome, HttpExtras, Quota, SettleError, Ticket};
use smallvec::SmallVec;

/// A flow that an [`Engine`](super::Engine) has decided about, with the concurrency slots it holds.
///
/// The slots are returned when the flow ends or the ticket is dropped, also by a panic or a
/// cancelled future, and at the latest after their `max_inflight_duration`.
///
/// [`settle`](Ticket::settle) corrects the tokens that the flow took, if they were an estimate; see
/// [costs that are known afterwards](super#costs-that-are-known-afterwards).
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

/// The quotas of one flow, of which most have at most one.
pub(super) type Quotas = SmallVec<[Quota; 1]>;

/// The results beside a decision that a flow asked for.
#[derive(Debug, Default)]
pub(super) struct TicketExtras {
    /// The result of the cache lookup.
    pub(super) cached: Option<CacheLookup>,
    pub(super) quotas: Quotas,
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

    /// Returns the ticket of a flow that holds nothing.
    #[inline]
    #[doc(hidden)]
    pub const fn of_nothing() -> Self {
        Self::new(HeldSlots::None)
    }

    /// Returns the ticket unless the end of its flow has no effect.
    #[inline(always)]
    #[must_use]
    #[doc(hidden)]
    pub fn if_needed(self) -> Option<Self> {
        if self.needs_end() {
            return Some(self);
        }
        // Nothing is in it, and its drop would look at each part.
        std::mem::forget(self);
        None
    }

    pub(super) fn with_flow_timer(mut self, flow_timer: Option<FlowTimer>) -> Self {
        self.flow_timer = flow_timer;
        self
    }

    /// Adds quotas, which it takes, to a ticket without extras.
    #[inline]
    pub(super) fn with_quotas(mut self, quotas: &mut Quotas) -> Self {
        if !quotas.is_empty() {
            self.extras = Some(Box::new(TicketExtras {
                cached: None,
                quotas: std::mem::take(quotas),
                http: None,
            }));
        }
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

    /// Returns the names of the flux meters that measure the flow.
    pub(super) fn flux_meters(&self) -> Vec<Arc<str>> {
        let meters = self.flow_timer.iter().flat_map(FlowTimer::meters);
        meters.map(|meter| Arc::clone(meter.name())).collect()
    }

    /// Drops the ticket and keeps its slots: they are held until they are passed to
    /// [`Engine::flow_end`](super::Engine::flow_end), or until they expire.
    ///
    /// For servers, which receive the end of the flow in another call.
    pub fn leave_open(mut self) {
        self.held.leave_open();
    }

    /// Returns one slot of a flow that ended with this outcome, and whether it was still held.
    #[doc(hidden)]
    pub fn return_slot(&mut self, id: RequestId, outcome: FlowOutcome) -> bool {
        self.held.return_slot(id, outcome)
    }
}

impl Ticket for EngineTicket {
    #[inline(always)]
    fn end(self, outcome: FlowOutcome) {
        let Self {
            held,
            extras,
            flow_timer,
        } = self;
        if let Some(flow_timer) = flow_timer {
            flow_timer.end(outcome);
        }
        held.end(outcome);
        // Results that the caller did not take.
        if let Some(extras) = extras {
            drop(extras);
        }
    }

    #[inline(always)]
    fn needs_end(&self) -> bool {
        !self.held.is_empty() || self.flow_timer.is_some() || self.extras.is_some()
    }

    fn response_started(&mut self, outcome: FlowOutcome) {
        self.held.response_started(outcome);
    }

    fn settles(&self) -> bool {
        true
    }

    /// A bucket that the flow took no estimate from stays as it is. Has no effect after
    /// [`leave_open`](Self::leave_open).
    fn settle(&mut self, actual_tokens: f64) -> Result<(), SettleError> {
        SettleError::check(actual_tokens)?;
        self.held.settle(actual_tokens);
        Ok(())
    }

    fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        self.extras.as_mut()?.cached.take()
    }

    fn take_quotas(&mut self) -> Vec<Quota> {
        let extras = self.extras.as_mut();
        extras
            .map(|extras| std::mem::take(&mut extras.quotas).into_vec())
            .unwrap_or_default()
    }

    fn take_quotas_with(&mut self, read: &mut dyn FnMut(&[Quota])) {
        if let Some(extras) = &mut self.extras {
            read(&extras.quotas);
            extras.quotas.clear();
        }
    }

    fn take_http_extras(&mut self) -> Option<Box<HttpExtras>> {
        self.extras.as_mut()?.http.take()
    }
}
