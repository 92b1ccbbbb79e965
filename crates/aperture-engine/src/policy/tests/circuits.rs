//! Tests of the connections between components, and of folding their signals.

use crate::policy::{ComponentKind, Port, SignalId};

use super::{capacity, constant, limiter, loaded, refused, warnings};

fn with_components(components: &str, capacity: &str) -> String {
    limiter(|text| {
        text.replace("components:\n", &format!("components:\n{components}"))
            .replace(
                "bucket_capacity: {constant_signal: {value: 2}}",
                &format!("bucket_capacity: {{signal_name: {capacity}}}"),
            )
    })
}

const ADD: &str = "    - arithmetic_combinator: {operator: add, in_ports: {lhs: {signal_name: A}, rhs: {constant_signal: {value: 1}}}, out_ports: {output: {signal_name: B}}}\n";
const VARIABLE: &str =
    "    - variable: {constant_output: {value: 3}, out_ports: {output: {signal_name: A}}}\n";

#[test]
fn signals_fold_in_any_order() {
    let both = [format!("{VARIABLE}{ADD}"), format!("{ADD}{VARIABLE}")];
    for components in both {
        let text = with_components(&components, "B");
        assert_eq!(capacity(&text), 4.0);
        assert_eq!(&*loaded(&text).policy.components[0].id, "root.2");
    }
}

#[test]
fn signals_without_or_with_two_producers_are_refused() {
    assert!(
        refused(&with_components(VARIABLE, "C"))
            .contains("no component of the circuit `root` produces the signal `C`")
    );
    let twice = format!("{VARIABLE}{VARIABLE}");
    assert!(refused(&with_components(&twice, "A")).contains("the signal `A` is produced twice"));
    let unused = VARIABLE.replace("name: A", "name: Z");
    assert_eq!(
        loaded(&limiter(
            |text| text.replace("components:\n", &format!("components:\n{unused}"))
        ))
        .policy
        .components
        .len(),
        1
    );
}

#[test]
fn invalid_loops_fold_and_changing_loops_are_refused() {
    let self_loop = ADD.replace("name: A", "name: B");
    assert!(capacity(&with_components(&self_loop, "B")).is_nan());
    let decider = "    - decider: {operator: lt, in_ports: {lhs: {signal_name: B}, rhs: {constant_signal: {value: 1}}}, out_ports: {output: {signal_name: B}}}\n";
    // A comparison with an invalid signal is false, which is valid, so the loop changes.
    assert!(refused(&with_components(decider, "B")).contains("a loop of signals"));
}

#[test]
fn deciders_over_constants_fold_unless_they_delay() {
    let decider = |more: &str| {
        format!(
            "    - decider: {{operator: gte, {more}in_ports: {{lhs: {{constant_signal: {{value: 5}}}}, rhs: {{constant_signal: {{value: 5}}}}}}, out_ports: {{output: {{signal_name: A}}}}}}\n"
        )
    };
    assert_eq!(capacity(&with_components(&decider(""), "A")), 1.0);
    let policy = loaded(&with_components(&decider("true_for: 5s, "), "A")).policy;
    let circuit = policy.circuit.expect("the output changes after 5 s");
    assert_eq!((circuit.nodes.len(), circuit.signals), (1, 1));
    assert_eq!(&*circuit.nodes[0].id, "root.0");
    let ComponentKind::RateLimiter(limiter) = &policy.components[0].kind else {
        panic!("{:?}", policy.components);
    };
    assert_eq!(limiter.bucket.bucket_capacity, Port::Changing(SignalId(0)));
}

#[test]
fn boolean_variables_feed_number_ports() {
    let text =
        "    - bool_variable: {constant_output: on, out_ports: {output: {signal_name: A}}}\n";
    assert_eq!(capacity(&with_components(text, "A")), 1.0);
}

