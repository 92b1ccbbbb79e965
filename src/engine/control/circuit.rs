//! The circuit of a policy while it runs: state, inputs and the time in, signals out.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::decider::Decider;
use super::gradient::{self, Gradient};
use super::integrator::{self, Integrator};
use super::observed::{Demand, ObservedLoad};
use super::signal_generator::SignalGenerator;
use super::{logic, range};
use crate::engine::clock::{Nanos, nanos};
use crate::engine::flux_meter::{FluxMeters, MeterWindow};
use crate::policy::{self, Arithmetic, Op, PolynomialRange, Port, Signal, SignalId};

/// How often integrators count, and load schedulers hear of their multiplier.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// What is measured outside of the circuit; nothing of it may block.
pub(crate) trait Measured {
    /// The latest answer to a query.
    fn query(&self, text: &str) -> Signal;

    /// Returns the tokens that a load scheduler of this policy granted and refused since the last
    /// call.
    fn take_demand(&self, component_id: &str) -> Demand;
}

/// When a tick is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// It is the newest that is due.
    Newest,
    /// It is made up for; the newest that is due comes so many ticks later.
    Past(u64),
}

/// The number of an evaluated tick, and its place in its period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticked {
    /// Counting from one.
    pub(crate) number: u64,
    /// A [`PERIOD`] ended.
    pub(crate) ends_period: bool,
}

/// A circuit with its state.
#[derive(Debug)]
pub(crate) struct Circuit {
    interval: Nanos,
    nodes: Vec<Node>,
    /// Invalid until something feeds them.
    signals: Vec<Signal>,
    /// Ticks so far.
    ticks: u64,
    /// In how many ticks a [`PERIOD`] passes.
    period: u64,
    /// The end of the last period was put off to the newest tick.
    owes_period: bool,
}

#[derive(Debug)]
struct Node {
    /// Which component it comes from and what it computes.
    key: Box<str>,
    unit: Unit,
    inputs: SmallVec<[Port; 5]>,
    outputs: SmallVec<[Option<SignalId>; 3]>,
}

/// What a node computes, with what it remembers.
#[derive(Clone, Debug)]
enum Unit {
    Arithmetic(Arithmetic),
    And,
    Or,
    Inverter,
    Decider(Decider),
    Switcher,
    FirstValid,
    Integrator(Integrator),
    Gradient(Gradient),
    SignalGenerator(SignalGenerator),
    PolynomialRange(PolynomialRange),
    ObservedLoad(Arc<str>, ObservedLoad),
    Reading(Reading),
}

/// A measurement that is taken now and then, and holds between.
#[derive(Clone, Debug)]
struct Reading {
    of: Reads,
    /// In ticks.
    every: u64,
    last: Signal,
    /// A query was due at a tick that was made up for, when its answer was no longer to be had.
    missed: bool,
}

#[derive(Clone, Debug)]
enum Reads {
    Query(Arc<str>),
    /// No window for a meter that does not exist.
    Mean(Option<MeterWindow>),
    Quantile(Option<MeterWindow>, f64),
}

/// A moment in the life of a circuit.
#[derive(Clone, Copy, Debug)]
struct Tick {
    /// From one.
    number: u64,
    now: Nanos,
    newest: bool,
    ends_period: bool,
}

/// How many ticks a time takes, rounded up.
pub(super) fn ticks(time: Duration, interval: Nanos) -> u64 {
    (nanos(time) as u64).div_ceil(interval.max(1) as u64)
}

impl Circuit {
    /// A circuit whose first tick is at `start`.
    pub(crate) fn new(circuit: &policy::Circuit, meters: &FluxMeters, start: Nanos) -> Self {
        let interval = nanos(circuit.evaluation_interval).max(1);
        let nodes = circuit.nodes.iter().map(|node| Node {
            key: format!("{} {:?}", node.id, node.op).into_boxed_str(),
            unit: Unit::new(&node.op, interval, meters, start),
            inputs: SmallVec::from_slice(&node.inputs),
            outputs: SmallVec::from_slice(&node.outputs),
        });
        Self {
            interval,
            nodes: nodes.collect(),
            signals: vec![Signal::NAN; circuit.signals as usize],
            ticks: 0,
            period: ticks(PERIOD, interval),
            owes_period: false,
        }
    }

