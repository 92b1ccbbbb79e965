//! The number of series is bounded: label values and made-up names do not displace the series of
//! policies.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use tower_aperture::Engine;
use tower_aperture::pb::check::limiter_decision::{
    Details, QuotaSchedulerInfo, RateLimiterInfo, SchedulerInfo,
};
use tower_aperture::pb::check::{CheckResponse, FlowEndRequest, FluxMeterInfo, LimiterDecision};
use tower_aperture::pb::trace::Span;

use super::{export, flow, series, span, sum};
use crate::support::{Served, end_of};

/// Workloads by the value of a label, in each kind of scheduler.
const BY_USER: &str = "
resources:
  flow_control:
    flux_meters:
      latency: {selectors: [{control_point: checkout}]}
circuit:
  components:
  - flow_control:
      quota_scheduler:
        selectors: [{control_point: checkout}]
        in_ports:
          bucket_capacity: {constant_signal: {value: 1000}}
          fill_amount: {constant_signal: {value: 1000}}
        rate_limiter: {interval: 1s}
        scheduler:
          workload_label_key: user
          workloads:
          - {name: gold, label_matcher: {match_labels: {tier: gold}}, parameters: {priority: 5}}
          - {label_matcher: {match_labels: {tier: silver}}, parameters: {priority: 2}}
  - flow_control:
      concurrency_scheduler:
        selectors: [{control_point: checkout}]
        in_ports: {max_concurrency: {constant_signal: {value: 1000}}}
        concurrency_limiter: {max_inflight_duration: 600s}
        scheduler: {workload_label_key: user}
  - flow_control:
      load_scheduler:
        parameters: {selectors: [{control_point: checkout}], scheduler: {workload_label_key: user}}
        in_ports: {load_multiplier: {constant_signal: {value: 1}}}
";

#[tokio::test]
async fn label_values_do_not_appear_in_metrics() {
    let served = Served::start(BY_USER).await;
    let mut checks = served.checks().await;
    let mut answers = Vec::new();
    for labels in [
        &[("user", "alice@example.com")][..],
        &[("user", "bob-7731"), ("tier", "gold")],
        &[("user", "bob-7731\"} 1\n")],
        &[("user", "")],
        // The same text as the name of a workload of the policy.
        &[("user", "gold")],
        &[("tier", "gold")],
        &[("tier", "silver")],
        &[],
    ] {
        let answer = checks.check(flow("checkout", labels)).await;
        answers.push(answer.expect("an answer").into_inner());
    }
    let json = r#"{"control_point": "checkout", "labels": {"user": "carol-0042"}}"#;
    let answer = served.http("/v1/flowcontrol/check", &[], Some(json)).await;
    assert_eq!(answer.expect("an answer").0, 200);
    let status = [("aperture.flow.status", "OK"), ("http.status_code", "200")];
    export(
        &served,
        answers.iter().map(|one| span(one, &status)).collect(),
    )
    .await;
    let (_, text) = served.http("/metrics", &[], None).await.expect("an answer");
    for value in ["alice", "bob-7731", "carol"] {
        assert!(!text.contains(value), "{value}: {text}");
    }
    for (name, flows) in [
        ("request_in_queue_duration_ms_count", [5.0, 2.0, 1.0, 1.0]),
        ("workload_latency_ms_count", [4.0, 2.0, 1.0, 1.0]),
        ("workload_requests_total", [4.0, 2.0, 1.0, 1.0]),
    ] {
        let quota = series(&text, name)
            .into_iter()
            .filter(|(labels, _)| labels["component_id"] == "root.0");
        let by_workload: BTreeMap<String, f64> = quota
            .map(|(labels, value)| (labels["workload_index"].clone(), value))
            .collect();
        let names = ["other", "gold", "1", "default"];
        let expected = names.map(str::to_owned).into_iter().zip(flows).collect();
        assert_eq!(by_workload, expected, "{name}");
    }
    // The answer to the caller does contain the value.
    let Some(Details::QuotaSchedulerInfo(info)) = answers[0]
        .limiter_decisions
        .iter()
        .find_map(|one| one.details.clone().filter(|_| one.component_id == "root.0"))
    else {
        panic!("{answers:?}");
    };
    assert_eq!(info.workload_index, "alice@example.com");
}

