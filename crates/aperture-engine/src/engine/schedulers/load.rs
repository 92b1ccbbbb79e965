//! The `load_scheduler`: a queue in front of a bucket whose fill rate is a share of the demand.

use std::sync::Arc;

use super::accepted::accept_without_tokens;
use super::load_tokens::{LoadSchedulerDecision, LoadTokens, UpstreamBehaviour};
use super::wait_queue::WaitQueue;
use super::workload::{WorkloadRequest, Workloads};
use super::{ScheduleResult, Scheduler};
use crate::engine::clock::{DecisionTime, Nanos, nanos};
use crate::engine::component::{ComponentContext, FromPolicy, PolicyComponent, ReportedKind};
use crate::engine::control::{Actuator, Demand, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use crate::engine::engine_flow::EngineFlow;
use crate::engine::sync::{Mutex, lock};
use crate::engine::workload_latency::{WorkloadLatency, WorkloadTokens};
use crate::policy::{self, ComponentKind};

/// One load scheduler of a policy.
///
/// For its first 31 seconds it learns the demand and accepts every flow.
#[derive(Debug)]
pub(crate) struct LoadScheduler {
    workloads: Workloads,
    /// This and `queue` are shared with the scheduler that takes over in a reload, and so is
    /// `latency` if it is used.
    estimates: Arc<Mutex<WorkloadTokens>>,
    /// The latencies of the workloads, if tokens depend on them.
    latency: Option<Arc<WorkloadLatency>>,
    queue: Arc<WaitQueue<LoadTokens>>,
}

impl FromPolicy for LoadScheduler {
    type Spec = policy::LoadScheduler;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        match kind {
            ComponentKind::LoadScheduler(spec) => Some(spec),
            _ => None,
        }
    }

    fn new(spec: &Self::Spec, context: &ComponentContext) -> Option<Self> {
        let now = nanos(context.clock.now());
        let rules = Arc::new(UpstreamBehaviour(context.upstream_buckets));
        let queue: Arc<WaitQueue<LoadTokens>> = WaitQueue::new(&rules, &context.clock, "", now);
        if let policy::Port::Constant(load_multiplier) = spec.load_multiplier
            && !context.manual_signals
            && !spec.dry_run
        {
            queue.with_source(|_, load| {
                load.repeat(LoadSchedulerDecision::from_signal(load_multiplier), now);
            });
        }
        Some(Self {
            workloads: Workloads::new(&spec.scheduler),
            estimates: Arc::default(),
            latency: spec
                .workload_latency_based_tokens
                .then(|| Arc::new(WorkloadLatency::default())),
            queue,
        })
    }

    /// Returns the scheduler of a changed policy, with the queue, the demand and the measurements
    /// of this one.
    fn successor(&self, spec: &Self::Spec, _: &ComponentContext) -> Option<Self> {
        let latency = spec
            .workload_latency_based_tokens
            .then(|| self.latency.clone().unwrap_or_default());
        Some(Self {
            workloads: Workloads::new(&spec.scheduler),
            estimates: match latency {
                Some(_) => Arc::clone(&self.estimates),
                None => Arc::default(),
            },
            latency,
            queue: Arc::clone(&self.queue),
        })
    }

    /// Applies the values of its policy, now that the policy is in force. The last decision of a
    /// circuit holds until the circuit decides again.
    fn take_over(&self, _: &Self, spec: &Self::Spec, context: &ComponentContext, now: Nanos) {
        if context.manual_signals {
            return;
        }
        let decision = match spec.load_multiplier {
            _ if spec.dry_run => LoadSchedulerDecision::from_signal(f64::NAN),
            policy::Port::Constant(load_multiplier) => {
                LoadSchedulerDecision::from_signal(load_multiplier)
            }
            policy::Port::Changing(_) => return,
        };
        self.queue.with_source(|_, load| {
            load.repeat_if_new(decision, now);
        });
        self.queue.serve(now);
    }
}

impl Scheduler for LoadScheduler {
    fn schedule(&self, flow: &EngineFlow<'_, '_>, time: &DecisionTime<'_>) -> ScheduleResult {
        let now = time.now();
        let request = self.request(flow, now);
        if request.tokens == 0.0 {
            return accept_without_tokens();
        }
        if self
            .queue
            .with_source(|_, load| load.record_demand_and_pass(request.tokens, now))
        {
            let decision = ComponentDecision {
                consumed: request.tokens,
                dropped: false,
                ..ComponentDecision::REJECTED
            };
            return ScheduleResult::Decided(DecisionWithSlot::from(decision));
        }
        self.queue.schedule(&request, now)
    }

    fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    /// The tokens of the workload come from the current estimates.
    fn request<'a>(&'a self, flow: &EngineFlow<'a, '_>, now: Nanos) -> WorkloadRequest<'a> {
        let estimates = lock(&self.estimates).clone();
        self.workloads.request(flow, now, Some(&estimates))
    }

    fn latency(&self) -> Option<&Arc<WorkloadLatency>> {
        self.latency.as_ref()
    }
}

impl PolicyComponent for LoadScheduler {
    fn reported_kind(&self) -> ReportedKind {
        ReportedKind::LoadScheduler
    }

    fn step(&self) -> DecisionStep {
        DecisionStep::Schedulers
    }

    fn denied_code(&self) -> i32 {
        self.workloads.denied_code()
    }

    fn revert(&self, _: &EngineFlow<'_, '_>, decision: &ComponentDecision, now: Nanos) {
        self.queue.return_tokens(decision.consumed, None, now);
    }
}

impl Actuator for LoadScheduler {
    fn apply(&self, setting: Setting, now: Nanos) -> bool {
        let Setting::Load(decision) = setting else {
            return false;
        };
        if let Some(tokens) = decision.tokens {
            *lock(&self.estimates) = tokens;
        }
        let decision = LoadSchedulerDecision {
            load_multiplier: decision.load_multiplier,
            pass_through: decision.pass_through,
            valid_until: decision.valid_until,
        };
        self.queue.with_source(|_, load| load.decide(decision, now));
        true
    }

    fn take_demand(&self) -> Demand {
        self.queue.with_source(|_, load| load.take_demand())
    }

    fn workload_tokens(&self, now: Nanos) -> Option<WorkloadTokens> {
        Some(self.latency.as_ref()?.tokens(now))
    }
}
