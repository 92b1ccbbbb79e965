//! `quota_scheduler`: a queue in front of a token bucket, both a key.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::keys::Keys;
use super::supply::{Ask, Grant, Source, Take};
use super::workload::Workloads;
use crate::engine::clock::{Nanos, duration};
use crate::engine::control::WorkloadTokens;
use crate::engine::limiters::lazy_sync::Lazy;
use crate::engine::limiters::rate_limiter::{self, Answer, Dials, Key, Plain, Rules, bucket_label};
use crate::engine::limiters::{DEADLINE_MARGIN, Decided, Scheduled, Settled, Shape, Surroundings};
use crate::engine::report::{LimiterDetails, LimiterReason, SchedulerDetails};
use crate::engine::stages::{Flow, NO_DEADLINE};
use crate::engine::store::{Kept, Limits};
use crate::policy;

/// One quota scheduler of a policy.
#[derive(Debug)]
pub(crate) struct QuotaScheduler {
    label_key: Option<Arc<str>>,
    workloads: Workloads,
    keys: Keys<Tokens>,
}

/// What holds for all buckets.
#[derive(Debug)]
pub(crate) struct Buckets {
    rules: Rules,
    dials: Dials,
    /// From sync to sync, with lazy sync.
    period: Option<Nanos>,
}

impl QuotaScheduler {
    pub(crate) fn new(spec: &policy::QuotaScheduler, around: &Surroundings) -> Self {
        let bucket = &spec.bucket;
        let rules = rate_limiter::rules(bucket);
        let limits = Limits {
            max_idle: rules.max_idle,
            keys: match bucket.limit_by_label_key {
                Some(_) => around.limits.keys,
                None => 1,
            },
            ..around.limits
        };
        let buckets = Buckets {
            dials: Dials::new(bucket),
            period: bucket
                .lazy_sync
                .map(|syncs| rules.shape.interval / i64::from(syncs.max(1))),
            rules,
        };
        Self {
            label_key: bucket.limit_by_label_key.clone(),
            workloads: Workloads::new(&spec.scheduler),
            keys: Keys::new(buckets, limits, 0, &around.clock),
        }
    }

    /// The knobs.
    pub(crate) fn dials(&self) -> &Dials {
        &self.keys.rules().dials
    }

    pub(crate) fn shape(&self) -> Shape {
        let buckets = self.keys.rules();
        buckets.dials.apply(&buckets.rules).shape
    }

    /// The label that it limits by, unless everything passes.
    pub(crate) fn label_in_use(&self) -> Option<&str> {
        self.label_key
            .as_deref()
            .filter(|_| !self.dials().is_open())
    }

    pub(crate) fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    pub(crate) fn denied_code(&self) -> i32 {
        self.workloads.denied_code()
    }

    pub(crate) fn schedule(&self, flow: &Flow<'_, '_>, now: Nanos) -> Scheduled {
        if self.dials().is_open() {
            return passed(LimiterReason::Unspecified);
        }
        let Key::Bucket(key) = self.key(flow) else {
            return passed(LimiterReason::KeyNotFound);
        };
        let request = self.workloads.request(flow, now, None);
        if request.tokens == 0.0 {
            return free();
        }
        self.keys.line(key, now).schedule(&request, now)
    }

    /// Goes the way of any take, so a remembered rejection swallows it.
    pub(crate) fn revert(&self, flow: &Flow<'_, '_>, consumed: f64, now: Nanos) {
        if let Key::Bucket(key) = self.key(flow)
            && consumed > 0.0
            && !self.dials().is_open()
        {
            self.keys.line(key, now).put_back(consumed, None, now);
        }
    }

    pub(crate) fn report(&self, flow: &Flow<'_, '_>, decided: &Decided) -> LimiterDetails {
        let label = match self.key(flow) {
            Key::Bucket(value) if decided.looked => bucket_label(self.label_key.as_deref(), value),
            _ => Cow::Borrowed(""),
        };
        LimiterDetails::QuotaScheduler {
            label,
            scheduler: details(&self.workloads, flow, decided, None),
        }
    }

    fn key<'a>(&self, flow: &Flow<'a, '_>) -> Key<'a> {
        match &self.label_key {
            None => Key::Bucket(""),
            Some(label) => flow.labels.get(label).map_or(Key::Missing, Key::Bucket),
        }
    }

