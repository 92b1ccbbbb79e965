//! `rate_limiter`: a token bucket a key.

use std::borrow::Cow;
use std::sync::Arc;

use super::bucket::{Bucket, Patience, Shape};
use super::lazy_sync::Lazy;
use super::{DEADLINE_MARGIN, Decided};
use crate::engine::clock::{Nanos, nanos};
use crate::engine::report::{LimiterDetails, LimiterReason, TokensInfo};
use crate::engine::stages::{Flow, NO_DEADLINE};
use crate::engine::store::{Kept, Limits, Store};
use crate::policy;

/// One rate limiter of a policy.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    label_key: Option<Arc<str>>,
    tokens_key: Option<Arc<str>>,
    denied_code: i32,
    buckets: Buckets,
}

#[derive(Debug)]
enum Buckets {
    /// Everything passes.
    Open,
    Plain(Rules, Store<Plain>),
    /// With the time from sync to sync.
    Lazy(Rules, Nanos, Store<Lazy>),
}

/// What holds for all keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) shape: Shape,
    pub(super) max_idle: Nanos,
}

/// A request for tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    pub(super) now: Nanos,
    pub(super) want: f64,
    /// Until the deadline, or [`NO_DEADLINE`].
    pub(super) left: Nanos,
}

/// What a take from a key's bucket came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Answer {
    pub(super) ok: bool,
    pub(super) wait: Nanos,
    pub(super) remaining: f64,
    pub(super) current: f64,
}

impl Answer {
    /// No, without having looked.
    pub(super) const UNSEEN: Self = Self {
        ok: false,
        wait: 0,
        remaining: 0.0,
        current: 0.0,
    };
}

/// Where a flow's tokens come from.
enum Key<'a> {
    Bucket(&'a str),
    Missing,
}

impl RateLimiter {
    pub(crate) fn new(spec: &policy::RateLimiter, limits: Limits) -> Self {
        let bucket = &spec.bucket;
        let capacity = bucket.bucket_capacity.initial();
        let fill = bucket.fill_amount.initial();
        let open = policy::passes_through(capacity, fill, bucket.pass_through.initial());
        let shape = Shape {
            capacity,
            fill,
            // The loader refuses zero; a division by it must not depend on that.
            interval: nanos(bucket.interval).max(1),
            continuous: bucket.continuous_fill,
            delayed: bucket.delay_initial_fill,
        };
        // An Agent forgets nothing for idling where the time is zero.
        let max_idle = match nanos(bucket.max_idle_time) {
            0 => Nanos::MAX,
            time => time,
        };
        let rules = Rules { shape, max_idle };
        let limits = Limits { max_idle, ..limits };
        let limits = match bucket.limit_by_label_key {
            Some(_) => limits,
            None => Limits { keys: 1, ..limits },
        };
        let buckets = match bucket.lazy_sync {
            _ if open => Buckets::Open,
            Some(syncs) => {
                let period = shape.interval / i64::from(syncs.max(1));
                Buckets::Lazy(rules, period, Store::new(limits))
            }
            None => Buckets::Plain(rules, Store::new(limits)),
        };
        Self {
            label_key: bucket.limit_by_label_key.clone(),
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            buckets,
        }
    }

    pub(super) fn denied_code(&self) -> i32 {
        self.denied_code
    }

    #[inline(always)]
    pub(super) fn decide(&self, flow: &Flow<'_, '_>, now: Nanos) -> Decided {
        let tokens = self.tokens(flow);
        let Key::Bucket(key) = self.key(flow) else {
            return untouched(tokens);
        };
        let ask = Ask {
            now,
            want: tokens,
            left: flow.time_left,
        };
        let answer = self.take(key, &ask);
        Decided {
            dropped: !answer.ok,
            reason: LimiterReason::Unspecified,
            wait: answer.wait,
            remaining: answer.remaining,
            current: answer.current,
            consumed: if answer.ok { tokens } else { 0.0 },
        }
    }

    /// Goes the way of any take, so a remembered rejection swallows it.
    pub(super) fn revert(&self, flow: &Flow<'_, '_>, consumed: f64, now: Nanos) {
        if let Key::Bucket(key) = self.key(flow)
            && consumed > 0.0
        {
            let ask = Ask {
                now,
                want: -consumed,
                left: NO_DEADLINE,
            };
            self.take(key, &ask);
        }
    }

