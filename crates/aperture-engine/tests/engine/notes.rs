//! Policies with senseless numbers load with a note on the effect, and they have that effect.

use proptest::prelude::*;
use tower_aperture::engine::{
    CheckReport, Engine, LimiterDetails, LoopOutput, ManualClock, SignalSource,
};

use crate::queues::policy_of;
use crate::support::*;

/// Returns a component with constant signals, each a number or a special value.
fn component(kind: &str, signals: &[(&str, &str)], more: &str) -> String {
    let signal = |value: &str| match value.parse::<f64>() {
        Ok(number) if number.is_finite() => format!("{{constant_signal: {{value: {value}}}}}"),
        _ => format!("{{constant_signal: {{special_value: {value}}}}}"),
    };
    let ports: Vec<String> = signals
        .iter()
        .map(|(port, value)| format!("{port}: {}", signal(value)))
        .collect();
    format!("{kind}: {{in_ports: {{{}}}, {more}}}", ports.join(", "))
}

fn selectors() -> String {
    format!("selectors: [{{control_point: {HERE}}}]")
}

fn rate_limiter(capacity: &str, fill: &str) -> String {
    let signals = [("bucket_capacity", capacity), ("fill_amount", fill)];
    let more = format!("{}, parameters: {{interval: 1s}}", selectors());
    component("rate_limiter", &signals, &more)
}

fn quota_scheduler(capacity: &str, fill: &str) -> String {
    let signals = [("bucket_capacity", capacity), ("fill_amount", fill)];
    let more = format!("{}, rate_limiter: {{interval: 1s}}", selectors());
    component("quota_scheduler", &signals, &more)
}

fn concurrency_limiter(max: &str) -> String {
    let more = format!(
        "{}, parameters: {{max_inflight_duration: 60s}}",
        selectors()
    );
    component("concurrency_limiter", &[("max_concurrency", max)], &more)
}

fn concurrency_scheduler(max: &str) -> String {
    let more = format!(
        "{}, concurrency_limiter: {{max_inflight_duration: 60s}}",
        selectors()
    );
    component("concurrency_scheduler", &[("max_concurrency", max)], &more)
}

fn sampler(percentage: &str) -> String {
    let more = format!("parameters: {{{}}}", selectors());
    component("sampler", &[("accept_percentage", percentage)], &more)
}

fn load_scheduler(multiplier: &str) -> String {
    let more = format!("parameters: {{{}}}", selectors());
    component("load_scheduler", &[("load_multiplier", multiplier)], &more)
}

fn loaded(component: &str) -> (Engine, ManualClock) {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("test.yaml", policy_of(&[component.to_owned()]))
        .clock(clock.clone())
        .build();
    (engine.expect("the Controller accepts the policy"), clock)
}

const REJECTS: &str = "rejects everything";
const PASSES: &str = "lets everything pass";

#[test]
fn a_component_that_rejects_or_accepts_everything_has_a_note() {
    let cases = [
        (rate_limiter("10", "-5"), REJECTS),
        (rate_limiter("-10", "5"), REJECTS),
        (rate_limiter("0", "5"), REJECTS),
        (rate_limiter("10", "0"), REJECTS),
        (rate_limiter("0.5", "5"), REJECTS),
        (rate_limiter("-Inf", "1"), REJECTS),
        (rate_limiter("0", "0"), PASSES),
        (rate_limiter("NaN", "1"), PASSES),
        (rate_limiter("+Inf", "1"), PASSES),
        (rate_limiter("10", "+Inf"), PASSES),
        (quota_scheduler("10", "-5"), REJECTS),
        (quota_scheduler("10", "0"), REJECTS),
        (quota_scheduler("-Inf", "5"), REJECTS),
        (quota_scheduler("0", "0"), PASSES),
        (quota_scheduler("+Inf", "5"), PASSES),
        (quota_scheduler("10", "NaN"), PASSES),
        (concurrency_limiter("0"), REJECTS),
        (concurrency_limiter("-3"), REJECTS),
        (concurrency_limiter("+Inf"), PASSES),
        (concurrency_limiter("NaN"), PASSES),
        (concurrency_scheduler("-1"), REJECTS),
        (concurrency_scheduler("+Inf"), PASSES),
        (sampler("-1"), REJECTS),
        (sampler("NaN"), PASSES),
        (load_scheduler("0"), REJECTS),
        (load_scheduler("-2"), REJECTS),
        (load_scheduler("+Inf"), PASSES),
        (load_scheduler("NaN"), PASSES),
    ];
    for (component, effect) in cases {
        let (engine, clock) = loaded(&component);
        let notes: Vec<String> = engine.warnings().iter().map(ToString::to_string).collect();
        assert_eq!(notes.len(), 1, "{component}: {notes:?}");
        assert!(notes[0].contains(effect), "{component}: {notes:?}");
        assert!(notes[0].starts_with("test.yaml:3:"), "{notes:?}");
        assert!(
            engine.describe().contains(&notes[0]),
            "{}",
            engine.describe()
        );

        // Only the last flows count: a load scheduler measures the demand first, and a bucket
        // starts with tokens.
        let mut last = Vec::new();
        for _ in 0..700 {
            clock.advance(secs(0.1));
            let report = check(&engine, &[]);
            assert_eq!(report.wait_time, None, "{component}: no wait helps");
            last.push(report.accepted());
        }
        let last = &last[600..];
        let expected = effect == PASSES;
        assert!(
            last.iter().all(|accepted| *accepted == expected),
            "{component}"
        );
    }
}

