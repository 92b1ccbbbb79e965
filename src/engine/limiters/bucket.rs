//! The token bucket: a pure function of state, parameters and time.

use crate::engine::clock::Nanos;

/// What a policy says about the buckets of one component.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shape {
    pub(crate) capacity: f64,
    /// Tokens an interval.
    pub(crate) fill: f64,
    /// More than zero.
    pub(crate) interval: Nanos,
    /// Fills all the time instead of once an interval.
    pub(crate) continuous: bool,
    /// A full bucket that is drawn on rests before it fills again.
    pub(crate) delayed: bool,
    /// As an Agent has them, to the letter: see [`EngineBuilder::upstream_buckets`].
    ///
    /// [`EngineBuilder::upstream_buckets`]: crate::engine::EngineBuilder::upstream_buckets
    pub(crate) upstream: bool,
}

/// What is kept of one bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    available: f64,
    last_fill: Nanos,
    /// Filling rests until then; `Nanos::MIN` when it never rested.
    start_fill: Nanos,
}

impl Bucket {
    /// Of a key that was never used: the first use makes a full one.
    pub(crate) const NONE: Self = Self {
        available: 0.0,
        last_fill: 0,
        start_fill: Nanos::MIN,
    };
}

/// Whether a taker can wait for tokens that are not there yet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    Never,
    /// Until the deadline; `Nanos::MAX` is none.
    Until(Nanos),
}

/// What a bucket answered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Taken {
    pub(crate) ok: bool,
    /// When the tokens wanted are there; [`NEVER`] for a debt that no time fills.
    pub(crate) available_at: Nanos,
    pub(crate) remaining: f64,
}

/// A time that does not come.
pub(crate) const NEVER: Nanos = Nanos::MAX;

impl Shape {
    /// A full bucket, counting its intervals from now.
    pub(crate) fn full(&self, now: Nanos) -> Bucket {
        Bucket {
            available: self.capacity,
            last_fill: now,
            start_fill: Nanos::MIN,
        }
    }

    /// Whether the bucket cannot hold as many tokens, however long it fills.
    #[inline(always)]
    pub(crate) fn is_too_small_for(&self, want: f64) -> bool {
        !self.upstream && want > self.capacity
    }

    /// What is left of the capacity when so much remains. An infinite capacity minus itself counts
    /// as zero.
    #[inline(always)]
    pub(crate) fn used_up(&self, remaining: f64) -> f64 {
        self.shown(self.capacity - remaining)
    }

    /// A number for reports, which hold no NaN.
    #[inline(always)]
    pub(crate) fn shown(&self, tokens: f64) -> f64 {
        if tokens.is_nan() && !self.upstream {
            return 0.0;
        }
        tokens
    }

    /// Takes tokens; a negative amount gives back. A refusal leaves what is there as it was.
    ///
    /// The order of the operations on floats is part of the contract: clients see the results.
    // Inlined into the paths of each request; a call moves more than it does.
    #[inline(always)]
    pub(crate) fn take(
        &self,
        bucket: &mut Bucket,
        now: Nanos,
        want: f64,
        patience: Patience,
    ) -> Taken {
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
        let mut ok = true;
        let mut available_at = now;
        if want > 0.0 && bucket.available < 0.0 {
            ok = matches!(patience, Patience::Until(_)) && self.fill != 0.0;
            if self.fill != 0.0 {
                available_at = self.filled_at(bucket, now);
                if matches!(patience, Patience::Until(deadline) if available_at > deadline) {
                    ok = false;
                }
                // A debt beyond all clocks, and one that grows, is none to wait for.
                if available_at == NEVER || self.fill < 0.0 && !self.upstream {
                    ok = false;
                }
            }
            if !ok {
                // Not by adding: beside a large amount a small one would be lost.
                bucket.available = before;
            }
        }
        self.clamp(bucket);
        Taken {
            ok,
            available_at,
            remaining: self.shown(bucket.available),
        }
    }

    /// Counts the time so far, before the rules change.
    pub(crate) fn settle(&self, bucket: &mut Bucket, now: Nanos) {
        if now > bucket.start_fill {
            self.refill(bucket, now);
        }
    }

    /// Carries a bucket over from other rules: its time so far counts by those, and it gains so
    /// many tokens. After rules that held no bucket back it is full.
    pub(crate) fn carry_over(&self, from: &Self, bucket: &mut Bucket, more: f64, now: Nanos) {
        if !from.capacity.is_finite() || !from.fill.is_finite() || !bucket.available.is_finite() {
            *bucket = self.full(now);
            return;
        }
        from.settle(bucket, now);
        bucket.available += more;
        self.clamp(bucket);
    }

