//! A component that a loop drives: the ports it is driven by, and what it was told last.

use std::sync::Arc;
use std::{array, mem};

use super::circuit::{Circuit, PERIOD};
use super::core::lock;
use super::{Actuator, LoadDecision, LoopOutput, Setting, WorkloadTokens};
use crate::engine::clock::{Nanos, nanos};
use crate::engine::sync::Mutex;
use crate::policy::{Bucket, ComponentKind, Port, Signal, Slots};

/// A decision of a load scheduler is good for as many periods.
const VALID_PERIODS: u32 = 5;

/// What a component was told last.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Bits, because an invalid signal does not equal itself. `None` before the first tick.
    signals: Option<[u64; 3]>,
    /// The next tick tells it even the same signals: a loop from before a reload may tick after it,
    /// and then reach the state that the component took over.
    again: bool,
    /// What a load scheduler's workloads cost by their latency.
    pub(super) tokens: WorkloadTokens,
    /// The same for [`ControlLoop`](super::ControlLoop).
    pub(super) output: Option<LoopOutput>,
}

/// A component with its ports.
#[derive(Debug)]
pub(super) struct Driven<A> {
    pub(super) id: Arc<str>,
    pub(super) ports: Ports,
    pub(super) component: Arc<A>,
    /// Shared with the loop of the same component after a reload.
    pub(super) told: Arc<Mutex<Told>>,
}

impl<A: Actuator> Driven<A> {
    /// Tells the component its signals, unless it was told the same before. A load scheduler is
    /// told at the end of each period.
    ///
    /// `read` returns the signal at a port, by the port's position in [`Ports`].
    pub(super) fn tell(&self, read: impl Fn(usize, Port) -> Signal, now: Nanos, ends_period: bool) {
        let mut told = lock(&self.told);
        let setting = match self.ports {
            Ports::Bucket(ports) => {
                let [capacity, fill, pass_through] = array::from_fn(|at| read(at, ports[at]));
                let news = told.news([capacity, fill, pass_through]);
                news.then_some(Setting::Bucket {
                    capacity,
                    fill,
                    pass_through,
                })
            }
            Ports::Slots(ports) => {
                let [max_concurrency, pass_through] = array::from_fn(|at| read(at, ports[at]));
                let news = told.news([max_concurrency, pass_through, 0.0]);
                news.then_some(Setting::Slots {
                    max_concurrency,
                    pass_through,
                })
            }
            Ports::AcceptPercentage { percentage, .. } => {
                let percentage = read(0, percentage);
                let news = told.news([percentage, 0.0, 0.0]);
                news.then_some(Setting::AcceptPercentage(percentage))
            }
            Ports::Load {
                multiplier,
                dry_run,
                ..
            } => ends_period.then(|| {
                let multiplier = match dry_run {
                    true => Signal::NAN,
                    false => read(0, multiplier),
                };
                Setting::Load(decision(multiplier, now, Arc::clone(&told.tokens)))
            }),
        };
        if let Some(setting) = setting {
            told.output = Some(setting.output(self.ports));
            drop(told);
            self.component.apply(setting, now);
        }
    }

    /// Tells a component that a reload has replaced or added what the loop last came to, so that
    /// it does not let everything pass until the next tick.
    ///
    /// A signal that the changed circuit has not computed yet keeps the value that the component
    /// `before` was told.
    pub(super) fn tell_at_once(&self, circuit: &Circuit, before: Option<&Self>, now: Nanos) {
        let last = before.and_then(|before| lock(&before.told).signals);
        let read = |at: usize, port: Port| match (circuit.read(port), port, last) {
            (signal, Port::Changing(_), Some(last)) if signal.is_nan() => {
                Signal::from_bits(last[at])
            }
            (signal, ..) => signal,
        };
        // A load scheduler that takes over has the last decision with its state.
        self.tell(read, now, before.is_none());
        lock(&self.told).again = true;
    }

