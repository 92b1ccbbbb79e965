//! The bucket of a key with its remembered rejection: how flows take tokens without lazy sync.

use super::bucket::{BucketParams, TakeMode, TokenBucket};
use crate::engine::clock::{Nanos, duration, nanos};
use crate::engine::component::ComponentContext;
use crate::engine::engine_flow::DEADLINE_MARGIN;
use crate::engine::shared::BucketSettings;
use crate::engine::store::{EvictionLoss, StoredState};
use crate::policy;

/// The rules that hold for all keys of a component.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BucketRules {
    pub(crate) params: BucketParams,
    pub(crate) max_idle: Nanos,
}

/// Returns the rules of the buckets that a policy describes.
pub(crate) fn bucket_rules(bucket: &policy::Bucket, context: &ComponentContext) -> BucketRules {
    let params = BucketParams {
        capacity: bucket.bucket_capacity.initial(),
        fill: bucket.fill_amount.initial(),
        // The loader refuses zero. The division must not depend on that.
        interval: nanos(bucket.interval).max(1),
        continuous: bucket.continuous_fill,
        delayed: bucket.delay_initial_fill,
        upstream: context.upstream_buckets,
    };
    // With a time of zero, an Agent never expires an idle key.
    let max_idle = match nanos(bucket.max_idle_time) {
        0 => Nanos::MAX,
        time => time,
    };
    BucketRules { params, max_idle }
}

impl BucketRules {
    /// Returns the settings for a shared store; `None` if a number is not finite.
    pub(crate) fn shared_settings(&self) -> Option<BucketSettings> {
        let BucketParams {
            capacity,
            fill,
            interval,
            continuous,
            delayed,
            upstream,
        } = self.params;
        (capacity.is_finite() && fill.is_finite()).then(|| BucketSettings {
            capacity,
            fill,
            interval: duration(interval),
            continuous,
            delayed,
            upstream,
            max_idle: (self.max_idle != Nanos::MAX).then(|| duration(self.max_idle)),
        })
    }
}

/// A request for tokens from the bucket of a key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BucketRequest {
    pub(crate) now: Nanos,
    pub(crate) tokens: f64,
    /// Time until the deadline, or [`NO_DEADLINE`].
    pub(crate) time_left: Nanos,
}

/// The result of taking tokens from the bucket of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BucketDecision {
    pub(crate) granted: bool,
    pub(crate) wait: Nanos,
    /// Whether the request would be rejected however long it waited.
    pub(crate) unsatisfiable: bool,
    pub(crate) remaining: f64,
    pub(crate) current: f64,
}

impl BucketDecision {
    /// A rejection without a look at the bucket.
    pub(crate) const REJECTED: Self = Self {
        granted: false,
        wait: 0,
        unsatisfiable: false,
        remaining: 0.0,
        current: 0.0,
    };
}

/// The state of a key without lazy sync.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainBucket {
    bucket: TokenBucket,
    last_used: Nanos,
    cached_rejection: CachedRejection,
}

/// The last rejection of a key. It is valid until the requested tokens are available.
#[derive(Clone, Copy, Debug)]
struct CachedRejection {
    available_at: Nanos,
    want: f64,
    remaining: f64,
}

impl CachedRejection {
    const NONE: Self = Self {
        available_at: Nanos::MIN,
        want: f64::NEG_INFINITY,
        remaining: 0.0,
    };
}

impl StoredState for PlainBucket {
    type Rules = BucketRules;

    fn new() -> Self {
        Self {
            bucket: TokenBucket::UNUSED,
            last_used: Nanos::MIN,
            cached_rejection: CachedRejection::NONE,
        }
    }

    /// A cached rejection outlives its bucket, as on an Agent.
    fn expires_at(&self, max_idle: Nanos) -> Nanos {
        self.last_used
            .saturating_add(max_idle)
            .max(self.cached_rejection.available_at)
    }

    fn eviction_loss(&self, rules: &BucketRules, now: Nanos) -> EvictionLoss {
        let missing = rules.params.missing(&self.bucket, 0.0, now);
        if missing.is_none() && self.cached_rejection.available_at <= now {
            return EvictionLoss::none(self.last_used);
        }
        let (full_at, tokens) = missing.unwrap_or((now, 0.0));
        EvictionLoss {
            restored_at: full_at.max(self.cached_rejection.available_at),
            tokens,
            last_used: self.last_used,
        }
    }
}

