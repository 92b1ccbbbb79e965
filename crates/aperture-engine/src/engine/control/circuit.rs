//! The circuit of a running policy: its nodes evaluate measurements and produce signals.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::decider::SignalDecider;
use super::gradient::{Gradient, GradientInputs};
use super::integrator::{Integrator, IntegratorInputs};
use super::observed::{Demand, ObservedLoad};
use super::signal_generator::SignalGenerator;
use super::{logic, range};
use crate::engine::clock::{Nanos, nanos};
use crate::engine::flux_meter::{FluxMeters, MeterWindow};
use crate::policy::{self, Arithmetic, Op, PolynomialRange, Port, Signal, SignalId};

/// The interval in which integrators add up, and load schedulers get their multiplier.
pub(super) const CONTROL_PERIOD: Duration = Duration::from_secs(10);

/// The measurements of a circuit from outside of it. No method may block.
pub(crate) trait Measurements {
    /// Returns the latest answer to a query.
    fn query(&self, text: &str) -> Signal;

    /// Returns the tokens that a load scheduler of this policy granted and rejected since the last
    /// call.
    fn take_demand(&self, component_id: &str) -> Demand;
}

/// The position of an evaluated tick among the ticks that are due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TickAge {
    /// The newest tick that is due.
    Newest,
    /// An overdue tick; the newest tick that is due comes this many ticks later.
    Overdue(u64),
}

/// The result of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TickResult {
    /// The number of the tick, from one.
    pub(crate) number: u64,
    /// True if the tick ends a [`CONTROL_PERIOD`].
    pub(crate) ends_period: bool,
}

/// A circuit with the state of its nodes.
#[derive(Debug)]
pub(crate) struct RunningCircuit {
    interval: Nanos,
    nodes: Vec<RunningNode>,
    /// Each signal is invalid until a node outputs it.
    signals: Vec<Signal>,
    /// The number of evaluated ticks.
    ticks: u64,
    /// The number of ticks in a [`CONTROL_PERIOD`].
    ticks_per_period: u64,
    /// True if the end of the last period was deferred to the newest tick.
    period_end_deferred: bool,
}

#[derive(Debug)]
struct RunningNode {
    /// Identifies the node across reloads: its component and its operation.
    key: Box<str>,
    state: NodeState,
    inputs: SmallVec<[Port; 5]>,
    outputs: SmallVec<[Option<SignalId>; 3]>,
}

/// The operation of a node, with its state.
#[derive(Clone, Debug)]
enum NodeState {
    Arithmetic(Arithmetic),
    And,
    Or,
    Inverter,
    Decider(SignalDecider),
    Switcher,
    FirstValid,
    Integrator(Integrator),
    Gradient(Gradient),
    SignalGenerator(SignalGenerator),
    PolynomialRange(PolynomialRange),
    ObservedLoad(Arc<str>, ObservedLoad),
    Reading(PeriodicReading),
}

/// A measurement that is taken periodically and holds its value in between.
#[derive(Clone, Debug)]
struct PeriodicReading {
    source: ReadingSource,
    interval_ticks: u64,
    last: Signal,
    /// True if a query was due at an overdue tick, for which its answer is no longer available.
    query_missed: bool,
}

#[derive(Clone, Debug)]
enum ReadingSource {
    Query(Arc<str>),
    /// `None` for a meter that does not exist.
    Mean(Option<MeterWindow>),
    Quantile(Option<MeterWindow>, f64),
}

/// The circumstances of one tick.
#[derive(Clone, Copy, Debug)]
struct TickContext {
    /// From one.
    number: u64,
    now: Nanos,
    newest: bool,
    ends_period: bool,
}

/// Returns the number of ticks in a time, rounded up.
pub(super) fn ticks_in(time: Duration, interval: Nanos) -> u64 {
    (nanos(time) as u64).div_ceil(interval.max(1) as u64)
}

