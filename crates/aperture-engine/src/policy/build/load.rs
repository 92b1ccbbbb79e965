//! Control loops in code: how a scheduler finds out how much load a service takes.

mod lower;

use std::time::Duration;

use super::signal::Signal;

/// The control loop of a [`Scheduler::load`](super::Scheduler::load), which determines the load
/// multiplier: the share of the demand to accept.
///
/// ```
/// use std::time::Duration;
///
/// use tower_aperture::policy::{FluxMeter, LoadControl, Policy, Scheduler, Signal};
///
/// // Rejects load while searches take longer than usual, gold last.
/// let scheduler = Scheduler::load(LoadControl::average_latency("search"))
///     .priority_from("tier", [("gold", 300.0), ("silver", 100.0)])
///     .tokens_by_latency(true);
/// let policy = Policy::new("overload")
///     .at("search")
///     .measure(FluxMeter::new("search"))
///     .schedule(scheduler);
/// assert!(policy.to_yaml()?.contains("aimd_load_scheduler"));
///
/// // The same loop with a fixed latency in milliseconds and a second signal that must confirm.
/// let latency = Signal::mean_latency("search", Duration::from_secs(30));
/// let waiting = Signal::promql("sum(search_waiting)").greater_than(10);
/// let aimd = LoadControl::aimd(latency, 250)
///     .slope(-1.0)
///     .gradient(0.1, 1.0)
///     .max_load_multiplier(2.0)
///     .increment(0.025)
///     .confirmed_by(waiting)
///     .dry_run(false)
///     .dry_run_key("dry_run");
///
/// // Linear steps while a database has few connections left, by the engine's signal source.
/// let aiad = LoadControl::aiad(Signal::promql("connections_free"), 10)
///     .overload_below()
///     .min_load_multiplier(0.1)
///     .decrement(0.05);
///
/// // A line: all load at 70 % CPU, half of it at 95 %.
/// let cpu = LoadControl::range(Signal::promql("cpu_percent"), (70.0, 1.0), (95.0, 0.5));
///
/// // A share that operators set.
/// let fixed = LoadControl::fixed(Signal::config("share", 1));
/// for control in [aimd, aiad, cpu.degree(1.0), fixed] {
///     let meter = FluxMeter::new("search").at("search");
///     let scheduler = Scheduler::load(control).at("search");
///     Policy::new("overload").measure(meter).schedule(scheduler).to_yaml()?;
/// }
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LoadControl {
    kind: Kind,
    slope: Option<f64>,
    gradient: Option<(f64, f64)>,
    min_load_multiplier: Option<f64>,
    max_load_multiplier: Option<f64>,
    increment: Option<f64>,
    decrement: Option<f64>,
    degree: Option<f64>,
    overload_below: bool,
    confirmation: Option<Signal>,
    dry_run: Option<bool>,
    dry_run_key: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Fixed(Signal),
    Aimd {
        signal: Signal,
        setpoint: Signal,
    },
    Aiad {
        signal: Signal,
        setpoint: Signal,
    },
    Range {
        signal: Signal,
        ends: [(f64, f64); 2],
    },
}

/// The defaults of the blueprint for average latencies.
const SHORT_TERM: Duration = Duration::from_secs(30);
const LONG_TERM: Duration = Duration::from_secs(1800);
const LONG_TERM_EVERY: Duration = Duration::from_secs(30);
const TOLERANCE: f64 = 1.25;
const GRADIENT: (f64, f64) = (0.1, 1.0);

impl LoadControl {
    fn of(kind: Kind) -> Self {
        Self {
            kind,
            slope: None,
            gradient: None,
            min_load_multiplier: None,
            max_load_multiplier: None,
            increment: None,
            decrement: None,
            degree: None,
            overload_below: false,
            confirmation: None,
            dry_run: None,
            dry_run_key: None,
        }
    }

    /// Returns a loop that lowers the load while the mean latency of 30 s is more than 1.25 times
    /// that of 30 minutes, as the blueprint `load-scheduling/average-latency` does. The policy has
    /// a [flux meter](super::FluxMeter) of this name.
    pub fn average_latency(meter: impl Into<String>) -> Self {
        let meter = meter.into();
        let usual = Signal::mean_latency(meter.as_str(), LONG_TERM).every(LONG_TERM_EVERY);
        let current = Signal::mean_latency(meter, SHORT_TERM);
        let (least, most) = GRADIENT;
        Self::aimd(current, usual.times(TOLERANCE)).gradient(least, most)
    }

