//! `rate_limiter`: a token bucket a key.

use std::borrow::Cow;
use std::sync::Arc;

use super::bucket::{Bucket, HighWater, Patience, Shape};
use super::lazy_sync::Lazy;
use super::{DEADLINE_MARGIN, Decided, Surroundings};
use crate::engine::atomic_signal::AtomicSignal;
use crate::engine::clock::{Nanos, nanos};
use crate::engine::report::{LimiterDetails, LimiterReason};
use crate::engine::stages::{Flow, NO_DEADLINE};
use crate::engine::store::{Kept, Limits, Loss, Store, lock};
use crate::engine::sync::Mutex;
use crate::policy;

/// One rate limiter of a policy.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    label_key: Option<Arc<str>>,
    tokens_key: Option<Arc<str>>,
    denied_code: i32,
    rules: Rules,
    /// Everything passes, unless the inputs say what passes.
    open: bool,
    /// Of signals that change.
    inputs: Option<Box<Inputs>>,
    /// From sync to sync, with lazy sync.
    period: Nanos,
    /// Shared with the limiter that takes over in a reload.
    buckets: Arc<Buckets>,
}

/// The signals of a bucket as they are now; NaN is invalid.
#[derive(Debug)]
pub(crate) struct Inputs {
    capacity: AtomicSignal,
    fill: AtomicSignal,
    pass_through: AtomicSignal,
}

impl Inputs {
    pub(crate) fn new(bucket: &policy::Bucket) -> Self {
        Self {
            capacity: AtomicSignal::new(bucket.bucket_capacity.initial()),
            fill: AtomicSignal::new(bucket.fill_amount.initial()),
            pass_through: AtomicSignal::new(bucket.pass_through.initial()),
        }
    }

    pub(crate) fn set(&self, capacity: f64, fill: f64, pass_through: f64) {
        self.capacity.set(capacity);
        self.fill.set(fill);
        self.pass_through.set(pass_through);
    }

    /// Takes over what a policy says is constant, and leaves what a circuit says as it is.
    pub(crate) fn set_if_constant(&self, bucket: &policy::Bucket) {
        self.capacity.set_if_constant(bucket.bucket_capacity);
        self.fill.set_if_constant(bucket.fill_amount);
        self.pass_through.set_if_constant(bucket.pass_through);
    }

    pub(crate) fn is_open(&self) -> bool {
        let (capacity, fill) = (self.capacity.get(), self.fill.get());
        policy::passes_through(capacity, fill, self.pass_through.get())
    }

    /// The rules with the signals as they are now.
    pub(crate) fn apply(&self, rules: &Rules) -> Rules {
        let shape = Shape {
            capacity: self.capacity.get(),
            fill: self.fill.get(),
            ..rules.shape
        };
        Rules { shape, ..*rules }
    }
}

#[derive(Debug)]
struct Buckets {
    stored: Stored,
    high_water: Mutex<HighWater>,
}

#[derive(Debug)]
enum Stored {
    Plain(Store<Plain>),
    Lazy(Store<Lazy>),
}

/// What holds for all keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rules {
    pub(crate) shape: Shape,
    pub(crate) max_idle: Nanos,
}

/// The buckets that a policy describes.
pub(crate) fn rules(bucket: &policy::Bucket, around: &Surroundings) -> Rules {
    let shape = Shape {
        capacity: bucket.bucket_capacity.initial(),
        fill: bucket.fill_amount.initial(),
        // The loader refuses zero; a division by it must not depend on that.
        interval: nanos(bucket.interval).max(1),
        continuous: bucket.continuous_fill,
        delayed: bucket.delay_initial_fill,
        upstream: around.upstream_buckets,
    };
    // An Agent forgets nothing for idling where the time is zero.
    let max_idle = match nanos(bucket.max_idle_time) {
        0 => Nanos::MAX,
        time => time,
    };
    Rules { shape, max_idle }
}

/// A request for tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) now: Nanos,
    pub(crate) want: f64,
    /// Until the deadline, or [`NO_DEADLINE`].
    pub(crate) left: Nanos,
}

