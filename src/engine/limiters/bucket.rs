//! The token bucket: a pure function of state, parameters and time.

use crate::engine::clock::Nanos;

/// What a policy says about the buckets of one component.
#[derive(Clone, Copy, Debug)]
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
    /// When the tokens wanted are there.
    pub(crate) available_at: Nanos,
    pub(crate) remaining: f64,
}

impl Shape {
    /// A full bucket, counting its intervals from now.
    pub(crate) fn full(&self, now: Nanos) -> Bucket {
        Bucket {
            available: self.capacity,
            last_fill: now,
            start_fill: Nanos::MIN,
        }
    }

    /// Takes tokens; a negative amount gives back.
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
            }
            if !ok {
                bucket.available += want;
            }
        }
        self.clamp(bucket);
        Taken {
            ok,
            available_at,
            remaining: bucket.available,
        }
    }

    #[inline]
    fn refill(&self, bucket: &mut Bucket, now: Nanos) {
        let passed = now.saturating_sub(bucket.last_fill);
        if self.continuous {
            bucket.available += self.fill * passed as f64 / self.interval as f64;
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
        now.saturating_add(filling).saturating_sub(gap)
    }

    /// Saturates: what takes 292 years takes for ever, it is never over at once. Nobody is told to
    /// wait for what cannot be filled at all.
    pub(crate) fn time_to_fill(&self, tokens: f64) -> Nanos {
        if self.fill == 0.0 || tokens.is_infinite() {
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
    fn an_infinite_debt_tells_no_wait() {
        let shape = shape(f64::NEG_INFINITY, 1.0, 1);
        let taken = shape.take(&mut shape.full(0), 0, 1.0, Patience::Never);
        assert_eq!((taken.ok, taken.available_at), (false, 0));
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
