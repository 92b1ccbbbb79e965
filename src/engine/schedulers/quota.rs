//! `quota_scheduler`: a queue in front of a token bucket, both a key.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use super::keys::Keys;
use super::supply::{Ask, Grant, Source, Take};
use super::workload::Workloads;
use crate::engine::clock::{Nanos, duration};
use crate::engine::control::WorkloadTokens;
use crate::engine::limiters::bucket::HighWater;
use crate::engine::limiters::lazy_sync::Lazy;
use crate::engine::limiters::rate_limiter::{
    self, Answer, Inputs, Key, Plain, Rules, bucket_label,
};
use crate::engine::limiters::{DEADLINE_MARGIN, Decided, Scheduled, Settled, Shape, Surroundings};
use crate::engine::report::{LimiterDetails, LimiterReason, QueueOrder, SchedulerDetails};
use crate::engine::stages::{Flow, NO_DEADLINE};
use crate::engine::store::{Kept, Limits, Loss, lock};
use crate::engine::sync::Mutex;
use crate::policy;

/// How many newcomers may overtake a flow that waits for tokens.
pub(super) const OVERTAKING: u32 = 3;

/// One quota scheduler of a policy.
#[derive(Debug)]
pub(crate) struct QuotaScheduler {
    label_key: Option<Arc<str>>,
    workloads: Workloads,
    /// Shared with the scheduler that takes over in a reload.
    keys: Arc<Keys<Tokens>>,
}

/// What holds for all buckets.
#[derive(Debug)]
pub(crate) struct Buckets {
    inputs: Inputs,
    interval: AtomicI64,
    max_idle: AtomicI64,
    continuous: AtomicBool,
    delayed: AtomicBool,
    upstream: bool,
    lazy: bool,
    /// From sync to sync, with lazy sync.
    period: AtomicI64,
    high_water: Mutex<HighWater>,
}

impl QuotaScheduler {
    pub(crate) fn new(spec: &policy::QuotaScheduler, around: &Surroundings) -> Self {
        let bucket = &spec.bucket;
        let rules = rate_limiter::rules(bucket, around);
        let limits = Limits {
            max_idle: rules.max_idle,
            keys: match bucket.limit_by_label_key {
                Some(_) => around.limits.keys,
                None => 1,
            },
            ..around.limits
        };
        let buckets = Buckets {
            inputs: Inputs::new(bucket),
            interval: AtomicI64::new(rules.shape.interval),
            max_idle: AtomicI64::new(rules.max_idle),
            continuous: AtomicBool::new(rules.shape.continuous),
            delayed: AtomicBool::new(rules.shape.delayed),
            upstream: rules.shape.upstream,
            lazy: bucket.lazy_sync.is_some(),
            period: AtomicI64::new(period(bucket, &rules)),
            high_water: Mutex::new(HighWater::NONE),
        };
        Self {
            label_key: bucket.limit_by_label_key.clone(),
            workloads: Workloads::new(&spec.scheduler),
            keys: Arc::new(Keys::new(buckets, limits, 0, &around.clock)),
        }
    }

    /// The scheduler of a changed policy with the buckets and queues of this one; `None` where
    /// those are others.
    pub(crate) fn successor(&self, spec: &policy::QuotaScheduler) -> Option<Self> {
        let lazy = spec.bucket.lazy_sync.is_some();
        let same = self.label_key == spec.bucket.limit_by_label_key;
        (same && self.keys.rules().lazy == lazy).then(|| Self {
            label_key: self.label_key.clone(),
            workloads: Workloads::new(&spec.scheduler),
            keys: Arc::clone(&self.keys),
        })
    }

    /// Goes by the numbers of its policy, now that it is in force.
    pub(crate) fn take_over(
        &self,
        spec: &policy::QuotaScheduler,
        around: &Surroundings,
        now: Nanos,
    ) {
        let buckets = self.keys.rules();
        let from = buckets.current();
        let rules = rate_limiter::rules(&spec.bucket, around);
        buckets.take_over(&spec.bucket, &rules);
        self.keys.set_times(rules.max_idle, 0);
        let to = buckets.current();
        if from.shape == to.shape {
            return;
        }
        let more = lock(&buckets.high_water).change(&from.shape, &to.shape, now);
        let faster = to.shape.time_to_fill(1.0) < from.shape.time_to_fill(1.0);
        let again = to.shape.fill > 0.0 && (faster || more > 0.0);
        self.keys.change(again, now, |tokens| {
            tokens.carry_over(&from, &to, more, now);
        });
    }

