//! The `load_scheduler`: a queue in front of a bucket whose fill rate is a share of the demand.

use std::sync::Arc;

use super::quota::{MAX_OVERTAKING, accept_without_tokens};
use super::token_source::{SourceReply, TakeRequest, TokenGrant, TokenSource};
use super::wait_queue::WaitQueue;
use super::workload::{WorkloadRequest, Workloads};
use super::{ScheduleResult, Scheduler};
use crate::engine::clock::{Nanos, nanos};
use crate::engine::component::{ComponentContext, FromPolicy, PolicyComponent, ReportedKind};
use crate::engine::control::{Actuator, Demand, Setting};
use crate::engine::decision::{ComponentDecision, DecisionStep, DecisionWithSlot};
use crate::engine::engine_flow::EngineFlow;
use crate::engine::store::EvictionLoss;
use crate::engine::sync::Mutex;
use crate::engine::sync::lock;
use crate::engine::workload_latency::{WorkloadLatency, WorkloadTokens};
use crate::policy::{self, ComponentKind};

const SECOND: Nanos = 1_000_000_000;
/// How often an Agent receives the load multiplier.
const REPEAT_INTERVAL: Nanos = 10 * SECOND;
/// Seconds of demand that are kept, including the current one.
const WINDOW_SECONDS: usize = 31;
/// The largest rate, in tokens per second. Sums of such rates are still finite.
const MAX_RATE: f64 = 1e300;

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

/// The decision of a controller about a load scheduler.
#[derive(Clone, Copy, Debug, PartialEq)]
struct LoadSchedulerDecision {
    /// The share of the demand to accept; zero or more.
    load_multiplier: f64,
    pass_through: bool,
    /// After this time the scheduler accepts every flow.
    valid_until: Option<Nanos>,
}

impl LoadSchedulerDecision {
    /// Returns the decision for a value of the signal.
    fn from_signal(load_multiplier: f64) -> Self {
        Self {
            load_multiplier: if load_multiplier > 0.0 {
                load_multiplier
            } else {
                0.0
            },
            pass_through: load_multiplier.is_nan(),
            valid_until: None,
        }
    }
}

impl FromPolicy for LoadScheduler {
    type Spec = policy::LoadScheduler;

    fn spec(kind: &ComponentKind) -> Option<&Self::Spec> {
        match kind {
            ComponentKind::LoadScheduler(spec) => Some(spec),
            _ => None,
        }
    }

    fn new(spec: &Self::Spec, context: &ComponentContext) -> Self {
        let now = nanos(context.clock.now());
        let rules = Arc::new(UpstreamBehaviour(context.upstream_buckets));
        let queue: Arc<WaitQueue<LoadTokens>> = WaitQueue::new(&rules, &context.clock, now);
        if let policy::Port::Constant(load_multiplier) = spec.load_multiplier
            && !context.manual_signals
            && !spec.dry_run
        {
            queue.with_source(|_, load| {
                load.repeat(LoadSchedulerDecision::from_signal(load_multiplier), now);
            });
        }
        Self {
            workloads: Workloads::new(&spec.scheduler),
            estimates: Arc::default(),
            latency: spec
                .workload_latency_based_tokens
                .then(|| Arc::new(WorkloadLatency::default())),
            queue,
        }
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
            if load.decision != decision || load.repeats_at.is_none() {
                load.repeat(decision, now);
            }
        });
        self.queue.serve(now);
    }
}

impl Scheduler for LoadScheduler {
    fn schedule(&self, flow: &EngineFlow<'_, '_>, now: Nanos) -> ScheduleResult {
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

    fn revert(&self, _: &EngineFlow<'_, '_>, consumed: f64, now: Nanos) {
        self.queue.return_tokens(consumed, None, now);
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
        self.queue
            .with_source(|_, load| std::mem::take(&mut load.demand))
    }

    fn workload_tokens(&self, now: Nanos) -> Option<WorkloadTokens> {
        Some(self.latency.as_ref()?.tokens(now))
    }
}

/// The bucket, the demand that sets its rate, and the decision in force.
#[derive(Debug)]
pub(crate) struct LoadTokens {
    demand_window: DemandWindow,
    decision: LoadSchedulerDecision,
    /// When a decision that never changes is applied again.
    repeats_at: Option<Nanos>,
    bucket: DemandBucket,
    /// The bucket without the tokens that are reserved for the head of the queue. It replaces the
    /// bucket if the head leaves.
    without_reserved: Option<DemandBucket>,
    /// The demand since it was last taken.
    demand: Demand,
}

/// Whether to behave exactly as an Agent does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UpstreamBehaviour(bool);

impl LoadTokens {
    /// Puts a permanent decision in force. Its rate follows the demand as often as an Agent's
    /// would.
    fn repeat(&mut self, decision: LoadSchedulerDecision, now: Nanos) {
        self.decide(decision, now);
        self.repeats_at = Some(now.saturating_add(REPEAT_INTERVAL));
    }