impl RunningCircuit {
    /// Creates a circuit whose first tick is at `start`.
    pub(crate) fn new(definition: &policy::Circuit, meters: &FluxMeters, start: Nanos) -> Self {
        let interval = nanos(definition.evaluation_interval).max(1);
        let nodes = definition.nodes.iter().map(|node| RunningNode {
            key: format!("{} {:?}", node.id, node.op).into_boxed_str(),
            state: NodeState::new(&node.op, interval, meters, start),
            inputs: SmallVec::from_slice(&node.inputs),
            outputs: SmallVec::from_slice(&node.outputs),
        });
        Self {
            interval,
            nodes: nodes.collect(),
            signals: vec![Signal::NAN; definition.signals as usize],
            ticks: 0,
            ticks_per_period: ticks_in(CONTROL_PERIOD, interval),
            period_end_deferred: false,
        }
    }

    /// Takes over the state of the previous circuit of the same policy for the nodes that are the
    /// same: a changed constant keeps the state of loops, ramps and confirmations. After a change
    /// of the interval everything starts anew.
    pub(crate) fn carry_over(&mut self, from: &Self) {
        if self.interval != from.interval {
            return;
        }
        self.ticks = from.ticks;
        self.period_end_deferred = from.period_end_deferred;
        let mut known: HashMap<&str, VecDeque<&RunningNode>> = HashMap::new();
        for node in &from.nodes {
            known.entry(&node.key).or_default().push_back(node);
        }
        for node in &mut self.nodes {
            let Some(before) = known.get_mut(&*node.key).and_then(VecDeque::pop_front) else {
                continue;
            };
            if before.state.reads_same_meter_as(&node.state) {
                node.state = before.state.clone();
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

    /// Returns true if at least one tick was evaluated.
    pub(crate) fn has_ticked(&self) -> bool {
        self.ticks > 0
    }

    pub(crate) fn interval(&self) -> Nanos {
        self.interval
    }

    /// Evaluates every node once.
    ///
    /// In an overdue tick, queries hold their last answer, because the current answer of a source
    /// does not describe the past. The newest tick queries again. The end of the last
    /// [`CONTROL_PERIOD`] that is overdue is deferred to the newest tick, so that its actions use
    /// the new answer instead of one from before a silence.
    pub(crate) fn tick(
        &mut self,
        now: Nanos,
        measurements: &dyn Measurements,
        age: TickAge,
    ) -> TickResult {
        self.ticks += 1;
        let mut ends_period = self.ticks.is_multiple_of(self.ticks_per_period);
        match age {
            TickAge::Newest => ends_period |= std::mem::take(&mut self.period_end_deferred),
            TickAge::Overdue(later) if ends_period && later < self.ticks_per_period => {
                ends_period = false;
                self.period_end_deferred = true;
            }
            TickAge::Overdue(_) => {}
        }
        let tick = TickContext {
            number: self.ticks,
            now,
            newest: age == TickAge::Newest,
            ends_period,
        };
        for node in &mut self.nodes {
            let inputs: SmallVec<[Signal; 8]> = node
                .inputs
                .iter()
                .map(|port| read(&self.signals, *port))
                .collect();
            let outputs = node.state.tick(&inputs, tick, measurements);
            for (id, value) in node.outputs.iter().zip(outputs) {
                if let Some(SignalId(id)) = id
                    && let Some(signal) = self.signals.get_mut(*id as usize)
                {
                    *signal = value;
                }
            }
        }
        TickResult {
            number: self.ticks,
            ends_period,
        }
    }

    /// Returns the signal at a port after the last tick.
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

impl NodeState {
    fn new(op: &Op, interval: Nanos, meters: &FluxMeters, start: Nanos) -> Self {
        let reading = |source, interval_of_query| {
            Self::Reading(PeriodicReading {
                source,
                interval_ticks: ticks_in(interval_of_query, interval).max(1),
                last: Signal::NAN,
                query_missed: false,
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
            } => Self::Decider(SignalDecider::new(*comparison, nanos(*true_for))),
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
                let length = |step: &policy::RampStep| ticks_in(step.duration, interval);
                Self::SignalGenerator(SignalGenerator::new(steps, length))
            }
            Op::PolynomialRange(range) => Self::PolynomialRange(*range),
            Op::ObservedLoadMultiplier { component_id } => {
                let observed = ObservedLoad::new(interval as u64);
                Self::ObservedLoad(Arc::clone(component_id), observed)
            }
            Op::Query { text, interval } => {
                reading(ReadingSource::Query(Arc::clone(text)), *interval)
            }
            Op::FluxMeterMean {
                name,
                window,
                interval,
            } => {
                let meter = meters.get(name);
                let window = meter.map(|meter| MeterWindow::of_mean(meter, *window, start));
                reading(ReadingSource::Mean(window), *interval)
            }
            Op::FluxMeterQuantile {
                name,
                quantile,
                window,
                interval,
            } => {
                let meter = meters.get(name);
                let window = meter.map(|meter| MeterWindow::of_quantile(meter, *window, start));
                reading(ReadingSource::Quantile(window, *quantile), *interval)
            }
        }
    }

    /// Returns false if the flux meter of a reading was replaced: its state is not valid for the
    /// new meter.
    fn reads_same_meter_as(&self, other: &Self) -> bool {
        let window = |state: &Self| match state {
            Self::Reading(PeriodicReading {
                source: ReadingSource::Mean(window) | ReadingSource::Quantile(window, _),
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

    fn tick(
        &mut self,
        inputs: &[Signal],
        tick: TickContext,
        measurements: &dyn Measurements,
    ) -> [Signal; 3] {
        // A port that the loader did not connect is invalid.
        let input = |port: usize| inputs.get(port).copied().unwrap_or(Signal::NAN);
        let output = match self {
            Self::Arithmetic(operator) => operator.combine(input(0), input(1)),
            Self::And => logic::and(inputs),
            Self::Or => logic::or(inputs),
            Self::Inverter => logic::invert(input(0)),
            Self::Decider(decider) => decider.tick(input(0), input(1), tick.now),
            Self::Switcher => logic::switch(input(0), input(1), input(2)),
            Self::FirstValid => logic::first_valid(inputs),
            Self::Integrator(integrator) if tick.ends_period => integrator.tick(IntegratorInputs {
                input: input(0),
                reset: input(1),
                max: input(2),
                min: input(3),
            }),
            Self::Integrator(integrator) => integrator.current(),
            Self::Gradient(gradient) => gradient.compute(GradientInputs {
                signal: input(0),
                setpoint: input(1),
                control: input(2),
                max: input(3),
                min: input(4),
            }),
            Self::SignalGenerator(ramp) => return ramp.tick(input(0), input(1), input(2)),
            Self::PolynomialRange(range) => range::multiplier(range, input(0)),
            Self::ObservedLoad(component, observed) => {
                observed.tick(tick.number, || measurements.take_demand(component))
            }
            Self::Reading(reading) => reading.tick(tick, measurements),
        };
        [output, Signal::NAN, Signal::NAN]
    }
}

impl PeriodicReading {
    /// Takes the measurement if it is due. Flux meters are read in overdue ticks too: a later
    /// measurement would have caused the tick on time.
    fn tick(&mut self, tick: TickContext, measurements: &dyn Measurements) -> Signal {
        let due = tick.number == 1
            || tick.number.is_multiple_of(self.interval_ticks)
            || self.query_missed;
        if due && !tick.newest && matches!(self.source, ReadingSource::Query(_)) {
            self.query_missed = true;
        } else if due {
            self.query_missed = false;
            let now = tick.now;
            self.last = match &mut self.source {
                ReadingSource::Query(text) => measurements.query(text),
                ReadingSource::Mean(window) => window
                    .as_mut()
                    .map_or(Signal::NAN, |window| window.mean(now)),
                ReadingSource::Quantile(window, quantile) => window
                    .as_mut()
                    .map_or(Signal::NAN, |window| window.quantile(*quantile, now)),
            };
        }
        self.last
    }
}
