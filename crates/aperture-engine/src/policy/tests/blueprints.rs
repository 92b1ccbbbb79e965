//! Tests of the expansion of values files, for cases without a recording.

use std::time::Duration;

use super::{loaded, refused, warnings};
use crate::policy::{Op, Policy};

const EXTRA: &str = "  components:
    - variable: {constant_output: {value: 1}, out_ports: {output: {signal_name: A}}}
    - variable: {constant_output: {value: 1}, out_ports: {output: {signal_name: B}}}
    - flow_control:
        rate_limiter:
          in_ports: {bucket_capacity: {signal_name: A}, fill_amount: {signal_name: B}}
          parameters: {interval: 1s}
          selectors: [{control_point: a}]
";

fn average_latency(confirmations: &str, more: &str) -> String {
    format!(
        "blueprint: load-scheduling/average-latency
policy:
  policy_name: p
  load_scheduling_core:
    aimd_load_scheduler:
      load_scheduler: {{selectors: [{{control_point: a}}]}}
      gradient: {{slope: -1}}
      alerter: {{alert_name: b}}
    overload_confirmations: [{confirmations}]
  latency_baseliner:
    flux_meter: {{selectors: [{{control_point: a}}]}}
{more}"
    )
}

fn components(policy: &Policy) -> Vec<(&str, &str)> {
    let components = policy.components.iter();
    components.map(|one| (&*one.id, one.kind.name())).collect()
}

fn op<'p>(policy: &'p Policy, id: &str) -> &'p Op {
    let mut nodes = policy.circuit.iter().flat_map(|circuit| &circuit.nodes);
    let found = nodes.find(|node| &*node.id == id);
    &found.unwrap_or_else(|| panic!("no node {id}")).op
}

#[test]
fn own_components_and_confirmations_precede_the_loop() {
    const ONE: &str = "{query_string: avg(a), threshold: 1, operator: gt}";
    let two = format!("{ONE}, {ONE}");
    let both = average_latency(ONE, EXTRA);
    for (text, expected) in [
        (
            average_latency("", ""),
            vec![("root.0.4", "load_scheduler")],
        ),
        (
            average_latency(ONE, ""),
            vec![("root.4.4", "load_scheduler")],
        ),
        (
            average_latency(&two, ""),
            vec![("root.7.4", "load_scheduler")],
        ),
        (
            average_latency("", EXTRA),
            vec![("root.2", "rate_limiter"), ("root.3.4", "load_scheduler")],
        ),
        (
            both,
            vec![("root.2", "rate_limiter"), ("root.7.4", "load_scheduler")],
        ),
    ] {
        assert_eq!(components(&loaded(&text).policy), expected, "{text}");
    }
}