    fn decide(&mut self, decision: LoadSchedulerDecision, now: Nanos) {
        self.decision = decision;
        self.repeats_at = None;
        self.set_rate(now);
    }

    fn set_rate(&mut self, now: Nanos) {
        if !self.demand_window.learning {
            let rate = target_rate(self.demand_window.rate(), self.decision.load_multiplier);
            self.bucket.set_rate(rate, now);
            if let Some(without_reserved) = &mut self.without_reserved {
                without_reserved.set_rate(rate, now);
            }
        }
    }

    /// Records the demand. Returns true if every flow is accepted: while the scheduler learns, by
    /// the decision, and after the decision has expired.
    fn record_demand_and_pass(&mut self, tokens: f64, now: Nanos) -> bool {
        if let Some(at) = self.repeats_at
            && at <= now
        {
            // No request came since then, so the demand is unchanged.
            self.set_rate(at);
            let missed = (now - at) / REPEAT_INTERVAL + 1;
            self.repeats_at = Some(at.saturating_add(missed.saturating_mul(REPEAT_INTERVAL)));
        }
        let was_learning = self.demand_window.learning;
        // Negative tokens return some and are no demand.
        self.demand_window.add(tokens.max(0.0), now);
        if was_learning && !self.demand_window.learning {
            self.set_rate(now);
            self.bucket.add(self.bucket.rate);
        }
        let decision = &self.decision;
        let expired = decision.valid_until.is_some_and(|until| until < now);
        let passes = self.demand_window.learning || decision.pass_through || expired;
        if passes {
            self.demand.add(tokens, true);
        }
        passes
    }
}

/// Returns the share of a demand, in tokens per second. An infinite multiplier gives the largest
/// rate, also of no demand.
fn target_rate(demand: f64, load_multiplier: f64) -> f64 {
    if load_multiplier == f64::INFINITY {
        return MAX_RATE;
    }
    (demand * load_multiplier).clamp(0.0, MAX_RATE)
}

impl TokenSource for LoadTokens {
    type Rules = UpstreamBehaviour;

    /// The same bound as in quota schedulers, whose queues are of the same kind.
    fn max_overtaking(upstream: &UpstreamBehaviour) -> u32 {
        match upstream.0 {
            true => u32::MAX,
            false => MAX_OVERTAKING,
        }
    }

    fn new(now: Nanos) -> Self {
        Self {
            demand_window: DemandWindow::new(now),
            decision: LoadSchedulerDecision {
                load_multiplier: 0.0,
                pass_through: true,
                valid_until: None,
            },
            repeats_at: None,
            bucket: DemandBucket {
                available: 0.0,
                rate: 0.0,
                latest: now,
            },
            without_reserved: None,
            demand: Demand::default(),
        }
    }

    fn take_immediately(
        &mut self,
        _: &UpstreamBehaviour,
        request: &TakeRequest,
    ) -> Option<TokenGrant> {
        self.bucket.fill(request.now);
        // With exactly enough tokens, the queue accepts the request at once.
        if self.bucket.available > request.tokens {
            self.bucket.spend(request.tokens);
            return Some(self.bucket.grant());
        }
        None
    }