#[test]
fn output_of_a_limiter_may_feed_alerts_but_no_decision() {
    let accepted = "          out_ports: {accept_percentage: {signal_name: P}}\n";
    let alerts = "    - decider: {operator: gte, in_ports: {lhs: {signal_name: P}, rhs: {constant_signal: {value: 90}}}, out_ports: {output: {signal_name: Q}}}
    - alerter: {in_ports: {signal: {signal_name: Q}}, parameters: {alert_name: often}}
";
    let text = limiter(|text| format!("{text}{accepted}{alerts}"));
    assert_eq!(loaded(&text).policy.components.len(), 1);
    let found = warnings(&text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("circuit.components[2].alerter: has no effect"));
    let fed_back = with_components("", "P") + accepted;
    assert!(
        refused(&fed_back).contains("depends on"),
        "{}",
        refused(&fed_back)
    );
    let text = limiter(|text| {
        format!(
            "{text}{accepted}{}",
            alerts.replace("alert_name: often", "")
        )
    });
    assert!(refused(&text).ends_with("alert_name: is required"));
}

#[test]
fn nested_circuits_have_own_scopes_connected_by_ports() {
    let text = "circuit:
  components:
    - variable: {constant_output: {value: 7}, out_ports: {output: {signal_name: OUT}}}
    - nested_circuit:
        name: inner
        in_ports_map: {cap: {signal_name: OUT}}
        out_ports_map: {sum: {signal_name: SUM}}
        components:
          - nested_signal_ingress: {port_name: cap, out_ports: {signal: {signal_name: OUT}}}
          - arithmetic_combinator: {operator: mul, in_ports: {lhs: {signal_name: OUT}, rhs: {constant_signal: {value: 2}}}, out_ports: {output: {signal_name: TWICE}}}
          - nested_signal_egress: {port_name: sum, in_ports: {signal: {signal_name: TWICE}}}
          - nested_circuit:
              components:
                - flow_control:
                    rate_limiter:
                      in_ports: {bucket_capacity: {constant_signal: {value: 1}}, fill_amount: {constant_signal: {value: 1}}}
                      parameters: {interval: 1s}
                      selectors: [{control_point: inside}]
    - flow_control:
        rate_limiter:
          in_ports: {bucket_capacity: {signal_name: SUM}, fill_amount: {signal_name: OUT}}
          parameters: {interval: 1s}
          selectors: [{control_point: outside}]
";
    let policy = loaded(text).policy;
    let ids: Vec<&str> = policy
        .components
        .iter()
        .map(|component| &*component.id)
        .collect();
    assert_eq!(ids, ["root.1.3.0", "root.2"]);
    let ComponentKind::RateLimiter(outside) = &policy.components[1].kind else {
        panic!("{policy:?}");
    };
    let bucket = &outside.bucket;
    let ports = (
        constant(bucket.bucket_capacity),
        constant(bucket.fill_amount),
    );
    assert_eq!(ports, (14.0, 7.0));
    assert!(
        refused(&text.replace("lhs: {signal_name: OUT}", "lhs: {signal_name: SUM}"))
            .contains("circuit `root.1`")
    );
    let unfed = text.replace("port_name: sum", "port_name: other");
    assert!(warnings(&unfed)[0].contains("stays invalid"));
    assert!(
        refused(&text.replace("cap: {signal_name: OUT}", "cap: {signal_name: NONE}"))
            .contains("`NONE`")
    );
    refused("circuit: {components: [{nested_signal_ingress: {port_name: a}}]}");
}

#[test]
fn unsupported_kinds_and_modes_are_refused_by_name() {
    for (text, name) in [
        ("circuit: {components: [{ema: {}}]}", "`ema`"),
        (
            "circuit: {components: [{gradient_controller: {manual_mode: true, parameters: {slope: 1}}}]}",
            "`manual_mode`",
        ),
    ] {
        let message = refused(text);
        assert!(
            message.contains(name) && message.contains("this version"),
            "{message}"
        );
    }
}

#[test]
fn components_without_or_with_two_kinds_are_refused() {
    for text in [
        "circuit: {components: [{}]}",
        "circuit: {components: [null]}",
        "circuit: {components: [{flow_control: {}}]}",
        "circuit: {components: [{flow_control: null}]}",
        "circuit: {components: [{variable: {constant_output: {}}, bool_variable: {}}]}",
        "circuit: {components: [{nonsense: {}}]}",
        "circuit: {components: [5]}",
        "circuit: {components: [{variable: {constant_output: {}}, variabel: {}}]}",
    ] {
        refused(text);
    }
    let beside = "circuit: {components: [{variable: {constant_output: {}}, note: 1}]}";
    assert!(warnings(beside)[0].ends_with("note: unknown key, ignored"));
}