#[test]
fn sensible_numbers_have_no_notes() {
    let components = [
        rate_limiter("10", "5"),
        rate_limiter("1", "0.1"),
        quota_scheduler("0.5", "5"),
        concurrency_limiter("0.5"),
        concurrency_scheduler("1"),
        sampler("0.1"),
        sampler("100"),
        load_scheduler("0.5"),
    ];
    for component in components {
        let (engine, _) = loaded(&component);
        assert!(engine.warnings().is_empty(), "{:?}", engine.warnings());
    }
}

#[test]
fn notes_on_values_of_a_blueprint_have_the_line_of_the_value() {
    let text = "
blueprint: rate-limiting/base
policy:
  policy_name: checkout-per-user
  rate_limiter:
    bucket_capacity: 10
    fill_amount: -5
    parameters: {interval: 1s, limit_by_label_key: user}
    selectors: [{control_point: here}]
";
    for (line, text) in [
        ("values.yaml:7:", text.to_owned()),
        (
            "values.yaml:6:",
            text.replace(": 10", ": -10").replace(": -5", ": 5"),
        ),
    ] {
        let engine = Engine::builder().policy_text("values.yaml", text).build();
        let notes = engine
            .expect("the Controller accepts the policy")
            .warnings();
        assert_eq!(notes.len(), 1, "{notes:?}");
        assert!(notes[0].to_string().starts_with(line), "{notes:?}");
    }
}

#[test]
fn control_loops_that_can_never_throttle_or_never_recover_have_a_note() {
    let loops = |kind: &str, parameters: &str| {
        format!(
            "{kind}: {{in_ports: {{signal: {{constant_signal: {{value: 2}}}}, setpoint: \
             {{constant_signal: {{value: 1}}}}}}, parameters: {{load_scheduler: {{{}}}, alerter: \
             {{alert_name: a}}, {parameters}}}}}",
            selectors()
        )
    };
    let slope = "gradient: {slope: -1}";
    for (kind, parameters, effect) in [
        ("aimd_load_scheduler", "max_load_multiplier: 0", PASSES),
        (
            "aimd_load_scheduler",
            "load_multiplier_linear_increment: 0",
            "never recovers",
        ),
        ("aiad_load_scheduler", "max_load_multiplier: -1", PASSES),
        (
            "aiad_load_scheduler",
            "load_multiplier_linear_decrement: 0",
            PASSES,
        ),
        (
            "aiad_load_scheduler",
            "load_multiplier_linear_decrement: -0.5",
            PASSES,
        ),
        (
            "aiad_load_scheduler",
            "load_multiplier_linear_increment: -0.1",
            "never recovers",
        ),
    ] {
        let parameters = match kind {
            "aimd_load_scheduler" => format!("{slope}, {parameters}"),
            _ => parameters.to_owned(),
        };
        let (engine, _) = loaded(&loops(kind, &parameters));
        let notes = engine.warnings();
        let mut matching = notes
            .iter()
            .filter(|note| note.to_string().contains(effect));
        assert!(
            matching.next().is_some() && matching.next().is_none(),
            "{notes:?}"
        );
    }
}

/// A signal source with one number, which may be odd.
#[derive(Debug)]
struct Odd(f64);

impl SignalSource for Odd {
    fn latest(&self, _: &str) -> Option<f64> {
        Some(self.0)
    }
}

