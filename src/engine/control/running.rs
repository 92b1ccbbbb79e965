//! A circuit with what it drives, and the rules of when they hear from each other.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::circuit::{Circuit, Measured, Moment, PERIOD, Ticked};
use super::{
    Actuator, BACKLOG, ControlLoop, Demand, LoadDecision, LoopOutput, Setting, SignalSource, TURN,
    WorkloadTokens,
};
use crate::engine::clock::{Nanos, nanos};
use crate::engine::flux_meter::FluxMeters;
use crate::engine::sync::{Mutex, MutexGuard};
use crate::policy::{self, Bucket, ComponentKind, Policy, Port, Signal, Slots};

/// A decision of a load scheduler is good for as many periods.
const VALID_PERIODS: u32 = 5;
/// In evaluation intervals.
const TOKENS_REFRESH: u64 = 5;

/// The circuit of one policy, running.
#[derive(Debug)]
pub(crate) struct Loop<A> {
    policy: Arc<str>,
    /// What tells whether a reload may keep the state.
    parameters: Box<str>,
    driven: Vec<Driven<A>>,
    /// Taken out by whoever ticks, so that nothing is locked meanwhile.
    state: Mutex<Option<Box<State>>>,
    next: AtomicI64,
    interval: Nanos,
    #[cfg(feature = "server")]
    readings: super::readings::Readings,
}

#[derive(Debug)]
struct State {
    circuit: Circuit,
    /// For each driven component, what it was told last.
    told: Vec<Told>,
}

#[derive(Debug, Default)]
struct Told {
    signals: Option<[u64; 3]>,
    tokens: WorkloadTokens,
}

/// A component with its ports.
#[derive(Debug)]
struct Driven<A> {
    id: Arc<str>,
    ports: Ports,
    component: Arc<A>,
    /// For those who ask.
    last: Mutex<Option<LoopOutput>>,
}

impl<A: Actuator> Driven<A> {
    fn apply(&self, setting: Setting, now: Nanos) {
        *lock(&self.last) = Some(setting.output(self.ports));
        self.component.apply(setting, now);
    }
}

#[derive(Clone, Copy, Debug)]
enum Ports {
    Bucket([Port; 3]),
    Slots([Port; 2]),
    AcceptPercentage { percentage: Port, ramp: bool },
    Load { multiplier: Port, by_latency: bool },
}

impl Ports {
    /// `None` for what nothing has to be said to: all is known from the start.
    fn of(kind: &ComponentKind) -> Option<Self> {
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
            } => changing(multiplier) || *by_latency,
        };
        driven.then_some(ports)
    }
}

impl<A: Actuator> Loop<A> {
    /// The loop of a policy, ticking from `start` on, with those of its components that are in
    /// force; `None` where nothing changes.
    pub(crate) fn new(
        policy: &Policy,
        in_force: &[(Arc<str>, Arc<A>)],
        meters: &FluxMeters,
        parameters: Box<str>,
        start: Nanos,
    ) -> Option<Self> {
        let driven: Vec<Driven<A>> = policy
            .components
            .iter()
            .filter_map(|component| {
                let (id, actuator) = in_force.iter().find(|(id, _)| *id == component.id)?;
                Some(Driven {
                    id: Arc::clone(id),
                    ports: Ports::of(&component.kind)?,
                    component: Arc::clone(actuator),
                    last: Mutex::default(),
                })
            })
            .collect();
        if driven.is_empty() {
            return None;
        }
        let circuit = match &policy.circuit {
            Some(circuit) => Circuit::new(circuit, meters, start),
            // Latencies are looked at in turns of their own.
            None => {
                let none = policy::Circuit {
                    evaluation_interval: Duration::from_secs(1),
                    nodes: Vec::new(),
                    signals: 0,
                };
                Circuit::new(&none, meters, start)
            }
        };
        let told = driven.iter().map(|_| Told::default()).collect();
        let interval = circuit.interval();
        Some(Self {
            policy: Arc::clone(&policy.name),
            parameters,
            driven,
            interval,
            state: Mutex::new(Some(Box::new(State { circuit, told }))),
            next: AtomicI64::new(start),
            #[cfg(feature = "server")]
            readings: super::readings::Readings::new(&policy.name, &policy.signals),
        })
    }

    /// What tells two loops apart: all that they compute and drive, but not for whom.
    pub(crate) fn parameters(policy: &Policy) -> Box<str> {
        let kinds: Vec<_> = policy
            .components
            .iter()
            .map(|component| (&component.id, &component.kind))
            .collect();
        let Policy {
            circuit,
            flux_meters,
            ..
        } = policy;
        format!("{circuit:?} {kinds:?} {flux_meters:?}").into_boxed_str()
    }

    pub(super) fn policy(&self) -> &Arc<str> {
        &self.policy
    }

    pub(super) fn has(&self, parameters: &str) -> bool {
        *self.parameters == *parameters
    }

    /// Returns what the named signals were so far.
    #[cfg(feature = "server")]
    pub(super) fn readings(&self) -> Vec<super::SignalReadings> {
        self.readings.all()
    }

