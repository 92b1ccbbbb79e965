//! Metrics of flows: decisions, ends, durations, caches and control points.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::client::{Script, ScriptedDecision};
use tower_aperture::metrics::MAX_CONTROL_POINTS;
use tower_aperture::{
    ApertureClient, ApertureLayer, Check, Decider, Engine, FlowErrorKind, FlowParams, FlowStatus,
    HttpAttributes, LabelLimits, Labels, RejectReason,
};

use super::Recorded;

/// Sends one request through a layer and returns its status.
async fn request(client: &ApertureClient, control_point: &'static str) -> u16 {
    let inner = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new("hello".as_bytes())))
    });
    let service = ApertureLayer::new(client.clone(), control_point).layer(inner);
    let answer = service.oneshot(Request::new(())).await;
    let answer = answer.expect("an answer");
    let status = answer.status().as_u16();
    let _ = http_body_util::BodyExt::collect(answer).await;
    status
}

/// A client with one slot, for which flows queue.
fn one_at_a_time() -> ApertureClient {
    let policy = "
circuit:
  components:
  - flow_control:
      concurrency_scheduler:
        selectors: [{control_point: render}]
        in_ports: {max_concurrency: {constant_signal: {value: 1}}}
        concurrency_limiter: {max_inflight_duration: 3600s}
        scheduler: {default_workload_parameters: {queue_timeout: 3600s}}
";
    let engine = Engine::builder().policy_text("one.yaml", policy).build();
    let engine = engine.expect("a valid policy");
    ApertureClient::embedded_with_check_timeout(engine, Duration::ZERO)
}

#[tokio::test]
async fn each_flow_counts_once_with_layers_and_with_the_client() {
    let recorded = Recorded::here();
    let script = Script::new();
    let client = script.client();
    script.next(ScriptedDecision::accept());
    script.next(ScriptedDecision::reject(RejectReason::RateLimited));
    script.next(ScriptedDecision::unreachable(FlowErrorKind::Timeout));
    assert_eq!(request(&client, "shop").await, 200);
    assert_eq!(request(&client, "shop").await, 429);
    assert_eq!(request(&client, "shop").await, 200);
    script.next(ScriptedDecision::accept());
    script.next(ScriptedDecision::reject(RejectReason::NoTokens));
    script.next(ScriptedDecision::unreachable(
        FlowErrorKind::Unauthenticated,
    ));
    for _ in 0..3 {
        drop(client.start_flow("shop", FlowParams::new()).await);
    }
    client
        .guard("shop", FlowParams::new(), async {})
        .await
        .expect("the flow is accepted");
    let request = HttpAttributes::new("GET", "/");
    drop(
        client
            .start_http_flow("shop", FlowParams::new(), &request)
            .await,
    );
    drop(client.start_flow("", FlowParams::new()).await);

    for (decision, reason, count) in [
        ("accepted", "none", 4.0),
        ("rejected", "rate_limited", 1.0),
        ("rejected", "no_tokens", 1.0),
        ("unreachable", "timeout", 1.0),
        ("unreachable", "unauthenticated", 1.0),
    ] {
        let series = format!(
            "flows_total{{control_point=\"shop\",decision=\"{decision}\",reason=\"{reason}\"}}"
        );
        assert_eq!(recorded.value(&series), Some(count), "{series}");
    }
    let empty_control_point =
        "flows_total{control_point=\"\",decision=\"unreachable\",reason=\"invalid_request\"}";
    assert_eq!(recorded.value(empty_control_point), Some(1.0));
    let stats = client.stats();
    let flows = stats.accepted + stats.rejected + stats.unreachable;
    assert_eq!(recorded.total("flows_total"), flows as f64);
    let checks = recorded.total("check_duration_seconds_count");
    assert_eq!(checks, flows as f64, "each check is measured");
    let queued = recorded.total("queue_duration_seconds_count");
    assert_eq!(queued, 0.0, "no flow waited in a queue");
}

#[tokio::test]
async fn rejections_in_shadow_mode_count_as_rejected_and_as_shadowed() {
    let recorded = Recorded::here();
    let script = Script::new();
    let client = script.client();
    let shadowed = || recorded.value("flows_shadowed_total{control_point=\"a\"}");
    for shadow in [false, true] {
        script.next(ScriptedDecision::reject(RejectReason::RateLimited));
        let params = FlowParams::new().shadow(shadow);
        drop(client.start_flow("a", params).await);
    }
    drop(client.start_flow("a", FlowParams::new().shadow(true)).await);
    assert_eq!(shadowed(), Some(1.0));
    let rejected = "flows_total{control_point=\"a\",decision=\"rejected\",reason=\"rate_limited\"}";
    assert_eq!(recorded.value(rejected), Some(2.0));
    assert_eq!(client.stats().shadowed, 1);
}

