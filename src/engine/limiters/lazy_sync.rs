//! Lazy sync: a key spends from a local account, and its bucket hears of it once a period.

use super::DEADLINE_MARGIN;
use super::bucket::{Bucket, Patience, Shape};
use super::rate_limiter::{Answer, Ask, Rules};
use crate::engine::clock::Nanos;
use crate::engine::store::Kept;

/// The state of a key with lazy sync.
///
/// An account is never closed apart from its bucket, so what a key spent before it idled is
/// charged when it comes back.
#[derive(Debug)]
pub(crate) struct Lazy {
    bucket: Bucket,
    used: Nanos,
    /// Granted since the last sync.
    credit: f64,
    available: f64,
    current: f64,
    next_sync: Nanos,
    /// The bucket is in debt until the next sync.
    waiting: bool,
}

impl Kept for Lazy {
    fn new() -> Self {
        Self {
            bucket: Bucket::NONE,
            used: Nanos::MIN,
            credit: 0.0,
            available: 0.0,
            current: 0.0,
            next_sync: Nanos::MIN,
            waiting: false,
        }
    }

    fn used(&self) -> Nanos {
        self.used
    }

    fn forget_at(&self, max_idle: Nanos) -> Nanos {
        self.used.saturating_add(max_idle)
    }
}

impl Lazy {
    #[inline(always)]
    pub(crate) fn take(&mut self, rules: &Rules, period: Nanos, ask: &Ask) -> Answer {
        // Threads read the clock before they get the lock, so a later one may come first.
        let now = ask.now.max(self.used);
        if now.saturating_sub(self.used) >= rules.max_idle {
            *self = Self {
                bucket: rules.shape.full(now),
                ..Self::new()
            };
        }

        if ask.want <= 0.0 {
            self.used = now;
            self.credit += ask.want;
            return self.answer(true);
        }
        if now > self.next_sync {
            // Too late to sync: this one request goes, the account stays as it is.
            if ask.left <= DEADLINE_MARGIN {
                return Answer::UNSEEN;
            }
            self.used = now;
            let deadline = now.saturating_add(ask.left);
            return self.sync(&rules.shape, period, now, ask.want, deadline);
        }
        self.used = now;
        let ok = !self.waiting && self.credit + ask.want <= self.available;
        if ok {
            self.credit += ask.want;
        }
        self.answer(ok)
    }

    /// For those who can wait for their tokens: what the account lacks is asked of the bucket at
    /// once, together with what was spent.
    pub(crate) fn take_and_wait(
        &mut self,
        rules: &Rules,
        period: Nanos,
        now: Nanos,
        want: f64,
        deadline: Nanos,
    ) -> Answer {
        let now = now.max(self.used);
        let shape = &rules.shape;
        if now.saturating_sub(self.used) >= rules.max_idle {
            *self = Self {
                bucket: shape.full(now),
                ..Self::new()
            };
        }
        self.used = now;
        if want <= 0.0 {
            self.credit += want;
            return self.answer(true);
        }
        let there = self.credit + want <= self.available;
        if now <= self.next_sync && (self.waiting || there) {
            let wait = match self.waiting {
                true => self.next_sync.saturating_sub(now),
                false => 0,
            };
            let ok = there && now.saturating_add(wait) <= deadline;
            if ok {
                self.credit += want;
            }
            return Answer {
                wait,
                ..self.answer(ok)
            };
        }
        let charge = self.credit + want;
        let taken = shape.take(&mut self.bucket, now, charge, Patience::Until(deadline));
        let wait = taken.available_at.saturating_sub(now).max(0);
        if taken.ok {
            self.credit = 0.0;
            self.waiting = wait > 0;
            self.next_sync = now.saturating_add(if self.waiting { wait } else { period });
            self.available = taken.remaining;
            self.current = shape.capacity - taken.remaining;
        }
        Answer {
            ok: taken.ok,
            wait,
            remaining: taken.remaining,
            current: shape.capacity - taken.remaining,
        }
    }

    /// Charges the bucket and opens the account anew.
    ///
    /// The first grant counts twice, in `available` and in `credit`, until the sync after this
    /// one: so a period grants less than the bucket holds, as it does on an Agent.
    fn sync(
        &mut self,
        shape: &Shape,
        period: Nanos,
        now: Nanos,
        want: f64,
        deadline: Nanos,
    ) -> Answer {
        let charge = std::mem::take(&mut self.credit);
        let taken = shape.take(&mut self.bucket, now, charge, Patience::Until(deadline));
        let wait = taken.available_at.saturating_sub(now).max(0);
        self.waiting = wait > 0;
        self.next_sync = now.saturating_add(if self.waiting { wait } else { period });
        self.available = taken.remaining;
        self.current = shape.capacity - taken.remaining;
        let ok = taken.ok && want <= taken.remaining;
        if ok {
            self.credit = want;
            self.available -= want;
            self.current += want;
        }
        Answer {
            ok,
            wait,
            remaining: self.available,
            current: self.current,
        }
    }

    fn answer(&self, ok: bool) -> Answer {
        Answer {
            ok,
            wait: 0,
            remaining: self.available - self.credit,
            current: self.current + self.credit,
        }
    }
}
