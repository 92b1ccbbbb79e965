//! A checked policy: what the loader makes and the engine runs.

use std::sync::Arc;
use std::time::Duration;

use super::PolicyError;
use super::matcher::LabelMatcher;

/// A policy that has been read, checked and folded.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// `metadata.name`, the values' `policy_name`, or the file's stem.
    pub(crate) name: Arc<str>,
    /// Stable for the same decoded content; opaque otherwise.
    pub(crate) hash: Arc<str>,
    /// The components that decide, in the order of the file.
    pub(crate) components: Vec<Component>,
    /// What changes signals while the engine runs, as far as it reaches something that decides;
    /// `None` when everything folded to constants and no load scheduler needs its interval.
    pub(crate) circuit: Option<Circuit>,
    pub(crate) classifiers: Vec<Classifier>,
    pub(crate) flux_meters: Vec<FluxMeter>,
    /// Why the policy is of no use where nobody answers its queries; empty when it has none.
    pub(crate) unanswered: Vec<PolicyError>,
    /// The names of the circuit's signals, in the order of the text. A signal may have several.
    #[cfg_attr(not(feature = "server"), allow(dead_code))] // Only metrics show them.
    pub(crate) signals: Vec<SignalName>,
}

/// A signal of a [`Circuit`] by its name.
#[derive(Clone, Debug)]
#[cfg_attr(not(feature = "server"), allow(dead_code))] // Only metrics show it.
pub(crate) struct SignalName {
    pub(crate) id: SignalId,
    /// The circuit or nested circuit that the name belongs to, such as `root`.
    pub(crate) circuit: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// One component that decides.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    /// `root.i`, see the Agent's own ids.
    pub(crate) id: Arc<str>,
    /// OR: the component is taken once however many match.
    pub(crate) selectors: Vec<Selector>,
    pub(crate) kind: ComponentKind,
}

/// What a component does.
#[derive(Clone, Debug)]
pub(crate) enum ComponentKind {
    RateLimiter(RateLimiter),
    QuotaScheduler(QuotaScheduler),
    ConcurrencyLimiter(ConcurrencyLimiter),
    ConcurrencyScheduler(ConcurrencyScheduler),
    LoadScheduler(LoadScheduler),
    Sampler(Sampler),
}

impl ComponentKind {
    /// As policies call it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::RateLimiter(_) => "rate_limiter",
            Self::QuotaScheduler(_) => "quota_scheduler",
            Self::ConcurrencyLimiter(_) => "concurrency_limiter",
            Self::ConcurrencyScheduler(_) => "concurrency_scheduler",
            Self::LoadScheduler(_) => "load_scheduler",
            Self::Sampler(_) => "sampler",
        }
    }
}

/// Where a component applies.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    pub(crate) control_point: Arc<str>,
    /// `any` when absent.
    pub(crate) service: Arc<str>,
    /// As written; the engine knows what an absent one means.
    pub(crate) agent_group: Option<Arc<str>>,
    pub(crate) matcher: LabelMatcher,
}

/// A signal's value; NaN is the invalid signal, infinities are valid.
pub(crate) type Signal = f64;

/// What stands at an in-port of a component that decides.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Port {
    /// The same from the start on. NaN when the port is not wired, or wired to what is invalid.
    Constant(Signal),
    /// The output of a node of the policy's circuit.
    Changing(SignalId),
}

impl Port {
    /// Its value from the start on; what changes is invalid until its circuit is evaluated.
    pub(crate) fn initial(self) -> Signal {
        match self {
            Self::Constant(value) => value,
            Self::Changing(_) => f64::NAN,
        }
    }
}

/// Index of a signal of a [`Circuit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SignalId(pub(crate) u32);

/// The bucket of a `rate_limiter` or `quota_scheduler`, with defaults applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) bucket_capacity: Port,
    pub(crate) fill_amount: Port,
    /// Valid and not zero: let everything pass. Invalid when not wired.
    pub(crate) pass_through: Port,
    /// More than zero.
    pub(crate) interval: Duration,
    pub(crate) continuous_fill: bool,
    pub(crate) delay_initial_fill: bool,
    /// Zero when the policy has zero or less.
    pub(crate) max_idle_time: Duration,
    /// `limit_by_label_key`, or else the deprecated `label_key`; `None` is one bucket for all.
    pub(crate) limit_by_label_key: Option<Arc<str>>,
    /// `num_sync` when lazy sync is enabled.
    pub(crate) lazy_sync: Option<u32>,
}

