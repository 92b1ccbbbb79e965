//! Decisions for callers that need the verdict without a report.

use std::time::Duration;

use super::cache::CacheLookupStage;
use super::clock::nanos;
use super::collector::Collector;
use super::decision::{DecisionStep, DecisionWithSlot, EngineDenial};
use super::engine_flow::EngineFlow;
use super::flow_timer::FlowTimer;
use super::held_slots::HeldSlots;
use super::pending::{OwnedFlow, ReportParts, WaitingFlow};
use super::snapshot::Snapshot;
use super::stages::StepProgress;
use super::ticket::TicketExtras;
use super::{CheckInput, Engine, EnginePending, EngineTicket, clock};
use crate::flow::encode::encode_baggage;
use crate::flow::{Check, Decider, Denial, FlowParams, HttpAttributes, Verdict};

/// The flow's [budget](FlowParams::budget) is its deadline, also while it waits in queues. With 10
/// ms or less, a component that would have to read its state rejects the flow, as an Agent does. A
/// flow with neither a check timeout nor a caller timeout has no deadline here; an
/// `ApertureClient` over the engine sets a default of 200 ms.
impl Decider for Engine {
    type Ticket = EngineTicket;
    type Pending = EnginePending;

    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<EngineTicket, EnginePending> {
        let mut context = DecideContext::new(params.budget(None));
        self.decide_as(
            control_point,
            params,
            &mut context,
            |ticket| ticket,
            |pending| pending,
        )
    }

    /// Makes labels of the request, as [`check_http`](Self::check_http) does. The flow's own labels
    /// count as members of `baggage`.
    fn decide_http(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Check<EngineTicket, EnginePending> {
        let baggage = encode_baggage(&params.labels).header;
        let mut context = DecideContext::new(params.budget(None));
        self.check_http_attributes(
            control_point,
            params,
            &mut context,
            request,
            baggage.as_deref(),
        )
    }

    fn knows_control_point(&self, name: &str) -> Option<bool> {
        Some(self.shared.live.load().selects(name))
    }

    fn compares_label_value(&self, value: &str) -> Option<bool> {
        Some(self.shared.live.load().compared.contains(value))
    }
}

/// What a caller adds to a decision, and what the engine returns beside the verdict.
#[derive(Debug)]
pub struct DecideContext {
    /// `None` means no limit.
    budget: Option<Duration>,
    /// Set if the flow was accepted and no component decided about it.
    pub undecided: bool,
}

impl DecideContext {
    /// Creates the context for a flow with this budget; `None` means no limit.
    #[inline(always)]
    #[doc(hidden)]
    pub const fn new(budget: Option<Duration>) -> Self {
        Self {
            budget,
            undecided: false,
        }
    }

    /// Returns the time that the decision may take.
    #[must_use]
    pub const fn budget(&self) -> Option<Duration> {
        self.budget
    }
}

impl Engine {
    /// Decides with tickets and futures of another type. The callbacks create them in their final
    /// place, because moving one costs about as much as looking up a key.
    #[inline(always)]
    pub fn decide_as<T, F>(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        context: &mut DecideContext,
        ticket: impl Fn(EngineTicket) -> T,
        pending: impl FnOnce(EnginePending) -> F,
    ) -> Check<T, F> {
        let input = CheckInput::new(control_point, params);
        let flow = input.deadline(context.budget).flow();
        // Loaded once, so that the entire decision uses the same snapshot.
        let live = self.shared.live.load();
        let looks_up = params.result_cache_key.is_some() || !params.global_cache_keys.is_empty();
        // Most flows are selected by one limiter that decides at once, or by none.
        let only = match *live.index.matching(&flow) {
            _ if looks_up || flow.ramp_mode || params.quotas => None,
            [] => Some(None),
            [only] => {
                let component = live.index.component(only);
                (component.limiter.step() == DecisionStep::Limiters).then_some(Some(component))
            }
            _ => None,
        };
        let Some(only) = only else {
            return match self.decide_in_steps(&live, &flow, params, context) {
                Check::Ready(Verdict::Accepted(it)) => Check::Ready(Verdict::Accepted(ticket(it))),
                Check::Ready(Verdict::Rejected(denial, it)) => {
                    Check::Ready(Verdict::Rejected(denial, ticket(it)))
                }
                Check::Ready(Verdict::Unreachable(error)) => {
                    Check::Ready(Verdict::Unreachable(error))
                }
                Check::Pending(it) => Check::Pending(pending(it)),
            };
        };

        self.tick_loops(&live);
        let mut slot = None;
        if let Some(component) = only {
            let limiter = &*component.limiter;
            let DecisionWithSlot {
                decision,
                slot: granted_slot,
            } = limiter.decide(&flow, nanos(self.shared.clock.now()));
            if component.rejects(&decision) {
                self.shared.decision_counters.count(false);
                let denied = DecisionStep::Limiters.denial(limiter.denied_code(), decision.wait);
                let it = EngineTicket::new(HeldSlots::new())
                    .with_flow_timer(self.start_flow_timer(&live, &flow));
                return Check::Ready(Verdict::Rejected(denied.into(), ticket(it)));
            }
            slot = granted_slot;
            if !component.has_decided(&flow, &decision) {
                self.record_undecided(context);
            }
        } else {
            self.shared.unselected.note(&live, control_point);
            self.record_undecided(context);
        }
        self.shared.decision_counters.count(true);
        if live.times_flows() {
            let it = EngineTicket::new(HeldSlots::of(slot))
                .with_flow_timer(self.start_flow_timer(&live, &flow));
            return Check::Ready(Verdict::Accepted(ticket(it)));
        }
        Check::Ready(Verdict::Accepted(ticket(EngineTicket::new(HeldSlots::of(
            slot,
        )))))
    }