    /// Goes on where the circuit of the same policy stands, as far as its nodes are the same: a
    /// changed constant leaves what loops, ramps and confirmations have come to. After a change of
    /// the interval everything starts anew.
    pub(crate) fn carry_over(&mut self, from: &Self) {
        if self.interval != from.interval {
            return;
        }
        self.ticks = from.ticks;
        self.owes_period = from.owes_period;
        let mut known: HashMap<&str, VecDeque<&Node>> = HashMap::new();
        for node in &from.nodes {
            known.entry(&node.key).or_default().push_back(node);
        }
        for node in &mut self.nodes {
            let Some(before) = known.get_mut(&*node.key).and_then(VecDeque::pop_front) else {
                continue;
            };
            if before.unit.measures_as(&node.unit) {
                node.unit = before.unit.clone();
            }
            for (to, from_id) in node.outputs.iter().zip(&before.outputs) {
                if let (Some(SignalId(to)), Some(SignalId(at))) = (to, from_id)
                    && let Some(signal) = self.signals.get_mut(*to as usize)
                    && let Some(value) = from.signals.get(*at as usize)
                {
                    *signal = *value;
                }
            }
        }
    }

    /// Something was computed already.
    pub(crate) fn has_ticked(&self) -> bool {
        self.ticks > 0
    }

    pub(crate) fn interval(&self) -> Nanos {
        self.interval
    }

    /// Evaluates every node once.
    ///
    /// In a tick that is made up for, queries hold their last answer: what a source answers now was
    /// not so then. The newest one asks afresh. What happens once a [`PERIOD`] is put off from the
    /// last period that has ended to the newest tick, so that it acts on the fresh answer too,
    /// instead of on what was known before a silence.
    pub(crate) fn tick(&mut self, now: Nanos, measured: &dyn Measured, moment: Moment) -> Ticked {
        self.ticks += 1;
        let mut ends_period = self.ticks.is_multiple_of(self.period);
        match moment {
            Moment::Newest => ends_period |= std::mem::take(&mut self.owes_period),
            Moment::Past(later) if ends_period && later < self.period => {
                ends_period = false;
                self.owes_period = true;
            }
            Moment::Past(_) => {}
        }
        let tick = Tick {
            number: self.ticks,
            now,
            newest: moment == Moment::Newest,
            ends_period,
        };
        for node in &mut self.nodes {
            let inputs: SmallVec<[Signal; 8]> = node
                .inputs
                .iter()
                .map(|port| read(&self.signals, *port))
                .collect();
            let outputs = node.unit.tick(&inputs, tick, measured);
            for (id, value) in node.outputs.iter().zip(outputs) {
                if let Some(SignalId(id)) = id
                    && let Some(signal) = self.signals.get_mut(*id as usize)
                {
                    *signal = value;
                }
            }
        }
        Ticked {
            number: self.ticks,
            ends_period,
        }
    }

    /// What stands at a port after the last tick.
    pub(crate) fn read(&self, port: Port) -> Signal {
        read(&self.signals, port)
    }
}

fn read(signals: &[Signal], port: Port) -> Signal {
    match port {
        Port::Constant(value) => value,
        Port::Changing(SignalId(id)) => signals.get(id as usize).copied().unwrap_or(Signal::NAN),
    }
}