/// Every flow is let through without looking at a bucket: an invalid capacity or fill, a
/// pass-through that is on, or all of them zero, which the Agent takes for "not set yet".
pub(crate) fn passes_through(capacity: Signal, fill: Signal, pass_through: Signal) -> bool {
    let on = !pass_through.is_nan() && pass_through != 0.0;
    let unset = capacity == 0.0 && fill == 0.0;
    on || unset || capacity.is_nan() || fill.is_nan()
}

/// `rate_limiter`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RateLimiter {
    pub(crate) bucket: Bucket,
    pub(crate) request: RequestParameters,
}

/// `request_parameters` of a limiter.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RequestParameters {
    pub(crate) tokens_label_key: Option<Arc<str>>,
    /// 0 when the policy names none.
    pub(crate) denied_response_status_code: i32,
}

/// `quota_scheduler`.
#[derive(Clone, Debug)]
pub(crate) struct QuotaScheduler {
    pub(crate) bucket: Bucket,
    pub(crate) scheduler: Scheduler,
}

/// The slots of a `concurrency_limiter` or `concurrency_scheduler`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slots {
    pub(crate) max_concurrency: Port,
    pub(crate) pass_through: Port,
    /// More than zero.
    pub(crate) max_inflight_duration: Duration,
    pub(crate) limit_by_label_key: Option<Arc<str>>,
    pub(crate) max_idle_time: Duration,
}

/// `concurrency_limiter`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConcurrencyLimiter {
    pub(crate) slots: Slots,
    pub(crate) request: RequestParameters,
}

/// `concurrency_scheduler`.
#[derive(Clone, Debug)]
pub(crate) struct ConcurrencyScheduler {
    pub(crate) slots: Slots,
    pub(crate) scheduler: Scheduler,
}

/// `load_scheduler`, also the one inside of AIMD, AIAD and range-driven ones.
#[derive(Clone, Debug)]
pub(crate) struct LoadScheduler {
    /// Everything passes, whatever the load multiplier says.
    pub(crate) dry_run: bool,
    pub(crate) load_multiplier: Port,
    pub(crate) workload_latency_based_tokens: bool,
    pub(crate) scheduler: Scheduler,
}

/// `scheduler`, with defaults applied.
#[derive(Clone, Debug)]
pub(crate) struct Scheduler {
    pub(crate) workloads: Vec<Workload>,
    pub(crate) default_workload: WorkloadParameters,
    /// May be zero or less, which is no margin.
    pub(crate) decision_deadline_margin: Duration,
    pub(crate) tokens_label_key: Option<Arc<str>>,
    pub(crate) priority_label_key: Option<Arc<str>>,
    pub(crate) workload_label_key: Option<Arc<str>>,
    pub(crate) fairness_label_key: Option<Arc<str>>,
    pub(crate) denied_response_status_code: i32,
}

/// One of the workloads of a scheduler.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) matcher: LabelMatcher,
    /// Its name, or its index as text.
    pub(crate) label: Arc<str>,
    pub(crate) parameters: WorkloadParameters,
}

/// What a workload's flows bring along.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorkloadParameters {
    /// More than zero.
    pub(crate) priority: f64,
    /// 1 when the policy has none or zero.
    pub(crate) tokens: f64,
    /// Zero when the policy has zero or less; `None` when it has none.
    pub(crate) queue_timeout: Option<Duration>,
}

/// `sampler`, also the one inside of a load ramp.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sampler {
    /// `None` when the port is not wired.
    pub(crate) accept_percentage: Option<Port>,
    pub(crate) session_label_key: Option<Arc<str>>,
    pub(crate) ramp_mode: bool,
    pub(crate) denied_response_status_code: i32,
    pub(crate) pass_through_label_values: Vec<Arc<str>>,
}

/// What computes the signals that change, evaluated as a whole each `evaluation_interval`.
#[derive(Clone, Debug)]
pub(crate) struct Circuit {
    /// More than zero.
    pub(crate) evaluation_interval: Duration,
    /// In an order in which what feeds comes before what it feeds. There are no loops: one that
    /// stays invalid folds to that, and any other is refused where it reaches what decides.
    pub(crate) nodes: Vec<Node>,
    /// How many signals there are.
    pub(crate) signals: u32,
}

/// One node of a circuit.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The component it comes from, such as `root.2` or `root.0.4`.
    pub(crate) id: Arc<str>,
    pub(crate) op: Op,
    /// In the order that the operation documents.
    pub(crate) inputs: Vec<Port>,
    /// In the order that the operation documents; `None` where nobody listens.
    pub(crate) outputs: Vec<Option<SignalId>>,
}

