//! The control loop of a policy: its circuit, the components that it drives, and its ticks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::circuit::{Measurements, RunningCircuit, TickAge, TickResult};
use super::driven_component::{DrivenComponent, DrivenPorts};
use super::loop_state::{LoopState, TakenCircuit, lock};
use super::{Actuator, ControlLoop, Demand, MAX_BACKLOG_TICKS, MAX_TICKS_PER_CALL, SignalSource};
use crate::engine::clock::Nanos;
use crate::engine::flux_meter::FluxMeters;
use crate::engine::sync::Mutex;
use crate::policy::{self, Policy, Signal};

/// The interval in which tokens are derived from latency, in ticks.
const TOKENS_REFRESH_TICKS: u64 = 5;

/// The control loop of one policy.
#[derive(Debug)]
pub(crate) struct PolicyLoop<A> {
    policy: Arc<str>,
    /// A text that identifies what the circuit computes.
    parameters: Box<str>,
    driven: Vec<DrivenComponent<A>>,
    /// Shared with the loop that continues this one after a reload.
    state: Arc<LoopState>,
    interval: Nanos,
    readings: super::readings::CircuitReadings,
}

impl<A: Actuator> PolicyLoop<A> {
    /// Returns the loop of a policy, ticking from `start` on, with the components of the policy
    /// that are in force; `None` if it would drive no component.
    ///
    /// It continues the loop `before` of the same policy: with the whole circuit if both compute
    /// the same, else with the nodes that are the same.
    pub(crate) fn new(
        policy: &Policy,
        in_force: &[(Arc<str>, Arc<A>)],
        meters: &FluxMeters,
        parameters: Box<str>,
        start: Nanos,
        before: Option<&Self>,
    ) -> Option<Self> {
        let in_force: HashMap<&str, &Arc<A>> = in_force
            .iter()
            .map(|(id, component)| (&**id, component))
            .collect();
        let mut driven: Vec<DrivenComponent<A>> = policy
            .components
            .iter()
            .filter_map(|component| {
                Some(DrivenComponent {
                    id: Arc::clone(&component.id),
                    ports: DrivenPorts::of(&component.kind)?,
                    component: Arc::clone(in_force.get(&*component.id)?),
                    applied: Arc::default(),
                })
            })
            .collect();
        if driven.is_empty() {
            return None;
        }
        let (interval, state) = match before {
            Some(before) if before.computes(&parameters) => {
                (before.interval, Arc::clone(&before.state))
            }
            _ => {
                // A policy without a circuit still needs ticks to derive tokens from latency.
                let empty = policy::Circuit {
                    evaluation_interval: Duration::from_secs(1),
                    nodes: Vec::new(),
                    signals: 0,
                };
                let circuit = policy.circuit.as_ref().unwrap_or(&empty);
                let mut circuit = RunningCircuit::new(circuit, meters, start);
                if let Some(before) = before {
                    before
                        .state
                        .with_circuit(|before| circuit.carry_over(before));
                }
                let interval = circuit.interval();
                let state = LoopState {
                    circuit: Mutex::new(Some(Box::new(circuit))),
                    // The next flow evaluates the changed circuit.
                    next_tick: AtomicI64::new(start),
                };
                (interval, Arc::new(state))
            }
        };
        if let Some(before) = before {
            continue_from(&mut driven, &state, &before.driven, start);
        }
        Some(Self {
            policy: Arc::clone(&policy.name),
            parameters,
            driven,
            state,
            interval,
            readings: super::readings::CircuitReadings::new(&policy.name, &policy.signals),
        })
    }

    /// Returns true if this loop drives exactly the drivable components of the policy that are in
    /// force.
    pub(crate) fn drives(&self, policy: &Policy, in_force: &[(Arc<str>, Arc<A>)]) -> bool {
        let in_force: HashMap<&str, &Arc<A>> = in_force
            .iter()
            .map(|(id, component)| (&**id, component))
            .collect();
        let driven = policy.components.iter().filter(|component| {
            DrivenPorts::of(&component.kind).is_some() && in_force.contains_key(&*component.id)
        });
        driven.count() == self.driven.len()
            && self.driven.iter().all(|driven| {
                let now = in_force.get(&*driven.id);
                now.is_some_and(|now| Arc::ptr_eq(now, &driven.component))
            })
    }

    /// Returns a text that identifies what a loop computes, regardless of the components it drives.
    pub(crate) fn parameters(policy: &Policy) -> Box<str> {
        let meters: Vec<_> = policy
            .flux_meters
            .iter()
            .map(|meter| (&meter.name, &meter.attribute_key, &meter.buckets))
            .collect();
        format!("{:?} {meters:?}", policy.circuit).into_boxed_str()
    }

