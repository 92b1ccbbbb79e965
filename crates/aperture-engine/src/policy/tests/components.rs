//! Tests of the rules of each kind of component and resource, for cases without a recording.

use std::time::Duration;

use super::{load, loaded, refused, warnings};
use crate::policy::{ComponentKind, Extractor, Scheduler};

fn quota(scheduler: &str) -> String {
    format!(
        "circuit: {{components: [{{flow_control: {{quota_scheduler: {{in_ports: {{bucket_capacity: {{constant_signal: {{value: 2}}}}, fill_amount: {{constant_signal: {{value: 1}}}}}}, rate_limiter: {{interval: 1s}}, scheduler: {scheduler}, selectors: [{{control_point: a}}]}}}}}}]}}"
    )
}

fn scheduler(text: &str) -> Scheduler {
    let policy = loaded(&quota(text)).policy;
    let ComponentKind::QuotaScheduler(quota) = &policy.components[0].kind else {
        panic!("{:?}", policy.components);
    };
    quota.scheduler.clone()
}

#[test]
fn workload_names_must_be_unique() {
    let names = |names: &[&str]| {
        let workloads: Vec<String> = names
            .iter()
            .map(|name| format!("{{name: '{name}', label_matcher: {{}}}}"))
            .collect();
        quota(&format!("{{workloads: [{}]}}", workloads.join(", ")))
    };
    for fine in [
        &["a", "b"][..],
        &["1"],
        &["1", ""],
        &["", ""],
        &["", "a", ""],
    ] {
        assert!(load("p.yaml", &names(fine)).is_ok(), "{fine:?}");
    }
    for wrong in [
        &["a", "a"][..],
        &["default"],
        &["0"],
        &["", "0"],
        &["a", "1"],
    ] {
        assert!(refused(&names(wrong)).contains("is taken"), "{wrong:?}");
    }
    let scheduler = scheduler("{workloads: [{label_matcher: {}}, {name: a, label_matcher: {}}]}");
    let labels: Vec<&str> = scheduler.workloads.iter().map(|one| &*one.label).collect();
    assert_eq!(labels, ["0", "a"]);
}

#[test]
fn workload_parameters_have_their_defaults_and_bounds() {
    let parameters = |text: &str| {
        scheduler(&format!("{{default_workload_parameters: {text}}}")).default_workload
    };
    let defaults = parameters("null");
    assert_eq!(
        (defaults.priority, defaults.tokens, defaults.queue_timeout),
        (1.0, 1.0, None)
    );
    assert_eq!(parameters("{tokens: 0}").tokens, 1.0);
    assert_eq!(
        parameters("{queue_timeout: -1s}").queue_timeout,
        Some(Duration::ZERO)
    );
    for wrong in [
        "{priority: 0}",
        "{priority: -1}",
        "{tokens: -1}",
        "{queue_timeout: 5}",
    ] {
        refused(&quota(&format!("{{default_workload_parameters: {wrong}}}")));
    }
    assert_eq!(
        scheduler("{decision_deadline_margin: -1s}").decision_deadline_margin,
        Duration::ZERO
    );
    assert_eq!(
        scheduler("{}").decision_deadline_margin,
        Duration::from_millis(10)
    );
}

#[test]
fn queue_timeout_that_rejects_everything_is_a_warning() {
    let is_warned_about = |timeout: &str| {
        let text = quota(&format!(
            "{{default_workload_parameters: {{queue_timeout: {timeout}}}}}"
        ));
        warnings(&text)
            .iter()
            .any(|text| text.contains("rejects every flow"))
    };
    assert!(is_warned_about("0.01s") && is_warned_about("0s"));
    assert!(!is_warned_about("0.011s"));
    let load = "circuit: {components: [{flow_control: {load_scheduler: {in_ports: {load_multiplier: {constant_signal: {value: 1}}}, parameters: {selectors: [{control_point: a}], scheduler: {default_workload_parameters: {queue_timeout: 0s}}}}}}]}";
    assert_eq!(warnings(load), Vec::<String>::new());
}

