//! Tests of signals that change while the engine runs: control loops, ramps and queries.

use std::time::Duration;

use super::{loaded, refused, warnings};
use crate::policy::{Circuit, CircuitNode, ComponentKind, Op, Policy, Port, SignalId};

fn circuit(policy: &Policy) -> &Circuit {
    policy.circuit.as_ref().expect("signals that change")
}

/// Returns the ids of the nodes, in their order.
fn ids(policy: &Policy) -> Vec<&str> {
    let nodes = &circuit(policy).nodes;
    nodes.iter().map(|node| &*node.id).collect()
}

fn node<'p>(policy: &'p Policy, id: &str) -> &'p CircuitNode {
    let mut nodes = circuit(policy).nodes.iter();
    nodes
        .find(|node| &*node.id == id)
        .unwrap_or_else(|| panic!("no node {id} in {:?}", ids(policy)))
}

/// Returns true if an output of one node feeds an input of another.
fn feeds(policy: &Policy, from: &str, output: usize, to: &str, input: usize) -> bool {
    let signal = node(policy, from).outputs[output].expect("the output is used");
    node(policy, to).inputs[input] == Port::Changing(signal)
}

fn load_multiplier(policy: &Policy) -> Port {
    let ComponentKind::LoadScheduler(scheduler) = &policy.components[0].kind else {
        panic!("{:?}", policy.components);
    };
    scheduler.load_multiplier
}

const QUERY: &str =
    "    - query: {promql: {query_string: up, out_ports: {output: {signal_name: S}}}}\n";

fn aimd(more: &str, outside: &str) -> String {
    format!(
        "circuit:
  evaluation_interval: 0.5s
  components:
{outside}    - flow_control:
        aimd_load_scheduler:
          in_ports: {{signal: {{signal_name: S}}, setpoint: {{constant_signal: {{value: 3}}}}}}
          {more}
          parameters:
            load_scheduler: {{selectors: [{{control_point: a}}]}}
            gradient: {{slope: -1}}
            alerter: {{alert_name: overload}}
"
    )
}

#[test]
fn aimd_loop_becomes_its_nodes() {
    let policy = loaded(&aimd("out_ports: {}", QUERY)).policy;
    assert_eq!(&*policy.components[0].id, "root.1.4");
    let circuit = circuit(&policy);
    assert_eq!(circuit.evaluation_interval, Duration::from_millis(500));
    let mut found = ids(&policy);
    found.sort_unstable();
    // The confirmation is the constant 1, and no component uses the alert.
    let expected = [
        "root.0",
        "root.1.1",
        "root.1.10",
        "root.1.11",
        "root.1.2",
        "root.1.4.3",
        "root.1.6",
        "root.1.7",
        "root.1.8",
        "root.1.9",
    ];
    assert_eq!(found, expected);
    let Op::Query { text, interval } = &node(&policy, "root.0").op else {
        panic!("{:?}", circuit.nodes);
    };
    assert_eq!((&**text, *interval), ("up", Duration::from_secs(10)));
    assert!(matches!(
        &node(&policy, "root.1.4.3").op,
        Op::ObservedLoadMultiplier { component_id } if &**component_id == "root.1.4"
    ));
    assert!(feeds(&policy, "root.0", 0, "root.1.6", 0));
    assert!(feeds(&policy, "root.1.4.3", 0, "root.1.7", 2));
    assert!(feeds(&policy, "root.1.7", 0, "root.1.10", 1));
    assert!(feeds(&policy, "root.1.11", 0, "root.1.2", 0));
    let desired = node(&policy, "root.1.2").outputs[0].expect("the scheduler uses the signal");
    assert_eq!(load_multiplier(&policy), Port::Changing(desired));
    assert!(matches!(
        node(&policy, "root.1.8").op,
        Op::Integrator { initial: 2.0 }
    ));
    assert_eq!(
        node(&policy, "root.1.8").inputs[0],
        Port::Constant(0.025),
        "the increment"
    );
}

#[test]
fn nodes_come_after_the_nodes_that_feed_them() {
    let policy = loaded(&aimd("out_ports: {}", QUERY)).policy;
    let mut computed = vec![false; circuit(&policy).signals as usize];
    for node in &circuit(&policy).nodes {
        for input in &node.inputs {
            if let Port::Changing(SignalId(signal)) = input {
                assert!(
                    computed[*signal as usize],
                    "{} reads a signal of a later node",
                    node.id
                );
            }
        }
        for SignalId(signal) in node.outputs.iter().flatten() {
            computed[*signal as usize] = true;
        }
    }
    assert!(computed.into_iter().all(|computed| computed));
}

