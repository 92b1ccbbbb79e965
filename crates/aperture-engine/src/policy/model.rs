//! The data types of a checked policy, which the loader produces and the engine runs.

use std::sync::Arc;
use std::time::Duration;

use super::PolicyError;
use super::adaptive::AdaptiveConcurrency;
use super::count_only::CountOnly;
use super::matcher::LabelMatcher;
use crate::rego::CompiledModule;

/// A policy that has been read, checked and folded.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// The name: `metadata.name`, the `policy_name` of a values file, or the stem of the file.
    pub(crate) name: Arc<str>,
    /// The same for the same decoded content; otherwise opaque.
    pub(crate) hash: Arc<str>,
    /// The components that decide, in the order of the file.
    pub(crate) components: Vec<Component>,
    /// The nodes that compute the signals which change and reach a component that decides; `None`
    /// if everything folded to constants and no load scheduler needs the evaluation interval.
    pub(crate) circuit: Option<Circuit>,
    pub(crate) classifiers: Vec<Classifier>,
    pub(crate) flux_meters: Vec<FluxMeter>,
    /// One error for each query that needs a `SignalSource`. Without a source, the first of them is
    /// the reason to refuse the policy; empty if the policy has no such query.
    pub(crate) unanswered_queries: Vec<PolicyError>,
    /// The names of the circuit's signals, in the order of the text. A signal may have several
    /// names.
    pub(crate) signals: Vec<SignalName>,
}

/// The name of a signal of a [`Circuit`].
#[derive(Clone, Debug)]
pub(crate) struct SignalName {
    pub(crate) id: SignalId,
    /// The circuit or nested circuit that the name belongs to, such as `root`.
    pub(crate) circuit: Arc<str>,
    pub(crate) name: Arc<str>,
}

/// A component that decides whether flows may run.
#[derive(Clone, Debug)]
pub(crate) struct Component {
    /// The id in the form that the Agent uses, such as `root.2` or `root.0.4`.
    pub(crate) id: Arc<str>,
    /// The selectors, combined by OR: the component decides once about a flow, however many of them
    /// match.
    pub(crate) selectors: Vec<Selector>,
    pub(crate) kind: ComponentKind,
}

/// The kind of a component with its settings.
#[derive(Clone, Debug)]
pub(crate) enum ComponentKind {
    RateLimiter(RateLimiter),
    QuotaScheduler(QuotaScheduler),
    ConcurrencyLimiter(ConcurrencyLimiter),
    AdaptiveConcurrencyLimiter(AdaptiveConcurrencyLimiter),
    ConcurrencyScheduler(ConcurrencyScheduler),
    LoadScheduler(LoadScheduler),
    Sampler(Sampler),
}

impl ComponentKind {
    /// Returns the name of the kind as it is written in policies.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::RateLimiter(_) => "rate_limiter",
            Self::QuotaScheduler(_) => "quota_scheduler",
            Self::ConcurrencyLimiter(_) | Self::AdaptiveConcurrencyLimiter(_) => {
                "concurrency_limiter"
            }
            Self::ConcurrencyScheduler(_) => "concurrency_scheduler",
            Self::LoadScheduler(_) => "load_scheduler",
            Self::Sampler(_) => "sampler",
        }
    }
}

/// Selects the flows to which a component applies.
#[derive(Clone, Debug)]
pub(crate) struct Selector {
    pub(crate) control_point: Arc<str>,
    /// `any` when absent.
    pub(crate) service: Arc<str>,
    /// The agent group as written; the engine resolves an absent one.
    pub(crate) agent_group: Option<Arc<str>>,
    pub(crate) matcher: LabelMatcher,
}

/// The value of a signal. NaN is the invalid signal; infinities are valid.
pub(crate) type Signal = f64;

/// The input at an in-port of a component or node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Port {
    /// A value that never changes. NaN if the port is not wired, or wired to an invalid signal.
    Constant(Signal),
    /// The output of a node of the policy's circuit.
    Changing(SignalId),
}