#[test]
fn settings_that_reject_or_pass_everything_are_warnings() {
    let slots = |port: &str| {
        format!(
            "circuit: {{components: [{{flow_control: {{concurrency_limiter: {{in_ports: {{max_concurrency: {{constant_signal: {port}}}}}, parameters: {{max_inflight_duration: 1s}}, selectors: [{{control_point: a}}]}}}}}}]}}"
        )
    };
    assert!(warnings(&slots("{value: 0}"))[0].contains("rejects everything"));
    assert!(warnings(&slots("{special_value: NaN}"))[0].contains("lets everything pass"));
    assert_eq!(warnings(&slots("{value: 1}")), Vec::<String>::new());
    let sampler = "circuit: {components: [{flow_control: {sampler: {parameters: {selectors: [{control_point: a}]}}}}]}";
    assert!(warnings(sampler)[0].contains("rejects every flow"));
    assert!(refused(&slots("{value: 1}").replace("1s", "0s")).contains("more than zero"));
}

fn rules(rules: &str) -> String {
    format!(
        "resources: {{flow_control: {{classifiers: [{{selectors: [{{control_point: a}}], rules: {rules}}}]}}}}"
    )
}

#[test]
fn labels_must_be_valid_rego_names() {
    for fine in ["user", "_a1", "'yes'", "A"] {
        let text = rules(&format!("{{{fine}: {{}}}}"));
        assert_eq!(loaded(&text).policy.classifiers[0].rules.len(), 1, "{fine}");
    }
    // An unquoted `on` is the key `true`.
    for wrong in [
        "a-b", "a.b", "a/b", "1a", "''", "package", "on", "off", "\u{fc}",
    ] {
        let message = refused(&rules(&format!("{{{wrong}: {{}}}}")));
        assert!(
            message.contains("cannot be the name of a label"),
            "{message}"
        );
    }
}

#[test]
fn extractors_are_read_and_checked() {
    let extractor = |text: &str| {
        let policy = loaded(&rules(&format!("{{l: {{extractor: {text}}}}}"))).policy;
        policy.classifiers[0].rules[0].extractor.clone()
    };
    assert_eq!(extractor("{}"), None);
    assert_eq!(
        extractor("{from: request.http.path}"),
        Some(Extractor::From("request.http.path".into()))
    );
    assert_eq!(
        extractor("{jwt: {from: request.http.bearer, json_pointer: /a~0b}}"),
        Some(Extractor::Jwt {
            from: "request.http.bearer".into(),
            pointer: "/a~0b".into(),
        })
    );
    assert_eq!(
        extractor("{path_templates: {template_values: {'/b': x, '/a/{id}': y}}}"),
        Some(Extractor::PathTemplates(vec![
            ("/b".into(), "x".into()),
            ("/a/{id}".into(), "y".into()),
        ]))
    );
    for wrong in [
        "{from: request.http.size}",
        "{from: ''}",
        "{json: {pointer: /a}}",
        "{json: {from: request.http.body, pointer: a}}",
        "{json: {from: request.http.body, pointer: /~2}}",
        "{address: {from: request.http.host}}",
        "{path_templates: {template_values: {'/u/{id}/x': y}}}",
        "{path_templates: {}}",
        "{from: request.http.path, address: {from: source.address}}",
    ] {
        refused(&rules(&format!("{{l: {{extractor: {wrong}}}}}")));
    }
    let telemetry = |text: &str| {
        let text = rules(&format!("{{l: {{telemetry: {text}}}}}"));
        loaded(&text).policy.classifiers[0].rules[0].telemetry
    };
    assert!(telemetry("true") && !telemetry("false"));
}

const REGO: &str = "resources: {flow_control: {classifiers: [{selectors: [{control_point: a}]}, {selectors: [{control_point: a}], rego: {module: package x, labels: {user: {telemetry: false}}}}]}}";

#[test]
fn labels_of_rego_modules_are_read() {
    let classifiers = loaded(REGO).policy.classifiers;
    assert_eq!(classifiers[1].index, 1);
    let rego = classifiers[1].rego.as_ref().expect("it has a module");
    assert_eq!((&*rego.labels[0].0, rego.labels[0].1), ("user", false));
    assert_eq!(warnings(REGO).is_empty(), cfg!(feature = "rego"));
}

#[cfg(not(feature = "rego"))]
mod without_rego {
    use super::super::{refused, warnings};
    use super::REGO;

