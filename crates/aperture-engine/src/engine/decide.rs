//! Decisions for callers that need the verdict without a report.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::clock::{DecisionTime, Nanos};
use super::collector::{CheckCollector, NoReport, QuotaCollector, VerdictCollector};
use super::decision::MayWait;
use super::engine_flow::{CheckInput, EngineFlow, time_left};
use super::flow_timer::FlowTimer;
use super::held_slots::HeldSlots;
use super::owned_flow::OwnedFlow;
use super::pending::{PendingDecision, WaitingFlow};
use super::run::{Decided, RunEnd, RunOptions};
use super::selector_index::SelectorIndex;
use super::snapshot::Snapshot;
use super::stages::Suspended;
use super::{Engine, EngineMode, EnginePending, EngineTicket};
use aperture_core::encode::encode_baggage;
use aperture_core::{
    Check, ControlPoint, Decider, FlowParams, HttpAttributes, LabelSource, Verdict,
};

/// The flow's [budget](FlowParams::budget) is its deadline, also while it waits in queues. With 10
/// ms or less, a component that would have to read its state rejects the flow, as an Agent does. A
/// flow with neither a check timeout nor a caller timeout has no deadline here; an
/// `ApertureClient` over the engine sets a default of 200 ms.
impl<M: EngineMode> Decider for Engine<M> {
    type Ticket = EngineTicket;
    type Pending = EnginePending;

    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<EngineTicket, EnginePending> {
        let mut context = DecideContext::new(params.budget(None));
        self.decide_as(
            control_point.into(),
            params,
            &params.labels,
            &mut context,
            |ticket| ticket,
            |pending| pending,
        )
    }