    /// Returns true if the ports of both are of the same kind.
    pub(super) fn is_of_same_kind(&self, other: &Self) -> bool {
        mem::discriminant(&self.ports) == mem::discriminant(&other.ports)
    }
}

/// The ports of a component by its kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ports {
    Bucket([Port; 3]),
    Slots([Port; 2]),
    AcceptPercentage {
        percentage: Port,
        ramp: bool,
    },
    Load {
        multiplier: Port,
        by_latency: bool,
        dry_run: bool,
    },
}

impl Ports {
    /// Returns `None` for a component whose ports are all constant.
    pub(super) fn of(kind: &ComponentKind) -> Option<Self> {
        let bucket = |bucket: &Bucket| {
            Self::Bucket([
                bucket.bucket_capacity,
                bucket.fill_amount,
                bucket.pass_through,
            ])
        };
        let slots = |slots: &Slots| Self::Slots([slots.max_concurrency, slots.pass_through]);
        let ports = match kind {
            ComponentKind::RateLimiter(limiter) => bucket(&limiter.bucket),
            ComponentKind::QuotaScheduler(scheduler) => bucket(&scheduler.bucket),
            ComponentKind::ConcurrencyLimiter(limiter) => slots(&limiter.slots),
            ComponentKind::ConcurrencyScheduler(scheduler) => slots(&scheduler.slots),
            ComponentKind::Sampler(sampler) => Self::AcceptPercentage {
                percentage: sampler.accept_percentage?,
                ramp: sampler.ramp_mode,
            },
            ComponentKind::LoadScheduler(scheduler) => Self::Load {
                multiplier: scheduler.load_multiplier,
                by_latency: scheduler.workload_latency_based_tokens,
                dry_run: scheduler.dry_run,
            },
        };
        let changing = |port: &Port| matches!(port, Port::Changing(_));
        let driven = match &ports {
            Self::Bucket(ports) => ports.iter().any(changing),
            Self::Slots(ports) => ports.iter().any(changing),
            Self::AcceptPercentage { percentage, .. } => changing(percentage),
            Self::Load {
                multiplier,
                by_latency,
                ..
            } => changing(multiplier) || *by_latency,
        };
        driven.then_some(ports)
    }
}

impl Setting {
    /// Returns what the setting means, with the effect of an invalid signal instead of NaN.
    fn output(&self, ports: Ports) -> LoopOutput {
        let or = |signal: Signal, invalid: f64| match signal.is_nan() {
            true => invalid,
            false => signal,
        };
        match self {
            Self::Load(decision) => LoopOutput::LoadMultiplier {
                load_multiplier: decision.load_multiplier,
                pass_through: decision.pass_through,
            },
            Self::AcceptPercentage(percentage) => {
                let ramp = matches!(ports, Ports::AcceptPercentage { ramp: true, .. });
                LoopOutput::AcceptPercentage(or(*percentage, if ramp { 0.0 } else { 100.0 }))
            }
            Self::Bucket { capacity, fill, .. } => LoopOutput::Bucket {
                bucket_capacity: or(*capacity, f64::INFINITY),
                fill_amount: or(*fill, f64::INFINITY),
            },
            Self::Slots {
                max_concurrency, ..
            } => LoopOutput::MaxConcurrency(or(*max_concurrency, f64::INFINITY)),
        }
    }
}

/// An invalid multiplier lets everything pass; a negative one is zero.
fn decision(multiplier: Signal, now: Nanos, tokens: WorkloadTokens) -> LoadDecision {
    LoadDecision {
        // NaN is no more than zero.
        load_multiplier: if multiplier > 0.0 { multiplier } else { 0.0 },
        pass_through: multiplier.is_nan(),
        valid_until: now.saturating_add(nanos(PERIOD * VALID_PERIODS)),
        tokens,
    }
}

impl Told {
    /// Remembers signals. Returns true if the component has to be told them.
    fn news(&mut self, signals: [Signal; 3]) -> bool {
        let bits = Some(signals.map(Signal::to_bits));
        let news = self.signals != bits || self.again;
        self.again = false;
        self.signals = bits;
        news
    }
}