    pub(crate) fn keys(&self) -> usize {
        self.keys.len()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.keys.evicted()
    }
}

/// Let through without a queue.
pub(super) fn passed(reason: LimiterReason) -> Scheduled {
    let decided = Decided {
        reason,
        ..Decided::untouched(0.0)
    };
    Scheduled::Settled(Settled::from(decided))
}

/// Who asks for nothing gets it at once.
pub(super) fn free() -> Scheduled {
    let decided = Decided {
        reason: LimiterReason::Unspecified,
        looked: true,
        ..Decided::untouched(0.0)
    };
    Scheduled::Settled(Settled::from(decided))
}

/// What schedulers of all kinds tell.
pub(super) fn details(
    workloads: &Workloads,
    flow: &Flow<'_, '_>,
    decided: &Decided,
    estimates: Option<&WorkloadTokens>,
) -> SchedulerDetails {
    if !decided.looked {
        return SchedulerDetails {
            workload_index: "default".into(),
            priority: 0.0,
            tokens: None,
            requested: 0.0,
            queued: Duration::ZERO,
        };
    }
    let request = workloads.request(flow, 0, estimates);
    SchedulerDetails {
        workload_index: request.workload.to_owned(),
        priority: request.priority,
        tokens: Some(decided.tokens()),
        requested: if decided.dropped {
            request.tokens
        } else {
            decided.consumed
        },
        queued: duration(decided.queued),
    }
}

/// The bucket of a key.
#[derive(Debug)]
pub(crate) enum Tokens {
    New,
    Plain(Plain),
    Lazy(Lazy),
}

impl Tokens {
    /// Without waiting; a remembered rejection says no.
    fn ask(&mut self, buckets: &Buckets, ask: &rate_limiter::Ask) -> Answer {
        let rules = buckets.dials.apply(&buckets.rules);
        loop {
            match (&mut *self, buckets.period) {
                (Self::New, None) => *self = Self::Plain(Plain::new()),
                (Self::New, Some(_)) => *self = Self::Lazy(Lazy::new()),
                (Self::Plain(state), _) => return state.take(&rules, ask),
                (Self::Lazy(state), period) => {
                    return state.take(&rules, period.unwrap_or(rules.shape.interval), ask);
                }
            }
        }
    }
}

impl Source for Tokens {
    type Rules = Buckets;

    fn new(_: Nanos) -> Self {
        Self::New
    }

    fn take_at_once(&mut self, buckets: &Buckets, ask: &Ask) -> Option<Grant> {
        let answer = self.ask(
            buckets,
            &rate_limiter::Ask {
                now: ask.now,
                want: ask.want,
                left: left(ask),
            },
        );
        answer.ok.then(|| grant(&answer))
    }

    fn take(&mut self, buckets: &Buckets, ask: &Ask) -> Take {
        if left(ask) <= DEADLINE_MARGIN {
            return Take::Refused(Grant::default());
        }
        let rules = buckets.dials.apply(&buckets.rules);
        let answer = match self {
            Self::New => return Take::Refused(Grant::default()),
            Self::Plain(state) => state.take_and_wait(&rules, ask.now, ask.want, ask.deadline),
            Self::Lazy(state) => {
                let period = buckets.period.unwrap_or(rules.shape.interval);
                state.take_and_wait(&rules, period, ask.now, ask.want, ask.deadline)
            }
        };
        match answer.ok {
            false => Take::Refused(grant(&answer)),
            true if answer.wait > 0 => {
                Take::From(ask.now.saturating_add(answer.wait), grant(&answer))
            }
            true => Take::Granted(grant(&answer)),
        }
    }

    /// A remembered rejection swallows what is given back.
    fn put_back(&mut self, buckets: &Buckets, want: f64, _: &Grant, now: Nanos) -> bool {
        let answer = self.ask(
            buckets,
            &rate_limiter::Ask {
                now,
                want: -want,
                left: NO_DEADLINE,
            },
        );
        answer.ok
    }
}

fn left(ask: &Ask) -> Nanos {
    match ask.deadline {
        NO_DEADLINE => NO_DEADLINE,
        deadline => deadline.saturating_sub(ask.now),
    }
}

fn grant(answer: &Answer) -> Grant {
    Grant {
        remaining: answer.remaining,
        current: answer.current,
        slot: None,
    }
}