    /// What each component was told last.
    pub(super) fn outputs(&self) -> impl Iterator<Item = ControlLoop> {
        self.driven.iter().map(|driven| ControlLoop {
            policy_name: Arc::clone(&self.policy),
            component_id: Arc::clone(&driven.id),
            output: *lock(&driven.last),
        })
    }

    /// Ticks what is due and says when the next tick is.
    pub(super) fn catch_up(&self, now: Nanos, source: Option<&dyn SignalSource>) -> Nanos {
        let next = self.next.load(Ordering::Relaxed);
        // Whoever finds the state taken leaves the ticks to the other one.
        if now >= next
            && let Some(mut turn) = Turn::take(&self.state)
            && let Some(state) = &mut turn.state
        {
            // The one before may have ticked since we looked.
            let mut next = self.next.load(Ordering::Relaxed);
            let due = now.saturating_sub(next) / self.interval + 1;
            next = next.saturating_add((due - BACKLOG as Nanos).max(0) * self.interval);
            let mut later = now.saturating_sub(next) / self.interval;
            for _ in 0..TURN {
                // Time has an end.
                if next > now || next == Nanos::MAX {
                    break;
                }
                let at = next;
                // First, so that a tick that panics is not tried again.
                next = next.saturating_add(self.interval);
                self.next.store(next, Ordering::Relaxed);
                let moment = match later {
                    1.. => Moment::Past(later.unsigned_abs()),
                    _ => Moment::Newest,
                };
                later -= 1;
                self.tick(state, at, source, moment);
            }
        }
        self.next.load(Ordering::Relaxed)
    }

    fn tick(
        &self,
        state: &mut State,
        now: Nanos,
        source: Option<&dyn SignalSource>,
        moment: Moment,
    ) {
        let world = World {
            driven: &self.driven,
            source,
        };
        let State { circuit, told } = state;
        let Ticked {
            number,
            ends_period,
        } = circuit.tick(now, &world, moment);
        #[cfg(feature = "server")]
        self.readings.take(circuit);
        for (driven, told) in self.driven.iter().zip(told) {
            let read = |port| circuit.read(port);
            let setting = match driven.ports {
                Ports::Bucket(ports) => {
                    let [capacity, fill, pass_through] = ports.map(read);
                    let news = told.news([capacity, fill, pass_through]);
                    news.then_some(Setting::Bucket {
                        capacity,
                        fill,
                        pass_through,
                    })
                }
                Ports::Slots(ports) => {
                    let [max_concurrency, pass_through] = ports.map(read);
                    let news = told.news([max_concurrency, pass_through, 0.0]);
                    news.then_some(Setting::Slots {
                        max_concurrency,
                        pass_through,
                    })
                }
                Ports::AcceptPercentage { percentage, .. } => {
                    let percentage = read(percentage);
                    let news = told.news([percentage, 0.0, 0.0]);
                    news.then_some(Setting::AcceptPercentage(percentage))
                }
                Ports::Load {
                    multiplier,
                    by_latency,
                } => {
                    if by_latency && number.is_multiple_of(TOKENS_REFRESH) {
                        told.tokens = driven.component.workload_tokens(now).unwrap_or_default();
                    }
                    ends_period.then(|| {
                        let tokens = Arc::clone(&told.tokens);
                        Setting::Load(decision(read(multiplier), now, tokens))
                    })
                }
            };
            if let Some(setting) = setting {
                driven.apply(setting, now);
            }
        }
    }
}

impl Setting {
    /// For those who ask: what an invalid signal comes to instead of NaN.
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
    /// Remembers signals, and says whether they are other than before.
    fn news(&mut self, signals: [Signal; 3]) -> bool {
        // Bits, because what is invalid does not equal itself.
        let bits = Some(signals.map(Signal::to_bits));
        let news = self.signals != bits;
        self.signals = bits;
        news
    }
}

/// The state of a loop, taken out of it and put back whatever happens.
struct Turn<'a> {
    place: &'a Mutex<Option<Box<State>>>,
    state: Option<Box<State>>,
}

impl<'a> Turn<'a> {
    fn take(place: &'a Mutex<Option<Box<State>>>) -> Option<Self> {
        let state = lock(place).take()?;
        Some(Self {
            place,
            state: Some(state),
        })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(self.place) = self.state.take();
    }
}

pub(super) fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the circuit of a loop may ask about.
struct World<'a, A> {
    driven: &'a [Driven<A>],
    source: Option<&'a dyn SignalSource>,
}

impl<A: Actuator> Measured for World<'_, A> {
    fn query(&self, text: &str) -> Signal {
        self.source
            .and_then(|source| source.latest(text))
            .unwrap_or(Signal::NAN)
    }

    fn take_demand(&self, component_id: &str) -> Demand {
        let mut driven = self.driven.iter();
        driven
            .find(|driven| *driven.id == *component_id)
            .map(|driven| driven.component.take_demand())
            .unwrap_or_default()
    }
}
