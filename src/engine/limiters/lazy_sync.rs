//! Lazy sync: a key spends from a local account, and its bucket hears of it once a period.

use super::DEADLINE_MARGIN;
use super::bucket::{Bucket, Patience, Shape, Taken};
use super::rate_limiter::{Answer, Ask, Rules};
use crate::engine::clock::Nanos;
use crate::engine::store::{Kept, Loss};

/// The state of a key with lazy sync.
///
/// An account is never closed apart from its bucket, so what a key spent before it idled is
/// charged when it comes back.
#[derive(Clone, Copy, Debug)]
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
    type Rules = Rules;

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

    fn forget_at(&self, max_idle: Nanos) -> Nanos {
        self.used.saturating_add(max_idle)
    }

    /// The next sync charges what was granted since the last one.
    fn loss(&self, rules: &Rules, now: Nanos) -> Loss {
        match rules.shape.missing(&self.bucket, self.credit, now) {
            None => Loss::none(self.used),
            Some((until, tokens)) => Loss {
                until,
                tokens,
                used: self.used,
            },
        }
    }
}

impl Lazy {
    /// Counts a use, and says when it is: threads read the clock before they get the lock, so a
    /// later one may come first. An account that idled for too long starts anew.
    #[inline(always)]
    fn touch(&mut self, rules: &Rules, now: Nanos) -> Nanos {
        let now = now.max(self.used);
        if now.saturating_sub(self.used) >= rules.max_idle {
            *self = Self {
                bucket: rules.shape.full(now),
                ..Self::new()
            };
        }
        now
    }

    /// Goes on under other rules, by which it is synced at once.
    pub(crate) fn carry_over(&mut self, from: &Rules, to: &Rules, more: f64, now: Nanos) {
        if self.used != Nanos::MIN {
            let now = now.max(self.used);
            let shape = &to.shape;
            shape.carry_over(&from.shape, &mut self.bucket, more, now);
            // A sync finds the same in the bucket.
            self.available = (self.available + more).min(shape.capacity);
            self.next_sync = self.next_sync.min(now.saturating_sub(1));
        }
    }

    /// Whether the account is to be synced. A debt is paid at the very time of the next sync, and a
    /// flow that slept until then finds its account due; other syncs come after their time.
    fn is_due(&self, now: Nanos) -> bool {
        now > self.next_sync || self.waiting && now == self.next_sync
    }

    #[inline(always)]
    pub(crate) fn take(&mut self, rules: &Rules, period: Nanos, ask: &Ask) -> Answer {
        let now = self.touch(rules, ask.now);
        let shape = &rules.shape;
        if ask.want <= 0.0 {
            self.used = now;
            self.add(shape, -ask.want);
            return self.answer(shape, true);
        }
        let hopeless = shape.is_too_small_for(ask.want);
        if self.is_due(now) {
            // Too late to sync: this one request goes, the account stays as it is.
            if ask.left <= DEADLINE_MARGIN {
                return Answer {
                    hopeless,
                    ..Answer::UNSEEN
                };
            }
            self.used = now;
            let deadline = now.saturating_add(ask.left);
            let answer = self.sync(shape, period, now, ask.want, deadline);
            return match hopeless && !answer.ok {
                true => Answer {
                    wait: 0,
                    hopeless,
                    ..answer
                },
                false => answer,
            };
        }
        self.used = now;
        let ok = !self.waiting && self.credit + ask.want <= self.available;
        if ok {
            self.credit += ask.want;
        }
        Answer {
            hopeless: hopeless && !ok,
            ..self.answer(shape, ok)
        }
    }

    /// Takes back tokens that were granted and not used.
    pub(crate) fn give_back(&mut self, rules: &Rules, now: Nanos, tokens: f64) {
        self.used = self.touch(rules, now);
        self.add(&rules.shape, tokens);
    }

    /// Adds tokens to the account, which holds no more than its bucket. (An Agent's holds more,
    /// until the next sync.)
    fn add(&mut self, shape: &Shape, tokens: f64) {
        self.credit -= tokens;
        if !shape.upstream {
            self.credit = self.credit.max(self.available - shape.capacity);
        }
    }

    /// For flows that can wait for their tokens: what the account lacks is asked of the bucket at
    /// once, together with what was spent.
    pub(crate) fn take_and_wait(
        &mut self,
        rules: &Rules,
        period: Nanos,
        now: Nanos,
        want: f64,
        deadline: Nanos,
    ) -> Answer {
        let now = self.touch(rules, now);
        let shape = &rules.shape;
        self.used = now;
        if want <= 0.0 {
            self.add(shape, -want);
            return self.answer(shape, true);
        }
        if !self.asks_bucket(now, want) {
            let there = self.credit + want <= self.available;
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
                ..self.answer(shape, ok)
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
            self.current = shape.used_up(taken.remaining);
        }
        Answer {
            ok: taken.ok,
            wait,
            hopeless: false,
            remaining: taken.remaining,
            current: shape.used_up(taken.remaining),
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
        let (taken, wait) = self.charge(shape, period, now, deadline);
        let ok = taken.ok && want <= taken.remaining;
        if ok {
            self.credit = want;
            self.available -= want;
            self.current += want;
        }
        Answer {
            ok,
            wait,
            hopeless: false,
            remaining: shape.shown(self.available),
            current: shape.shown(self.current),
        }
    }

    /// Charges the bucket with what was granted since the last time.
    fn charge(
        &mut self,
        shape: &Shape,
        period: Nanos,
        now: Nanos,
        deadline: Nanos,
    ) -> (Taken, Nanos) {
        let charge = std::mem::take(&mut self.credit);
        let taken = shape.take(&mut self.bucket, now, charge, Patience::Until(deadline));
        let wait = taken.available_at.saturating_sub(now).max(0);
        self.waiting = wait > 0;
        self.next_sync = now.saturating_add(if self.waiting { wait } else { period });
        self.available = taken.remaining;
        self.current = shape.used_up(taken.remaining);
        (taken, wait)
    }

    /// The account without a flow that takes so many tokens and waits, should that leave: if the
    /// bucket is charged for both, it is charged for what was granted before all the same.
    pub(crate) fn without(&self, rules: &Rules, period: Nanos, now: Nanos, want: f64) -> Self {
        let mut account = *self;
        let now = account.touch(rules, now);
        account.used = now;
        if account.asks_bucket(now, want) {
            account.charge(&rules.shape, period, now, Nanos::MAX);
        }
        account
    }

    /// Whether a flow that can wait is decided by the bucket: at a sync, and when the account lacks
    /// tokens that the bucket may have.
    fn asks_bucket(&self, now: Nanos, want: f64) -> bool {
        let there = self.credit + want <= self.available;
        self.is_due(now) || !self.waiting && !there
    }

    fn answer(&self, shape: &Shape, ok: bool) -> Answer {
        Answer {
            ok,
            wait: 0,
            hopeless: false,
            remaining: shape.shown(self.available - self.credit),
            current: shape.shown(self.current + self.credit),
        }
    }
}