/// Returns the numbers of all decisions in a report.
fn numbers(report: &CheckReport) -> Vec<f64> {
    let mut numbers = Vec::new();
    for decision in &report.limiter_decisions {
        let (tokens, more) = match &decision.details {
            LimiterDetails::RateLimiter { tokens, .. }
            | LimiterDetails::ConcurrencyLimiter { tokens, .. } => (Some(*tokens), Vec::new()),
            LimiterDetails::QuotaScheduler { scheduler, .. }
            | LimiterDetails::ConcurrencyScheduler { scheduler, .. }
            | LimiterDetails::LoadScheduler { scheduler } => (
                scheduler.tokens,
                vec![scheduler.priority, scheduler.requested],
            ),
            _ => (None, Vec::new()),
        };
        numbers.extend(more);
        if let Some(tokens) = tokens {
            numbers.extend([tokens.remaining, tokens.current, tokens.consumed]);
        }
    }
    numbers
}

/// Special numbers, extreme ones and ordinary ones.
fn odd() -> impl Strategy<Value = f64> {
    prop_oneof![
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(0.0),
        Just(f64::MAX),
        Just(f64::MIN),
        Just(5e-324),
        -10.0..10.0_f64,
    ]
}

/// Returns one component per line, of each kind that takes signals, driven by a source.
fn driven_components() -> String {
    let port = "{signal_name: ODD}";
    let here = selectors();
    let components = [
        format!(
            "rate_limiter: {{{here}, in_ports: {{bucket_capacity: {port}, fill_amount: {port}}}, parameters: {{interval: 1s}}, request_parameters: {{tokens_label_key: tokens}}}}"
        ),
        format!(
            "concurrency_limiter: {{{here}, in_ports: {{max_concurrency: {port}}}, parameters: {{max_inflight_duration: 9s}}, request_parameters: {{tokens_label_key: tokens}}}}"
        ),
        format!("sampler: {{in_ports: {{accept_percentage: {port}}}, parameters: {{{here}}}}}"),
        format!(
            "quota_scheduler: {{{here}, in_ports: {{bucket_capacity: {port}, fill_amount: {port}}}, rate_limiter: {{interval: 1s}}, scheduler: {{tokens_label_key: tokens, priority_label_key: priority}}}}"
        ),
        format!(
            "concurrency_scheduler: {{{here}, in_ports: {{max_concurrency: {port}}}, concurrency_limiter: {{max_inflight_duration: 9s}}, scheduler: {{tokens_label_key: tokens, priority_label_key: priority}}}}"
        ),
        format!(
            "load_scheduler: {{in_ports: {{load_multiplier: {port}}}, parameters: {{{here}, scheduler: {{tokens_label_key: tokens, priority_label_key: priority}}}}}}"
        ),
    ];
    components.join("\n")
}

proptest! {
    #[test]
    fn reports_and_outputs_of_control_loops_never_contain_nan(
        at in 0..6_usize,
        signal in odd(),
        steps in prop::collection::vec((odd(), odd(), 0..20_000_u64), 1..60),
    ) {
        let components = driven_components();
        let component = components.lines().nth(at).expect("the list has six components");
        let query = "  - query: {promql: {query_string: odd, evaluation_interval: 1s, out_ports: \
                     {output: {signal_name: ODD}}}}\n";
        let text = format!("{}{query}", policy_of(&[component.to_owned()]));
        let clock = ManualClock::new();
        let engine = Engine::builder()
            .policy_text("test.yaml", text)
            .signal_source(Odd(signal))
            .clock(clock.clone())
            .build()
            .expect("the policy is valid");
        for (tokens, priority, millis) in steps {
            clock.advance(std::time::Duration::from_millis(millis));
            let labels = [("tokens", &*tokens.to_string()), ("priority", &*priority.to_string())];
            let report = check(&engine, &labels);
            let found = numbers(&report);
            prop_assert!(found.iter().all(|number| !number.is_nan()), "{report:?}");
            for one in engine.control_loops() {
                let is_nan = match one.output {
                    None => false,
                    Some(LoopOutput::LoadMultiplier { load_multiplier, .. }) => load_multiplier.is_nan(),
                    Some(LoopOutput::AcceptPercentage(percentage)) => percentage.is_nan(),
                    Some(LoopOutput::Bucket { bucket_capacity, fill_amount }) => {
                        bucket_capacity.is_nan() || fill_amount.is_nan()
                    }
                    Some(LoopOutput::MaxConcurrency(most)) => most.is_nan(),
                    Some(other) => panic!("{other:?}"),
                };
                prop_assert!(!is_nan, "{one:?}");
            }
        }
    }
}
