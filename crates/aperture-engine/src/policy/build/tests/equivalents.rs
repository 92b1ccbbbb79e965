//! Policies in code, each beside a file that does the same.

use std::time::Duration;

use http::StatusCode;

use super::*;

#[test]
fn a_rate_limit_is_a_rate_limiter() {
    let limit = RateLimit::per_minute(5)
        .burst(10.5)
        .by("user_id")
        .tokens_from("cost")
        .rejection_status(StatusCode::FORBIDDEN)
        .continuous_fill(false)
        .delay_initial_fill(true)
        .lazy_sync(3)
        .max_idle_time(Duration::from_millis(1500));
    assert_same(
        &Policy::new("p").at("shop").limit(limit),
        &file(
            "    - flow_control:
        rate_limiter:
          selectors: [{control_point: shop}]
          in_ports:
            bucket_capacity: {constant_signal: {value: 10.5}}
            fill_amount: {constant_signal: {value: 5}}
          parameters:
            interval: 60s
            limit_by_label_key: user_id
            continuous_fill: false
            delay_initial_fill: true
            max_idle_time: 1.5s
            lazy_sync: {enabled: true, num_sync: 3}
          request_parameters: {tokens_label_key: cost, denied_response_status_code: Forbidden}
",
        ),
    );
}

#[test]
fn a_burst_is_the_tokens_of_an_interval_and_at_least_one() {
    for (limit, interval, capacity, fill) in [
        (RateLimit::per_second(5), "1s", "5", "5"),
        (RateLimit::per_minute(0.5), "60s", "1", "0.5"),
        (RateLimit::per_hour(7), "3600s", "7", "7"),
        (RateLimit::per_day(9), "86400s", "9", "9"),
        (
            RateLimit::every(Duration::from_millis(250)),
            "0.25s",
            "1",
            "1",
        ),
        (
            RateLimit::within(Duration::from_nanos(1), 2),
            "0.000000001s",
            "2",
            "2",
        ),
    ] {
        let blueprint = format!(
            "blueprint: rate-limiting/base
policy:
  policy_name: p
  rate_limiter:
    bucket_capacity: {capacity}
    fill_amount: {fill}
    parameters: {{interval: {interval}}}
    selectors: [{{control_point: shop}}]
"
        );
        assert_same(&Policy::new("p").limit(limit).at("shop"), &blueprint);
    }
}

#[test]
fn a_concurrency_limit_is_a_concurrency_limiter() {
    let limit = ConcurrencyLimit::slots(3)
        .by("user")
        .tokens_from("n")
        .at("a")
        .at("b");
    assert_same(
        &Policy::new("p").at("unused").limit(limit),
        &file(
            "    - flow_control:
        concurrency_limiter:
          selectors: [{control_point: a}, {control_point: b}]
          in_ports: {max_concurrency: {constant_signal: {value: 3}}}
          parameters: {max_inflight_duration: 3600s, limit_by_label_key: user}
          request_parameters: {tokens_label_key: n}
",
        ),
    );
}

#[test]
fn a_scheduler_of_slots_has_a_workload_for_each_value() {
    let scheduler = Scheduler::slots(20)
        .by("tenant")
        .priority_from("tier", [("gold", 300.0), ("0", 100.0), ("default", 2.0)])
        .priority_from("plan", [("gold", 7.0)])
        .default_priority(10.0)
        .fair_by("user_id")
        .queue_for(Duration::from_millis(500));
    assert_same(
        &Policy::new("p").at("search").schedule(scheduler),
        &file(
            "    - flow_control:
        concurrency_scheduler:
          selectors: [{control_point: search}]
          in_ports: {max_concurrency: {constant_signal: {value: 20}}}
          concurrency_limiter: {max_inflight_duration: 3600s, limit_by_label_key: tenant}
          scheduler:
            fairness_label_key: user_id
            workloads:
            - name: gold
              label_matcher: {match_labels: {tier: gold}}
              parameters: {priority: 300, queue_timeout: 0.5s}
            - name: tier:0
              label_matcher: {match_labels: {tier: '0'}}
              parameters: {priority: 100, queue_timeout: 0.5s}
            - name: tier:default
              label_matcher: {match_labels: {tier: default}}
              parameters: {priority: 2, queue_timeout: 0.5s}
            - name: plan:gold
              label_matcher: {match_labels: {plan: gold}}
              parameters: {priority: 7, queue_timeout: 0.5s}
            default_workload_parameters: {priority: 10, queue_timeout: 0.5s}
",
        ),
    );
}

