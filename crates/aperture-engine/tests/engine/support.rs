//! Builds policies of rate limiters from numbers, and checks flows of an engine in one call each.

use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::ProptestConfig;
use tower_aperture::engine::{
    CheckInput, CheckReport, Engine, EngineBuilder, LimiterDecision, LimiterDetails, ManualClock,
    TokensInfo,
};
use tower_aperture::{Check, Decider, Denial, FlowParams, Verdict};

/// The control point of the policies in these tests.
pub(crate) const HERE: &str = "here";

/// A rate limiter of a policy.
#[derive(Clone, Debug)]
pub(crate) struct Limiter {
    pub(crate) capacity: f64,
    pub(crate) fill: f64,
    /// Nanoseconds.
    pub(crate) interval: u64,
    /// More members of `parameters`, in YAML's flow style, each after a comma.
    pub(crate) parameters: String,
    pub(crate) tokens_label: bool,
    pub(crate) selectors: String,
}

impl Limiter {
    /// Creates a limiter from its capacity and its fill amount per second, in tokens.
    pub(crate) fn new(capacity: f64, fill: f64) -> Self {
        Self {
            capacity,
            fill,
            interval: 1_000_000_000,
            parameters: String::new(),
            tokens_label: true,
            selectors: format!("[{{control_point: {HERE}}}]"),
        }
    }

    pub(crate) fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.as_nanos() as u64;
        self
    }

    /// Adds a member of `parameters`.
    pub(crate) fn with(mut self, parameter: &str) -> Self {
        self.parameters.push_str(", ");
        self.parameters.push_str(parameter);
        self
    }

    /// Gives each value of the label a bucket of its own.
    pub(crate) fn by(self, label: &str) -> Self {
        self.with(&format!("limit_by_label_key: {label}"))
    }

    pub(crate) fn selectors(mut self, selectors: &str) -> Self {
        self.selectors = selectors.to_owned();
        self
    }

    pub(crate) fn engine(self) -> (Engine, ManualClock) {
        engine(&[self])
    }
}

pub(crate) fn policy(name: &str, limiters: &[Limiter]) -> String {
    let mut text = format!(
        "apiVersion: fluxninja.com/v1alpha1\nkind: Policy\nmetadata: {{name: {name}}}\n\
         spec:\n  circuit:\n    components:\n"
    );
    for limiter in limiters {
        let (seconds, nanos) = (
            limiter.interval / 1_000_000_000,
            limiter.interval % 1_000_000_000,
        );
        let tokens = if limiter.tokens_label {
            "{tokens_label_key: tokens}"
        } else {
            "{}"
        };
        write!(
            text,
            "    - flow_control:
        rate_limiter:
          selectors: {}
          in_ports:
            bucket_capacity: {{constant_signal: {{value: {}}}}}
            fill_amount: {{constant_signal: {{value: {}}}}}
          parameters: {{interval: {seconds}.{nanos:09}s{}}}
          request_parameters: {tokens}
",
            limiter.selectors, limiter.capacity, limiter.fill, limiter.parameters,
        )
        .expect("writing to a string cannot fail");
    }
    text
}

pub(crate) fn builder(limiters: &[Limiter]) -> EngineBuilder {
    Engine::builder().policy_text("policy.yaml", policy("test", limiters))
}

pub(crate) fn engine(limiters: &[Limiter]) -> (Engine, ManualClock) {
    let clock = ManualClock::new();
    let engine = builder(limiters).clock(clock.clone()).build();
    (engine.expect("the policy is valid"), clock)
}

pub(crate) fn params(labels: &[(&str, &str)]) -> FlowParams<'static> {
    FlowParams::new().labels(
        labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned())),
    )
}

pub(crate) fn check(engine: &Engine, labels: &[(&str, &str)]) -> CheckReport {
    engine.check(&CheckInput::new(HERE, &params(labels)))
}

/// Checks a flow that has this many milliseconds to its deadline.
pub(crate) fn check_within(engine: &Engine, labels: &[(&str, &str)], millis: u64) -> CheckReport {
    let params = params(labels);
    let budget = Some(Duration::from_millis(millis));
    engine.check(&CheckInput::new(HERE, &params).deadline(budget))
}

/// Checks a flow that needs this many tokens.
pub(crate) fn take(engine: &Engine, tokens: &str) -> CheckReport {
    check(engine, &[("tokens", tokens)])
}

pub(crate) fn decide(engine: &Engine, params: &FlowParams<'_>) -> Result<(), Denial> {
    match engine.decide(HERE, params) {
        Check::Ready(Verdict::Accepted(_)) => Ok(()),
        Check::Ready(Verdict::Rejected(denial, _)) => Err(denial),
        other => panic!("an engine without queues decides at once: {other:?}"),
    }
}

/// Returns the decision of a component.
pub(crate) fn decision_of<'a>(report: &'a CheckReport, component: &str) -> &'a LimiterDecision {
    let found = report
        .limiter_decisions
        .iter()
        .find(|decision| *decision.component_id == *component);
    found.unwrap_or_else(|| panic!("{component} did not decide: {report:?}"))
}

/// Returns the label and its value that a rate limiter reports.
pub(crate) fn label<'a>(report: &'a CheckReport, component: &str) -> &'a str {
    match &decision_of(report, component).details {
        LimiterDetails::RateLimiter { label, .. } => label,
        other => panic!("not a rate limiter: {other:?}"),
    }
}

/// Returns the tokens that a rate limiter reports.
pub(crate) fn tokens(report: &CheckReport, component: &str) -> TokensInfo {
    match &decision_of(report, component).details {
        LimiterDetails::RateLimiter { tokens, .. } => *tokens,
        other => panic!("not a rate limiter: {other:?}"),
    }
}

pub(crate) fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

/// Bounds the cases of a property whose cases are large.
pub(crate) fn at_most_cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig::default();
    let cases = config.cases.min(cases);
    ProptestConfig { cases, ..config }
}