    pub(super) fn policy(&self) -> &Arc<str> {
        &self.policy
    }

    pub(super) fn computes(&self, parameters: &str) -> bool {
        *self.parameters == *parameters
    }

    /// Returns the readings of the named signals.
    pub(super) fn readings(&self) -> Vec<super::SignalReadings> {
        self.readings.all()
    }

    /// Returns the settings that were last applied to each component.
    pub(super) fn outputs(&self) -> impl Iterator<Item = ControlLoop> {
        self.driven.iter().map(|driven| ControlLoop {
            policy_name: Arc::clone(&self.policy),
            component_id: Arc::clone(&driven.id),
            output: lock(&driven.applied).output,
        })
    }

    /// Evaluates the ticks that are due, and returns the time of the next tick.
    pub(super) fn catch_up(&self, now: Nanos, source: Option<&dyn SignalSource>) -> Nanos {
        let next = self.state.next_tick.load(Ordering::Relaxed);
        // A thread that finds the circuit taken out leaves the ticks to the thread that has it.
        if now >= next
            && let Some(mut taken) = TakenCircuit::take(&self.state.circuit)
            && let Some(circuit) = &mut taken.circuit
        {
            // The previous thread may have evaluated ticks since `next` was read.
            let mut next = self.state.next_tick.load(Ordering::Relaxed);
            let due = now.saturating_sub(next) / self.interval + 1;
            next = next.saturating_add((due - MAX_BACKLOG_TICKS as Nanos).max(0) * self.interval);
            let mut later = now.saturating_sub(next) / self.interval;
            for _ in 0..MAX_TICKS_PER_CALL {
                // `Nanos::MAX` is the end of time: no tick follows it.
                if next > now || next == Nanos::MAX {
                    break;
                }
                let at = next;
                // Stored first, so that a tick that panics is not repeated.
                next = next.saturating_add(self.interval);
                self.state.next_tick.store(next, Ordering::Relaxed);
                let age = match later {
                    1.. => TickAge::Overdue(later.unsigned_abs()),
                    _ => TickAge::Newest,
                };
                later -= 1;
                self.tick(circuit, at, source, age);
            }
        }
        self.state.next_tick.load(Ordering::Relaxed)
    }

    fn tick(
        &self,
        circuit: &mut RunningCircuit,
        now: Nanos,
        source: Option<&dyn SignalSource>,
        age: TickAge,
    ) {
        let measurements = LoopMeasurements {
            driven: &self.driven,
            source,
        };
        let TickResult {
            number,
            ends_period,
        } = circuit.tick(now, &measurements, age);
        self.readings.record(circuit);
        for driven in &self.driven {
            if let DrivenPorts::Load {
                by_latency: true, ..
            } = driven.ports
                && number.is_multiple_of(TOKENS_REFRESH_TICKS)
            {
                let tokens = driven.component.workload_tokens(now).unwrap_or_default();
                lock(&driven.applied).tokens = tokens;
            }
            driven.apply(|_, port| circuit.read(port), now, ends_period);
        }
    }
}

/// Continues the loop from before a reload. Components that stay keep their last applied settings;
/// those that were replaced or added get the current settings immediately.
fn continue_from<A: Actuator>(
    driven: &mut [DrivenComponent<A>],
    state: &LoopState,
    before: &[DrivenComponent<A>],
    now: Nanos,
) {
    let known: HashMap<&str, &DrivenComponent<A>> = before
        .iter()
        .map(|component| (&*component.id, component))
        .collect();
    for driven in driven {
        let before = known.get(&*driven.id).copied();
        let before = before.filter(|before| driven.is_of_same_kind(before));
        match before {
            Some(before) if Arc::ptr_eq(&driven.component, &before.component) => {
                driven.applied = Arc::clone(&before.applied);
                continue;
            }
            Some(before) => {
                let (tokens, output) = {
                    let applied = lock(&before.applied);
                    (Arc::clone(&applied.tokens), applied.output)
                };
                let mut applied = lock(&driven.applied);
                applied.tokens = tokens;
                applied.output = output;
            }
            None => {}
        }
        state.with_circuit(|circuit| {
            if circuit.has_ticked() {
                driven.apply_current(circuit, before, now);
            }
        });
    }
}

/// The measurements of the circuit of a loop.
struct LoopMeasurements<'a, A> {
    driven: &'a [DrivenComponent<A>],
    source: Option<&'a dyn SignalSource>,
}

impl<A: Actuator> Measurements for LoopMeasurements<'_, A> {
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
