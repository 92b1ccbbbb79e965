//! The token bucket as a pure function of its state, its parameters and the time.

use crate::engine::clock::Nanos;
use crate::engine::component::FillTimes;

/// The parameters of the buckets of one component, as its policy sets them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BucketParams {
    pub(crate) capacity: f64,
    /// Tokens per interval.
    pub(crate) fill: f64,
    /// The fill interval; always positive.
    pub(crate) interval: Nanos,
    /// Whether the bucket fills continuously instead of once per interval.
    pub(crate) continuous: bool,
    /// Whether a full bucket that tokens are taken from pauses before it fills again.
    pub(crate) delayed: bool,
    /// Whether to behave exactly as an Agent does: see [`EngineBuilder::upstream_buckets`].
    ///
    /// [`EngineBuilder::upstream_buckets`]: crate::engine::EngineBuilder::upstream_buckets
    pub(crate) upstream: bool,
}

/// The state of one bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    available: f64,
    last_fill: Nanos,
    /// Filling pauses until this time; `Nanos::MIN` if it never paused.
    start_fill: Nanos,
}

impl TokenBucket {
    /// The bucket of a key that was never used. The first use replaces it by a full one.
    pub(crate) const UNUSED: Self = Self {
        available: 0.0,
        last_fill: 0,
        start_fill: Nanos::MIN,
    };
}

/// Whether a take may wait for tokens that are not available yet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TakeMode {
    Immediate,
    /// Waits until the deadline; `Nanos::MAX` means no deadline.
    WaitUntil(Nanos),
}

/// The result of taking tokens from a bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TakeResult {
    pub(crate) granted: bool,
    /// The time when the requested tokens are available; [`NEVER`] for a debt that is never paid.
    pub(crate) available_at: Nanos,
    pub(crate) remaining: f64,
}

/// A time that is never reached.
pub(crate) const NEVER: Nanos = Nanos::MAX;

impl BucketParams {
    /// Returns a full bucket whose intervals count from `now`.
    pub(crate) fn full_bucket(&self, now: Nanos) -> TokenBucket {
        TokenBucket {
            available: self.capacity,
            last_fill: now,
            start_fill: Nanos::MIN,
        }
    }

    /// Returns true if the bucket can never hold `want` tokens, however long it fills.
    #[inline(always)]
    pub(crate) fn cannot_hold(&self, want: f64) -> bool {
        !self.upstream && want > self.capacity
    }

    /// Returns how much of the capacity is used while `remaining` tokens are left. Returns zero for
    /// an infinite capacity minus itself.
    #[inline(always)]
    pub(crate) fn used_tokens(&self, remaining: f64) -> f64 {
        self.reportable(self.capacity - remaining)
    }

    /// Returns a token count for reports, which must not contain NaN.
    #[inline(always)]
    pub(crate) fn reportable(&self, tokens: f64) -> f64 {
        if tokens.is_nan() && !self.upstream {
            return 0.0;
        }
        tokens
    }

    /// Takes tokens; a negative amount returns tokens. A rejected take leaves the bucket unchanged.
    ///
    /// The order of the floating-point operations is part of the contract: clients see the results.
    // Inlined into the path of every request, because the call costs more than the work.
    #[inline(always)]
    pub(crate) fn take(
        &self,
        bucket: &mut TokenBucket,
        now: Nanos,
        want: f64,
        mode: TakeMode,
    ) -> TakeResult {
        if now > bucket.start_fill {
            self.refill(bucket, now);
        }
        if self.delayed && bucket.available == self.capacity {
            bucket.start_fill = now.saturating_add(self.time_to_fill(self.capacity));
            bucket.last_fill = if self.continuous {
                bucket.start_fill
            } else {
                bucket.start_fill.saturating_sub(self.interval)
            };
        }

        let before = bucket.available;
        bucket.available -= want;
        let mut granted = true;
        let mut available_at = now;
        if want > 0.0 && bucket.available < 0.0 {
            granted = matches!(mode, TakeMode::WaitUntil(_)) && self.fill != 0.0;
            if self.fill != 0.0 {
                available_at = self.debt_paid_at(bucket, now);
                if matches!(mode, TakeMode::WaitUntil(deadline) if available_at > deadline) {
                    granted = false;
                }
                // Reject a debt that is never paid, and one that grows.
                if available_at == NEVER || self.fill < 0.0 && !self.upstream {
                    granted = false;
                }
            }
            if !granted {
                // Restore instead of adding `want` back: adding a large amount would round a small
                // balance away.
                bucket.available = before;
            }
        }
        self.clamp(bucket);
        TakeResult {
            granted,
            available_at,
            remaining: self.reportable(bucket.available),
        }
    }