#[test]
fn current_latency_is_compared_with_long_term_latency() {
    let policy = loaded(&average_latency("", "")).policy;
    for (id, window, interval) in [("root.1", 30, 10), ("root.2", 1800, 30)] {
        let expected = (Duration::from_secs(window), Duration::from_secs(interval));
        match op(&policy, id) {
            Op::FluxMeterMean {
                name,
                window,
                interval,
            } => assert_eq!((&**name, (*window, *interval)), ("p", expected)),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(&*policy.flux_meters[0].name, "p");
    let other = average_latency("", "    long_term_query_interval: 10m\n");
    assert!(matches!(
        op(&loaded(&other).policy, "root.2"),
        Op::FluxMeterMean { window, .. } if *window == Duration::from_secs(600)
    ));
    let wrong = average_latency("", "    long_term_query_interval: soon\n");
    assert!(refused(&wrong).contains("duration of a query"));
}

#[test]
fn flux_meter_of_the_blueprint_replaces_one_of_the_same_name() {
    let own = "  resources: {flow_control: {flux_meters: {p: {selectors: [{control_point: other}]}, q: {selectors: [{control_point: other}]}}}}\n";
    let meters = loaded(&average_latency("", own)).policy.flux_meters;
    let points: Vec<(&str, &str)> = meters
        .iter()
        .map(|meter| (&*meter.name, &*meter.selectors[0].control_point))
        .collect();
    assert_eq!(points, [("q", "other"), ("p", "a")]);
}

#[test]
fn generated_queries_name_their_policy_or_source() {
    let text = |blueprint: &str, core: &str, more: &str| {
        format!(
            "blueprint: load-scheduling/{blueprint}
policy:
  policy_name: p
  load_scheduling_core:
    {core}
    aiad_load_scheduler:
      load_scheduler: {{selectors: [{{control_point: a}}]}}
      alerter: {{alert_name: b}}
{more}"
        )
    };
    const JMX: &str = "  jmx: {anything: [1]}\n";
    for (blueprint, core, more, part) in [
        (
            "postgresql",
            "",
            "  postgresql: {endpoint: x}\n  connections_used_threshold: 40\n",
            "policy_name=\"p\"",
        ),
        (
            "elasticsearch",
            "",
            "  elasticsearch: {}\n  search_queue_threshold: 5\n",
            "thread_pool",
        ),
        ("java-gc-generic", "setpoint: 20", JMX, "policy_name=\"p\""),
        ("java-gc-k8s", "setpoint: 20", JMX, "policy_name=\"p\""),
        (
            "cpu-overload-protection-k8s",
            "setpoint: 20",
            "  kubernetes_object_selector: {name: web, namespace: shop}\n",
            "k8s_deployment_name=\"web\",k8s_namespace_name=\"shop\"",
        ),
    ] {
        let text = text(blueprint, core, more);
        let policy = loaded(&text).policy;
        assert_eq!(
            components(&policy),
            [("root.0.4", "load_scheduler")],
            "{blueprint}"
        );
        match op(&policy, "root.1") {
            Op::Query { text, .. } => assert!(text.contains(part), "{text}"),
            other => panic!("{other:?}"),
        }
        refused(&text.replace("load_scheduling_core", "load_scheduling_cores"));
        refused(&text.replace(more, ""));
    }
}

fn ramp(more: &str) -> String {
    format!(
        "blueprint: load-ramping/base
policy:
  policy_name: p
  load_ramp:
    sampler: {{selectors: [{{control_point: a}}]}}
    steps: [{{target_accept_percentage: 5, duration: 1s}}, {{target_accept_percentage: 9, duration: 1s}}]
{more}"
    )
}

#[test]
fn drivers_precede_the_ramp() {
    let drivers = |drivers: &str| ramp(&format!("  start: true\n  drivers:\n{drivers}"));
    const ALL: &str = "{forward: {threshold: 1}, backward: {threshold: 2}, reset: {threshold: 3}}";
    const SELECTORS: &str = "selectors: [{control_point: a}]";
    for (drivers, id) in [
        (String::new(), "root.10.1"),
        (format!("    average_latency_drivers: [{{{SELECTORS}, criteria: {ALL}}}]\n"), "root.15.1"),
        (format!("    average_latency_drivers: [{{{SELECTORS}, criteria: {{backward: {{threshold: 1}}}}}}]\n"), "root.12.1"),
        (format!("    percentile_latency_drivers: [{{flux_meter: {{{SELECTORS}}}, percentile: 0.9, criteria: {ALL}}}]\n"), "root.15.1"),
        ("    promql_drivers: [{query_string: q, criteria: {forward: {threshold: 1, operator: lt}}}]\n".to_owned(), "root.15.1"),
        ("    promql_drivers: [{query_string: q, criteria: {}}]\n".to_owned(), "root.12.1"),
    ] {
        let text = match &*drivers {
            "" => ramp("  start: true\n"),
            some => ramp(&format!("  start: true\n  drivers:\n{some}")),
        };
        assert_eq!(components(&loaded(&text).policy), [(id, "sampler")], "{text}");
    }
    let percentile = |percentile: &str| {
        drivers(&format!(
            "    percentile_latency_drivers: [{{flux_meter: {{{SELECTORS}}}{percentile}, criteria: {ALL}}}]\n"
        ))
    };
    let policy = loaded(&percentile(", percentile: 0.9")).policy;
    assert_eq!(&*policy.flux_meters[0].name, "p/percentile_latency/0");
    assert!(matches!(
        op(&policy, "root.0"),
        Op::FluxMeterQuantile { quantile: 0.9, .. }
    ));
    assert!(refused(&percentile(", percentile: 95")).contains("0 to 1"));
    assert!(refused(&percentile("")).contains("percentile: is required"));
    let kubelet = ramp("  kubelet_metrics: {criteria: {}}\n");
    assert!(refused(&kubelet).contains("kubelet"));
}

#[test]
fn ramp_that_is_not_started_is_a_warning() {
    let text = ramp("");
    assert!(loaded(&text).policy.circuit.is_none());
    assert!(warnings(&text)[0].contains("`start` is false"));
    assert_eq!(warnings(&ramp("  start: true\n")), Vec::<String>::new());
}