#[tokio::test]
async fn made_up_control_points_do_not_hide_those_of_policies() {
    let served = Served::start(BY_USER).await;
    let checks = served.checks().await;
    let ends = |control_point: String| FlowEndRequest {
        control_point,
        ..FlowEndRequest::default()
    };
    for some in (0..10_050).collect::<Vec<_>>().chunks(256) {
        let calls = some.iter().map(|number| {
            let mut checks = checks.clone();
            async move {
                let made_up = format!("made-up-{number}");
                checks.flow_end(ends(made_up.clone())).await?;
                checks.check(flow(&made_up, &[])).await
            }
        });
        for answer in join_all(calls).await {
            answer.expect("an answer");
        }
    }
    let mut checks = checks.clone();
    for _ in 0..3 {
        let answer = checks.check(flow("checkout", &[])).await;
        let answer = answer.expect("an answer").into_inner();
        checks.flow_end(end_of(&answer)).await.expect("an answer");
    }
    let text = served.agent.metrics();
    let point = [("control_point", "checkout")];
    for name in [
        "flowcontrol_requests_total",
        "flowcontrol_decisions_total",
        "flowcontrol_ends_total",
    ] {
        assert_eq!(sum(&text, name, &point), 3.0, "{name}");
    }
    assert_eq!(series(&text, "flowcontrol_requests_total").len(), 10_001);
    assert!(served.metric("tower_aperture_agent_series_left_out_total") >= 100.0);
}

#[tokio::test]
async fn made_up_spans_do_not_hide_the_series_of_policies() {
    let served = Served::start(BY_USER).await;
    let mut checks = served.checks().await;
    let answer = checks.check(flow("checkout", &[])).await;
    let answer = answer.expect("an answer").into_inner();
    let decision = answer.limiter_decisions[0].clone();
    let made_up = |number: usize| {
        let mut all = Vec::new();
        for change in 0..4 {
            let mut decision = decision.clone();
            let text = format!("made-up-{number}");
            match change {
                0 => decision.policy_name = text,
                1 => decision.policy_hash = text,
                2 => decision.component_id = text,
                _ => {
                    decision.details = Some(Details::LoadSchedulerInfo(SchedulerInfo {
                        workload_index: text,
                        ..SchedulerInfo::default()
                    }));
                }
            }
            all.push(decision);
        }
        let mut check = answer.clone();
        check.limiter_decisions = all;
        check
    };
    let mut spans: Vec<Span> = (0..50).map(|number| span(&made_up(number), &[])).collect();
    // Made-up statuses of an existing flux meter.
    let meter = CheckResponse {
        flux_meter_infos: vec![FluxMeterInfo {
            flux_meter_name: "latency".to_owned(),
        }],
        ..CheckResponse::default()
    };
    for some in (0..10_050).collect::<Vec<_>>().chunks(1000) {
        for number in some {
            let code = format!("4{number:05}");
            spans.push(span(&meter, &[("http.status_code", &code)]));
        }
        export(&served, std::mem::take(&mut spans)).await;
    }
    let ok = [("http.status_code", "200")];
    export(&served, vec![span(&answer, &ok), span(&meter, &ok)]).await;
    let text = served.agent.metrics();
    assert!(!text.contains("made-up"), "{text}");
    let ok = [("http_status_code", "200"), ("flow_status", "OK")];
    assert_eq!(sum(&text, "flux_meter_count", &ok), 2.0);
    assert_eq!(series(&text, "flux_meter_count").len(), 10_002);
    let requests = sum(
        &text,
        "workload_requests_total",
        &[("workload_index", "default")],
    );
    assert_eq!(requests, 3.0, "one flow for each scheduler");
}