    /// The knobs.
    pub(crate) fn inputs(&self) -> &Inputs {
        &self.keys.rules().inputs
    }

    pub(crate) fn shape(&self) -> Shape {
        let buckets = self.keys.rules();
        buckets.current().shape
    }

    /// The label that it limits by, unless everything passes.
    pub(crate) fn label_in_use(&self) -> Option<&str> {
        self.label_key
            .as_deref()
            .filter(|_| !self.inputs().is_open())
    }

    pub(crate) fn workloads(&self) -> &Workloads {
        &self.workloads
    }

    pub(crate) fn denied_code(&self) -> i32 {
        self.workloads.denied_code()
    }

    pub(crate) fn schedule(&self, flow: &Flow<'_, '_>, now: Nanos) -> Scheduled {
        if self.inputs().is_open() {
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

    /// Gives back tokens of a flow that was granted them here and then rejected elsewhere.
    pub(crate) fn revert(&self, flow: &Flow<'_, '_>, consumed: f64, now: Nanos) {
        if let Key::Bucket(key) = self.key(flow)
            && consumed > 0.0
            && !self.inputs().is_open()
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

/// A flow that asks for no tokens is let through at once.
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
            order: None,
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
        order: decided.overtaken.map(|overtaken| QueueOrder {
            overtook: overtaken.workload,
            overtook_in_workload: overtaken.fairness,
        }),
    }
}

/// The bucket of a key.
#[derive(Debug)]
pub(crate) struct Tokens {
    account: Account,
    /// The account as it was before the head took tokens that it still sleeps for. Should it leave,
    /// that is what counts: subtracting tokens and adding them again would not be exact.
    before: Option<Box<Account>>,
}

#[derive(Clone, Copy, Debug)]
enum Account {
    New,
    Plain(Plain),
    Lazy(Lazy),
}

impl Account {
    /// Of the kind that the policy asks for.
    fn opened(&mut self, buckets: &Buckets) -> &mut Self {
        if matches!(self, Self::New) {
            *self = match buckets.lazy {
                false => Self::Plain(Plain::new()),
                true => Self::Lazy(Lazy::new()),
            };
        }
        self
    }

    /// Without waiting; a remembered rejection says no.
    fn take(&mut self, buckets: &Buckets, rules: &Rules, ask: &rate_limiter::Ask) -> Answer {
        match self.opened(buckets) {
            Self::Plain(state) => state.take(rules, ask),
            Self::Lazy(state) => state.take(rules, buckets.period(), ask),
            Self::New => Answer::UNSEEN,
        }
    }

    /// Also tokens that come before the deadline.
    fn take_and_wait(&mut self, buckets: &Buckets, rules: &Rules, ask: &Ask) -> Answer {
        let Ask {
            now,
            want,
            deadline,
        } = *ask;
        match self.opened(buckets) {
            Self::Plain(state) => state.take_and_wait(rules, now, want, deadline),
            Self::Lazy(state) => state.take_and_wait(rules, buckets.period(), now, want, deadline),
            Self::New => Answer::UNSEEN,
        }
    }

    fn give_back(&mut self, rules: &Rules, now: Nanos, tokens: f64) {
        match self {
            Self::New => {}
            Self::Plain(state) => state.give_back(rules, now, tokens),
            Self::Lazy(state) => state.give_back(rules, now, tokens),
        }
    }
}

/// The time from sync to sync, with lazy sync.
fn period(bucket: &policy::Bucket, rules: &Rules) -> Nanos {
    rules.shape.interval / i64::from(bucket.lazy_sync.unwrap_or(1).max(1))
}

impl Buckets {
    /// The rules with the signals as they are now.
    fn current(&self) -> Rules {
        let shape = Shape {
            capacity: f64::NAN,
            fill: f64::NAN,
            interval: self.interval.load(Ordering::Relaxed),
            continuous: self.continuous.load(Ordering::Relaxed),
            delayed: self.delayed.load(Ordering::Relaxed),
            upstream: self.upstream,
        };
        let max_idle = self.max_idle.load(Ordering::Relaxed);
        self.inputs.apply(&Rules { shape, max_idle })
    }

    fn period(&self) -> Nanos {
        self.period.load(Ordering::Relaxed)
    }

    fn take_over(&self, bucket: &policy::Bucket, rules: &Rules) {
        let Rules { shape, max_idle } = rules;
        self.interval.store(shape.interval, Ordering::Relaxed);
        self.max_idle.store(*max_idle, Ordering::Relaxed);
        self.continuous.store(shape.continuous, Ordering::Relaxed);
        self.delayed.store(shape.delayed, Ordering::Relaxed);
        self.period.store(period(bucket, rules), Ordering::Relaxed);
        self.inputs.set_if_constant(bucket);
    }
}

impl Tokens {
    /// Goes on under other rules.
    fn carry_over(&mut self, from: &Rules, to: &Rules, more: f64, now: Nanos) {
        let accounts = [Some(&mut self.account), self.before.as_deref_mut()];
        for account in accounts.into_iter().flatten() {
            match account {
                Account::New => {}
                Account::Plain(state) => state.carry_over(from, to, more, now),
                Account::Lazy(state) => state.carry_over(from, to, more, now),
            }
        }
    }
}

impl Source for Tokens {
    type Rules = Buckets;

    /// As many as in the recordings of Agents. There, nothing bounds them, so flows that come again
    /// and again starve those that wait.
    fn overtaking(buckets: &Buckets) -> u32 {
        match buckets.upstream {
            true => u32::MAX,
            false => OVERTAKING,
        }
    }

    fn new(_: Nanos) -> Self {
        Self {
            account: Account::New,
            before: None,
        }
    }

    fn take_at_once(&mut self, buckets: &Buckets, ask: &Ask) -> Option<Grant> {
        let ask = rate_limiter::Ask {
            now: ask.now,
            want: ask.want,
            left: left(ask),
        };
        let answer = self.account.take(buckets, &buckets.current(), &ask);
        answer.ok.then(|| grant(&answer))
    }

    fn take(&mut self, buckets: &Buckets, ask: &Ask) -> Take {
        if left(ask) <= DEADLINE_MARGIN {
            return Take::Refused(Grant::default());
        }
        let before = self.account;
        let answer = self.account.take_and_wait(buckets, &buckets.current(), ask);
        match answer.ok {
            false => Take::Refused(grant(&answer)),
            true if answer.wait > 0 => {
                let before = match before {
                    Account::Lazy(state) => {
                        let rules = buckets.current();
                        Account::Lazy(state.without(&rules, buckets.period(), ask.now, ask.want))
                    }
                    before => before,
                };
                self.before = Some(Box::new(before));
                Take::From(ask.now.saturating_add(answer.wait), grant(&answer))
            }
            true => Take::Granted(grant(&answer)),
        }
    }

    /// On an Agent, a remembered rejection discards what is given back.
    fn put_back(&mut self, buckets: &Buckets, want: f64, _: &Grant, now: Nanos) -> bool {
        let rules = buckets.current();
        if rules.shape.upstream {
            let ask = rate_limiter::Ask {
                now,
                want: -want,
                left: NO_DEADLINE,
            };
            return self.account.take(buckets, &rules, &ask).ok;
        }
        self.account.give_back(&rules, now, want);
        if let Some(before) = &mut self.before {
            before.give_back(&rules, now, want);
        }
        true
    }

    fn settle(&mut self) {
        self.before = None;
    }

    fn cancel(&mut self, buckets: &Buckets, want: f64, grant: &Grant, now: Nanos) {
        match self.before.take() {
            Some(before) if !buckets.upstream => self.account = *before,
            _ => {
                self.put_back(buckets, want, grant, now);
            }
        }
    }

    fn loss(&mut self, buckets: &Buckets, used: Nanos, now: Nanos) -> Loss {
        let rules = buckets.current();
        match &self.account {
            Account::New => Loss::none(used),
            Account::Plain(state) => state.loss(&rules, now),
            Account::Lazy(state) => state.loss(&rules, now),
        }
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