    pub(super) fn report(&self, flow: &Flow<'_, '_>, decided: &Decided) -> LimiterDetails {
        let label = match (decided.reason, &self.label_key, self.key(flow)) {
            (LimiterReason::KeyNotFound, ..) | (_, _, Key::Missing) => Cow::Borrowed(""),
            (_, None, _) => Cow::Borrowed("default"),
            (_, Some(label), Key::Bucket(value)) => Cow::Owned(format!("{label}:{value}")),
        };
        LimiterDetails::RateLimiter {
            label,
            tokens: TokensInfo {
                remaining: decided.remaining,
                current: decided.current,
                consumed: decided.consumed,
            },
        }
    }

    pub(super) fn keys(&self) -> usize {
        match &self.buckets {
            Buckets::Open => 0,
            Buckets::Plain(_, store) => store.len(),
            Buckets::Lazy(_, _, store) => store.len(),
        }
    }

    pub(super) fn evicted(&self) -> u64 {
        match &self.buckets {
            Buckets::Open => 0,
            Buckets::Plain(_, store) => store.evicted(),
            Buckets::Lazy(_, _, store) => store.evicted(),
        }
    }

    /// A number that is none, or not finite, counts as not given: NaN would corrupt the bucket.
    #[inline]
    fn tokens(&self, flow: &Flow<'_, '_>) -> f64 {
        let Some(key) = &self.tokens_key else {
            return 1.0;
        };
        flow.labels
            .get(key)
            .and_then(policy::parse_number)
            .filter(|tokens| tokens.is_finite())
            .unwrap_or(1.0)
    }

    /// All keys of a limiter come from one label, so its value is enough to tell them apart.
    #[inline]
    fn key<'a>(&self, flow: &Flow<'a, '_>) -> Key<'a> {
        match &self.label_key {
            _ if matches!(self.buckets, Buckets::Open) => Key::Missing,
            None => Key::Bucket(""),
            Some(label) => flow.labels.get(label).map_or(Key::Missing, Key::Bucket),
        }
    }

    // One copy of all that is inlined into it.
    #[inline(never)]
    fn take(&self, key: &str, ask: &Ask) -> Answer {
        match &self.buckets {
            Buckets::Open => Answer::UNSEEN,
            Buckets::Plain(rules, store) => {
                store.update(key, ask.now, |state| state.take(rules, ask))
            }
            Buckets::Lazy(rules, period, store) => {
                store.update(key, ask.now, |state| state.take(rules, *period, ask))
            }
        }
    }
}

/// Let through without a bucket: no key, or nothing to limit by.
fn untouched(tokens: f64) -> Decided {
    Decided {
        dropped: false,
        reason: LimiterReason::KeyNotFound,
        wait: 0,
        remaining: 0.0,
        current: 0.0,
        consumed: tokens,
    }
}

/// The state of a key without lazy sync.
#[derive(Debug)]
struct Plain {
    bucket: Bucket,
    used: Nanos,
    rejected: Remembered,
}

/// The last rejection of a key, good until the tokens are there.
#[derive(Debug)]
struct Remembered {
    available_at: Nanos,
    want: f64,
    remaining: f64,
}

impl Kept for Plain {
    fn new() -> Self {
        Self {
            bucket: Bucket::NONE,
            used: Nanos::MIN,
            rejected: Remembered {
                available_at: Nanos::MIN,
                want: f64::NEG_INFINITY,
                remaining: 0.0,
            },
        }
    }

    fn used(&self) -> Nanos {
        self.used
    }

    /// A remembered rejection outlives its bucket, on an Agent too.
    fn forget_at(&self, max_idle: Nanos) -> Nanos {
        self.used
            .saturating_add(max_idle)
            .max(self.rejected.available_at)
    }
}

impl Plain {
    #[inline(always)]
    fn take(&mut self, rules: &Rules, ask: &Ask) -> Answer {
        let (shape, now) = (&rules.shape, ask.now);
        if self.rejected.want >= ask.want && self.rejected.available_at > now {
            return Answer {
                ok: false,
                wait: self.rejected.available_at - now,
                remaining: self.rejected.remaining,
                current: shape.capacity - self.rejected.remaining,
            };
        }
        if ask.left <= DEADLINE_MARGIN {
            return Answer::UNSEEN;
        }

        // Threads read the clock before they get the lock, so a later one may come first.
        let at = now.max(self.used);
        if at.saturating_sub(self.used) >= rules.max_idle {
            self.bucket = shape.full(at);
        }
        self.used = at;
        let taken = shape.take(&mut self.bucket, at, ask.want, Patience::Never);
        let mut wait = 0;
        if !taken.ok {
            self.rejected = Remembered {
                available_at: taken.available_at,
                want: ask.want,
                remaining: taken.remaining,
            };
            wait = taken.available_at.saturating_sub(now).max(0);
        }
        Answer {
            ok: taken.ok,
            wait,
            remaining: taken.remaining,
            current: shape.capacity - taken.remaining,
        }
    }
}