#[test]
fn dry_run_lets_everything_pass_and_keeps_only_switchable_loops() {
    for (more, config) in [
        ("dry_run: true", ""),
        ("dry_run_config_key: dry", "dynamicConfig: {dry: true}\n"),
    ] {
        let spec = aimd(more, QUERY).replace('\n', "\n  ");
        let text = format!("metadata: {{name: p}}\n{config}spec:\n  {spec}");
        let policy = loaded(&text).policy;
        assert!(load_multiplier(&policy).initial().is_nan());
        let dry = policy.components.iter().any(
            |component| matches!(&component.kind, ComponentKind::LoadScheduler(one) if one.dry_run),
        );
        assert!(dry, "{policy:?}");
        // The loop keeps running if dynamic configuration may turn the dry run off.
        assert_eq!(circuit(&policy).nodes.is_empty(), config.is_empty());
        assert!(policy.unanswered_queries.is_empty());
        assert!(
            warnings(&text)
                .iter()
                .any(|text| text.contains("`dry_run` is on"))
        );
    }
    // The signal must exist even though the dry run does not use it.
    assert!(refused(&aimd("dry_run: true", "")).contains("`S`"));
}

#[test]
fn outputs_of_a_loop_feed_other_components() {
    let limiter_of_outputs = format!(
        "{QUERY}    - flow_control: {{rate_limiter: {{in_ports: {{bucket_capacity: {{signal_name: O}}, fill_amount: {{signal_name: D}}, pass_through: {{signal_name: I}}}}, parameters: {{interval: 1s}}, selectors: [{{control_point: a}}]}}}}\n"
    );
    let out = "out_ports: {is_overload: {signal_name: I}, desired_load_multiplier: {signal_name: D}, observed_load_multiplier: {signal_name: O}}";
    let policy = loaded(&aimd(out, &limiter_of_outputs)).policy;
    let ComponentKind::RateLimiter(limiter) = &policy.components[0].kind else {
        panic!("{:?}", policy.components);
    };
    for (port, id) in [
        (limiter.bucket.bucket_capacity, "root.2.4.3"),
        (limiter.bucket.fill_amount, "root.2.2"),
        (limiter.bucket.pass_through, "root.2.1"),
    ] {
        let from = node(&policy, id).outputs[0].expect("the limiter uses the signal");
        assert_eq!(port, Port::Changing(from));
    }
}

#[test]
fn load_multiplier_may_be_constant() {
    let text = |port: &str| {
        format!(
            "circuit: {{components: [{{flow_control: {{load_scheduler: {{in_ports: {{{port}}}, parameters: {{selectors: [{{control_point: a}}]}}}}}}}}]}}"
        )
    };
    let policy = loaded(&text("load_multiplier: {constant_signal: {value: 0.5}}")).policy;
    assert_eq!(load_multiplier(&policy), Port::Constant(0.5));
    assert_eq!(circuit(&policy).nodes.len(), 0);
    assert!(
        load_multiplier(&loaded(&text("")).policy)
            .initial()
            .is_nan()
    );
    assert!(
        warnings(&text(""))
            .iter()
            .any(|text| text.contains("load multiplier is invalid"))
    );
}