    fn record_undecided(&self, context: &mut DecideContext) {
        self.shared.decision_counters.count_undecided();
        context.undecided = true;
    }

    #[inline(never)]
    fn decide_in_steps(
        &self,
        live: &Snapshot,
        flow: &EngineFlow<'_, '_>,
        params: &FlowParams<'_>,
        context: &mut DecideContext,
    ) -> Check<EngineTicket, EnginePending> {
        let mut held = HeldSlots::new();
        let lookup_stage = CacheLookupStage::if_requested(&self.shared.caches, params);
        let looks_up = lookup_stage.is_some();
        let (progress, extras) = match lookup_stage {
            lookup_stage if params.quotas || params.shadow => {
                self.decide_with_collector(live, flow, params, context, lookup_stage, &mut held)
            }
            None => {
                let (progress, undecided) = self.run(live, flow, &mut (), &mut held);
                context.undecided = undecided;
                (progress, TicketExtras::default())
            }
            Some(mut lookup_stage) => {
                let (progress, undecided) = self.run(live, flow, &mut lookup_stage, &mut held);
                context.undecided = undecided;
                let extras = TicketExtras {
                    cached: lookup_stage.found,
                    ..TicketExtras::default()
                };
                (progress, extras)
            }
        };
        match progress {
            StepProgress::Done(result) => {
                let ticket =
                    EngineTicket::new(held).with_flow_timer(self.start_flow_timer(live, flow));
                Check::Ready(verdict(result, ticket.with_extras(extras)))
            }
            StepProgress::Waits(suspended) => {
                let parts = ReportParts {
                    decisions: None,
                    looks_up,
                    found: extras.cached,
                    quotas: params.quotas.then_some(extras.quotas),
                };
                let meters = live.matched(flow);
                let flow = OwnedFlow::new(flow, params, &*self.shared.clock);
                let waiting = WaitingFlow::new(self, flow, *suspended, held, parts, meters);
                Check::Pending(EnginePending::new(waiting))
            }
        }
    }

    /// Decides about a flow that asks for quotas, or that must not wait because it is in shadow
    /// mode.
    #[inline(never)]
    fn decide_with_collector<'a>(
        &'a self,
        live: &Snapshot,
        flow: &EngineFlow<'_, '_>,
        params: &FlowParams<'_>,
        context: &mut DecideContext,
        lookup_stage: Option<CacheLookupStage<'a, '_>>,
        held: &mut HeldSlots,
    ) -> (StepProgress, TicketExtras) {
        let mut collector = Collector {
            decisions: None,
            quotas: params.quotas.then(Vec::new),
            lookup_stage,
        };
        let (progress, undecided) = self.run(live, flow, &mut collector, held);
        context.undecided = undecided;
        let progress = match progress {
            StepProgress::Waits(suspended) if params.shadow => StepProgress::Done(
                self.finish_without_waiting(*suspended, flow, &mut collector, held),
            ),
            progress => progress,
        };
        let extras = TicketExtras {
            cached: collector
                .lookup_stage
                .and_then(|lookup_stage| lookup_stage.found),
            quotas: collector.quotas.unwrap_or_default(),
            ..TicketExtras::default()
        };
        (progress, extras)
    }

    #[inline(never)]
    fn start_flow_timer(&self, live: &Snapshot, flow: &EngineFlow<'_, '_>) -> Option<FlowTimer> {
        FlowTimer::begin(self, live.matched(flow))
    }
}

pub(super) fn verdict(
    result: Result<(), EngineDenial>,
    ticket: EngineTicket,
) -> Verdict<EngineTicket> {
    match result {
        Ok(()) => Verdict::Accepted(ticket),
        Err(denied) => Verdict::Rejected(denied.into(), ticket),
    }
}

impl From<EngineDenial> for Denial {
    /// Leaves out a status that is not valid in HTTP.
    fn from(denied: EngineDenial) -> Self {
        Self::new(denied.reason)
            .denied_code(u16::try_from(denied.code).unwrap_or(0))
            .wait(clock::duration(denied.wait))
    }
}
