//! Lazy sync: a key spends from a local account that is charged to its bucket once per period.

use super::bucket::{BucketParams, TakeMode, TakeResult, TokenBucket};
use super::key_bucket::{BucketDecision, BucketRequest, BucketRules};
use crate::engine::clock::Nanos;
use crate::engine::engine_flow::DEADLINE_MARGIN;
use crate::engine::store::{EvictionLoss, StoredState};

/// The state of a key with lazy sync.
///
/// The account expires together with its bucket, so tokens that a key spent before it idled are
/// charged when it is used again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LazySyncAccount {
    bucket: TokenBucket,
    last_used: Nanos,
    /// Tokens granted since the last sync.
    credit: f64,
    available: f64,
    current: f64,
    next_sync: Nanos,
    /// Whether the bucket is in debt until the next sync.
    in_debt: bool,
}

impl StoredState for LazySyncAccount {
    type Rules = BucketRules;

    fn new() -> Self {
        Self {
            bucket: TokenBucket::UNUSED,
            last_used: Nanos::MIN,
            credit: 0.0,
            available: 0.0,
            current: 0.0,
            next_sync: Nanos::MIN,
            in_debt: false,
        }
    }

    fn expires_at(&self, max_idle: Nanos) -> Nanos {
        self.last_used.saturating_add(max_idle)
    }

    /// The next sync charges what was granted since the last one, so that counts as missing.
    fn eviction_loss(&self, rules: &BucketRules, now: Nanos) -> EvictionLoss {
        match rules.params.missing(&self.bucket, self.credit, now) {
            None => EvictionLoss::none(self.last_used),
            Some((restored_at, tokens)) => EvictionLoss {
                restored_at,
                tokens,
                last_used: self.last_used,
            },
        }
    }
}

impl LazySyncAccount {
    /// Records a use and returns its time. Threads read the clock before they take the lock, so a
    /// later time may arrive first; it is kept. A key that has idled for `max_idle` starts again
    /// with a full bucket.
    #[inline(always)]
    fn touch(&mut self, rules: &BucketRules, now: Nanos) -> Nanos {
        let now = now.max(self.last_used);
        if now.saturating_sub(self.last_used) >= rules.max_idle {
            *self = Self {
                bucket: rules.params.full_bucket(now),
                ..Self::new()
            };
        }
        now
    }

    /// Continues under changed rules; the next use syncs the account.
    pub(crate) fn migrate(&mut self, from: &BucketRules, to: &BucketRules, more: f64, now: Nanos) {
        if self.last_used != Nanos::MIN {
            let now = now.max(self.last_used);
            let params = &to.params;
            params.migrate(&from.params, &mut self.bucket, more, now);
            // The sync will read the same amount from the bucket.
            self.available = (self.available + more).min(params.capacity);
            self.next_sync = self.next_sync.min(now.saturating_sub(1));
        }
    }

    /// Returns true if the account has to be synced. A debt is paid exactly at the time of the next
    /// sync, so that a flow that waited until then finds the sync due. Other syncs come after that
    /// time.
    fn is_due(&self, now: Nanos) -> bool {
        now > self.next_sync || self.in_debt && now == self.next_sync
    }

    #[inline(always)]
    pub(crate) fn take(
        &mut self,
        rules: &BucketRules,
        period: Nanos,
        request: &BucketRequest,
    ) -> BucketDecision {
        let now = self.touch(rules, request.now);
        let params = &rules.params;
        if request.tokens <= 0.0 {
            self.last_used = now;
            self.add(params, -request.tokens);
            return self.result(params, true);
        }
        let unsatisfiable = params.cannot_hold(request.tokens);
        if self.is_due(now) {
            // There is no time left to sync: reject this request and leave the account unchanged.
            if request.time_left <= DEADLINE_MARGIN {
                return BucketDecision {
                    unsatisfiable,
                    ..BucketDecision::REJECTED
                };
            }
            self.last_used = now;
            let deadline = now.saturating_add(request.time_left);
            let result = self.sync(params, period, now, request.tokens, deadline);
            return match unsatisfiable && !result.granted {
                true => BucketDecision {
                    wait: 0,
                    unsatisfiable,
                    ..result
                },
                false => result,
            };
        }
        self.last_used = now;
        let granted = !self.in_debt && self.credit + request.tokens <= self.available;
        if granted {
            self.credit += request.tokens;
        }
        BucketDecision {
            unsatisfiable: unsatisfiable && !granted,
            ..self.result(params, granted)
        }
    }

    /// Returns tokens that were granted but not used.
    pub(crate) fn return_tokens(&mut self, rules: &BucketRules, now: Nanos, tokens: f64) {
        self.last_used = self.touch(rules, now);
        self.add(&rules.params, tokens);
    }

    /// Takes more tokens, also into debt, or returns tokens, for which the amount is negative. Syncs
    /// the account, so that the bucket is charged whatever the deadline of the next flow is.
    pub(crate) fn correct(&mut self, rules: &BucketRules, period: Nanos, now: Nanos, tokens: f64) {
        let now = self.touch(rules, now);
        self.last_used = now;
        let charge = std::mem::take(&mut self.credit) + tokens;
        let corrected = rules.params.correct(&mut self.bucket, now, charge);
        self.open(&rules.params, period, now, &corrected);
    }