/// What a take from a key's bucket came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) wait: Nanos,
    /// No time makes it a yes.
    pub(crate) hopeless: bool,
    pub(crate) remaining: f64,
    pub(crate) current: f64,
}

impl Answer {
    /// No, without having looked.
    pub(crate) const UNSEEN: Self = Self {
        ok: false,
        wait: 0,
        hopeless: false,
        remaining: 0.0,
        current: 0.0,
    };
}

/// Where a flow's tokens come from.
pub(crate) enum Key<'a> {
    Bucket(&'a str),
    Missing,
}

impl RateLimiter {
    pub(crate) fn new(spec: &policy::RateLimiter, around: &Surroundings) -> Self {
        let bucket = &spec.bucket;
        let limits = around.limits;
        let rules = rules(bucket, around);
        let Rules { shape, max_idle } = rules;
        let pass_through = bucket.pass_through.initial();
        let ports = [
            bucket.bucket_capacity,
            bucket.fill_amount,
            bucket.pass_through,
        ];
        let changing = |port: &policy::Port| matches!(port, policy::Port::Changing(_));
        let changes = ports.iter().any(changing);
        let open = policy::passes_through(shape.capacity, shape.fill, pass_through);
        let limits = Limits { max_idle, ..limits };
        let limits = match bucket.limit_by_label_key {
            Some(_) => limits,
            None => Limits { keys: 1, ..limits },
        };
        let stored = match bucket.lazy_sync {
            Some(_) => Stored::Lazy(Store::new(limits)),
            None => Stored::Plain(Store::new(limits)),
        };
        let syncs = bucket.lazy_sync.unwrap_or(1).max(1);
        Self {
            label_key: bucket.limit_by_label_key.clone(),
            tokens_key: spec.request.tokens_label_key.clone(),
            denied_code: spec.request.denied_response_status_code,
            rules,
            open,
            inputs: changes.then(|| Box::new(Inputs::new(bucket))),
            period: shape.interval / i64::from(syncs),
            buckets: Arc::new(Buckets {
                stored,
                high_water: Mutex::new(HighWater::NONE),
            }),
        }
    }

    /// The limiter of a changed policy with the buckets of this one; `None` where those are others.
    pub(super) fn successor(
        &self,
        spec: &policy::RateLimiter,
        around: &Surroundings,
    ) -> Option<Self> {
        let mut next = Self::new(spec, around);
        let lazy = |one: &Self| matches!(one.buckets.stored, Stored::Lazy(_));
        if next.label_key != self.label_key || lazy(&next) != lazy(self) {
            return None;
        }
        if let Some(inputs) = &next.inputs {
            let shape = self.shape();
            let pass_through = match &self.inputs {
                Some(inputs) => inputs.pass_through.get(),
                None => f64::NAN,
            };
            inputs.set(shape.capacity, shape.fill, pass_through);
            inputs.set_if_constant(&spec.bucket);
        }
        next.buckets = Arc::clone(&self.buckets);
        Some(next)
    }

    /// Carries the buckets over to these rules, now that they are in force.
    pub(super) fn take_over(&self, from: &Self, now: Nanos) {
        let (from, to) = (from.current(), self.current());
        let Buckets { stored, high_water } = &*self.buckets;
        let more = match from.shape == to.shape {
            true => None,
            false => Some(lock(high_water).change(&from.shape, &to.shape, now)),
        };
        match stored {
            Stored::Plain(store) => {
                store.set_max_idle(to.max_idle);
                if let Some(more) = more {
                    store.each_mut(|state| state.carry_over(&from, &to, more, now));
                }
            }
            Stored::Lazy(store) => {
                store.set_max_idle(to.max_idle);
                if let Some(more) = more {
                    store.each_mut(|state| state.carry_over(&from, &to, more, now));
                }
            }
        }
    }

    fn current(&self) -> Rules {
        match &self.inputs {
            None => self.rules,
            Some(inputs) => inputs.apply(&self.rules),
        }
    }

    /// The knobs, where some signal changes.
    pub(crate) fn inputs(&self) -> Option<&Inputs> {
        self.inputs.as_deref()
    }

    pub(super) fn shape(&self) -> Shape {
        self.current().shape
    }

