//! `load_scheduler`: a queue in front of a bucket that fills as fast as a share of the demand.

use std::sync::Arc;

use super::line::Line;
use super::quota::{OVERTAKING, details, free};
use super::supply::{Ask, Grant, Source, Take};
use super::workload::Workloads;
use crate::engine::clock::{Nanos, nanos};
use crate::engine::control::{Demand, WorkloadLatency, WorkloadTokens};
use crate::engine::flux_meter::Workload;
use crate::engine::limiters::{Decided, Scheduled, Settled, Surroundings};
use crate::engine::report::LimiterDetails;
use crate::engine::stages::Flow;
use crate::engine::store::{Loss, lock};
use crate::engine::sync::Mutex;
use crate::policy;

const SECOND: Nanos = 1_000_000_000;
/// How often an Agent is told the load multiplier.
const REPEATED: Nanos = 10 * SECOND;
/// Seconds of demand that are kept, the current one included.
const SLOTS: usize = 31;
/// Tokens a second that are not told from more: sums of them are still finite.
const MOST: f64 = 1e300;

/// One load scheduler of a policy.
///
/// For its first 31 seconds it learns the demand and lets everything pass.
#[derive(Debug)]
pub(crate) struct LoadScheduler {
    workloads: Workloads,
    /// These are shared with the scheduler that takes over in a reload.
    estimates: Arc<Mutex<WorkloadTokens>>,
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
        let rules = Arc::new(Upstream(around.upstream_buckets));
        let line: Arc<Line<Load>> = Line::new(&rules, &around.clock, now);
        if let policy::Port::Constant(load_multiplier) = spec.load_multiplier
            && !around.by_hand
            && !spec.dry_run
        {
            line.with(|_, load| load.repeat(Decision::of(load_multiplier), now));
        }
        Self {
            workloads: Workloads::new(&spec.scheduler),
            estimates: Arc::default(),
            latency: spec
                .workload_latency_based_tokens
                .then(|| Arc::new(WorkloadLatency::default())),
            line,
        }
    }

    /// The scheduler of a changed policy, with the queue, the demand and the measurements of this
    /// one.
    pub(crate) fn successor(&self, spec: &policy::LoadScheduler) -> Self {
        let latency = spec
            .workload_latency_based_tokens
            .then(|| self.latency.clone().unwrap_or_default());
        Self {
            workloads: Workloads::new(&spec.scheduler),
            estimates: match latency {
                Some(_) => Arc::clone(&self.estimates),
                None => Arc::default(),
            },
            latency,
            line: Arc::clone(&self.line),
        }
    }

    /// Goes by the numbers of its policy, now that it is in force. What a circuit decided last
    /// holds until it decides again.
    pub(crate) fn take_over(&self, spec: &policy::LoadScheduler, by_hand: bool, now: Nanos) {
        if by_hand {
            return;
        }
        let decision = match spec.load_multiplier {
            _ if spec.dry_run => Decision::of(f64::NAN),
            policy::Port::Constant(load_multiplier) => Decision::of(load_multiplier),
            policy::Port::Changing(_) => return,
        };
        self.line.with(|_, load| {
            if load.decision != decision || load.repeats_at.is_none() {
                load.repeat(decision, now);
            }
        });
        self.line.serve(now);
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
        self.line.with(|_, load| load.decide(decision, now));
    }

    /// Tokens by workload label, all anew.
    pub(crate) fn set_estimates(&self, estimates: WorkloadTokens) {
        *lock(&self.estimates) = estimates;
    }

    /// What was granted and refused since this was asked last.
    pub(crate) fn take_demand(&self) -> Demand {
        self.line.with(|_, load| std::mem::take(&mut load.demand))
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
            .with(|_, load| load.lets_all_pass(request.tokens, now))
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
    /// The bucket as it would be without the tokens that the head sleeps for: that is what counts
    /// should it leave.
    before: Option<Bucket>,
    /// Since it was asked for last.
    demand: Demand,
}