    #[test]
    fn module_whose_labels_are_not_read_is_a_warning() {
        let found = warnings(REGO);
        assert!(
            found[0].contains("classifier 1 leaves the labels"),
            "{found:?}"
        );
    }

    #[test]
    fn component_that_reads_a_label_of_rego_is_refused_by_name() {
        let ports = "in_ports: {bucket_capacity: {constant_signal: {value: 1}}, fill_amount: {constant_signal: {value: 1}}}";
        let slots = "in_ports: {max_concurrency: {constant_signal: {value: 1}}}, concurrency_limiter: {max_inflight_duration: 1s}";
        let here = "selectors: [{control_point: a}]";
        for (component, name) in [
            (
                format!(
                    "rate_limiter: {{{ports}, {here}, parameters: {{interval: 1s, limit_by_label_key: user}}}}"
                ),
                "rate_limiter `root.0`",
            ),
            (
                format!(
                    "rate_limiter: {{{ports}, {here}, parameters: {{interval: 1s}}, request_parameters: {{tokens_label_key: user}}}}"
                ),
                "rate_limiter `root.0`",
            ),
            (
                format!(
                    "rate_limiter: {{{ports}, selectors: [{{control_point: a, label_matcher: {{match_labels: {{user: x}}}}}}], parameters: {{interval: 1s}}}}"
                ),
                "rate_limiter `root.0`",
            ),
            (
                format!(
                    "rate_limiter: {{{ports}, selectors: [{{control_point: a, label_matcher: {{expression: {{not: {{label_exists: user}}}}}}}}], parameters: {{interval: 1s}}}}"
                ),
                "rate_limiter `root.0`",
            ),
            (
                format!(
                    "concurrency_scheduler: {{{slots}, {here}, scheduler: {{priority_label_key: user}}}}"
                ),
                "concurrency_scheduler `root.0`",
            ),
            (
                format!(
                    "concurrency_scheduler: {{{slots}, {here}, scheduler: {{fairness_label_key: user}}}}"
                ),
                "concurrency_scheduler `root.0`",
            ),
            (
                format!(
                    "concurrency_scheduler: {{{slots}, {here}, scheduler: {{workloads: [{{name: w, label_matcher: {{match_labels: {{user: x}}}}}}]}}}}"
                ),
                "concurrency_scheduler `root.0`",
            ),
            (
                format!(
                    "sampler: {{{here}, in_ports: {{accept_percentage: {{constant_signal: {{value: 1}}}}}}, parameters: {{{here}, session_label_key: user}}}}"
                ),
                "sampler `root.0`",
            ),
        ] {
            let circuit = format!("circuit: {{components: [{{flow_control: {{{component}}}}}]}}\n");
            let error = refused(&(circuit.clone() + REGO));
            assert!(
                error.contains(name) && error.contains("`user`") && error.contains("classifier 1"),
                "{error}"
            );
            // A rule sets the label too, so the policy loads.
            let rule = "selectors: [{control_point: a}], rules: {user: {extractor: {from: request.http.method}}}, rego";
            let both = REGO.replace("selectors: [{control_point: a}], rego", rule);
            let warnings = warnings(&(circuit + &both));
            let of_rego = warnings
                .iter()
                .filter(|warning| warning.contains("classifier 1"));
            assert_eq!(of_rego.count(), 1, "{warnings:?}");
        }
    }
}

#[test]
fn flux_meter_buckets_have_one_kind_and_bounds() {
    let meter = |buckets: &str| {
        format!(
            "resources: {{flow_control: {{flux_meters: {{m: {{selectors: [{{control_point: a}}]{buckets}}}}}}}}}"
        )
    };
    assert!(loaded(&meter("")).policy.flux_meters[0].buckets.is_none());
    for wrong in [
        ", static_buckets: {}, linear_buckets: {start: 1, width: 1, count: 1}",
        ", linear_buckets: {start: 1, width: 1, count: 1.5}",
        ", linear_buckets: {start: 1, width: 1, count: 4000000000}",
        ", exponential_buckets: {start: 1, factor: 1, count: 2}",
        ", exponential_buckets_range: {min: 0, max: 1, count: 2}",
    ] {
        refused(&meter(wrong));
    }
    assert!(refused("resources: {flow_control: {flux_meters: {m: {}}}}").contains("selectors"));
}
