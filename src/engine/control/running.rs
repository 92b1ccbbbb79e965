//! The loop of a policy: a circuit, the components that it drives, and its ticks.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use super::circuit::{Circuit, Measured, Moment, Ticked};
use super::core::{Core, Turn, lock};
use super::driven::{Driven, Ports};
use super::{Actuator, BACKLOG, ControlLoop, Demand, SignalSource, TURN};
use crate::engine::clock::Nanos;
use crate::engine::flux_meter::FluxMeters;
use crate::engine::sync::Mutex;
use crate::policy::{self, Policy, Signal};

/// In evaluation intervals.
const TOKENS_REFRESH: u64 = 5;

/// The circuit of one policy, running.
#[derive(Debug)]
pub(crate) struct Loop<A> {
    policy: Arc<str>,
    /// Tells a loop from one that computes something else.
    parameters: Box<str>,
    driven: Vec<Driven<A>>,
    /// Shared with the loop that goes on after a reload.
    core: Arc<Core>,
    interval: Nanos,
    #[cfg(feature = "server")]
    readings: super::readings::Readings,
}

impl<A: Actuator> Loop<A> {
    /// Returns the loop of a policy, ticking from `start` on, with those of its components that are
    /// in force; `None` if it would drive none.
    ///
    /// It continues the loop `before` of the same policy: the whole circuit if that computes the
    /// same, else the nodes that are the same.
    pub(crate) fn new(
        policy: &Policy,
        in_force: &[(Arc<str>, Arc<A>)],
        meters: &FluxMeters,
        parameters: Box<str>,
        start: Nanos,
        before: Option<&Self>,
    ) -> Option<Self> {
        let in_force: HashMap<&str, &Arc<A>> =
            in_force.iter().map(|(id, one)| (&**id, one)).collect();
        let mut driven: Vec<Driven<A>> = policy
            .components
            .iter()
            .filter_map(|component| {
                Some(Driven {
                    id: Arc::clone(&component.id),
                    ports: Ports::of(&component.kind)?,
                    component: Arc::clone(in_force.get(&*component.id)?),
                    told: Arc::default(),
                })
            })
            .collect();
        if driven.is_empty() {
            return None;
        }
        let (interval, core) = match before {
            Some(before) if before.has(&parameters) => (before.interval, Arc::clone(&before.core)),
            _ => {
                // Latencies are looked at in turns of their own.
                let none = policy::Circuit {
                    evaluation_interval: Duration::from_secs(1),
                    nodes: Vec::new(),
                    signals: 0,
                };
                let circuit = policy.circuit.as_ref().unwrap_or(&none);
                let mut circuit = Circuit::new(circuit, meters, start);
                if let Some(before) = before {
                    before.core.look(|before| circuit.carry_over(before));
                }
                let interval = circuit.interval();
                let core = Core {
                    circuit: Mutex::new(Some(Box::new(circuit))),
                    // The next flow sees what has changed.
                    next: AtomicI64::new(start),
                };
                (interval, Arc::new(core))
            }
        };
        if let Some(before) = before {
            follow(&mut driven, &core, &before.driven, start);
        }
        Some(Self {
            policy: Arc::clone(&policy.name),
            parameters,
            driven,
            core,
            interval,
            #[cfg(feature = "server")]
            readings: super::readings::Readings::new(&policy.name, &policy.signals),
        })
    }

    /// Returns true if this loop drives exactly those components of the policy that are in force.
    pub(crate) fn drives(&self, policy: &Policy, in_force: &[(Arc<str>, Arc<A>)]) -> bool {
        let in_force: HashMap<&str, &Arc<A>> =
            in_force.iter().map(|(id, one)| (&**id, one)).collect();
        let driven = policy.components.iter().filter(|component| {
            Ports::of(&component.kind).is_some() && in_force.contains_key(&*component.id)
        });
        driven.count() == self.driven.len()
            && self.driven.iter().all(|driven| {
                let now = in_force.get(&*driven.id);
                now.is_some_and(|now| Arc::ptr_eq(now, &driven.component))
            })
    }

    /// Returns a text that tells two loops apart by what they compute, not by what they drive.
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

    pub(super) fn has(&self, parameters: &str) -> bool {
        *self.parameters == *parameters
    }

    /// Returns what the named signals were so far.
    #[cfg(feature = "server")]
    pub(super) fn readings(&self) -> Vec<super::SignalReadings> {
        self.readings.all()
    }

    /// Returns what each component was told last.
    pub(super) fn outputs(&self) -> impl Iterator<Item = ControlLoop> {
        self.driven.iter().map(|driven| ControlLoop {
            policy_name: Arc::clone(&self.policy),
            component_id: Arc::clone(&driven.id),
            output: lock(&driven.told).output,
        })
    }

    /// Ticks what is due, and returns when the next tick is.
    pub(super) fn catch_up(&self, now: Nanos, source: Option<&dyn SignalSource>) -> Nanos {
        let next = self.core.next.load(Ordering::Relaxed);
        // A thread that finds the circuit taken leaves the ticks to the other one.
        if now >= next
            && let Some(mut turn) = Turn::take(&self.core.circuit)
            && let Some(circuit) = &mut turn.circuit
        {
            // The one before may have ticked since we looked.
            let mut next = self.core.next.load(Ordering::Relaxed);
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
                self.core.next.store(next, Ordering::Relaxed);
                let moment = match later {
                    1.. => Moment::Past(later.unsigned_abs()),
                    _ => Moment::Newest,
                };
                later -= 1;
                self.tick(circuit, at, source, moment);
            }
        }
        self.core.next.load(Ordering::Relaxed)
    }

    fn tick(
        &self,
        circuit: &mut Circuit,
        now: Nanos,
        source: Option<&dyn SignalSource>,
        moment: Moment,
    ) {
        let world = World {
            driven: &self.driven,
            source,
        };
        let Ticked {
            number,
            ends_period,
        } = circuit.tick(now, &world, moment);
        #[cfg(feature = "server")]
        self.readings.take(circuit);
        for driven in &self.driven {
            if let Ports::Load {
                by_latency: true, ..
            } = driven.ports
                && number.is_multiple_of(TOKENS_REFRESH)
            {
                let tokens = driven.component.workload_tokens(now).unwrap_or_default();
                lock(&driven.told).tokens = tokens;
            }
            driven.tell(|_, port| circuit.read(port), now, ends_period);
        }
    }
}

/// Continues the loop from before a reload. Components that stay keep what they were told; those that
/// were replaced or join are told at once.
fn follow<A: Actuator>(driven: &mut [Driven<A>], core: &Core, before: &[Driven<A>], now: Nanos) {
    let known: HashMap<&str, &Driven<A>> = before.iter().map(|one| (&*one.id, one)).collect();
    for driven in driven {
        let before = known.get(&*driven.id).copied();
        let before = before.filter(|before| driven.is_of_same_kind(before));
        match before {
            Some(before) if Arc::ptr_eq(&driven.component, &before.component) => {
                driven.told = Arc::clone(&before.told);
                continue;
            }
            Some(before) => {
                let (tokens, output) = {
                    let told = lock(&before.told);
                    (Arc::clone(&told.tokens), told.output)
                };
                let mut told = lock(&driven.told);
                told.tokens = tokens;
                told.output = output;
            }
            None => {}
        }
        core.look(|circuit| {
            if circuit.has_ticked() {
                driven.tell_at_once(circuit, before, now);
            }
        });
    }
}

/// Answers what the circuit of a loop measures.
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
