//! A component that a loop drives: its ports, and the settings that were last applied to it.

use std::sync::Arc;
use std::{array, mem};

use super::circuit::{CONTROL_PERIOD, RunningCircuit};
use super::loop_state::lock;
use super::{Actuator, LoadDecision, LoopOutput, Setting, WorkloadTokens};
use crate::engine::clock::{Nanos, nanos};
use crate::engine::sync::Mutex;
use crate::policy::{Bucket, ComponentKind, Port, Signal, Slots};

/// The number of control periods for which a decision of a load scheduler is valid.
const VALID_PERIODS: u32 = 5;

/// The settings that were last applied to a component.
#[derive(Debug, Default)]
pub(super) struct LastApplied {
    /// Bits, because an invalid signal does not equal itself. `None` before the first tick.
    signals: Option<[u64; 3]>,
    /// Makes the next tick apply even equal signals: a loop from before a reload may tick after the
    /// reload, and change the state that the component took over.
    reapply: bool,
    /// The tokens of a load scheduler's workloads, derived from their latency.
    pub(super) tokens: WorkloadTokens,
    /// The settings as a [`ControlLoop`](super::ControlLoop) shows them.
    pub(super) output: Option<LoopOutput>,
}

/// A component with its ports.
#[derive(Debug)]
pub(super) struct DrivenComponent<A> {
    pub(super) id: Arc<str>,
    pub(super) ports: DrivenPorts,
    pub(super) component: Arc<A>,
    /// Shared with the loop of the same component after a reload.
    pub(super) applied: Arc<Mutex<LastApplied>>,
}

impl<A: Actuator> DrivenComponent<A> {
    /// Applies the signals to the component if they changed. A load scheduler gets its multiplier
    /// at the end of each period.
    ///
    /// `read` returns the signal at a port, by the port's position in [`DrivenPorts`].
    pub(super) fn apply(
        &self,
        read: impl Fn(usize, Port) -> Signal,
        now: Nanos,
        ends_period: bool,
    ) {
        let mut applied = lock(&self.applied);
        let setting = match self.ports {
            DrivenPorts::Bucket(ports) => {
                let [capacity, fill, pass_through] = array::from_fn(|at| read(at, ports[at]));
                let must_apply = applied.update([capacity, fill, pass_through]);
                must_apply.then_some(Setting::Bucket {
                    capacity,
                    fill,
                    pass_through,
                })
            }
            DrivenPorts::Slots(ports) => {
                let [max_concurrency, pass_through] = array::from_fn(|at| read(at, ports[at]));
                let must_apply = applied.update([max_concurrency, pass_through, 0.0]);
                must_apply.then_some(Setting::Slots {
                    max_concurrency,
                    pass_through,
                })
            }
            DrivenPorts::AcceptPercentage { percentage, .. } => {
                let percentage = read(0, percentage);
                let must_apply = applied.update([percentage, 0.0, 0.0]);
                must_apply.then_some(Setting::AcceptPercentage(percentage))
            }
            DrivenPorts::Load {
                multiplier,
                dry_run,
                ..
            } => ends_period.then(|| {
                let multiplier = match dry_run {
                    true => Signal::NAN,
                    false => read(0, multiplier),
                };
                Setting::Load(decision(multiplier, now, Arc::clone(&applied.tokens)))
            }),
        };
        if let Some(setting) = setting {
            applied.output = Some(setting.output(self.ports));
            drop(applied);
            self.component.apply(setting, now);
        }
    }

    /// Applies the current signals of the loop to a component that a reload replaced or added, so
    /// that it does not let everything pass until the next tick.
    ///
    /// A signal that the changed circuit has not computed yet keeps the value that was last applied
    /// to the component `before`.
    pub(super) fn apply_current(
        &self,
        circuit: &RunningCircuit,
        before: Option<&Self>,
        now: Nanos,
    ) {
        let last = before.and_then(|before| lock(&before.applied).signals);
        let read = |at: usize, port: Port| match (circuit.read(port), port, last) {
            (signal, Port::Changing(_), Some(last)) if signal.is_nan() => {
                Signal::from_bits(last[at])
            }
            (signal, ..) => signal,
        };
        // A load scheduler that takes over the state of another one has its last decision too.
        self.apply(read, now, before.is_none());
        lock(&self.applied).reapply = true;
    }

    /// Returns true if the ports of both are of the same kind.
    pub(super) fn is_of_same_kind(&self, other: &Self) -> bool {
        mem::discriminant(&self.ports) == mem::discriminant(&other.ports)
    }
}

/// The ports of a component by its kind.
#[derive(Clone, Copy, Debug)]
pub(super) enum DrivenPorts {
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

impl DrivenPorts {
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
            ComponentKind::AdaptiveConcurrencyLimiter(limiter) => slots(&limiter.slots),
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
    /// Returns the setting for display, with the effect of an invalid signal in the place of NaN.
    fn output(&self, ports: DrivenPorts) -> LoopOutput {
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
                let ramp = matches!(ports, DrivenPorts::AcceptPercentage { ramp: true, .. });
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

/// Returns the decision for a multiplier: an invalid one lets everything pass; a negative one
/// counts as zero.
fn decision(multiplier: Signal, now: Nanos, tokens: WorkloadTokens) -> LoadDecision {
    LoadDecision {
        // NaN is not greater than zero.
        load_multiplier: if multiplier > 0.0 { multiplier } else { 0.0 },
        pass_through: multiplier.is_nan(),
        valid_until: Some(now.saturating_add(nanos(CONTROL_PERIOD * VALID_PERIODS))),
        tokens: Some(tokens),
    }
}

impl LastApplied {
    /// Stores the signals. Returns true if they must be applied to the component.
    fn update(&mut self, signals: [Signal; 3]) -> bool {
        let bits = Some(signals.map(Signal::to_bits));
        let must_apply = self.signals != bits || self.reapply;
        self.reapply = false;
        self.signals = bits;
        must_apply
    }
}
