//! Signals in code: the numbers that limits and control loops read.

mod lower;

use std::time::Duration;

use super::field::FieldPath;
use crate::policy::PolicyError;

/// A number that a limit or a control loop reads: one that never changes, one that dynamic
/// configuration sets, or one that is measured.
///
/// Wherever a method takes a signal, it takes a plain number as well.
///
/// ```
/// use std::time::Duration;
///
/// use tower_aperture::engine::{CheckInput, Engine};
/// use tower_aperture::policy::{Policy, RateLimit, Signal};
/// use tower_aperture::FlowParams;
///
/// // A limit that operators change while the service runs.
/// let limit = RateLimit::per_minute(Signal::config("checkouts", 1));
/// let engine = Engine::builder()
///     .policy(Policy::new("checkout").at("checkout").limit(limit))
///     .build()?;
/// let params = FlowParams::new();
/// let accepted = || engine.check(&CheckInput::new("checkout", &params)).accepted();
/// assert!(accepted());
/// engine.set_dynamic_config("checkout", "checkouts: {value: 3}")?;
/// assert!(accepted() && accepted() && !accepted());
///
/// // Signals for control loops.
/// let latency = Signal::mean_latency("search", Duration::from_secs(30));
/// let usual = Signal::mean_latency("search", Duration::from_secs(1800));
/// let usual = usual.every(Duration::from_secs(30));
/// let slow = latency.greater_than(usual.clone().times(2)).held_for(Duration::from_secs(10));
/// let backlog = Signal::promql("sum(jobs_waiting)").at_least(1000);
/// let overload = Signal::any_of([slow.clone(), backlog.clone()]);
/// let calm = Signal::all_of([slow.negated(), backlog.negated()]);
/// let tail = Signal::latency_quantile("search", 0.95, Duration::from_secs(60));
/// let room = Signal::from(500).minus(tail).divided_by(10).plus(1).less_than(usual);
/// let small = Signal::from(1).at_most(2);
/// # let _ = (overload, calm, room, small);
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    op: Op,
    /// The number of signals that this one consists of, itself included.
    size: usize,
    /// The mistake in the signal, and the fix.
    invalid: Option<&'static str>,
}

#[derive(Clone, Debug, PartialEq)]
enum Op {
    Constant(f64),
    Config { key: String, initial: f64 },
    Measured { source: Source, every: Duration },
    Combined { kind: Kind, operands: Vec<Signal> },
}

/// Where a measured signal comes from.
#[derive(Clone, Debug, PartialEq)]
enum Source {
    Query(String),
    Mean {
        meter: String,
        window: Duration,
    },
    Quantile {
        meter: String,
        quantile: f64,
        window: Duration,
    },
}