    /// Takes more tokens, also into debt, or returns tokens, for which the amount is negative. The
    /// bucket then owes at most one capacity, unless it owed more before, and holds at most one.
    pub(crate) fn correct(&self, bucket: &mut TokenBucket, now: Nanos, tokens: f64) -> TakeResult {
        self.apply_refill(bucket, now);
        if tokens > 0.0 {
            // Begins the pause of a full bucket, as every take does.
            self.take(bucket, now, 0.0, TakeMode::Immediate);
        }
        if bucket.available.is_finite() {
            let lowest = (-self.capacity).min(bucket.available);
            bucket.available = (bucket.available - tokens).max(lowest);
            self.clamp(bucket);
        }
        let available_at = match bucket.available < 0.0 {
            false => now,
            true if self.fill > 0.0 => self.debt_paid_at(bucket, now),
            true => NEVER,
        };
        TakeResult {
            granted: true,
            available_at,
            remaining: self.reportable(bucket.available),
        }
    }

    /// Fills the bucket up to `now`, before its parameters change.
    pub(crate) fn apply_refill(&self, bucket: &mut TokenBucket, now: Nanos) {
        if now > bucket.start_fill {
            self.refill(bucket, now);
        }
    }

    /// Migrates a bucket from the parameters `from`: fills it by those up to `now` and adds `more`
    /// tokens. If `from` did not limit the bucket, it becomes full.
    pub(crate) fn migrate(&self, from: &Self, bucket: &mut TokenBucket, more: f64, now: Nanos) {
        if !from.capacity.is_finite() || !from.fill.is_finite() || !bucket.available.is_finite() {
            *bucket = self.full_bucket(now);
            return;
        }
        from.apply_refill(bucket, now);
        bucket.available += more;
        self.clamp(bucket);
    }

    #[inline]
    fn refill(&self, bucket: &mut TokenBucket, now: Nanos) {
        let passed = now.saturating_sub(bucket.last_fill);
        if self.continuous {
            // Infinity times zero would be NaN.
            if passed > 0 || self.upstream {
                bucket.available += self.fill * passed as f64 / self.interval as f64;
            }
            bucket.last_fill = now;
        } else {
            let fills = passed.div_euclid(self.interval);
            if fills >= 1 {
                bucket.available += fills as f64 * self.fill;
                bucket.last_fill += fills * self.interval;
            }
        }
        self.clamp(bucket);
    }

    /// Caps the balance at the capacity. Not `f64::min`, which would turn NaN, a bucket that
    /// accepts every flow, into a full bucket.
    fn clamp(&self, bucket: &mut TokenBucket) {
        if bucket.available > self.capacity {
            bucket.available = self.capacity;
        }
    }

    /// Returns the time when a bucket in debt is back at zero.
    fn debt_paid_at(&self, bucket: &TokenBucket, now: Nanos) -> Nanos {
        let filling = self.time_to_fill(-bucket.available);
        if now < bucket.start_fill {
            return bucket.start_fill.saturating_add(filling);
        }
        let gap = now.saturating_sub(bucket.last_fill);
        let gap = if gap > self.interval { 0 } else { gap };
        match now.saturating_add(filling) {
            NEVER => NEVER,
            at => at.saturating_sub(gap),
        }
    }

    /// Returns how long a bucket with `remaining` tokens takes to fill.
    pub(crate) fn fill_times(&self, remaining: f64) -> FillTimes {
        FillTimes {
            whole: self.time_to_fill(self.capacity),
            rest: self.time_to_fill(self.capacity - remaining),
        }
    }

    /// Returns the time to fill in `tokens`. It saturates at 292 years, so that a longer time never
    /// overflows to one that has passed.
    pub(crate) fn time_to_fill(&self, tokens: f64) -> Nanos {
        if self.fill == 0.0 {
            return 0;
        }
        let intervals = tokens / self.fill;
        let intervals = if self.continuous {
            intervals
        } else {
            intervals.ceil()
        };
        (intervals * self.interval as f64) as Nanos
    }

    /// Returns what a key gains if its bucket is evicted, which makes it full again: the time when
    /// the bucket is full without eviction, and the missing tokens, including `more` that are still
    /// to be charged. Returns `None` for a full bucket.
    ///
    /// For a bucket that fills in steps, the time is [`NEVER`]; the caller has to look again to see
    /// that a step was filled in.
    pub(crate) fn missing(
        &self,
        bucket: &TokenBucket,
        more: f64,
        now: Nanos,
    ) -> Option<(Nanos, f64)> {
        let mut missing = self.capacity - bucket.available + more;
        let mut until = NEVER;
        if self.continuous && self.fill > 0.0 {
            let begins = bucket.last_fill.max(bucket.start_fill);
            until = begins.saturating_add(self.time_to_fill(missing));
        } else if self.fill > 0.0 && now > bucket.start_fill {
            let fills = now.saturating_sub(bucket.last_fill) / self.interval;
            missing -= fills.max(0) as f64 * self.fill;
        }
        // NaN, a bucket that accepts every flow, misses nothing.
        (missing > 0.0 && until > now).then_some((until, missing))
    }
}

#[cfg(test)]
mod tests;
