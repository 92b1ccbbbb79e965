//! Deciding for callers that want an answer and no report.

use std::time::Duration;

use super::cache::CacheLookupStage;
use super::clock::nanos;
use super::flux_meter::Metered;
use super::limiters::Settled;
use super::pending::{Notes, OwnedFlow, Waiting};
use super::report::Collector;
use super::snapshot::Snapshot;
use super::stages::{Denied, Flow, Progress, Step};
use super::ticket::{Slots, Told};
use super::{CheckInput, Engine, EnginePending, EngineTicket, clock};
use crate::flow::encode::encode_baggage;
use crate::flow::{Check, Decider, Denial, FlowParams, HttpAttributes, Verdict};

/// The flow's [budget](FlowParams::budget) is the deadline, also for waiting in queues: with 10 ms or
/// less, a component that would have to look at its state rejects, as an Agent does. A flow without
/// a check timeout and a caller timeout has no deadline here; an
/// [`ApertureClient`](crate::ApertureClient) over the engine has a default of 200 ms.
impl Decider for Engine {
    type Ticket = EngineTicket;
    type Pending = EnginePending;

    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<EngineTicket, EnginePending> {
        let mut asking = Asking::new(params.budget(None));
        self.decide_as(
            control_point,
            params,
            &mut asking,
            |ticket| ticket,
            |pending| pending,
        )
    }