    #[inline]
    fn refill(&self, bucket: &mut Bucket, now: Nanos) {
        let passed = now.saturating_sub(bucket.last_fill);
        if self.continuous {
            // Nothing is filled in no time; infinity times zero would be no number.
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

    /// Not `min`: that would turn NaN, which lets everything in, into a full bucket.
    fn clamp(&self, bucket: &mut Bucket) {
        if bucket.available > self.capacity {
            bucket.available = self.capacity;
        }
    }

    /// When a bucket in debt is at zero again.
    fn filled_at(&self, bucket: &Bucket, now: Nanos) -> Nanos {
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

    /// Saturates: what takes 292 years takes for ever, it is never over at once.
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

    /// What a key gains when its bucket is forgotten, which makes it full: the tokens that are
    /// missing, with some that are to be charged yet, and when they are there anyway. `None` when
    /// it is full.
    ///
    /// Tokens that come all at a time count as if they did not come: when they have come is seen by
    /// looking again.
    pub(crate) fn missing(&self, bucket: &Bucket, more: f64, now: Nanos) -> Option<(Nanos, f64)> {
        let mut missing = self.capacity - bucket.available + more;
        let mut until = NEVER;
        if self.continuous && self.fill > 0.0 {
            let begins = bucket.last_fill.max(bucket.start_fill);
            until = begins.saturating_add(self.time_to_fill(missing));
        } else if self.fill > 0.0 && now > bucket.start_fill {
            let fills = now.saturating_sub(bucket.last_fill) / self.interval;
            missing -= fills.max(0) as f64 * self.fill;
        }
        // NaN, which lets everything pass, misses nothing.
        (missing > 0.0 && until > now).then_some((until, missing))
    }
}

/// How many tokens a raised capacity adds to the buckets that were filled before.
///
/// A key that has spent 5 of 5 tokens gets one more when the capacity is raised to 6. Lowering
/// it and raising it again must not make tokens, so the highest capacity counts for as long as
/// it takes a bucket to fill.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HighWater {
    capacity: f64,
    /// From then on every bucket has been filled since.
    until: Nanos,
}

impl HighWater {
    pub(crate) const NONE: Self = Self {
        capacity: f64::NEG_INFINITY,
        until: Nanos::MIN,
    };

    /// Notes a change and returns how many tokens each bucket gains.
    pub(crate) fn change(&mut self, from: &Shape, to: &Shape, now: Nanos) -> f64 {
        let highest = match now < self.until {
            true => self.capacity.max(from.capacity),
            false => from.capacity,
        };
        if to.capacity < highest {
            let filling = match to.fill > 0.0 {
                true => to.time_to_fill(to.capacity.max(0.0)),
                false => Nanos::MAX,
            };
            *self = Self {
                capacity: highest,
                until: self.until.max(now.saturating_add(filling)),
            };
            return 0.0;
        }
        *self = Self::NONE;
        let more = to.capacity - highest;
        if more.is_finite() { more.max(0.0) } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Nanos = 1_000_000_000;

    fn shape(capacity: f64, fill: f64, seconds: i64) -> Shape {
        Shape {
            capacity,
            fill,
            interval: seconds * SECOND,
            continuous: true,
            delayed: false,
            upstream: false,
        }
    }

    /// Seconds, tokens, whether they are given, the wait in seconds, what remains.
    type Row = (f64, f64, bool, f64, f64);

    fn replay(shape: Shape, rows: &[Row]) {
        let mut bucket = shape.full(0);
        for &(at, want, ok, wait, remaining) in rows {
            let now = (at * SECOND as f64) as Nanos;
            let taken = shape.take(&mut bucket, now, want, Patience::Never);
            let told = (taken.available_at - now) as f64 / SECOND as f64;
            assert_eq!(taken.ok, ok, "{want} at {at}");
            assert!((told - wait).abs() < 1e-6, "{want} at {at}: wait {told}");
            assert!(
                (taken.remaining - remaining).abs() < 1e-6,
                "{want} at {at}: {taken:?}"
            );
        }
    }

    #[test]
    fn a_continuous_bucket_fills_all_the_time() {
        replay(
            shape(2.0, 1.0, 1),
            &[
                (0.0, 1.0, true, 0.0, 1.0),
                (0.0, 1.0, true, 0.0, 0.0),
                (0.0, 1.0, false, 1.0, 0.0),
                (0.4, 2.0, false, 1.6, 0.4),
                (2.1, 1.0, true, 0.0, 1.0),
            ],
        );
    }

    #[test]
    fn a_discrete_bucket_fills_once_an_interval_counted_from_its_first_use() {
        let shape = Shape {
            continuous: false,
            ..shape(2.0, 2.0, 1)
        };
        replay(
            shape,
            &[
                (0.0, 2.0, true, 0.0, 0.0),
                (0.3, 1.0, false, 0.7, 0.0),
                (1.0, 1.0, true, 0.0, 1.0),
                (1.0, 1.0, true, 0.0, 0.0),
                (1.5, 3.0, false, 1.5, 0.0),
            ],
        );
    }

    #[test]
    fn a_delayed_bucket_rests_for_the_time_it_takes_to_fill() {
        let continuous = Shape {
            delayed: true,
            ..shape(10.0, 10.0, 60)
        };
        replay(
            continuous,
            &[
                (0.0, 10.0, true, 0.0, 0.0),
                (0.0, 1.0, false, 66.0, 0.0),
                (30.0, 2.0, false, 42.0, 0.0),
            ],
        );
    }

    #[test]
    fn the_waits_told_for_delayed_discrete_filling_are_an_interval_too_long() {
        let discrete = Shape {
            delayed: true,
            continuous: false,
            ..shape(2.0, 2.0, 1)
        };
        replay(
            discrete,
            &[
                (0.0, 2.0, true, 0.0, 0.0),
                (0.0, 1.0, false, 2.0, 0.0),
                (1.01, 1.0, true, 0.0, 1.0),
            ],
        );
    }

    #[test]
    fn a_bucket_that_never_fills_tells_no_wait() {
        replay(
            shape(1.0, 0.0, 1),
            &[(0.0, 1.0, true, 0.0, 0.0), (0.0, 1.0, false, 0.0, 0.0)],
        );
    }

    #[test]
    fn an_infinite_debt_is_never_paid() {
        let shape = shape(f64::NEG_INFINITY, 1.0, 1);
        for patience in [Patience::Never, Patience::Until(Nanos::MAX)] {
            let taken = shape.take(&mut shape.full(0), 0, 1.0, patience);
            assert_eq!((taken.ok, taken.available_at), (false, NEVER));
        }
    }

    #[test]
    fn a_refusal_leaves_a_bucket_as_it_was_however_much_was_wanted() {
        for want in [1e17, 1.7e308, f64::INFINITY] {
            for patience in [Patience::Never, Patience::Until(SECOND)] {
                let shape = shape(10.0, 1.0, 1);
                let mut bucket = shape.full(0);
                assert!(shape.take(&mut bucket, 0, 2.5, Patience::Never).ok);
                let taken = shape.take(&mut bucket, 0, want, patience);
                assert_eq!((taken.ok, taken.remaining), (false, 7.5), "{want}");
            }
        }
    }

    #[test]
    fn a_debt_that_never_shrinks_is_not_waited_for() {
        let shape = shape(1.0, -1.0, 1);
        let mut bucket = shape.full(0);
        let taken = shape.take(&mut bucket, 0, 2.0, Patience::Until(Nanos::MAX));
        assert!(!taken.ok);
        let upstream = Shape {
            upstream: true,
            ..shape
        };
        assert!(
            upstream
                .take(&mut bucket, 0, 2.0, Patience::Until(SECOND))
                .ok
        );
    }

    #[test]
    fn an_endless_stream_fills_a_bucket_and_makes_no_nan() {
        let shape = shape(2.0, f64::INFINITY, 1);
        let mut bucket = shape.full(0);
        for now in [0, 0, 1, 1, 2] {
            let taken = shape.take(&mut bucket, now, 1.0, Patience::Never);
            assert!(taken.remaining <= 2.0 && !shape.used_up(taken.remaining).is_nan());
        }
        let taken = shape.take(&mut bucket, 3, 1.0, Patience::Never);
        assert_eq!((taken.ok, taken.remaining), (true, 1.0));
    }

    #[test]
    fn a_time_to_fill_beyond_all_clocks_saturates() {
        let shape = shape(1.0, 1.0, 1);
        let taken = shape.take(&mut shape.full(0), 5 * SECOND, 1e30, Patience::Never);
        assert_eq!((taken.ok, taken.available_at), (false, Nanos::MAX));
    }

    #[test]
    fn a_patient_taker_goes_into_debt_up_to_its_deadline() {
        let shape = shape(1.0, 1.0, 1);
        let mut bucket = shape.full(0);
        let late = Patience::Until(SECOND - 1);
        assert!(!shape.take(&mut bucket, 0, 2.0, late).ok);
        let taken = shape.take(&mut bucket, 0, 2.0, Patience::Until(SECOND));
        assert_eq!(
            (taken.ok, taken.available_at, taken.remaining),
            (true, SECOND, -1.0)
        );
    }

    #[test]
    fn tokens_given_back_never_overfill() {
        replay(
            shape(2.0, 0.0, 1),
            &[(0.0, 1.0, true, 0.0, 1.0), (0.0, -5.0, true, 0.0, 2.0)],
        );
    }
}
