//! Tests of the descriptions of policies.

use super::loaded;
use crate::policy::Selector;

fn described(text: &str) -> String {
    loaded(text).policy.describe(&|_: &Selector| true, false)
}

#[test]
fn description_lists_components_selectors_keys_and_limits() {
    let text = "circuit:
  components:
    - flow_control:
        quota_scheduler:
          in_ports: {bucket_capacity: {constant_signal: {value: 9}}, fill_amount: {constant_signal: {value: 2}}}
          rate_limiter: {interval: 1.5s, limit_by_label_key: user, continuous_fill: false, delay_initial_fill: true, lazy_sync: {enabled: true}}
          selectors:
            - control_point: a
              service: b
              label_matcher: {match_labels: {x: '1'}, match_list: [{key: y, operator: NotIn, values: [p, q]}], expression: {any: {of: [{label_exists: z}, {label_matches: {label: r, regex: ^a+}}]}}}
            - control_point: c
          scheduler:
            priority_label_key: prio
            workloads: [{name: gold, label_matcher: {match_labels: {tier: gold}}, parameters: {priority: 50, tokens: 2, queue_timeout: 2s}}]
    - flow_control:
        sampler:
          in_ports: {accept_percentage: {constant_signal: {value: 12.5}}}
          parameters: {session_label_key: user, selectors: [{control_point: c}], denied_response_status_code: NotFound}
          pass_through_label_values: [vip]
resources:
  flow_control:
    classifiers: [{selectors: [{control_point: c}], rules: {user: {extractor: {from: request.http.headers.user}}}}]
    flux_meters: {m: {selectors: [{control_point: c}]}}
";
    assert_eq!(
        described(text),
        "policy `p`
  root.0 quota_scheduler: 9 tokens, 2 more every 1.5s at once, first after the time that filling the bucket takes, for each value of the label `user`, 4 syncs an interval; rejects with 503
    workload `gold`: priority 50, 2 tokens, queues for at most 2s, when `tier` is `gold`
    other flows: priority 1, 1 token; priority by the label `prio`
    at `a`, service `b`, when `x` is `1` and not (`y` is one of `p`, `q`) and (`z` exists or `r` matches `^a+`)
    at `c`, any service
  root.1 sampler: accepts 12.5 %, the same decision for each value of the label `user`, always `vip`; rejects with 404
    at `c`, any service
  classifier 0: sets user
    at `c`, any service
  flux meter `m`: measures workload_duration_ms in default buckets
    at `c`, any service
"
    );
}

#[test]
fn changing_signals_are_described_by_their_origin() {
    let text = "blueprint: load-scheduling/promql
policy:
  policy_name: pool
  promql_query: avg(x)
  setpoint: 0.8
  overload_condition: gt
  load_scheduling_core:
    aiad_load_scheduler:
      load_scheduler: {selectors: [{control_point: db}]}
      alerter: {alert_name: a}
";
    let shown = described(text);
    assert!(
        shown
            .contains("root.0.4 load_scheduler: load multiplier from `root.0.2`; rejects with 503"),
        "{shown}"
    );
    assert!(
        shown.contains("root.1 queries every 10s: avg(x)"),
        "{shown}"
    );
}

#[test]
fn selectors_that_do_not_apply_are_left_out() {
    let text = "circuit: {components: [{flow_control: {sampler: {in_ports: {accept_percentage: {constant_signal: {value: 1}}}, parameters: {selectors: [{control_point: a}, {control_point: b}]}}}}]}";
    let policy = loaded(text).policy;
    let shown = policy.describe(&|selector| &*selector.control_point == "b", false);
    assert!(shown.contains("`b`") && !shown.contains("`a`"), "{shown}");
    let nothing = policy.describe(&|_| false, false);
    assert_eq!(nothing, "policy `p`\n  no part of it applies here\n");
}
