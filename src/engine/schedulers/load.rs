//! `load_scheduler`: a queue in front of a bucket that fills as fast as a share of the demand.

use std::sync::Arc;

use super::line::Line;
use super::quota::{details, free};
use super::supply::{Ask, Grant, Source, Take};
use super::workload::Workloads;
use crate::engine::clock::{Nanos, nanos};
use crate::engine::control::{Demand, WorkloadLatency, WorkloadTokens};
use crate::engine::flux_meter::Workload;
use crate::engine::limiters::{Decided, Scheduled, Settled, Surroundings};
use crate::engine::report::LimiterDetails;
use crate::engine::stages::Flow;
use crate::engine::store::lock;
use crate::engine::sync::Mutex;
use crate::policy;

const SECOND: Nanos = 1_000_000_000;
/// How often an Agent is told the load multiplier.
const REPEATED: Nanos = 10 * SECOND;
/// Seconds of demand that are kept, the current one included.
const SLOTS: usize = 31;

/// One load scheduler of a policy.
///
/// For its first 31 seconds it learns the demand and lets everything pass.
#[derive(Debug)]
pub(crate) struct LoadScheduler {
    workloads: Workloads,
    estimates: Mutex<WorkloadTokens>,
    /// Where tokens follow latency.
    latency: Option<Arc<WorkloadLatency>>,
    line: Arc<Line<Load>>,
}

/// What a controller decides about a load scheduler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Decision {
    /// Zero or more; what share of the demand passes.
    pub(crate) load_multiplier: f64,
    pub(crate) pass_through: bool,
    /// From then on everything passes.
    pub(crate) valid_until: Option<Nanos>,
}