    #[inline]
    fn is_open(&self) -> bool {
        match &self.inputs {
            None => self.open,
            Some(inputs) => inputs.is_open(),
        }
    }

    /// The label that it limits by, unless everything passes.
    pub(super) fn label_in_use(&self) -> Option<&str> {
        self.label_key.as_deref().filter(|_| !self.is_open())
    }

    pub(super) fn denied_code(&self) -> i32 {
        self.denied_code
    }

    #[inline(always)]
    pub(super) fn decide(&self, flow: &Flow<'_, '_>, now: Nanos) -> Decided {
        let tokens = tokens_of(self.tokens_key.as_deref(), flow);
        let Key::Bucket(key) = self.key(flow) else {
            return Decided::untouched(tokens);
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
            hopeless: answer.hopeless,
            remaining: answer.remaining,
            current: answer.current,
            consumed: if answer.ok { tokens } else { 0.0 },
            request_id: None,
            looked: true,
            queued: 0,
            overtaken: None,
        }
    }

    /// Uses the normal take path, as an Agent does: a remembered rejection discards it.
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
        let label = match self.key(flow) {
            Key::Bucket(value) if decided.looked => bucket_label(self.label_key.as_deref(), value),
            _ => Cow::Borrowed(""),
        };
        LimiterDetails::RateLimiter {
            label,
            tokens: decided.tokens(),
        }
    }

    pub(super) fn keys(&self) -> usize {
        match &self.buckets.stored {
            Stored::Plain(store) => store.len(),
            Stored::Lazy(store) => store.len(),
        }
    }

    pub(super) fn evicted(&self) -> u64 {
        match &self.buckets.stored {
            Stored::Plain(store) => store.evicted(),
            Stored::Lazy(store) => store.evicted(),
        }
    }

    /// All keys of a limiter come from one label, so its value is enough to tell them apart.
    #[inline(always)]
    fn key<'a>(&self, flow: &Flow<'a, '_>) -> Key<'a> {
        match &self.label_key {
            _ if self.is_open() => Key::Missing,
            None => Key::Bucket(""),
            Some(label) => match flow.labels.get(label) {
                None => Key::Missing,
                Some(value) => Key::Bucket(value),
            },
        }
    }

    // One copy of all that is inlined into it.
    #[inline(never)]
    fn take(&self, key: &str, ask: &Ask) -> Answer {
        let turned;
        let rules = match &self.inputs {
            None => &self.rules,
            Some(inputs) => {
                turned = inputs.apply(&self.rules);
                &turned
            }
        };
        match &self.buckets.stored {
            Stored::Plain(store) => {
                store.update(key, ask.now, rules, |state| state.take(rules, ask))
            }
            Stored::Lazy(store) => store.update(key, ask.now, rules, |state| {
                state.take(rules, self.period, ask)
            }),
        }
    }
}

/// Tokens that a flow asks for: a number that is none, or not finite, counts as not given, because
/// NaN would corrupt the state.
#[inline(always)]
pub(crate) fn tokens_of(label_key: Option<&str>, flow: &Flow<'_, '_>) -> f64 {
    match label_key {
        None => 1.0,
        Some(key) => tokens_told(key, flow),
    }
}

fn tokens_told(key: &str, flow: &Flow<'_, '_>) -> f64 {
    flow.labels
        .get(key)
        .and_then(policy::parse_number)
        .filter(|tokens| tokens.is_finite())
        .unwrap_or(1.0)
}

/// Returns the name of a key in decisions: the whole text, which the flow has anyway.
pub(crate) fn bucket_label(label_key: Option<&str>, value: &str) -> Cow<'static, str> {
    match label_key {
        None => Cow::Borrowed("default"),
        Some(key) => Cow::Owned(format!("{key}:{value}")),
    }
}

/// The state of a key without lazy sync.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    bucket: Bucket,
    used: Nanos,
    rejected: Remembered,
}

/// The last rejection of a key, good until the tokens are there.
#[derive(Clone, Copy, Debug)]
struct Remembered {
    available_at: Nanos,
    want: f64,
    remaining: f64,
}