#[test]
fn incomplete_loops_are_refused() {
    let whole = aimd("out_ports: {}", QUERY);
    for (from, to, message) in [
        (
            "gradient: {slope: -1}",
            "gradient: {slope: 0}",
            "must not be zero",
        ),
        ("gradient: {slope: -1}", "", "gradient: is required"),
        (
            "alerter: {alert_name: overload}",
            "",
            "alerter: is required",
        ),
        ("signal: {signal_name: S}, ", "", "signal: is required"),
        (
            "load_scheduler: {selectors: [{control_point: a}]}",
            "",
            "load_scheduler: is required",
        ),
    ] {
        assert!(whole.contains(from));
        let message_found = refused(&whole.replace(from, to));
        assert!(message_found.contains(message), "{message_found}");
    }
    let range = whole
        .replace("aimd_", "range_driven_")
        .replace(", setpoint: {constant_signal: {value: 3}}", "")
        .replace(
            "gradient: {slope: -1}",
            "low_throttle_threshold: {signal_value: 2, load_multiplier: 1}
            high_throttle_threshold: {signal_value: 8, load_multiplier: 0.2}
            degree: 2",
        );
    assert_eq!(&*loaded(&range).policy.components[0].id, "root.1.4");
    assert!(
        refused(&range.replace("load_multiplier: 0.2", "load_multiplier: 1.2")).contains("0 to 1")
    );
    assert!(refused(&range.replace("degree: 2", "degree: 0")).contains("must not be zero"));
    let aiad = whole
        .replace("aimd_", "aiad_")
        .replace("gradient: {slope: -1}", "min_load_multiplier: 0.1");
    assert!(matches!(
        node(&loaded(&aiad).policy, "root.1.9").op,
        Op::Integrator { initial: 2.0 }
    ));
    let odd = aiad.replace("out_ports: {}", "overload_condition: eq");
    assert!(refused(&odd).contains("expected one of gt, lt, gte, lte"));
}

fn ramp(forward: &str) -> String {
    format!(
        "circuit:
  components:
    - flow_control:
        load_ramp:
          in_ports: {{forward: {{constant_signal: {{value: {forward}}}}}}}
          pass_through_label_values: [vip]
          parameters:
            sampler: {{selectors: [{{control_point: a}}], ramp_mode: false}}
            steps:
              - {{target_accept_percentage: 5, duration: 60s}}
              - {{target_accept_percentage: 100, duration: 600s}}
"
    )
}

#[test]
fn ramp_is_a_sampler_in_ramp_mode_driven_by_steps() {
    let policy = loaded(&ramp("1")).policy;
    let ComponentKind::Sampler(sampler) = &policy.components[0].kind else {
        panic!("{:?}", policy.components);
    };
    assert_eq!(&*policy.components[0].id, "root.0.1");
    assert!(sampler.ramp_mode);
    assert_eq!(&*sampler.pass_through_label_values[0], "vip");
    let generator = node(&policy, "root.0.0");
    let Op::SignalGenerator { steps } = &generator.op else {
        panic!("{generator:?}");
    };
    assert_eq!(steps.len(), 2);
    assert_eq!(
        sampler.accept_percentage,
        generator.outputs[0].map(Port::Changing)
    );
    assert_eq!(generator.outputs[1..], [None, None]);
}

#[test]
fn ramp_that_never_moves_is_a_constant() {
    let policy = loaded(&ramp("0")).policy;
    let ComponentKind::Sampler(sampler) = &policy.components[0].kind else {
        panic!("{:?}", policy.components);
    };
    assert_eq!(sampler.accept_percentage, Some(Port::Constant(5.0)));
    assert!(policy.circuit.is_none());
    assert!(refused(&ramp("0").replace("100", "101")).contains("0 to 100"));
}

#[test]
fn dynamic_configuration_sets_values_by_key() {
    let text = |config: &str| {
        format!(
            "metadata: {{name: p}}
dynamicConfig: {config}
spec:
  circuit:
    components:
      - variable: {{constant_output: {{value: 3}}, config_key: most, out_ports: {{output: {{signal_name: A}}}}}}
      - bool_variable: {{constant_output: false, config_key: pass, out_ports: {{output: {{signal_name: P}}}}}}
      - flow_control:
          concurrency_limiter:
            in_ports: {{max_concurrency: {{signal_name: A}}, pass_through: {{signal_name: P}}}}
            parameters: {{max_inflight_duration: 1s}}
            selectors: [{{control_point: a}}]
      - flow_control:
          sampler:
            in_ports: {{accept_percentage: {{constant_signal: {{value: 1}}}}}}
            parameters: {{selectors: [{{control_point: a}}]}}
            pass_through_label_values: [x]
            pass_through_label_values_config_key: list
"
        )
    };
    let ports = |config: &str| {
        let policy = loaded(&text(config)).policy;
        let ComponentKind::ConcurrencyLimiter(limiter) = &policy.components[0].kind else {
            panic!("{:?}", policy.components);
        };
        let ComponentKind::Sampler(sampler) = &policy.components[1].kind else {
            panic!("{:?}", policy.components);
        };
        assert_eq!(sampler.pass_through_label_values.len(), 1);
        (limiter.slots.max_concurrency, limiter.slots.pass_through)
    };
    let given = (Port::Constant(3.0), Port::Constant(0.0));
    assert_eq!(ports("{}"), given);
    assert_eq!(ports("null"), given);
    let config = "{most: {value: 7}, pass: true, list: [y], other: 1}";
    assert_eq!(ports(config), (Port::Constant(7.0), Port::Constant(1.0)));
    let found = warnings(&text(config));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found
            .iter()
            .any(|text| text.contains("dynamicConfig.list: has no effect"))
    );
    assert!(
        found
            .iter()
            .any(|text| text.contains("dynamicConfig.other: has no effect"))
    );
    assert!(refused(&text("{pass: 1}")).contains("dynamicConfig.pass"));
    assert!(refused(&text("[most]")).contains("expected a mapping"));
}