    /// Adds tokens to the account, which never holds more than its bucket. (An Agent's account
    /// holds more until the next sync.)
    fn add(&mut self, params: &BucketParams, tokens: f64) {
        self.credit -= tokens;
        if !params.upstream {
            self.credit = self.credit.max(self.available - params.capacity);
        }
    }

    /// Takes tokens for a flow that can wait. What the account lacks is taken from the bucket at
    /// once, together with what was granted since the last sync.
    pub(crate) fn take_with_wait(
        &mut self,
        rules: &BucketRules,
        period: Nanos,
        now: Nanos,
        want: f64,
        deadline: Nanos,
    ) -> BucketDecision {
        let now = self.touch(rules, now);
        let params = &rules.params;
        self.last_used = now;
        if want <= 0.0 {
            self.add(params, -want);
            return self.result(params, true);
        }
        if !self.needs_bucket(now, want) {
            let covered = self.credit + want <= self.available;
            let wait = match self.in_debt {
                true => self.next_sync.saturating_sub(now),
                false => 0,
            };
            let granted = covered && now.saturating_add(wait) <= deadline;
            if granted {
                self.credit += want;
            }
            return BucketDecision {
                wait,
                ..self.result(params, granted)
            };
        }
        let charge = self.credit + want;
        let taken = params.take(&mut self.bucket, now, charge, TakeMode::WaitUntil(deadline));
        let wait = taken.available_at.saturating_sub(now).max(0);
        if taken.granted {
            self.credit = 0.0;
            self.in_debt = wait > 0;
            self.next_sync = now.saturating_add(if self.in_debt { wait } else { period });
            self.available = taken.remaining;
            self.current = params.used_tokens(taken.remaining);
        }
        BucketDecision {
            granted: taken.granted,
            wait,
            unsatisfiable: false,
            remaining: taken.remaining,
            current: params.used_tokens(taken.remaining),
        }
    }

    /// Charges the bucket and opens a new account.
    ///
    /// The first grant counts twice, in `available` and in `credit`, until the following sync. So a
    /// period grants less than the bucket holds, as on an Agent.
    fn sync(
        &mut self,
        params: &BucketParams,
        period: Nanos,
        now: Nanos,
        want: f64,
        deadline: Nanos,
    ) -> BucketDecision {
        let (taken, wait) = self.charge(params, period, now, deadline);
        let granted = taken.granted && want <= taken.remaining;
        if granted {
            self.credit = want;
            self.available -= want;
            self.current += want;
        }
        BucketDecision {
            granted,
            wait,
            unsatisfiable: false,
            remaining: params.reportable(self.available),
            current: params.reportable(self.current),
        }
    }

    /// Charges the bucket with what was granted since the last sync.
    fn charge(
        &mut self,
        params: &BucketParams,
        period: Nanos,
        now: Nanos,
        deadline: Nanos,
    ) -> (TakeResult, Nanos) {
        let charge = std::mem::take(&mut self.credit);
        let taken = params.take(&mut self.bucket, now, charge, TakeMode::WaitUntil(deadline));
        let wait = self.open(params, period, now, &taken);
        (taken, wait)
    }

    /// Opens a new account after the bucket was charged. Returns the time until its debt is paid.
    fn open(
        &mut self,
        params: &BucketParams,
        period: Nanos,
        now: Nanos,
        charged: &TakeResult,
    ) -> Nanos {
        let wait = charged.available_at.saturating_sub(now).max(0);
        self.in_debt = wait > 0;
        self.next_sync = now.saturating_add(if self.in_debt { wait } else { period });
        self.available = charged.remaining;
        self.current = params.used_tokens(charged.remaining);
        wait
    }

    /// Returns the account as it would be without a flow that takes `want` tokens and waits, for
    /// the case that the flow leaves. If the bucket is charged for that flow, it is still charged
    /// for the earlier grants.
    pub(crate) fn without_waiter(
        &self,
        rules: &BucketRules,
        period: Nanos,
        now: Nanos,
        want: f64,
    ) -> Self {
        let mut account = *self;
        let now = account.touch(rules, now);
        account.last_used = now;
        if account.needs_bucket(now, want) {
            account.charge(&rules.params, period, now, Nanos::MAX);
        }
        account
    }

    /// Returns true if the bucket decides about a flow that can wait: at a sync, and when the
    /// account lacks tokens that the bucket may have.
    fn needs_bucket(&self, now: Nanos, want: f64) -> bool {
        let covered = self.credit + want <= self.available;
        self.is_due(now) || !self.in_debt && !covered
    }

    fn result(&self, params: &BucketParams, granted: bool) -> BucketDecision {
        BucketDecision {
            granted,
            wait: 0,
            unsatisfiable: false,
            remaining: params.reportable(self.available - self.credit),
            current: params.reportable(self.current + self.credit),
        }
    }
}