impl Remembered {
    const NOTHING: Self = Self {
        available_at: Nanos::MIN,
        want: f64::NEG_INFINITY,
        remaining: 0.0,
    };
}

impl Kept for Plain {
    type Rules = Rules;

    fn new() -> Self {
        Self {
            bucket: Bucket::NONE,
            used: Nanos::MIN,
            rejected: Remembered::NOTHING,
        }
    }

    /// A remembered rejection outlives its bucket, on an Agent too.
    fn forget_at(&self, max_idle: Nanos) -> Nanos {
        self.used
            .saturating_add(max_idle)
            .max(self.rejected.available_at)
    }

    fn loss(&self, rules: &Rules, now: Nanos) -> Loss {
        let missing = rules.shape.missing(&self.bucket, 0.0, now);
        if missing.is_none() && self.rejected.available_at <= now {
            return Loss::none(self.used);
        }
        let (full_at, tokens) = missing.unwrap_or((now, 0.0));
        Loss {
            until: full_at.max(self.rejected.available_at),
            tokens,
            used: self.used,
        }
    }
}

impl Plain {
    /// Counts a use, and says when it is: threads read the clock before they get the lock, so a
    /// later one may come first. A bucket that idled for too long starts anew.
    #[inline(always)]
    fn touch(&mut self, rules: &Rules, now: Nanos) -> Nanos {
        let at = now.max(self.used);
        if at.saturating_sub(self.used) >= rules.max_idle {
            self.bucket = rules.shape.full(at);
        }
        self.used = at;
        at
    }

    /// Goes on under other rules. What was rejected by the old ones is asked anew.
    pub(crate) fn carry_over(&mut self, from: &Rules, to: &Rules, more: f64, now: Nanos) {
        self.rejected = Remembered::NOTHING;
        if self.used != Nanos::MIN {
            let now = now.max(self.used);
            to.shape
                .carry_over(&from.shape, &mut self.bucket, more, now);
        }
    }

    /// Takes tokens, also such that are only filled in before the deadline; what is remembered does
    /// not count.
    pub(crate) fn take_and_wait(
        &mut self,
        rules: &Rules,
        now: Nanos,
        want: f64,
        deadline: Nanos,
    ) -> Answer {
        let shape = &rules.shape;
        let at = self.touch(rules, now);
        let taken = shape.take(&mut self.bucket, at, want, Patience::Until(deadline));
        Answer {
            ok: taken.ok,
            wait: taken.available_at.saturating_sub(now).max(0),
            hopeless: false,
            remaining: taken.remaining,
            current: shape.used_up(taken.remaining),
        }
    }

    /// Takes back tokens that were granted and not used, whatever is remembered.
    pub(crate) fn give_back(&mut self, rules: &Rules, now: Nanos, tokens: f64) {
        let at = self.touch(rules, now);
        rules
            .shape
            .take(&mut self.bucket, at, -tokens, Patience::Never);
    }

    /// Takes tokens that are there. A rejection is remembered until its tokens are there, unless
    /// that never happens.
    #[inline(always)]
    pub(crate) fn take(&mut self, rules: &Rules, ask: &Ask) -> Answer {
        let (shape, now) = (&rules.shape, ask.now);
        let hopeless = shape.is_too_small_for(ask.want);
        if self.rejected.want >= ask.want && self.rejected.available_at > now && !hopeless {
            return Answer {
                ok: false,
                wait: self.rejected.available_at - now,
                hopeless: false,
                remaining: self.rejected.remaining,
                current: shape.used_up(self.rejected.remaining),
            };
        }
        if ask.left <= DEADLINE_MARGIN {
            return Answer {
                hopeless,
                ..Answer::UNSEEN
            };
        }

        let at = self.touch(rules, now);
        let taken = shape.take(&mut self.bucket, at, ask.want, Patience::Never);
        let mut wait = 0;
        // No wait is told for an infinite debt, as an Agent tells none.
        if !taken.ok && !hopeless && taken.remaining.is_finite() {
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
            hopeless: hopeless && !taken.ok,
            remaining: taken.remaining,
            current: shape.used_up(taken.remaining),
        }
    }
}