    /// Makes labels of the request, as [`check_http`](Self::check_http) does it. The flow's own
    /// labels count as members of `baggage`.
    fn decide_http(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Check<EngineTicket, EnginePending> {
        let baggage = encode_baggage(&params.labels).header;
        let mut asking = Asking::new(params.budget(None));
        self.check_http_attributes(
            control_point,
            params,
            &mut asking,
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

/// What a caller of the engine adds to a question, and hears beside the answer.
#[derive(Debug)]
pub(crate) struct Asking {
    /// `None` is no limit.
    budget: Option<Duration>,
    /// The flow was let in, and no component decided about it.
    pub(crate) undecided: bool,
}

impl Asking {
    /// With the budget of a flow; `None` is no limit.
    #[inline(always)]
    pub(crate) const fn new(budget: Option<Duration>) -> Self {
        Self {
            budget,
            undecided: false,
        }
    }

    pub(crate) const fn budget(&self) -> Option<Duration> {
        self.budget
    }
}

impl Engine {
    /// Decides with tickets of another form, which are made where they stay: to move one costs
    /// about as much as to look up a key.
    #[inline(always)]
    pub(crate) fn decide_as<T, F>(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        asking: &mut Asking,
        ticket: impl Fn(EngineTicket) -> T,
        pending: impl FnOnce(EnginePending) -> F,
    ) -> Check<T, F> {
        let input = CheckInput::new(control_point, params);
        let flow = input.deadline(asking.budget).flow();
        // Once for all that is asked of it.
        let live = self.shared.live.load();
        let looks_up = params.result_cache_key.is_some() || !params.global_cache_keys.is_empty();
        // Most flows meet one limiter that answers at once, or none.
        let only = match *live.index.matching(&flow) {
            _ if looks_up || flow.ramp_mode || params.quotas => None,
            [] => Some(None),
            [only] => {
                let component = live.index.component(only);
                (component.limiter.step() == Step::Limiters).then_some(Some(component))
            }
            _ => None,
        };
        let Some(only) = only else {
            return match self.decide_in_steps(&live, &flow, params, asking) {
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
            let Settled { decided, held } = limiter.decide(&flow, nanos(self.shared.clock.now()));
            if component.rejects(&decided) {
                self.shared.decision_counters.count(false);
                let denied = Step::Limiters.denied(limiter.denied_code(), decided.wait);
                let it = EngineTicket::new(Slots::new()).metered(self.metered(&live, &flow));
                return Check::Ready(Verdict::Rejected(denied.into(), ticket(it)));
            }
            slot = held;
            if !component.has_decided(&flow, &decided) {
                self.let_in_undecided(asking);
            }
        } else {
            self.shared.unselected.note(&live, control_point);
            self.let_in_undecided(asking);
        }
        self.shared.decision_counters.count(true);
        if live.times_flows() {
            let it = EngineTicket::new(Slots::of(slot)).metered(self.metered(&live, &flow));
            return Check::Ready(Verdict::Accepted(ticket(it)));
        }
        Check::Ready(Verdict::Accepted(ticket(EngineTicket::new(Slots::of(
            slot,
        )))))
    }

    fn let_in_undecided(&self, asking: &mut Asking) {
        self.shared.decision_counters.count_undecided();
        asking.undecided = true;
    }

    #[inline(never)]
    fn decide_in_steps(
        &self,
        live: &Snapshot,
        flow: &Flow<'_, '_>,
        params: &FlowParams<'_>,
        asking: &mut Asking,
    ) -> Check<EngineTicket, EnginePending> {
        let mut held = Slots::new();
        let lookup_stage = CacheLookupStage::if_requested(&self.shared.caches, params);
        let looks_up = lookup_stage.is_some();
        let (progress, told) = match lookup_stage {
            lookup_stage if params.quotas || params.shadow => {
                self.decide_at_length(live, flow, params, asking, lookup_stage, &mut held)
            }
            None => {
                let (progress, undecided) = self.run(live, flow, &mut (), &mut held);
                asking.undecided = undecided;
                (progress, Told::default())
            }
            Some(mut lookup_stage) => {
                let (progress, undecided) = self.run(live, flow, &mut lookup_stage, &mut held);
                asking.undecided = undecided;
                let told = Told {
                    cached: lookup_stage.found,
                    ..Told::default()
                };
                (progress, told)
            }
        };
        match progress {
            Progress::Done(result) => {
                let ticket = EngineTicket::new(held).metered(self.metered(live, flow));
                Check::Ready(verdict(result, ticket.told(told)))
            }
            Progress::Waits(halt) => {
                let notes = Notes {
                    decisions: None,
                    looks_up,
                    found: told.cached,
                    quotas: params.quotas.then_some(told.quotas),
                };
                let meters = live.matched(flow);
                let flow = OwnedFlow::new(flow, params, &*self.shared.clock);
                let waiting = Waiting::new(self, flow, *halt, held, notes, meters);
                Check::Pending(EnginePending::new(waiting))
            }
        }
    }

    /// Decides a flow that wants to know its quotas, or does not wait.
    #[inline(never)]
    fn decide_at_length<'a>(
        &'a self,
        live: &Snapshot,
        flow: &Flow<'_, '_>,
        params: &FlowParams<'_>,
        asking: &mut Asking,
        lookup_stage: Option<CacheLookupStage<'a, '_>>,
        held: &mut Slots,
    ) -> (Progress, Told) {
        let mut collector = Collector {
            decisions: None,
            quotas: params.quotas.then(Vec::new),
            lookup_stage,
        };
        let (progress, undecided) = self.run(live, flow, &mut collector, held);
        asking.undecided = undecided;
        let progress = match progress {
            Progress::Waits(halt) if params.shadow => {
                Progress::Done(self.wait_for_nothing(*halt, flow, &mut collector, held))
            }
            progress => progress,
        };
        let told = Told {
            cached: collector
                .lookup_stage
                .and_then(|lookup_stage| lookup_stage.found),
            quotas: collector.quotas.unwrap_or_default(),
            ..Told::default()
        };
        (progress, told)
    }

    #[inline(never)]
    fn metered(&self, live: &Snapshot, flow: &Flow<'_, '_>) -> Option<Metered> {
        Metered::begin(self, live.matched(flow))
    }
}

pub(super) fn verdict(result: Result<(), Denied>, ticket: EngineTicket) -> Verdict<EngineTicket> {
    match result {
        Ok(()) => Verdict::Accepted(ticket),
        Err(denied) => Verdict::Rejected(denied.into(), ticket),
    }
}

impl From<Denied> for Denial {
    /// A status outside of what HTTP knows is no status.
    fn from(denied: Denied) -> Self {
        Self::new(denied.reason)
            .denied_code(u16::try_from(denied.code).unwrap_or(0))
            .wait(clock::duration(denied.wait))
    }
}