#[tokio::test]
async fn decided_flows_end_once_with_their_status() {
    let recorded = Recorded::here();
    let script = Script::new();
    let client = script.client();
    let start = async || client.start_flow("a", FlowParams::new()).await;
    start().await.finish(FlowStatus::Ok);
    start().await.end().await;
    drop(start().await);
    script.next(ScriptedDecision::reject(RejectReason::NotSampled));
    drop(start().await);
    script.next(ScriptedDecision::unreachable(FlowErrorKind::Timeout));
    start().await.end().await;
    let Check::Ready(verdict) = client.decide("a", &FlowParams::new()) else {
        panic!("the decision is ready");
    };
    drop(verdict);
    for (status, count) in [("ok", 2.0), ("error", 2.0), ("unset", 1.0)] {
        let series = format!("flows_ended_total{{control_point=\"a\",status=\"{status}\"}}");
        assert_eq!(recorded.value(&series), Some(count), "{series}");
    }
}

#[tokio::test(start_paused = true)]
async fn durations_are_measured_from_the_check_to_the_decision() {
    let recorded = Recorded::here();
    let script = Script::new();
    let client = script.client();
    script.next(ScriptedDecision::accept().after(Duration::from_secs(2)));
    script.next(ScriptedDecision::reject(RejectReason::NoTokens).after(Duration::from_secs(3)));
    drop(client.start_flow("a", FlowParams::new()).await);
    assert_eq!(request(&client, "a").await, 503);
    for metric in ["check", "queue"] {
        let series = |part| format!("{metric}_duration_seconds_{part}{{control_point=\"a\"}}");
        assert_eq!(recorded.value(&series("count")), Some(2.0));
        let sum = recorded.value(&series("sum")).expect("a sum");
        assert!((sum - 5.0).abs() < 0.1, "{sum}");
    }
}

#[tokio::test]
async fn flows_that_wait_in_an_engine_count_in_the_queue_histogram() {
    let recorded = Recorded::here();
    let client = one_at_a_time();
    let queued = || recorded.value("queue_duration_seconds_count{control_point=\"render\"}");
    let first = client.start_flow("render", FlowParams::new()).await;
    assert_eq!(queued(), None, "the first flow did not wait");
    let mut second = pin!(client.start_flow("render", FlowParams::new()));
    assert!(second.as_mut().now_or_never().is_none());
    let Check::Pending(mut third) = client.decide("render", &FlowParams::new()) else {
        panic!("no slot is free");
    };
    assert!((&mut third).now_or_never().is_none());
    first.finish(FlowStatus::Ok);
    second.await.finish(FlowStatus::Ok);
    assert_eq!(queued(), Some(1.0));
    drop(third.await);
    assert_eq!(queued(), Some(2.0));
}

#[tokio::test]
async fn checks_whose_caller_left_count_only_as_abandoned() {
    let recorded = Recorded::here();
    let client = one_at_a_time();
    let abandoned = || recorded.value("checks_abandoned_total{control_point=\"render\"}");
    let first = client.start_flow("render", FlowParams::new()).await;
    assert_eq!(abandoned(), Some(0.0));
    let abandoned_flow = client.start_flow("render", FlowParams::new());
    assert!(abandoned_flow.now_or_never().is_none());
    assert_eq!(abandoned(), Some(1.0));
    drop(client.decide("render", &FlowParams::new()));
    assert_eq!(abandoned(), Some(2.0));
    assert_eq!(recorded.total("flows_total"), 1.0);
    first.finish(FlowStatus::Ok);
    assert_eq!(recorded.total("flows_ended_total"), 1.0);
    assert_eq!(recorded.total("check_duration_seconds_count"), 1.0);
}

#[tokio::test]
async fn control_points_beyond_the_maximum_share_one_series() {
    let recorded = Recorded::here();
    let client = Script::new().client();
    for at in 0..MAX_CONTROL_POINTS + 50 {
        let name = format!("/item/{at}");
        let flow = client.start_flow(&name, FlowParams::new()).await;
        flow.finish(FlowStatus::Ok);
    }
    drop(client.start_flow("/item/0", FlowParams::new()).await);
    let flows_at = |name: &str| {
        let labels = format!("control_point=\"{name}\",decision=\"accepted\",reason=\"none\"");
        recorded.value(&format!("flows_total{{{labels}}}"))
    };
    assert_eq!(flows_at("other"), Some(50.0));
    assert_eq!(
        flows_at("/item/0"),
        Some(2.0),
        "known control points keep their series"
    );
    assert_eq!(flows_at(&format!("/item/{MAX_CONTROL_POINTS}")), None);
    let text = recorded.text();
    let series = |line: &&str| line.starts_with("tower_aperture_flows_total{");
    assert_eq!(text.lines().filter(series).count(), MAX_CONTROL_POINTS + 1);
}

