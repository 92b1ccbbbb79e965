//! The tokens of a load scheduler: a bucket whose rate is a share of the demand.

use std::sync::Weak;

use super::demand::{DemandBucket, DemandWindow, MAX_RATE, SECOND};
use super::token_source::{MAX_OVERTAKING, SourceReply, TakeRequest, TokenGrant, TokenSource};
use super::wait_queue::WaitQueue;
use crate::engine::clock::Nanos;
use crate::engine::control::Demand;
use crate::engine::store::EvictionLoss;

/// How often an Agent receives the load multiplier.
const REPEAT_INTERVAL: Nanos = 10 * SECOND;

/// The decision of a controller about a load scheduler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LoadSchedulerDecision {
    /// The share of the demand to accept; zero or more.
    pub(super) load_multiplier: f64,
    pub(super) pass_through: bool,
    /// After this time the scheduler accepts every flow.
    pub(super) valid_until: Option<Nanos>,
}

impl LoadSchedulerDecision {
    /// Returns the decision for a value of the signal.
    pub(super) fn from_signal(load_multiplier: f64) -> Self {
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
pub(crate) struct UpstreamBehaviour(pub(super) bool);

impl LoadTokens {
    /// Puts a permanent decision in force. Its rate follows the demand as often as an Agent's
    /// would.
    pub(super) fn repeat(&mut self, decision: LoadSchedulerDecision, now: Nanos) {
        self.decide(decision, now);
        self.repeats_at = Some(now.saturating_add(REPEAT_INTERVAL));
    }

    /// Like [`repeat`](Self::repeat), unless the decision is in force as a permanent one already.
    pub(super) fn repeat_if_new(&mut self, decision: LoadSchedulerDecision, now: Nanos) {
        if self.decision != decision || self.repeats_at.is_none() {
            self.repeat(decision, now);
        }
    }

    /// Returns the tokens granted and rejected since the last call.
    pub(super) fn take_demand(&mut self) -> Demand {
        std::mem::take(&mut self.demand)
    }

    /// Puts a decision in force from `now` on.
    pub(super) fn decide(&mut self, decision: LoadSchedulerDecision, now: Nanos) {
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
    pub(super) fn record_demand_and_pass(&mut self, tokens: f64, now: Nanos) -> bool {
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
    type Outbox = ();

    /// The same bound as in quota schedulers, whose queues are of the same kind.
    fn max_overtaking(upstream: &UpstreamBehaviour) -> u32 {
        match upstream.0 {
            true => u32::MAX,
            false => MAX_OVERTAKING,
        }
    }

    fn new(_: &UpstreamBehaviour, _: &str, _: &Weak<WaitQueue<Self>>, now: Nanos) -> Self {
        Self {
            demand_window: DemandWindow::new(now),
            decision: LoadSchedulerDecision {
                load_multiplier: 0.0,
                pass_through: true,
                valid_until: None,
            },
            repeats_at: None,
            bucket: DemandBucket::empty(now),
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