impl Unit {
    fn new(op: &Op, interval: Nanos, meters: &FluxMeters, start: Nanos) -> Self {
        let reading = |of, every| {
            Self::Reading(Reading {
                of,
                every: ticks(every, interval).max(1),
                last: Signal::NAN,
                missed: false,
            })
        };
        match op {
            Op::Arithmetic(operator) => Self::Arithmetic(*operator),
            Op::And => Self::And,
            Op::Or => Self::Or,
            Op::Inverter => Self::Inverter,
            Op::Decider {
                comparison,
                true_for,
            } => Self::Decider(Decider::new(*comparison, nanos(*true_for))),
            Op::Switcher => Self::Switcher,
            Op::FirstValid => Self::FirstValid,
            Op::Integrator { initial } => Self::Integrator(Integrator::new(*initial)),
            Op::Gradient {
                slope,
                min_gradient,
                max_gradient,
            } => Self::Gradient(Gradient {
                slope: *slope,
                min: *min_gradient,
                max: *max_gradient,
            }),
            Op::SignalGenerator { steps } => {
                let length = |step: &policy::RampStep| ticks(step.duration, interval);
                Self::SignalGenerator(SignalGenerator::new(steps, length))
            }
            Op::PolynomialRange(range) => Self::PolynomialRange(*range),
            Op::ObservedLoadMultiplier { component_id } => {
                let observed = ObservedLoad::new(interval as u64);
                Self::ObservedLoad(Arc::clone(component_id), observed)
            }
            Op::Query { text, interval } => reading(Reads::Query(Arc::clone(text)), *interval),
            Op::FluxMeterMean {
                name,
                window,
                interval,
            } => {
                let meter = meters.get(name);
                let window = meter.map(|meter| MeterWindow::of_mean(meter, *window, start));
                reading(Reads::Mean(window), *interval)
            }
            Op::FluxMeterQuantile {
                name,
                quantile,
                window,
                interval,
            } => {
                let meter = meters.get(name);
                let window = meter.map(|meter| MeterWindow::of_quantile(meter, *window, start));
                reading(Reads::Quantile(window, *quantile), *interval)
            }
        }
    }

    /// Readings of a flux meter that was replaced mean nothing any more.
    fn measures_as(&self, other: &Self) -> bool {
        let window = |unit: &Self| match unit {
            Self::Reading(Reading {
                of: Reads::Mean(window) | Reads::Quantile(window, _),
                ..
            }) => window.clone(),
            _ => None,
        };
        match (window(self), window(other)) {
            (None, None) => true,
            (Some(one), Some(other)) => one.is_of_same_meter(&other),
            _ => false,
        }
    }

    fn tick(&mut self, inputs: &[Signal], tick: Tick, measured: &dyn Measured) -> [Signal; 3] {
        // A port that the loader did not wire is invalid.
        let at = |port: usize| inputs.get(port).copied().unwrap_or(Signal::NAN);
        let output = match self {
            Self::Arithmetic(operator) => operator.combine(at(0), at(1)),
            Self::And => logic::and(inputs),
            Self::Or => logic::or(inputs),
            Self::Inverter => logic::invert(at(0)),
            Self::Decider(decider) => decider.tick(at(0), at(1), tick.now),
            Self::Switcher => logic::switch(at(0), at(1), at(2)),
            Self::FirstValid => logic::first_valid(inputs),
            Self::Integrator(integrator) if tick.ends_period => {
                integrator.tick(integrator::Inputs {
                    input: at(0),
                    reset: at(1),
                    max: at(2),
                    min: at(3),
                })
            }
            Self::Integrator(integrator) => integrator.held(),
            Self::Gradient(gradient) => gradient.compute(gradient::Inputs {
                signal: at(0),
                setpoint: at(1),
                control: at(2),
                max: at(3),
                min: at(4),
            }),
            Self::SignalGenerator(ramp) => return ramp.tick(at(0), at(1), at(2)),
            Self::PolynomialRange(range) => range::multiplier(range, at(0)),
            Self::ObservedLoad(component, observed) => {
                observed.tick(tick.number, || measured.take_demand(component))
            }
            Self::Reading(reading) => reading.tick(tick, measured),
        };
        [output, Signal::NAN, Signal::NAN]
    }
}

impl Reading {
    /// Reads the source of a signal. Flux meters answer late ticks as well: a measurement in between
    /// would have caused the tick on time.
    fn tick(&mut self, tick: Tick, measured: &dyn Measured) -> Signal {
        let due = tick.number == 1 || tick.number.is_multiple_of(self.every) || self.missed;
        if due && !tick.newest && matches!(self.of, Reads::Query(_)) {
            self.missed = true;
        } else if due {
            self.missed = false;
            let now = tick.now;
            self.last = match &mut self.of {
                Reads::Query(text) => measured.query(text),
                Reads::Mean(window) => window.as_mut().map_or(Signal::NAN, |one| one.mean(now)),
                Reads::Quantile(window, quantile) => window
                    .as_mut()
                    .map_or(Signal::NAN, |one| one.quantile(*quantile, now)),
            };
        }
        self.last
    }
}