/// A comparison of a decider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Gt,
    Lt,
    Gte,
    Lte,
    Eq,
    Neq,
}

/// What a node computes. One output each, unless noted.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// `lhs`, `rhs`; the operator by name: add sub mul div xor lshift rshift.
    Arithmetic(Arithmetic),
    /// Any number of inputs.
    And,
    /// Any number of inputs.
    Or,
    /// One input.
    Inverter,
    /// `lhs`, `rhs`.
    Decider {
        comparison: Comparison,
        true_for: Duration,
    },
    /// `switch`, `on_signal`, `off_signal`.
    Switcher,
    /// Any number of inputs.
    FirstValid,
    /// `input`, `reset`, `max`, `min`.
    Integrator { initial: f64 },
    /// `signal`, `setpoint`, `control`, `max`, `min`.
    Gradient {
        slope: f64,
        min_gradient: f64,
        max_gradient: f64,
    },
    /// `forward`, `backward`, `reset`; outputs the percentage, at start, at end.
    SignalGenerator { steps: Vec<RampStep> },
    /// The polynomial of a range-driven load scheduler: `signal`.
    PolynomialRange(PolynomialRange),
    /// Accepted over offered tokens of a load scheduler of this policy; no input.
    ObservedLoadMultiplier { component_id: Arc<str> },
    /// Text for a `SignalSource`, asked again each `interval`; no input.
    Query { text: Arc<str>, interval: Duration },
    /// Mean of a flux meter over `window`, of flows with status OK; read again each `interval`.
    FluxMeterMean {
        name: Arc<str>,
        window: Duration,
        interval: Duration,
    },
    /// Quantile, from 0 to 1, of a flux meter over `window`, of flows with status OK.
    FluxMeterQuantile {
        name: Arc<str>,
        quantile: f64,
        window: Duration,
        interval: Duration,
    },
}

/// The operator of an arithmetic combinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Xor,
    Lshift,
    Rshift,
}

/// One step of a load ramp.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RampStep {
    pub(crate) target_accept_percentage: f64,
    pub(crate) duration: Duration,
}

/// The thresholds of a range-driven load scheduler.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PolynomialRange {
    pub(crate) low: (f64, f64),
    pub(crate) high: (f64, f64),
    pub(crate) degree: f64,
}

/// A classifier of `resources`.
#[derive(Clone, Debug)]
pub(crate) struct Classifier {
    pub(crate) selectors: Vec<Selector>,
    /// Index in the policy's list.
    pub(crate) index: u32,
    pub(crate) rules: Vec<Rule>,
    pub(crate) rego: Option<RegoModule>,
}

/// The Rego module of a classifier.
#[derive(Clone, Debug)]
pub(crate) struct RegoModule {
    /// What it sets, in the order of the text: each label, and its telemetry flag.
    pub(crate) labels: Vec<(Arc<str>, bool)>,
    /// Compiled; its labels have the indices of `labels`.
    #[cfg(feature = "rego")]
    pub(crate) program: Arc<crate::rego::CompiledModule>,
}

/// One label that a classifier makes.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) label: Arc<str>,
    pub(crate) telemetry: bool,
    /// `None` never makes the label.
    pub(crate) extractor: Option<Extractor>,
}

/// Where the value of a rule comes from; paths and pointers as written, already checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Extractor {
    From(Arc<str>),
    Json {
        from: Arc<str>,
        pointer: Arc<str>,
    },
    Jwt {
        from: Arc<str>,
        pointer: Arc<str>,
    },
    Address {
        from: Arc<str>,
    },
    /// Template and value, in the order of the text.
    PathTemplates(Vec<(Arc<str>, Arc<str>)>),
}

/// A flux meter of `resources`, or one that a blueprint makes.
#[derive(Clone, Debug)]
pub(crate) struct FluxMeter {
    pub(crate) name: Arc<str>,
    pub(crate) selectors: Vec<Selector>,
    pub(crate) attribute_key: Arc<str>,
    pub(crate) buckets: Option<Buckets>,
}

/// Upper bounds of a histogram, as the policy describes them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Buckets {
    Static(Vec<f64>),
    Linear { start: f64, width: f64, count: u32 },
    Exponential { start: f64, factor: f64, count: u32 },
    ExponentialRange { min: f64, max: f64, count: u32 },
}