/// An engine that does as an Agent does to the letter.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upstream(bool);

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
            let rate = rate_of(self.demand_window.rate(), self.decision.load_multiplier);
            self.bucket.set_rate(rate, now);
            if let Some(before) = &mut self.before {
                before.set_rate(rate, now);
            }
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
        // What gives tokens back asks for none.
        self.demand_window.add(tokens.max(0.0), now);
        if learned && !self.demand_window.learning {
            self.set_rate(now);
            self.bucket.add(self.bucket.rate);
        }
        let decision = &self.decision;
        let over = decision.valid_until.is_some_and(|until| until < now);
        let open = self.demand_window.learning || decision.pass_through || over;
        if open {
            self.demand.add(tokens, true);
        }
        open
    }
}

/// The share of a demand. A share of zero is nothing, and an infinite one is all there can be.
fn rate_of(demand: f64, load_multiplier: f64) -> f64 {
    if load_multiplier == f64::INFINITY {
        return MOST;
    }
    (demand * load_multiplier).clamp(0.0, MOST)
}

impl Source for Load {
    type Rules = Upstream;

    /// As for quota schedulers, whose queues are of the same kind.
    fn overtaking(upstream: &Upstream) -> u32 {
        match upstream.0 {
            true => u32::MAX,
            false => OVERTAKING,
        }
    }

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
            before: None,
            demand: Demand::default(),
        }
    }

    fn take_at_once(&mut self, _: &Upstream, ask: &Ask) -> Option<Grant> {
        self.bucket.fill(ask.now);
        // Equality is left to the queue, which lets it pass at once.
        if self.bucket.available > ask.want {
            self.bucket.spend(ask.want);
            return Some(self.bucket.seen());
        }
        None
    }

    fn take(&mut self, _: &Upstream, ask: &Ask) -> Take {
        let bucket = &mut self.bucket;
        bucket.fill(ask.now);
        if bucket.rate == 0.0 {
            return Take::Refused(bucket.seen());
        }
        let before = *bucket;
        bucket.spend(ask.want);
        if bucket.available >= 0.0 {
            return Take::Granted(bucket.seen());
        }
        let wait = (-bucket.available / bucket.rate * SECOND as f64) as Nanos;
        let then = ask.now.saturating_add(wait);
        // Also when it is beyond all clocks.
        if then > ask.deadline || then == Nanos::MAX {
            *bucket = before;
            return Take::Refused(bucket.seen());
        }
        self.before = Some(before);
        Take::From(then, bucket.seen())
    }

    /// While everything passes, tokens are granted without having been taken.
    fn put_back(&mut self, _: &Upstream, want: f64, _: &Grant, now: Nanos) -> bool {
        if !self.decision.pass_through {
            for bucket in self.before.iter_mut().chain([&mut self.bucket]) {
                bucket.fill(now);
                bucket.add(want);
            }
        }
        true
    }

    fn settle(&mut self) {
        self.before = None;
    }

    fn cancel(&mut self, _: &Upstream, _: f64, _: &Grant, now: Nanos) {
        if let Some(before) = self.before.take() {
            self.bucket = before;
        }
        self.bucket.fill(now);
    }

    /// There is one of it, which is not forgotten.
    fn loss(&mut self, _: &Upstream, used: Nanos, _: Nanos) -> Loss {
        Loss::all(used)
    }

    fn ended(&mut self, want: f64, granted: bool) {
        self.demand.add(want, granted);
    }
}

/// Holds what one second brings.
#[derive(Clone, Copy, Debug)]
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

    /// Takes tokens; a negative number adds some.
    fn spend(&mut self, tokens: f64) {
        match tokens < 0.0 {
            true => self.add(-tokens),
            false => self.available -= tokens,
        }
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
        self.slots[self.at] = (self.slots[self.at] + tokens).min(MOST);
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