#[tokio::test]
async fn only_the_control_point_of_a_request_is_a_metric_label() {
    let recorded = Recorded::here();
    let engine = Engine::builder().build().expect("no policy");
    let client = ApertureClient::embedded(engine);
    let mut labels = Labels::with_limits(LabelLimits {
        count: 1,
        ..LabelLimits::default()
    });
    labels.insert("user", "secret-user");
    labels.insert("tier", "secret-tier");
    labels.insert("plan", "secret-plan");
    let mut params = FlowParams::new().result_cache_key("secret-key");
    params.labels = labels;
    drop(client.start_flow("a", params).await);
    let text = recorded.text();
    assert!(!text.contains("secret"), "{text}");
    assert_eq!(recorded.value("labels_dropped_total"), Some(2.0));
}

#[tokio::test]
async fn cache_lookups_of_flows_and_of_the_client_count_by_outcome() {
    let recorded = Recorded::here();
    let engine = Engine::builder().build().expect("no policy");
    let client = ApertureClient::embedded(engine);
    let params = || {
        FlowParams::new()
            .result_cache_key("cart")
            .global_cache_key("settings")
    };
    let ttl = Duration::from_secs(3600);
    let flow = client.start_flow("a", params()).await;
    flow.result_cache().set("full", ttl).await.expect("stored");
    flow.end().await;
    drop(client.decide("a", &params()));
    drop(client.start_flow("a", FlowParams::new()).await);
    assert!(matches!(
        client.result_cache("a", "cart").get().await,
        Ok(Some(_))
    ));
    assert!(matches!(
        client.global_cache("settings").get().await,
        Ok(None)
    ));
    assert!(client.result_cache("", "cart").get().await.is_err());
    for (cache, outcome, count) in [
        ("result", "miss", 1.0),
        ("result", "hit", 2.0),
        ("result", "refused", 1.0),
        ("global", "miss", 3.0),
    ] {
        let series = format!("cache_lookups_total{{cache=\"{cache}\",outcome=\"{outcome}\"}}");
        assert_eq!(recorded.value(&series), Some(count), "{series}");
    }
}

#[tokio::test]
async fn metrics_have_descriptions_and_units_in_their_names() {
    let recorded = Recorded::here();
    drop(
        Script::new()
            .client()
            .start_flow("a", FlowParams::new())
            .await,
    );
    let text = recorded.text();
    let mut types = 0;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            types += 1;
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(text.contains(&format!("# HELP {name} ")), "{name}");
            match kind {
                "counter" => assert!(name.ends_with("_total"), "{name}"),
                "histogram" => assert!(name.ends_with("_seconds"), "{name}"),
                other => panic!("{name} is a {other}"),
            }
        }
    }
    assert!(types >= 4, "{text}");
}

#[cfg(feature = "response-cache")]
#[tokio::test]
async fn answers_from_the_result_cache_and_writes_to_it_count() {
    let recorded = Recorded::here();
    let engine = Engine::builder().build().expect("no policy");
    let inner = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new(bytes::Bytes::from("hello"))))
    });
    let service = ApertureLayer::new(ApertureClient::embedded(engine), "a")
        .result_cache(|head| head.uri().path().into(), Duration::from_secs(60))
        .layer(inner);
    for _ in 0..3 {
        let answer = service.clone().oneshot(Request::new(())).await;
        let body = http_body_util::BodyExt::collect(answer.expect("an answer").into_body());
        assert_eq!(body.await.expect("a body").to_bytes(), "hello");
    }
    let answers =
        |outcome| recorded.value(&format!("cache_answers_total{{outcome=\"{outcome}\"}}"));
    let writes = |result| recorded.value(&format!("cache_writes_total{{result=\"{result}\"}}"));
    assert_eq!(
        (answers("answered"), answers("unreadable")),
        (Some(2.0), Some(0.0))
    );
    assert_eq!(
        (writes("delivered"), writes("failed")),
        (Some(1.0), Some(0.0))
    );
}