#[test]
fn a_scheduler_of_a_rate_limit_is_a_quota_scheduler() {
    let people = LabelMatcher::new().one_of("caller", ["a", "b"]);
    let people = Workload::new("people", people)
        .priority(5.0)
        .tokens(2.0)
        .queue_for(seconds(3));
    let limit = RateLimit::per_minute(600)
        .burst(50)
        .tokens_from("x")
        .at("provider");
    let scheduler = Scheduler::new(limit)
        .workload(people)
        .default_tokens(4.0)
        .tokens_from("cost")
        .priority_label("priority")
        .workload_label("job")
        .deadline_margin(Duration::from_millis(20))
        .pass_through_while(Signal::config("open", 0))
        .rejection_status(StatusCode::TOO_MANY_REQUESTS);
    assert_same(
        &Policy::new("p").schedule(scheduler),
        &file(
            "    - flow_control:
        quota_scheduler:
          selectors: [{control_point: provider}]
          in_ports:
            bucket_capacity: {constant_signal: {value: 50}}
            fill_amount: {constant_signal: {value: 600}}
            pass_through: {signal_name: OPEN}
          rate_limiter: {interval: 60s}
          scheduler:
            workloads:
            - name: people
              label_matcher: {match_list: [{key: caller, operator: In, values: [a, b]}]}
              parameters: {priority: 5, tokens: 2, queue_timeout: 3s}
            default_workload_parameters: {tokens: 4}
            tokens_label_key: cost
            priority_label_key: priority
            workload_label_key: job
            decision_deadline_margin: 0.02s
            denied_response_status_code: TooManyRequests
    - variable:
        constant_output: {value: 0}
        config_key: open
        out_ports: {output: {signal_name: OPEN}}
",
        ),
    );
}

#[test]
fn matchers_and_selectors_are_those_of_files() {
    let matcher = LabelMatcher::new()
        .equals("a", "1")
        .equals("a", "2")
        .none_of("b", ["x"])
        .exists("c")
        .absent("d")
        .matches("e", "^/v[12]/")
        .any([
            LabelMatcher::new().one_of("f", ["y", "z"]),
            LabelMatcher::new().absent("g").none_of("h", ["w"]),
        ])
        .not(LabelMatcher::new());
    let selector = Selector::control_point("shop")
        .service("carts")
        .when(matcher);
    let other = Selector::control_point("other").agent_group("mine");
    let policy = Policy::new("p")
        .at(selector)
        .at(other)
        .agent_group("default");
    assert_same(
        &policy.limit(ConcurrencyLimit::slots(1)),
        &file(
            "    - flow_control:
        concurrency_limiter:
          selectors:
          - control_point: shop
            service: carts
            agent_group: default
            label_matcher:
              match_labels: {a: '1'}
              match_list:
              - {key: a, operator: In, values: ['2']}
              - {key: b, operator: NotIn, values: [x]}
              - {key: c, operator: Exists}
              - {key: d, operator: DoesNotExist}
              expression:
                all:
                  of:
                  - label_matches: {label: e, regex: '^/v[12]/'}
                  - any:
                      of:
                      - any:
                          of:
                          - label_equals: {label: f, value: y}
                          - label_equals: {label: f, value: z}
                      - all:
                          of:
                          - not: {label_exists: g}
                          - not: {any: {of: [{label_equals: {label: h, value: w}}]}}
                  - not: {all: {of: []}}
          - {control_point: other, agent_group: mine}
          in_ports: {max_concurrency: {constant_signal: {value: 1}}}
          parameters: {max_inflight_duration: 3600s}
",
        ),
    );
}
