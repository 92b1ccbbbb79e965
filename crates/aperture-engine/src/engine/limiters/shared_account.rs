//! Lazy sync with a shared store: an account per key, charged to the bucket in the background.

use std::sync::{Arc, Weak};

use super::bucket::BucketParams;
use super::key_bucket::BucketDecision;
use crate::engine::clock::Nanos;
use crate::engine::shared::{
    BucketSettings, StoreAccess, StoreKey, StoreOutcome, StoreReply, TokensMode, take_tokens,
};
use crate::engine::store::{EvictionLoss, Store, StoreLimits, StoredState};
use crate::engine::sync::{Mutex, lock};

/// The accounts of one rate limiter, a bounded number.
#[derive(Debug)]
pub(super) struct SharedAccounts(Store<AccountEntry>);

#[derive(Debug)]
struct AccountEntry {
    account: Option<Arc<SharedAccount>>,
    last_used: Nanos,
}

/// The account of a key. Its drop charges the bucket with the tokens that the account granted since
/// the last sync.
#[derive(Debug)]
struct SharedAccount {
    store: StoreAccess,
    key: StoreKey,
    state: Mutex<AccountState>,
}

#[derive(Debug)]
struct AccountState {
    /// The tokens in the bucket after the last sync; `None` before the first one.
    available: Option<f64>,
    /// The tokens granted since the last sync.
    credit: f64,
    next_sync: Nanos,
    /// The sync under way, and the tokens that it charges.
    syncing: Option<(Nanos, f64)>,
    /// True if the last sync failed.
    failed: bool,
    bucket: BucketSettings,
}

/// A request for tokens from the account of a key.
#[derive(Debug)]
pub(super) struct AccountRequest<'a> {
    pub(super) key: &'a str,
    pub(super) tokens: f64,
    pub(super) params: &'a BucketParams,
    pub(super) bucket: BucketSettings,
    /// The time between two syncs.
    pub(super) period: Nanos,
    pub(super) now: Nanos,
}

/// The reply of an account.
#[derive(Debug)]
pub(super) enum AccountDecision {
    Decided(BucketDecision),
    /// The bucket may have tokens that the account does not know of: the store is asked.
    Ask,
    /// The last sync was late or failed: the flow is decided without the store.
    Absent,
}

impl StoredState for AccountEntry {
    type Rules = ();

    fn new() -> Self {
        Self {
            account: None,
            last_used: Nanos::MIN,
        }
    }

    fn expires_at(&self, max_idle: Nanos) -> Nanos {
        self.last_used.saturating_add(max_idle)
    }

    /// The bucket is in the store, and charged when the account is dropped.
    fn eviction_loss(&self, (): &(), _: Nanos) -> EvictionLoss {
        EvictionLoss::none(self.last_used)
    }
}

impl SharedAccounts {
    pub(super) fn new(limits: StoreLimits) -> Self {
        Self(Store::new(limits))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn evicted(&self) -> u64 {
        self.0.evicted()
    }

    pub(super) fn set_max_idle(&self, max_idle: Nanos) {
        self.0.set_max_idle(max_idle);
    }

    /// Decides by the account, and starts its sync if it is due.
    pub(super) fn decide(
        &self,
        store: &StoreAccess,
        request: &AccountRequest<'_>,
    ) -> AccountDecision {
        let account = self.0.update(request.key, request.now, &(), |entry| {
            entry.last_used = request.now.max(entry.last_used);
            let account = entry.account.get_or_insert_with(|| {
                Arc::new(SharedAccount {
                    store: store.clone(),
                    key: store.key(request.key),
                    state: Mutex::new(AccountState::new(request.bucket)),
                })
            });
            Arc::clone(account)
        });
        let mut state = lock(&account.state);
        state.bucket = request.bucket;
        let decision = state.decide(request, store.deadline());
        let charge = state.begin_sync(request.now);
        drop(state);
        if let Some(charge) = charge {
            account.sync(charge, request.bucket, request.period);
        }
        decision
    }

    /// Records the balance of the bucket after a flow took tokens from it.
    pub(super) fn learn(&self, key: &str, remaining: f64, asked_at: Nanos, period: Nanos) {
        let account = self.0.peek(key, |entry| entry.account.clone());
        if let Some(account) = account.flatten() {
            let mut state = lock(&account.state);
            if state.available.is_none() {
                state.next_sync = asked_at.saturating_add(period);
            }
            // The reply of a sync under way states the balance as well.
            if state.syncing.is_none() {
                state.available = Some(remaining);
            }
        }
    }

    /// Returns tokens to the account. Returns false if the key has none.
    pub(super) fn return_tokens(&self, key: &str, tokens: f64, bucket: &BucketSettings) -> bool {
        let account = self.0.peek(key, |entry| entry.account.clone());
        let Some(account) = account.flatten() else {
            return false;
        };
        lock(&account.state).add(tokens, bucket);
        true
    }
}

impl AccountState {
    const fn new(bucket: BucketSettings) -> Self {
        Self {
            available: None,
            credit: 0.0,
            next_sync: Nanos::MIN,
            syncing: None,
            failed: false,
            bucket,
        }
    }