    fn take(&mut self, _: &UpstreamBehaviour, request: &TakeRequest) -> SourceReply {
        let bucket = &mut self.bucket;
        bucket.fill(request.now);
        if bucket.rate == 0.0 {
            return SourceReply::Rejected(bucket.grant());
        }
        let without_reserved = *bucket;
        bucket.spend(request.tokens);
        if bucket.available >= 0.0 {
            return SourceReply::Granted(bucket.grant());
        }
        let wait = (-bucket.available / bucket.rate * SECOND as f64) as Nanos;
        let available_at = request.now.saturating_add(wait);
        // A wait beyond the range of the clock never ends.
        if available_at > request.deadline || available_at == Nanos::MAX {
            *bucket = without_reserved;
            return SourceReply::Rejected(bucket.grant());
        }
        self.without_reserved = Some(without_reserved);
        SourceReply::GrantedFrom(available_at, bucket.grant())
    }

    /// While the scheduler accepts every flow, flows are accepted without taking tokens, so none
    /// are returned.
    fn return_tokens(
        &mut self,
        _: &UpstreamBehaviour,
        tokens: f64,
        _: &TokenGrant,
        now: Nanos,
    ) -> bool {
        if !self.decision.pass_through {
            for bucket in self.without_reserved.iter_mut().chain([&mut self.bucket]) {
                bucket.fill(now);
                bucket.add(tokens);
            }
        }
        true
    }

    fn use_reserved(&mut self) {
        self.without_reserved = None;
    }

    fn cancel_reserved(&mut self, _: &UpstreamBehaviour, _: f64, _: &TokenGrant, now: Nanos) {
        if let Some(without_reserved) = self.without_reserved.take() {
            self.bucket = without_reserved;
        }
        self.bucket.fill(now);
    }

    /// A load scheduler has one bucket, which is never evicted.
    fn eviction_loss(&mut self, _: &UpstreamBehaviour, last_used: Nanos, _: Nanos) -> EvictionLoss {
        EvictionLoss::all(last_used)
    }

    fn record_demand(&mut self, tokens: f64, granted: bool) {
        self.demand.add(tokens, granted);
    }
}

/// A bucket that holds the tokens of one second.
#[derive(Clone, Copy, Debug)]
struct DemandBucket {
    available: f64,
    /// Tokens per second.
    rate: f64,
    latest: Nanos,
}

impl DemandBucket {
    fn fill(&mut self, now: Nanos) {
        if now > self.latest {
            let elapsed = (now - self.latest) as f64 / SECOND as f64;
            self.latest = now;
            self.add(self.rate * elapsed);
        }
    }

    fn add(&mut self, tokens: f64) {
        self.available = (self.available + tokens).min(self.rate);
    }

    /// Takes tokens; a negative number adds some.
    fn spend(&mut self, tokens: f64) {
        match tokens < 0.0 {
            true => self.add(-tokens),
            false => self.available -= tokens,
        }
    }

    /// Sets the rate. The time until `now` still counts at the old rate.
    fn set_rate(&mut self, rate: f64, now: Nanos) {
        self.fill(now);
        self.rate = rate;
    }

    fn grant(&self) -> TokenGrant {
        TokenGrant {
            remaining: self.available,
            current: self.rate - self.available,
            slot: None,
        }
    }
}

/// The tokens requested in each of the last seconds.
#[derive(Debug)]
struct DemandWindow {
    seconds: [f64; WINDOW_SECONDS],
    at: usize,
    next: Nanos,
    /// True until the window has been filled once.
    learning: bool,
}

impl DemandWindow {
    fn new(now: Nanos) -> Self {
        Self {
            seconds: [0.0; WINDOW_SECONDS],
            at: 0,
            next: now.saturating_add(SECOND),
            learning: true,
        }
    }

    fn add(&mut self, tokens: f64, now: Nanos) {
        if now > self.next {
            // A boundary counts only after it has passed.
            let crossed = (now - self.next - 1) / SECOND + 1;
            if crossed >= WINDOW_SECONDS as Nanos {
                *self = Self::new(now);
            } else {
                for _ in 0..crossed {
                    self.at = (self.at + 1) % WINDOW_SECONDS;
                    self.seconds[self.at] = 0.0;
                    self.learning &= self.at != 0;
                }
                self.next = self.next.saturating_add(crossed * SECOND);
            }
        }
        self.seconds[self.at] = (self.seconds[self.at] + tokens).min(MAX_RATE);
    }

    /// Returns the tokens per second, without the current second.
    fn rate(&self) -> f64 {
        let others = self
            .seconds
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != self.at);
        others.map(|(_, tokens)| tokens).sum::<f64>() / (WINDOW_SECONDS - 1) as f64
    }
}