#[tokio::test]
async fn series_of_removed_policies_are_removed() {
    let policy = |name: &str, capacity: u32| {
        let text = format!(
            "
circuit:
  evaluation_interval: 0.01s
  components:
  - signal_generator:
      in_ports: {{forward: {{constant_signal: {{value: 1}}}}}}
      out_ports: {{output: {{signal_name: FILL}}}}
      parameters: {{steps: [{{target_output: {{value: 9}}, duration: 1s}}]}}
  - flow_control:
      quota_scheduler:
        selectors: [{{control_point: {name}-point}}]
        in_ports:
          bucket_capacity: {{constant_signal: {{value: {capacity}}}}}
          fill_amount: {{signal_name: FILL}}
        rate_limiter: {{interval: 1s}}
"
        );
        (name.to_owned(), text)
    };
    let engine = Engine::builder().policy_text("empty", "circuit: {components: []}");
    let engine = engine.build().expect("a policy");
    let served = Served::with_engine(engine.clone(), |agent| agent, None).await;
    let mut checks = served.checks().await;
    let load = |policies: Vec<(String, String)>| engine.reload_with(policies).expect("policies");
    load(vec![policy("first", 100), policy("second", 100)]);
    let mut answers = Vec::new();
    for point in ["first-point", "second-point"] {
        let answer = checks.check(flow(point, &[])).await;
        answers.push(answer.expect("an answer").into_inner());
    }
    let spans = || answers.iter().map(|answer| span(answer, &[])).collect();
    export(&served, spans()).await;
    let series_count = |text: &str, name: &str, policy: &str| {
        let series = series(text, name).into_iter();
        series
            .filter(|(labels, _)| labels["policy_name"] == policy)
            .count()
    };
    const NAMES: [&str; 5] = [
        "incoming_tokens_total",
        "request_in_queue_duration_ms_count",
        "workload_requests_total",
        "workload_latency_ms_count",
        "signal_reading_count",
    ];
    let text = served.agent.metrics();
    for name in NAMES {
        assert_eq!(
            (
                series_count(&text, name, "first"),
                series_count(&text, name, "second")
            ),
            (1, 1),
            "{name}"
        );
    }
    load(vec![policy("second", 100)]);
    // Spans of a removed policy make no new series.
    export(&served, spans()).await;
    let text = served.agent.metrics();
    for name in NAMES {
        assert_eq!(
            (
                series_count(&text, name, "first"),
                series_count(&text, name, "second")
            ),
            (0, 1),
            "{name}"
        );
    }
    // A changed policy has another hash, so its series start anew.
    load(vec![policy("second", 101)]);
    let text = served.agent.metrics();
    assert_eq!(series_count(&text, "incoming_tokens_total", "second"), 0);
    let answer = checks.check(flow("second-point", &[])).await;
    answer.expect("an answer");
    let text = served.agent.metrics();
    assert_eq!(series_count(&text, "incoming_tokens_total", "second"), 1);
    // However many policies follow each other, only the last one has series.
    for number in 0..50 {
        let name = format!("policy-{number}");
        load(vec![policy(&name, 100)]);
        let answer = checks.check(flow(&format!("{name}-point"), &[])).await;
        answer.expect("an answer");
    }
    let text = served.agent.metrics();
    for name in [
        "incoming_tokens_total",
        "request_in_queue_duration_ms_count",
    ] {
        assert_eq!(series(&text, name).len(), 1, "{name}");
    }
}

#[tokio::test]
async fn spans_whose_kind_differs_from_their_component_are_counted_safely() {
    let served = Served::start(BY_USER).await;
    let mut checks = served.checks().await;
    let answer = checks.check(flow("checkout", &[])).await;
    let mut answer = answer.expect("an answer").into_inner();
    let odd = [
        Some(Details::RateLimiterInfo(RateLimiterInfo::default())),
        Some(Details::QuotaSchedulerInfo(QuotaSchedulerInfo::default())),
        None,
    ];
    let decision = answer.limiter_decisions[0].clone();
    answer.limiter_decisions = odd
        .into_iter()
        .map(|details| LimiterDecision {
            details,
            ..decision.clone()
        })
        .collect();
    export(&served, vec![span(&answer, &[])]).await;
    let text = served.agent.metrics();
    assert_eq!(sum(&text, "rate_limiter_counter_total", &[]), 1.0);
    let other = [("workload_index", "other")];
    assert_eq!(sum(&text, "workload_requests_total", &other), 1.0);
}