    fn decide(&mut self, request: &AccountRequest<'_>, deadline: Nanos) -> AccountDecision {
        let Some(available) = self.available else {
            return AccountDecision::Ask;
        };
        let late = |since: Nanos| since.saturating_add(deadline) <= request.now;
        if self.failed || self.syncing.is_some_and(|(since, _)| late(since)) {
            return AccountDecision::Absent;
        }
        if request.tokens <= 0.0 {
            self.add(-request.tokens, &request.bucket);
            return AccountDecision::Decided(self.result(request, available, true));
        }
        let granted = self.credit + request.tokens <= available;
        if granted {
            self.credit += request.tokens;
        } else if self.is_due(request.now) {
            return AccountDecision::Ask;
        }
        AccountDecision::Decided(self.result(request, available, granted))
    }

    fn is_due(&self, now: Nanos) -> bool {
        self.available.is_some() && self.syncing.is_none() && now >= self.next_sync
    }

    /// Returns the tokens to charge, if a sync is due.
    fn begin_sync(&mut self, now: Nanos) -> Option<f64> {
        self.is_due(now).then(|| {
            self.syncing = Some((now, self.credit));
            self.credit
        })
    }

    /// Ends a sync with the balance of the bucket, or without one.
    fn end_sync(&mut self, remaining: Option<f64>, period: Nanos) {
        let Some((since, charge)) = self.syncing.take() else {
            return;
        };
        self.next_sync = since.saturating_add(period);
        self.failed = remaining.is_none();
        if let Some(remaining) = remaining {
            self.available = Some(remaining);
            self.credit -= charge;
        }
    }

    /// Adds tokens to the account, which never holds more than its bucket.
    fn add(&mut self, tokens: f64, bucket: &BucketSettings) {
        self.credit -= tokens;
        if let Some(available) = self.available
            && !bucket.upstream
        {
            self.credit = self.credit.max(available - bucket.capacity);
        }
    }

    fn result(
        &self,
        request: &AccountRequest<'_>,
        available: f64,
        granted: bool,
    ) -> BucketDecision {
        let remaining = available - self.credit;
        BucketDecision {
            granted,
            wait: 0,
            unsatisfiable: !granted && request.params.cannot_hold(request.tokens),
            remaining,
            current: request.params.used_tokens(remaining),
        }
    }
}

impl SharedAccount {
    /// Charges the bucket, in the background.
    fn sync(self: &Arc<Self>, charge: f64, bucket: BucketSettings, period: Nanos) {
        let account: Weak<Self> = Arc::downgrade(self);
        let reply = StoreReply::new(move |result| {
            let remaining = match result {
                Ok(StoreOutcome::Tokens(outcome)) => Some(outcome.remaining),
                _ => None,
            };
            if let Some(account) = account.upgrade() {
                lock(&account.state).end_sync(remaining, period);
            }
        });
        let operation = take_tokens(self.key, bucket, charge, TokensMode::Correct);
        self.store.submit(operation, reply);
    }
}

impl Drop for SharedAccount {
    fn drop(&mut self) {
        let state = lock(&self.state);
        let charging = state.syncing.map_or(0.0, |(_, charge)| charge);
        let (charge, bucket) = (state.credit - charging, state.bucket);
        drop(state);
        if charge != 0.0 {
            let operation = take_tokens(self.key, bucket, charge, TokensMode::Correct);
            self.store.submit(operation, StoreReply::new(drop));
        }
    }
}
