//! The Agent's series of queues, caches, HTTP requests and signals.

use tower_aperture::pb::check::{
    CacheDeleteRequest, CacheEntry, CacheLookupRequest, CacheUpsertRequest,
};
use tower_aperture_agent::ApiKey;

use super::{flow, series, sum};
use crate::support::{Served, end_of};

/// One flow at a time, gold before the others.
const BY_PRIORITY: &str = "
circuit:
  components:
  - flow_control:
      concurrency_scheduler:
        selectors: [{control_point: render}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        concurrency_limiter: {max_inflight_duration: 600s}
        scheduler:
          default_workload_parameters: {priority: 1, queue_timeout: 60s}
          fairness_label_key: tenant
          workloads:
          - name: gold
            label_matcher: {match_labels: {tier: gold}}
            parameters: {priority: 100, queue_timeout: 60s}
";

#[tokio::test]
async fn metrics_count_which_workloads_overtake_which() {
    let served = Served::start(BY_PRIORITY).await;
    let mut checks = served.checks().await;
    let answer = checks.check(flow("render", &[])).await;
    let mut holder = answer.expect("an answer").into_inner();
    let mut waiting = tokio::task::JoinSet::new();
    for (at, labels) in [&[][..], &[], &[], &[("tier", "gold")]]
        .into_iter()
        .enumerate()
    {
        let mut checks = checks.clone();
        waiting.spawn(async move { checks.check(flow("render", labels)).await });
        served.until_waiting((at + 1) as f64).await;
    }
    while !waiting.is_empty() {
        checks.flow_end(end_of(&holder)).await.expect("an answer");
        let next = waiting.join_next().await.expect("a flow");
        holder = next.expect("no panic").expect("an answer").into_inner();
        assert!(!holder.limiter_decisions[0].dropped);
    }
    let text = served.agent.metrics();
    let gold = &[("workload_index", "gold")][..];
    let others = &[("workload_index", "default")][..];
    for (name, labels, expected) in [
        // The first flow in the queue is served first, whatever follows.
        ("workload_on_time_total", others, 1.0),
        ("workload_preempted_tokens_count", gold, 1.0),
        ("workload_preempted_tokens_sum", gold, 2.0),
        ("workload_delayed_tokens_count", others, 2.0),
        ("workload_delayed_tokens_sum", others, 2.0),
        ("workload_on_time_total", gold, 0.0),
        ("workload_preempted_tokens_count", others, 0.0),
        ("workload_delayed_tokens_count", gold, 0.0),
        // The third flow waited behind the second flow of its workload, in order.
        ("fairness_on_time_total", others, 1.0),
        ("fairness_preempted_tokens_count", others, 0.0),
        ("fairness_delayed_tokens_count", others, 0.0),
    ] {
        assert_eq!(
            sum(&text, name, labels),
            expected,
            "{name} {labels:?}: {text}"
        );
    }
}

#[tokio::test]
async fn rejected_flows_and_flows_that_leave_the_queue_do_not_count_as_ordered() {
    let served = Served::start(BY_PRIORITY).await;
    let mut checks = served.checks().await;
    checks.check(flow("render", &[])).await.expect("an answer");
    let mut leaving = checks.clone();
    let left = tokio::spawn(async move { leaving.check(flow("render", &[])).await });
    served.until_waiting(1.0).await;
    left.abort();
    served.until_waiting(0.0).await;
    let mut queued = tonic::Request::new(flow("render", &[]));
    queued.set_timeout(std::time::Duration::from_millis(300));
    // The flow is rejected, or gets no answer on a busy machine.
    let _ = checks.check(queued).await;
    served.until_waiting(0.0).await;
    let text = served.agent.metrics();
    for kind in ["workload", "fairness"] {
        for name in [
            "preempted_tokens_count",
            "delayed_tokens_count",
            "on_time_total",
        ] {
            assert_eq!(
                series(&text, &format!("{kind}_{name}")),
                [],
                "{kind}_{name}"
            );
        }
    }
}

#[tokio::test]
async fn metrics_count_cache_hits_misses_and_operations() {
    let served = Served::start("circuit: {components: []}").await;
    let mut checks = served.checks().await;
    let entry = |key: &str| CacheEntry {
        key: key.to_owned(),
        value: "secret".into(),
        ttl: None,
    };
    let upsert = CacheUpsertRequest {
        control_point: "checkout".to_owned(),
        result_cache_entry: Some(entry("alice")),
        global_cache_entries: [("rates".to_owned(), entry("rates"))].into(),
    };
    checks.cache_upsert(upsert).await.expect("an answer");
    // Without a control point there is no result cache.
    let refused = CacheUpsertRequest {
        result_cache_entry: Some(entry("alice")),
        ..CacheUpsertRequest::default()
    };
    checks.cache_upsert(refused).await.expect("an answer");
    let lookup = CacheLookupRequest {
        control_point: "checkout".to_owned(),
        result_cache_key: "alice".to_owned(),
        global_cache_keys: vec!["rates".to_owned(), "other".to_owned()],
    };
    checks
        .cache_lookup(lookup.clone())
        .await
        .expect("an answer");
    let mut check = flow("checkout", &[]);
    check.cache_lookup_request = Some(CacheLookupRequest {
        result_cache_key: "nothing".to_owned(),
        ..lookup
    });
    checks.check(check).await.expect("an answer");
    let delete = CacheDeleteRequest {
        control_point: "checkout".to_owned(),
        result_cache_key: "alice".to_owned(),
        global_cache_keys: vec!["rates".to_owned()],
    };
    checks.cache_delete(delete).await.expect("an answer");
    let text = served.agent.metrics();
    for (name, labels, expected) in [
        (
            "cache_lookup_hits_total",
            &[("cache_type", "result")][..],
            1.0,
        ),
        ("cache_lookup_hits_total", &[("cache_type", "global")], 2.0),
        (
            "cache_lookup_misses_total",
            &[("cache_type", "result")],
            1.0,
        ),
        (
            "cache_lookup_misses_total",
            &[("cache_type", "global")],
            2.0,
        ),
        (
            "cache_operation_results_total",
            &[("operation", "upsert"), ("status", "success")],
            2.0,
        ),
        (
            "cache_operation_results_total",
            &[
                ("operation", "upsert"),
                ("status", "error"),
                ("cache_type", "result"),
            ],
            1.0,
        ),
        (
            "cache_operation_results_total",
            &[("operation", "lookup"), ("status", "success")],
            6.0,
        ),
        (
            "cache_operation_results_total",
            &[("operation", "delete"), ("status", "success")],
            2.0,
        ),
    ] {
        assert_eq!(
            sum(&text, name, labels),
            expected,
            "{name} {labels:?}: {text}"
        );
    }
    assert!(!text.contains("alice") && !text.contains("secret"));
}

#[tokio::test]
async fn metrics_count_http_requests_under_known_names_only() {
    let keys = |agent: tower_aperture_agent::AgentBuilder| agent.api_keys([ApiKey::new("key")]);
    let served = Served::with("circuit: {components: []}", keys, None).await;
    let key = [("x-api-key", "key")];
    for (path, headers, body) in [
        ("/health", &[][..], None),
        ("/livez", &[], None),
        ("/readyz", &[], None),
        ("/metrics", &[], None),
        ("/status", &[], None),
        ("/status", &key, None),
        ("/made-up/alice", &key, None),
        ("/made-up/bob", &[], None),
        ("/v1/flowcontrol/check", &key, Some("{")),
        ("/v1/flowcontrol/check", &key, Some("{}")),
    ] {
        served.http(path, headers, body).await.expect("an answer");
    }
    let mut call = http::Request::builder()
        .method("ALICE")
        .uri(served.url("/status"));
    call = call.header("x-api-key", "key");
    let client = hyper_util::client::legacy::Client::builder(hyper_util::rt::TokioExecutor::new());
    let body = http_body_util::Full::new(bytes::Bytes::new());
    let answer = client
        .build_http()
        .request(call.body(body).expect("a call"))
        .await;
    assert_eq!(answer.expect("an answer").status().as_u16(), 405);
    let text = served.agent.metrics();
    for (handler, method, status, expected) in [
        ("/health", "GET", "200", 1.0),
        ("/livez", "GET", "200", 1.0),
        ("/readyz", "GET", "200", 1.0),
        ("/metrics", "GET", "200", 1.0),
        ("/status", "GET", "200", 1.0),
        ("/status", "GET", "401", 1.0),
        ("/status", "other", "405", 1.0),
        ("default", "GET", "404", 1.0),
        ("default", "GET", "401", 1.0),
        ("/v1/flowcontrol/check", "POST", "400", 1.0),
        ("/v1/flowcontrol/check", "POST", "200", 1.0),
    ] {
        let labels = [
            ("handler_name", handler),
            ("http_method", method),
            ("http_status_code", status),
        ];
        for name in ["http_requests_total", "http_requests_latency_ms_count"] {
            assert_eq!(
                sum(&text, name, &labels),
                expected,
                "{name} {labels:?}: {text}"
            );
        }
    }
    assert!(!text.contains("ALICE") && !text.contains("alice") && !text.contains("bob"));
}

#[tokio::test]
async fn metrics_record_the_values_of_signals() {
    let served = Served::start(
        "
circuit:
  evaluation_interval: 0.01s
  components:
  - signal_generator:
      in_ports: {forward: {constant_signal: {value: 1}}}
      out_ports: {output: {signal_name: SHARE}}
      parameters: {steps: [{target_output: {value: 2}, duration: 0.01s}]}
  - arithmetic_combinator:
      operator: mul
      in_ports: {lhs: {signal_name: SHARE}, rhs: {constant_signal: {value: 1e308}}}
      out_ports: {output: {signal_name: ENDLESS}}
  - arithmetic_combinator:
      operator: sub
      in_ports: {lhs: {signal_name: ENDLESS}, rhs: {signal_name: ENDLESS}}
      out_ports: {output: {signal_name: NOTHING}}
  - first_valid:
      in_ports: {inputs: [{signal_name: NOTHING}, {signal_name: SHARE}]}
      out_ports: {output: {signal_name: CAPACITY}}
  - flow_control:
      rate_limiter:
        selectors: [{control_point: checkout}]
        in_ports:
          bucket_capacity: {signal_name: CAPACITY}
          fill_amount: {constant_signal: {value: 1}}
        parameters: {interval: 1s}
",
    )
    .await;
    let begun = std::time::Instant::now();
    loop {
        let text = served.agent.metrics();
        let signal_value = |name: &str, signal: &str| {
            let labels = [
                ("policy_name", "policy"),
                ("sub_circuit_id", "root"),
                ("signal_name", signal),
            ];
            sum(&text, name, &labels)
        };
        let (count, sum) = (
            signal_value("signal_reading_count", "SHARE"),
            signal_value("signal_reading_sum", "SHARE"),
        );
        if count >= 3.0 {
            assert!(sum > 0.0 && sum <= 2.0 * count, "{count} {sum}");
            assert_eq!(signal_value("signal_reading_count", "CAPACITY"), count);
            assert!(
                signal_value("infinite_signal_readings_total", "ENDLESS") >= 2.0,
                "{text}"
            );
            assert!(
                signal_value("invalid_signal_readings_total", "NOTHING") >= 2.0,
                "{text}"
            );
            assert_eq!(signal_value("signal_reading_count", "NOTHING"), 0.0);
            assert_eq!(signal_value("invalid_signal_readings_total", "SHARE"), 0.0);
            let bucket = [("signal_name", "SHARE"), ("le", "+Inf")];
            assert_eq!(super::sum(&text, "signal_reading_bucket", &bucket), count);
            break;
        }
        assert!(begun.elapsed().as_secs() < 60, "{text}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