impl Decision {
    /// From the value of the signal.
    fn of(load_multiplier: f64) -> Self {
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

impl LoadScheduler {
    pub(crate) fn new(spec: &policy::LoadScheduler, around: &Surroundings) -> Self {
        let now = nanos(around.clock.now());
        let line: Arc<Line<Load>> = Line::new(&Arc::new(()), &around.clock, now);
        if let policy::Port::Constant(load_multiplier) = spec.load_multiplier
            && !around.by_hand
        {
            line.with(|(), load| load.repeat(Decision::of(load_multiplier), now));
        }
        Self {
            workloads: Workloads::new(&spec.scheduler),
            estimates: Mutex::default(),
            latency: spec
                .workload_latency_based_tokens
                .then(|| Arc::new(WorkloadLatency::default())),
            line,
        }
    }

    /// Where the flows of workloads are measured, if they are.
    pub(crate) fn latency(&self) -> Option<&Arc<WorkloadLatency>> {
        self.latency.as_ref()
    }

    /// What a flow is to be measured as, if it is.
    pub(crate) fn workload(&self, flow: &Flow<'_, '_>) -> Option<Workload> {
        let latency = self.latency.as_ref()?;
        let request = self.workloads.request(flow, 0, None);
        Some(Workload {
            latency: Arc::clone(latency),
            name: Box::from(request.workload),
        })
    }

    /// A new decision, from now on.
    pub(crate) fn publish(&self, decision: Decision, now: Nanos) {
        self.line.with(|(), load| load.decide(decision, now));
    }

    /// Tokens by workload label, all anew.
    pub(crate) fn set_estimates(&self, estimates: WorkloadTokens) {
        *lock(&self.estimates) = estimates;
    }

    pub(crate) fn demand(&self) -> Demand {
        self.line.with(|(), load| load.demand)
    }

    pub(crate) fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    pub(crate) fn denied_code(&self) -> i32 {
        self.workloads.denied_code()
    }

    pub(crate) fn schedule(&self, flow: &Flow<'_, '_>, now: Nanos) -> Scheduled {
        let estimates = lock(&self.estimates).clone();
        let request = self.workloads.request(flow, now, Some(&estimates));
        if request.tokens == 0.0 {
            return free();
        }
        if self
            .line
            .with(|(), load| load.lets_all_pass(request.tokens, now))
        {
            let decided = Decided {
                consumed: request.tokens,
                dropped: false,
                ..Decided::REFUSED
            };
            return Scheduled::Settled(Settled::from(decided));
        }
        self.line.schedule(&request, now)
    }

    pub(crate) fn revert(&self, consumed: f64, now: Nanos) {
        self.line.put_back(consumed, None, now);
    }

    pub(crate) fn report(&self, flow: &Flow<'_, '_>, decided: &Decided) -> LimiterDetails {
        let estimates = lock(&self.estimates).clone();
        LimiterDetails::LoadScheduler {
            scheduler: details(&self.workloads, flow, decided, Some(&estimates)),
        }
    }
}

/// The bucket, the demand that sets its rate, and what was decided.
#[derive(Debug)]
pub(crate) struct Load {
    demand_window: Window,
    decision: Decision,
    /// When a decision that never changes is told again.
    repeats_at: Option<Nanos>,
    bucket: Bucket,
    demand: Demand,
}

impl Load {
    /// A decision that holds for good; it follows the demand as often as an Agent's would.
    fn repeat(&mut self, decision: Decision, now: Nanos) {
        self.decide(decision, now);
        self.repeats_at = Some(now.saturating_add(REPEATED));
    }

    fn decide(&mut self, decision: Decision, now: Nanos) {
        self.decision = decision;
        self.repeats_at = None;
        self.set_rate(now);
    }

    fn set_rate(&mut self, now: Nanos) {
        if !self.demand_window.learning {
            let rate = self.demand_window.rate() * self.decision.load_multiplier;
            self.bucket.set_rate(rate, now);
        }
    }

    /// Counts the demand; true while it learns, and when it has nothing to say.
    fn lets_all_pass(&mut self, tokens: f64, now: Nanos) -> bool {
        if let Some(at) = self.repeats_at
            && at <= now
        {
            // The demand was the same since then: nobody asked.
            self.set_rate(at);
            let missed = (now - at) / REPEATED + 1;
            self.repeats_at = Some(at.saturating_add(missed.saturating_mul(REPEATED)));
        }
        let learned = self.demand_window.learning;
        self.demand_window.add(tokens, now);
        if learned && !self.demand_window.learning {
            self.set_rate(now);
            self.bucket.add(self.bucket.rate);
        }
        let decision = &self.decision;
        let over = decision.valid_until.is_some_and(|until| until < now);
        let open = self.demand_window.learning || decision.pass_through || over;
        if open {
            self.demand.accepted += tokens;
        }
        open
    }
}

impl Source for Load {
    type Rules = ();

    fn new(now: Nanos) -> Self {
        Self {
            demand_window: Window::new(now),
            decision: Decision {
                load_multiplier: 0.0,
                pass_through: true,
                valid_until: None,
            },
            repeats_at: None,
            bucket: Bucket {
                available: 0.0,
                rate: 0.0,
                latest: now,
            },
            demand: Demand::default(),
        }
    }

    fn take_at_once(&mut self, (): &(), ask: &Ask) -> Option<Grant> {
        self.bucket.fill(ask.now);
        // Equality is left to the queue, which lets it pass at once.
        if self.bucket.available > ask.want {
            self.bucket.available -= ask.want;
            return Some(self.bucket.seen());
        }
        None
    }

    fn take(&mut self, (): &(), ask: &Ask) -> Take {
        let bucket = &mut self.bucket;
        bucket.fill(ask.now);
        if bucket.rate == 0.0 {
            return Take::Refused(bucket.seen());
        }
        bucket.available -= ask.want;
        if bucket.available >= 0.0 {
            return Take::Granted(bucket.seen());
        }
        let wait = (-bucket.available / bucket.rate * SECOND as f64) as Nanos;
        let then = ask.now.saturating_add(wait);
        if then > ask.deadline {
            bucket.available += ask.want;
            return Take::Refused(bucket.seen());
        }
        Take::From(then, bucket.seen())
    }

    fn put_back(&mut self, (): &(), want: f64, _: &Grant, now: Nanos) -> bool {
        if !self.decision.pass_through {
            self.bucket.fill(now);
            self.bucket.add(want);
        }
        true
    }

    fn ended(&mut self, want: f64, granted: bool) {
        if granted {
            self.demand.accepted += want;
        } else {
            self.demand.rejected += want;
        }
    }
}

/// Holds what one second brings.
#[derive(Debug)]
struct Bucket {
    available: f64,
    /// Tokens a second.
    rate: f64,
    latest: Nanos,
}

impl Bucket {
    fn fill(&mut self, now: Nanos) {
        if now > self.latest {
            let passed = (now - self.latest) as f64 / SECOND as f64;
            self.latest = now;
            self.add(self.rate * passed);
        }
    }

    fn add(&mut self, tokens: f64) {
        self.available = (self.available + tokens).min(self.rate);
    }

    /// The time so far counts at the old rate.
    fn set_rate(&mut self, rate: f64, now: Nanos) {
        self.fill(now);
        self.rate = rate;
    }

    fn seen(&self) -> Grant {
        Grant {
            remaining: self.available,
            current: self.rate - self.available,
            slot: None,
        }
    }
}

/// Tokens asked for, by the second.
#[derive(Debug)]
struct Window {
    slots: [f64; SLOTS],
    at: usize,
    next: Nanos,
    /// Until every slot was seen once.
    learning: bool,
}

impl Window {
    fn new(now: Nanos) -> Self {
        Self {
            slots: [0.0; SLOTS],
            at: 0,
            next: now.saturating_add(SECOND),
            learning: true,
        }
    }

    fn add(&mut self, tokens: f64, now: Nanos) {
        if now > self.next {
            // Boundaries count once they are behind.
            let crossed = (now - self.next - 1) / SECOND + 1;
            if crossed >= SLOTS as Nanos {
                *self = Self::new(now);
            } else {
                for _ in 0..crossed {
                    self.at = (self.at + 1) % SLOTS;
                    self.slots[self.at] = 0.0;
                    self.learning &= self.at != 0;
                }
                self.next = self.next.saturating_add(crossed * SECOND);
            }
        }
        self.slots[self.at] += tokens;
    }

    /// Tokens a second, over all but the current second.
    fn rate(&self) -> f64 {
        let others = self
            .slots
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != self.at);
        others.map(|(_, tokens)| tokens).sum::<f64>() / (SLOTS - 1) as f64
    }
}