impl PlainBucket {
    /// Records a use and returns its time. Threads read the clock before they take the lock, so a
    /// later time may arrive first; it is kept. A bucket that has idled for `max_idle` becomes full
    /// again.
    #[inline(always)]
    fn touch(&mut self, rules: &BucketRules, now: Nanos) -> Nanos {
        let at = now.max(self.last_used);
        if at.saturating_sub(self.last_used) >= rules.max_idle {
            self.bucket = rules.params.full_bucket(at);
        }
        self.last_used = at;
        at
    }

    /// Continues under changed rules. Discards the cached rejection, so that the new rules decide.
    pub(crate) fn migrate(&mut self, from: &BucketRules, to: &BucketRules, more: f64, now: Nanos) {
        self.cached_rejection = CachedRejection::NONE;
        if self.last_used != Nanos::MIN {
            let now = now.max(self.last_used);
            to.params.migrate(&from.params, &mut self.bucket, more, now);
        }
    }

    /// Takes tokens, also such that are filled in only before the deadline. Ignores the cached
    /// rejection.
    pub(crate) fn take_with_wait(
        &mut self,
        rules: &BucketRules,
        now: Nanos,
        want: f64,
        deadline: Nanos,
    ) -> BucketDecision {
        let params = &rules.params;
        let at = self.touch(rules, now);
        let taken = params.take(&mut self.bucket, at, want, TakeMode::WaitUntil(deadline));
        BucketDecision {
            granted: taken.granted,
            wait: taken.available_at.saturating_sub(now).max(0),
            unsatisfiable: false,
            remaining: taken.remaining,
            current: params.used_tokens(taken.remaining),
        }
    }

    /// Returns tokens that were granted but not used. Ignores the cached rejection.
    pub(crate) fn return_tokens(&mut self, rules: &BucketRules, now: Nanos, tokens: f64) {
        let at = self.touch(rules, now);
        rules
            .params
            .take(&mut self.bucket, at, -tokens, TakeMode::Immediate);
    }

    /// Takes more tokens, also into debt, or returns tokens, for which the amount is negative.
    /// Discards the cached rejection.
    pub(crate) fn correct(&mut self, rules: &BucketRules, now: Nanos, tokens: f64) {
        self.cached_rejection = CachedRejection::NONE;
        let at = self.touch(rules, now);
        rules.params.correct(&mut self.bucket, at, tokens);
    }

    /// Takes tokens that are available now. Caches a rejection until its tokens are available,
    /// unless that never happens.
    #[inline(always)]
    pub(crate) fn take(&mut self, rules: &BucketRules, request: &BucketRequest) -> BucketDecision {
        let (params, now) = (&rules.params, request.now);
        let unsatisfiable = params.cannot_hold(request.tokens);
        if self.cached_rejection.want >= request.tokens
            && self.cached_rejection.available_at > now
            && !unsatisfiable
        {
            return BucketDecision {
                granted: false,
                wait: self.cached_rejection.available_at - now,
                unsatisfiable: false,
                remaining: self.cached_rejection.remaining,
                current: params.used_tokens(self.cached_rejection.remaining),
            };
        }
        if request.time_left <= DEADLINE_MARGIN {
            return BucketDecision {
                unsatisfiable,
                ..BucketDecision::REJECTED
            };
        }

        let at = self.touch(rules, now);
        let taken = params.take(&mut self.bucket, at, request.tokens, TakeMode::Immediate);
        let mut wait = 0;
        // Like an Agent, report no wait for an infinite debt.
        if !taken.granted && !unsatisfiable && taken.remaining.is_finite() {
            self.cached_rejection = CachedRejection {
                available_at: taken.available_at,
                want: request.tokens,
                remaining: taken.remaining,
            };
            wait = taken.available_at.saturating_sub(now).max(0);
        }
        BucketDecision {
            granted: taken.granted,
            wait,
            unsatisfiable: unsatisfiable && !taken.granted,
            remaining: taken.remaining,
            current: params.used_tokens(taken.remaining),
        }
    }
}