    /// Returns a loop that multiplies the load by the ratio of signal and setpoint while the signal
    /// exceeds the setpoint, and raises it in steps otherwise.
    pub fn aimd(signal: impl Into<Signal>, setpoint: impl Into<Signal>) -> Self {
        Self::of(Kind::Aimd {
            signal: signal.into(),
            setpoint: setpoint.into(),
        })
    }

    /// Returns a loop that lowers the load in steps while the signal exceeds the setpoint, and
    /// raises it in steps otherwise.
    pub fn aiad(signal: impl Into<Signal>, setpoint: impl Into<Signal>) -> Self {
        Self::of(Kind::Aiad {
            signal: signal.into(),
            setpoint: setpoint.into(),
        })
    }

    /// Returns a loop whose load multiplier follows a curve over the signal, between two pairs of
    /// signal and load multiplier: the first at the smaller signal.
    pub fn range(signal: impl Into<Signal>, low: (f64, f64), high: (f64, f64)) -> Self {
        Self::of(Kind::Range {
            signal: signal.into(),
            ends: [low, high],
        })
    }

    /// Returns a load multiplier without a loop: the share of the demand to accept. Every flow
    /// passes while the signal is invalid.
    pub fn fixed(load_multiplier: impl Into<Signal>) -> Self {
        Self::of(Kind::Fixed(load_multiplier.into()))
    }

    /// Sets the exponent of the ratio of signal and setpoint of [`aimd`](Self::aimd), -1 by
    /// default. More than zero means that a signal below the setpoint is an overload.
    #[must_use]
    pub fn slope(mut self, slope: f64) -> Self {
        self.slope = Some(slope);
        self
    }

    /// Sets the smallest and the largest factor of [`aimd`](Self::aimd) for the load. Without this,
    /// there is no bound, except for [`average_latency`](Self::average_latency): 0.1 and 1.
    #[must_use]
    pub fn gradient(mut self, least: f64, most: f64) -> Self {
        self.gradient = Some((least, most));
        self
    }

    /// Sets the smallest load multiplier of [`aiad`](Self::aiad), 0 by default.
    #[must_use]
    pub fn min_load_multiplier(mut self, multiplier: f64) -> Self {
        self.min_load_multiplier = Some(multiplier);
        self
    }

    /// Sets the load multiplier of [`aimd`](Self::aimd) and [`aiad`](Self::aiad) at which every
    /// flow passes again, 2 by default.
    #[must_use]
    pub fn max_load_multiplier(mut self, multiplier: f64) -> Self {
        self.max_load_multiplier = Some(multiplier);
        self
    }

    /// Sets the step of [`aimd`](Self::aimd) and [`aiad`](Self::aiad) at each evaluation without an
    /// overload, 0.025 by default.
    #[must_use]
    pub fn increment(mut self, step: f64) -> Self {
        self.increment = Some(step);
        self
    }

    /// Sets the step of [`aiad`](Self::aiad) at each evaluation with an overload, 0.05 by default.
    #[must_use]
    pub fn decrement(mut self, step: f64) -> Self {
        self.decrement = Some(step);
        self
    }

    /// Sets the exponent of the curve of [`range`](Self::range); 1, a line, by default.
    #[must_use]
    pub fn degree(mut self, degree: f64) -> Self {
        self.degree = Some(degree);
        self
    }

    /// Makes a signal below the setpoint of [`aiad`](Self::aiad) an overload, such as free
    /// connections. [`slope`](Self::slope) does the same for [`aimd`](Self::aimd).
    #[must_use]
    pub fn overload_below(mut self) -> Self {
        self.overload_below = true;
        self
    }

    /// Sets a signal that must be on, too, for an overload: valid and not 0.
    #[must_use]
    pub fn confirmed_by(mut self, signal: impl Into<Signal>) -> Self {
        self.confirmation = Some(signal.into());
        self
    }

    /// Sets whether the loop runs and every flow passes; off by default.
    #[must_use]
    pub fn dry_run(mut self, on: bool) -> Self {
        self.dry_run = Some(on);
        self
    }

    /// Sets the key by which dynamic configuration sets [`dry_run`](Self::dry_run).
    #[must_use]
    pub fn dry_run_key(mut self, key: impl Into<String>) -> Self {
        self.dry_run_key = Some(key.into());
        self
    }
}