    /// Reads the labels that policies at this control point name, and no others unless the flow
    /// waits.
    fn decide_from(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
    ) -> Check<EngineTicket, EnginePending> {
        let mut context = DecideContext::new(params.budget(None));
        self.decide_as(
            control_point,
            params,
            labels,
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

    #[inline(always)]
    fn passes(&self, control_point: ControlPoint<'_>, params: &FlowParams<'_>) -> bool {
        Self::passes(self, control_point, params)
    }

    fn knows_control_point(&self, name: &str) -> Option<bool> {
        Some(self.shared.live.load().selects(name))
    }

    fn compares_label_value(&self, value: &str) -> Option<bool> {
        Some(self.shared.live.load().compared.contains(value))
    }
}

/// What a caller adds to a decision, and what the engine returns beside the verdict.
#[derive(Clone, Copy, Debug)]
pub struct DecideContext {
    /// `None` means no limit.
    budget: Option<Duration>,
    /// The same for components.
    time_left: Nanos,
    /// Set if the flow was accepted and no component decided about it.
    pub undecided: bool,
}

impl DecideContext {
    /// Creates the context for a flow with this budget; `None` means no limit.
    #[inline(always)]
    #[must_use]
    #[doc(hidden)]
    pub fn new(budget: Option<Duration>) -> Self {
        Self {
            budget,
            time_left: time_left(budget),
            undecided: false,
        }
    }

    /// Returns the time that the decision may take.
    #[must_use]
    pub const fn budget(&self) -> Option<Duration> {
        self.budget
    }
}

impl<M: EngineMode> Engine<M> {
    /// Decides by these labels, with tickets and futures of another type. The callbacks create them in their final
    /// place, because moving one costs about as much as looking up a key.
    #[inline(always)]
    pub fn decide_as<T, F>(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
        context: &mut DecideContext,
        ticket: impl Fn(EngineTicket) -> T,
        pending: impl FnOnce(EnginePending) -> F,
    ) -> Check<T, F> {
        if params.looks_up_caches() {
            let input = CheckInput::new(control_point.name(), params)
                .labels_from(labels)
                .deadline(context.budget);
            return match self.decide_with_lookup(&input, context) {
                Check::Ready(Verdict::Accepted(it)) => Check::Ready(Verdict::Accepted(ticket(it))),
                Check::Ready(Verdict::Rejected(denial, it)) => {
                    Check::Ready(Verdict::Rejected(denial, ticket(it)))
                }
                Check::Ready(Verdict::Unreachable(error)) => {
                    Check::Ready(Verdict::Unreachable(error))
                }
                Check::Pending(it) => Check::Pending(pending(it)),
            };
        }
        match params.quotas {
            false => {
                let to = (context, NoReport);
                self.decide_into(control_point, params, labels, to, ticket, pending)
            }
            true => {
                let to = (context, QuotaCollector::default());
                self.decide_into(control_point, params, labels, to, ticket, pending)
            }
        }
    }

    /// Accepts and counts a flow, if the memo of its control point says that the policies in force
    /// do no more than that. Returns false, without effect, for any other flow.
    #[inline(always)]
    #[doc(hidden)]
    #[must_use]
    pub fn passes(&self, control_point: ControlPoint<'_>, params: &FlowParams<'_>) -> bool {
        let Some(memo) = control_point.memo() else {
            return false;
        };
        let passes = SelectorIndex::is_noted_to_pass(memo, self.shared.version.load(Relaxed))
            && !params.ramp_mode
            && !params.looks_up_caches();
        if passes {
            self.shared.decision_counters.count_accepted(true);
        }
        passes
    }

    /// Decides about a flow that looks up no cache, and adds what the collector gathered to its
    /// ticket.
    #[inline(always)]
    fn decide_into<C: CheckCollector, T, F>(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
        (context, mut collector): (&mut DecideContext, C),
        ticket: impl Fn(EngineTicket) -> T,
        pending: impl FnOnce(EnginePending) -> F,
    ) -> Check<T, F> {
        let flow = EngineFlow {
            control_point: control_point.name(),
            services: &[],
            labels,
            ramp_mode: params.ramp_mode,
            time_left: context.time_left,
        };
        // Loaded once, so that the entire decision uses the same snapshot.
        let live = self.shared.live.load();
        let options = RunOptions {
            lookup: None,
            may_wait: MayWait::of_params(params),
            memo: control_point.memo(),
        };
        let time = DecisionTime::new(&*self.shared.clock);
        self.run(
            &live,
            &flow,
            options,
            &time,
            &mut collector,
            // Inlined at each of its calls, so that an accepted flow meets none of the matches.
            #[inline(always)]
            |collector, run| match run {
                RunEnd::Decided(Decided {
                    result: Ok(()),
                    held,
                    undecided,
                }) => {
                    context.undecided = undecided;
                    if live.times_flows() {
                        let it = self.timed_ticket(&live, &flow, held, &time);
                        return Check::Ready(Verdict::Accepted(ticket(collector.add_to(it))));
                    }
                    let it = collector.add_to(EngineTicket::new(held));
                    Check::Ready(Verdict::Accepted(ticket(it)))
                }
                RunEnd::Decided(Decided {
                    result: Err(denied),
                    held,
                    ..
                }) => {
                    let it = match live.times_flows() {
                        true => self.timed_ticket(&live, &flow, held, &time),
                        false => EngineTicket::new(held),
                    };
                    Check::Ready(Verdict::Rejected(
                        denied.into(),
                        ticket(collector.add_to(it)),
                    ))
                }
                RunEnd::Waits(suspended, held) => {
                    let collector = collector.continue_waiting();
                    let owned = OwnedFlow::new(&flow, params, &time);
                    let it = self.wait(&live, &flow, owned, *suspended, held, collector);
                    Check::Pending(pending(it))
                }
            },
        )
    }

    /// Decides about a flow that asks for a cache lookup.
    #[inline(never)]
    fn decide_with_lookup(
        &self,
        input: &CheckInput<'_, '_>,
        context: &mut DecideContext,
    ) -> Check<EngineTicket, EnginePending> {
        let collector = VerdictCollector::new(input.params);
        self.start_check(input, collector).into_check(context)
    }

    /// Returns the ticket of a flow, which measures how long the flow takes if a meter selects it.
    // Not inlined, like `wait`, so that `decide_as` stays small.
    #[inline(never)]
    fn timed_ticket(
        &self,
        live: &Snapshot,
        flow: &EngineFlow<'_, '_>,
        held: HeldSlots,
        time: &DecisionTime<'_>,
    ) -> EngineTicket {
        let flow_timer = FlowTimer::begin(&self.shared, live.matched(flow), time);
        EngineTicket::new(held).with_flow_timer(flow_timer)
    }

    /// Returns the future of the verdict about a flow that a scheduler makes wait.
    #[inline(never)]
    fn wait(
        &self,
        live: &Snapshot,
        flow: &EngineFlow<'_, '_>,
        owned: OwnedFlow,
        suspended: Suspended,
        held: HeldSlots,
        collector: VerdictCollector,
    ) -> EnginePending {
        let meters = live.matched(flow);
        let waiting = WaitingFlow::new(
            &self.shared,
            owned,
            suspended,
            held,
            collector,
            false,
            meters,
        );
        EnginePending::new(Box::pin(waiting))
    }
}

impl PendingDecision<VerdictCollector> {
    /// Returns the verdict, or its future, and records in `context` whether the flow is undecided.
    pub(super) fn into_check(
        self,
        context: &mut DecideContext,
    ) -> Check<EngineTicket, EnginePending> {
        match self {
            Self::Decided(output) => {
                let collected = output.expect("the output is not taken yet");
                context.undecided = collected.undecided;
                Check::Ready(collected.verdict)
            }
            Self::Waits(waiting) => Check::Pending(EnginePending::new(waiting)),
        }
    }
}