#[test]
fn queries_over_own_flux_meters_need_no_source() {
    let query = "sum(increase(flux_meter_sum{flow_status=\"OK\", flux_meter_name=\"m\", policy_name=\"p\"}[30s]))/sum(increase(flux_meter_count{flow_status=\"OK\", flux_meter_name=\"m\", policy_name=\"p\"}[30s]))";
    let text = aimd("out_ports: {}", &QUERY.replace("up", &format!("'{query}'")));
    assert!(matches!(
        &node(&loaded(&text).policy, "root.0").op,
        Op::FluxMeterMean { name, .. } if &**name == "m"
    ));
}

#[test]
fn operations_fold_once_their_result_is_certain() {
    let limiter = "    - flow_control: {rate_limiter: {in_ports: {bucket_capacity: {signal_name: R}, fill_amount: {constant_signal: {value: 1}}}, parameters: {interval: 1s}, selectors: [{control_point: a}]}}\n";
    let constant = |value: &str| format!("{{constant_signal: {{{value}}}}}");
    let (yes, no, unknown) = (
        constant("value: 4"),
        constant("value: 0"),
        constant("special_value: NaN"),
    );
    let changing = "{signal_name: S}".to_owned();
    let port = |kind: &str, inputs: &[&String]| {
        let inputs: Vec<&str> = inputs.iter().map(|input| &***input).collect();
        let inputs = match kind {
            "switcher" => format!(
                "switch: {}, on_signal: {}, off_signal: {}",
                inputs[0], inputs[1], inputs[2]
            ),
            "inverter" => format!("input: {}", inputs[0]),
            _ => format!("inputs: [{}]", inputs.join(", ")),
        };
        let component = format!(
            "    - {kind}: {{in_ports: {{{inputs}}}, out_ports: {{output: {{signal_name: R}}}}}}\n"
        );
        let policy = loaded(&format!(
            "circuit:\n  components:\n{QUERY}{component}{limiter}"
        ))
        .policy;
        let ComponentKind::RateLimiter(limiter) = &policy.components[0].kind else {
            panic!("{:?}", policy.components);
        };
        match limiter.bucket.bucket_capacity {
            Port::Constant(value) if value.is_nan() => "unknown".to_owned(),
            Port::Constant(value) => value.to_string(),
            Port::Changing(_) => ids(&policy).join(" "),
        }
    };
    for (kind, inputs, result) in [
        ("and", vec![&yes, &yes], "1"),
        ("and", vec![], "1"),
        ("and", vec![&unknown, &no], "0"),
        ("and", vec![&unknown, &yes], "unknown"),
        ("and", vec![&changing, &no], "0"),
        ("and", vec![&changing, &yes], "root.0 root.1"),
        ("or", vec![&no, &no], "0"),
        ("or", vec![], "0"),
        ("or", vec![&unknown, &yes], "1"),
        ("or", vec![&unknown, &no], "unknown"),
        ("or", vec![&changing, &yes], "1"),
        ("inverter", vec![&yes], "0"),
        ("inverter", vec![&unknown], "unknown"),
        ("first_valid", vec![&unknown, &yes, &changing], "4"),
        ("first_valid", vec![&unknown, &changing], "root.0 root.1"),
        ("first_valid", vec![], "unknown"),
        ("switcher", vec![&yes, &yes, &changing], "4"),
        ("switcher", vec![&no, &yes, &changing], "root.0"),
        ("switcher", vec![&unknown, &yes, &no], "0"),
        ("switcher", vec![&changing, &yes, &no], "root.0 root.1"),
    ] {
        assert_eq!(port(kind, &inputs), result, "{kind} {inputs:?}");
    }
}