impl Port {
    /// Returns the value before the circuit is evaluated for the first time: a changing signal is
    /// still invalid.
    pub(crate) fn initial(self) -> Signal {
        match self {
            Self::Constant(value) => value,
            Self::Changing(_) => f64::NAN,
        }
    }
}

/// The index of a signal of a [`Circuit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SignalId(pub(crate) u32);

/// The bucket of a `rate_limiter` or `quota_scheduler`, with defaults applied.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) bucket_capacity: Port,
    pub(crate) fill_amount: Port,
    /// Lets every flow pass if it is valid and not zero. Invalid if not wired.
    pub(crate) pass_through: Port,
    /// More than zero.
    pub(crate) interval: Duration,
    pub(crate) continuous_fill: bool,
    pub(crate) delay_initial_fill: bool,
    /// Zero if the policy has zero or less.
    pub(crate) max_idle_time: Duration,
    /// `limit_by_label_key`, or else the deprecated `label_key`; `None` means one bucket for all
    /// flows.
    pub(crate) limit_by_label_key: Option<Arc<str>>,
    /// `num_sync` if lazy sync is enabled.
    pub(crate) lazy_sync: Option<u32>,
}

/// Returns true if every flow passes without a look at the bucket: the capacity or the fill is
/// invalid, pass-through is on, or capacity and fill are both zero, which the Agent treats as not
/// yet set.
pub(crate) fn passes_through(capacity: Signal, fill: Signal, pass_through: Signal) -> bool {
    let on = !pass_through.is_nan() && pass_through != 0.0;
    let unset = capacity == 0.0 && fill == 0.0;
    on || unset || capacity.is_nan() || fill.is_nan()
}

/// The settings of a `rate_limiter`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RateLimiter {
    pub(crate) bucket: Bucket,
    pub(crate) request: RequestParameters,
    /// Set in code: a flow counts only if its outcome does. `None` if every flow counts.
    pub(crate) count_only: Option<CountOnly>,
}

/// The `request_parameters` of a limiter.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RequestParameters {
    pub(crate) tokens_label_key: Option<Arc<str>>,
    /// 0 if the policy sets none.
    pub(crate) denied_response_status_code: i32,
}

/// The settings of a `quota_scheduler`.
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

/// The settings of a `concurrency_limiter`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConcurrencyLimiter {
    pub(crate) slots: Slots,
    pub(crate) request: RequestParameters,
}

/// The settings of a `concurrency_limiter` that finds its limit. Policy files cannot express it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AdaptiveConcurrencyLimiter {
    /// Their `max_concurrency` is the ceiling.
    pub(crate) slots: Slots,
    pub(crate) request: RequestParameters,
    pub(crate) adaptive: AdaptiveConcurrency,
}

/// The settings of a `concurrency_scheduler`.
#[derive(Clone, Debug)]
pub(crate) struct ConcurrencyScheduler {
    pub(crate) slots: Slots,
    pub(crate) scheduler: Scheduler,
}

/// The settings of a `load_scheduler`, also of the one inside of an AIMD, AIAD or range-driven load
/// scheduler.
#[derive(Clone, Debug)]
pub(crate) struct LoadScheduler {
    /// Lets every flow pass, whatever the load multiplier is.
    pub(crate) dry_run: bool,
    pub(crate) load_multiplier: Port,
    pub(crate) workload_latency_based_tokens: bool,
    pub(crate) scheduler: Scheduler,
}

/// The settings of a `scheduler`, with defaults applied.
#[derive(Clone, Debug)]
pub(crate) struct Scheduler {
    pub(crate) workloads: Vec<Workload>,
    pub(crate) default_workload: WorkloadParameters,
    /// Zero, which means no margin, if the policy has zero or less.
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
    /// The name of the workload, or its index as text.
    pub(crate) label: Arc<str>,
    pub(crate) parameters: WorkloadParameters,
}

/// The parameters of the flows of a workload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorkloadParameters {
    /// More than zero.
    pub(crate) priority: f64,
    /// 1 if the policy has none or zero.
    pub(crate) tokens: f64,
    /// Zero if the policy has zero or less; `None` if it has none.
    pub(crate) queue_timeout: Option<Duration>,
}