/// The component that combines signals, with its operator.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Arithmetic(&'static str),
    Comparison(&'static str, Duration),
    Logic(&'static str),
    Inverter,
}

/// The maximum number of signals that one consists of. It bounds recursion too.
const MAX_SIZE: usize = 256;
const TOO_BIG: &str = "the signal consists of more than 256 signals; use fewer operations";
const NO_OPERAND: &str = "no signal is given to combine; give at least one";
const NOT_MEASURED: &str =
    "`every` is for measurements; leave it out, or call it before other operations";
const NOT_COMPARED: &str =
    "`held_for` is for comparisons; call it right after `greater_than` or another comparison";

/// The interval of a measurement that does not set one.
const EVERY: Duration = Duration::from_secs(10);

impl Signal {
    fn single(op: Op) -> Self {
        Self {
            op,
            size: 1,
            invalid: None,
        }
    }

    fn measured(source: Source) -> Self {
        let every = EVERY;
        Self::single(Op::Measured { source, every })
    }

    fn combined(kind: Kind, operands: Vec<Self>) -> Self {
        let size = operands.iter().map(|operand| operand.size);
        let size = size.fold(1, usize::saturating_add);
        let invalid = operands.iter().find_map(|operand| operand.invalid);
        let invalid = invalid.or(operands.is_empty().then_some(NO_OPERAND));
        let invalid = invalid.or((size > MAX_SIZE).then_some(TOO_BIG));
        if invalid.is_some() {
            // Without the operands, so that no number of operations exceeds the bound.
            return Self {
                invalid,
                ..Self::from(0)
            };
        }
        Self {
            op: Op::Combined { kind, operands },
            size,
            invalid,
        }
    }

    /// Returns a number that dynamic configuration sets by `key`, as
    /// [`Engine::set_dynamic_config`](crate::Engine::set_dynamic_config) does with
    /// `key: {value: 5}`. Until then it is `initial`.
    pub fn config(key: impl Into<String>, initial: impl Into<f64>) -> Self {
        Self::single(Op::Config {
            key: key.into(),
            initial: initial.into(),
        })
    }

    /// Returns the result of a PromQL query, which an Agent or the engine's
    /// [`SignalSource`](crate::engine::SignalSource) answers.
    pub fn promql(query: impl Into<String>) -> Self {
        Self::measured(Source::Query(query.into()))
    }

    /// Returns the mean of a [flux meter](super::FluxMeter) of the policy over a window of whole
    /// seconds, in milliseconds. It counts flows with status OK, and is invalid without any.
    pub fn mean_latency(meter: impl Into<String>, window: Duration) -> Self {
        let meter = meter.into();
        Self::measured(Source::Mean { meter, window })
    }

    /// Returns a quantile, from 0 to 1, of a [flux meter](super::FluxMeter) of the policy over a
    /// window of whole seconds, in milliseconds. It counts flows with status OK, and is invalid
    /// without any.
    pub fn latency_quantile(meter: impl Into<String>, quantile: f64, window: Duration) -> Self {
        Self::measured(Source::Quantile {
            meter: meter.into(),
            quantile,
            window,
        })
    }

    /// Sets the time between two measurements, 10 s by default.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        match &mut self.op {
            Op::Measured { every, .. } => *every = interval,
            _ => self.invalid = self.invalid.or(Some(NOT_MEASURED)),
        }
        self
    }

    /// Returns the sum of both signals.
    #[must_use]
    pub fn plus(self, other: impl Into<Self>) -> Self {
        Self::combined(Kind::Arithmetic("add"), vec![self, other.into()])
    }

    /// Returns this signal less the other.
    #[must_use]
    pub fn minus(self, other: impl Into<Self>) -> Self {
        Self::combined(Kind::Arithmetic("sub"), vec![self, other.into()])
    }

    /// Returns the product of both signals.
    #[must_use]
    pub fn times(self, other: impl Into<Self>) -> Self {
        Self::combined(Kind::Arithmetic("mul"), vec![self, other.into()])
    }

    /// Returns this signal divided by the other; division by zero is invalid.
    #[must_use]
    pub fn divided_by(self, other: impl Into<Self>) -> Self {
        Self::combined(Kind::Arithmetic("div"), vec![self, other.into()])
    }

    fn compared(self, operator: &'static str, other: Self) -> Self {
        let kind = Kind::Comparison(operator, Duration::ZERO);
        Self::combined(kind, vec![self, other])
    }

    /// Returns 1 while this signal is greater than the other, else 0.
    #[must_use]
    pub fn greater_than(self, other: impl Into<Self>) -> Self {
        self.compared("gt", other.into())
    }

    /// Returns 1 while this signal is less than the other, else 0.
    #[must_use]
    pub fn less_than(self, other: impl Into<Self>) -> Self {
        self.compared("lt", other.into())
    }

    /// Returns 1 while this signal is at least the other, else 0.
    #[must_use]
    pub fn at_least(self, other: impl Into<Self>) -> Self {
        self.compared("gte", other.into())
    }

    /// Returns 1 while this signal is at most the other, else 0.
    #[must_use]
    pub fn at_most(self, other: impl Into<Self>) -> Self {
        self.compared("lte", other.into())
    }

    /// Sets how long a comparison must have held before its result changes; zero by default.
    #[must_use]
    pub fn held_for(mut self, duration: Duration) -> Self {
        match &mut self.op {
            Op::Combined {
                kind: Kind::Comparison(_, true_for),
                ..
            } => *true_for = duration,
            _ => self.invalid = self.invalid.or(Some(NOT_COMPARED)),
        }
        self
    }

    /// Returns 1 while no signal is 0, and 0 while one is. An invalid signal makes the result
    /// invalid if the others do not determine it.
    #[must_use]
    pub fn all_of(signals: impl IntoIterator<Item = Self>) -> Self {
        Self::combined(Kind::Logic("and"), signals.into_iter().collect())
    }

    /// Returns 0 while all signals are 0, and 1 while one is not. An invalid signal makes the
    /// result invalid if the others do not determine it.
    #[must_use]
    pub fn any_of(signals: impl IntoIterator<Item = Self>) -> Self {
        Self::combined(Kind::Logic("or"), signals.into_iter().collect())
    }

    /// Returns 1 while this signal is 0, and 0 while it is any other number.
    #[must_use]
    pub fn negated(self) -> Self {
        Self::combined(Kind::Inverter, vec![self])
    }

    /// Returns the number that the signal has when the policy comes into force, if it is known.
    pub(super) fn initial(&self) -> Option<f64> {
        match self.op {
            Op::Constant(value) | Op::Config { initial: value, .. } => Some(value),
            Op::Measured { .. } | Op::Combined { .. } => None,
        }
    }

    pub(super) fn is_constant(&self) -> bool {
        matches!(self.op, Op::Constant(_))
    }

    /// Checks the number that the signal has when the policy comes into force.
    pub(super) fn check_positive(
        &self,
        path: &FieldPath<'_>,
        otherwise: &str,
    ) -> Result<(), PolicyError> {
        match self.initial() {
            Some(number) => path.positive(number, otherwise).map(|_| ()),
            None => Ok(()),
        }
    }
}

/// Numbers that never change. Whole numbers are exact up to 2^53.
macro_rules! constants {
    ($($number:ty: $convert:expr),*) => {
        $(impl From<$number> for Signal {
            fn from(value: $number) -> Self {
                let convert: fn($number) -> f64 = $convert;
                Self::single(Op::Constant(convert(value)))
            }
        })*
    };
}

constants!(
    f64: |value| value,
    i32: f64::from,
    u8: f64::from,
    u16: f64::from,
    u32: f64::from,
    i64: |value| value as f64,
    u64: |value| value as f64,
    usize: |value| value as f64
);