/// The settings of a `sampler`, also of the one inside of a load ramp.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sampler {
    /// `None` if the port is not wired.
    pub(crate) accept_percentage: Option<Port>,
    pub(crate) session_label_key: Option<Arc<str>>,
    pub(crate) ramp_mode: bool,
    pub(crate) denied_response_status_code: i32,
    pub(crate) pass_through_label_values: Vec<Arc<str>>,
}

/// The nodes that compute the signals which change. All of them are evaluated once in each
/// `evaluation_interval`.
#[derive(Clone, Debug)]
pub(crate) struct Circuit {
    /// More than zero.
    pub(crate) evaluation_interval: Duration,
    /// The nodes, ordered so that each comes after the nodes that feed it. The nodes form no loop:
    /// a loop that stays invalid is folded to the invalid signal, and any other loop is refused if
    /// it reaches a component that decides.
    pub(crate) nodes: Vec<CircuitNode>,
    /// The number of signals.
    pub(crate) signals: u32,
}

/// A node of a circuit, which computes signals.
#[derive(Clone, Debug)]
pub(crate) struct CircuitNode {
    /// The id of the component that the node comes from, such as `root.2` or `root.0.4`.
    pub(crate) id: Arc<str>,
    pub(crate) op: Op,
    /// In the order that the operation documents.
    pub(crate) inputs: Vec<Port>,
    /// The outputs, in the order that the operation documents; `None` for an output that no
    /// component uses.
    pub(crate) outputs: Vec<Option<SignalId>>,
}

/// The comparison of a decider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Gt,
    Lt,
    Gte,
    Lte,
    Eq,
    Neq,
}

/// The operation of a node. It has one output, unless noted.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// `lhs`, `rhs`; the operator is one of add, sub, mul, div, xor, lshift and rshift.
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
    /// The ratio of accepted to offered tokens of a load scheduler of this policy; no input.
    ObservedLoadMultiplier { component_id: Arc<str> },
    /// A query to a `SignalSource`, repeated each `interval`; no input.
    Query { text: Arc<str>, interval: Duration },
    /// The mean of a flux meter over `window`, of flows with status OK; read each `interval`.
    FluxMeterMean {
        name: Arc<str>,
        window: Duration,
        interval: Duration,
    },
    /// The quantile, from 0 to 1, of a flux meter over `window`, of flows with status OK; read each
    /// `interval`.
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
    /// The index in the policy's list of classifiers.
    pub(crate) index: u32,
    pub(crate) rules: Vec<Rule>,
    pub(crate) rego: Option<RegoModule>,
}

/// The Rego module of a classifier.
#[derive(Clone, Debug)]
pub(crate) struct RegoModule {
    /// The labels that the module sets, in the order of the text, each with its telemetry flag.
    pub(crate) labels: Vec<(Arc<str>, bool)>,
    /// The compiled module; its labels have the indices of `labels`. `None` if this build does not
    /// evaluate Rego.
    pub(crate) program: Option<Arc<CompiledModule>>,
}

/// A rule of a classifier, which sets one label.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) label: Arc<str>,
    pub(crate) telemetry: bool,
    /// Without an extractor, the rule never sets the label.
    pub(crate) extractor: Option<Extractor>,
}

/// The source of the value of a rule. Paths and pointers are as written, and already checked.
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
    /// Pairs of template and value, in the order of the text.
    PathTemplates(Vec<(Arc<str>, Arc<str>)>),
}

/// A flux meter of `resources`, or one that a blueprint adds.
#[derive(Clone, Debug)]
pub(crate) struct FluxMeter {
    pub(crate) name: Arc<str>,
    pub(crate) selectors: Vec<Selector>,
    pub(crate) attribute_key: Arc<str>,
    pub(crate) buckets: Option<Buckets>,
}

/// The buckets of a histogram, as the policy describes them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Buckets {
    Static(Vec<f64>),
    Linear { start: f64, width: f64, count: u32 },
    Exponential { start: f64, factor: f64, count: u32 },
    ExponentialRange { min: f64, max: f64, count: u32 },
}
