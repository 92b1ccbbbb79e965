//! Flows that no component limits are counted, and the reason is logged once.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::engine::{CheckInput, Engine, ManualClock};
use tower_aperture::pb::check::limiter_decision::{Details, LimiterReason, RateLimiterInfo};
use tower_aperture::pb::check::{
    CacheLookupResponse, CacheLookupStatus, CheckResponse, KeyLookupResponse, LimiterDecision,
};
use tower_aperture::policy::{Policy, RateLimit};
use tower_aperture::{ApertureClient, ApertureLayer, FlowParams, HttpAttributes};

use super::Recorded;
use super::support::agent::{FakeAgent, Reply, answer};
use super::support::logs::LogLines;

const UNSELECTED: &str = "WARN tower_aperture: no policy selects this control point";
const COUNTED: &str = "more control points are selected by no policy";
const SKIPPED: &str = "WARN tower_aperture: a limiter was skipped because a flow lacks the label";
const BUDGET: &str = "WARN tower_aperture: a queue timeout is longer than the check timeout";

fn engine(policies: &[&str]) -> Engine {
    let mut builder = Engine::builder();
    for (at, policy) in policies.iter().enumerate() {
        builder = builder.policy_text(format!("p{at}.yaml"), *policy);
    }
    builder.build().expect("valid policies")
}

/// A policy with one component of `kind` at a control point, with `more` of its fields.
fn limiter(kind: &str, control_point: &str, more: &str) -> String {
    let (ports, parameters) = match kind {
        "rate_limiter" | "quota_scheduler" => (
            "bucket_capacity: {constant_signal: {value: 1000}}, \
             fill_amount: {constant_signal: {value: 1}}",
            "interval: 60s",
        ),
        _ => (
            "max_concurrency: {constant_signal: {value: 1000}}",
            "max_inflight_duration: 60s",
        ),
    };
    let name = match kind {
        "rate_limiter" | "concurrency_limiter" => "parameters",
        "quota_scheduler" => "rate_limiter",
        _ => "concurrency_limiter",
    };
    format!(
        "
circuit:
  components:
  - flow_control:
      {kind}:
        selectors: [{{control_point: {control_point}}}]
        in_ports: {{{ports}}}
        {name}: {{{parameters}, limit_by_label_key: user_id}}
        {more}
"
    )
}

/// Starts a flow in each way that a client offers.
async fn start_in_each_way(client: &ApertureClient, control_point: &str, labels: &[(&str, &str)]) {
    let params = || FlowParams::new().labels(labels.iter().copied());
    drop(client.start_flow(control_point, params()).await);
    let request = HttpAttributes::new("GET", "/");
    drop(
        client
            .start_http_flow(control_point, params(), &request)
            .await,
    );
    drop(
        client
            .start_flow(control_point, params().result_cache_key("k"))
            .await,
    );
    let inner = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new("hello".as_bytes())))
    });
    for quotas in [false, true] {
        let mut layer = ApertureLayer::new(client.clone(), control_point.to_owned());
        for (key, value) in labels {
            layer = layer.label((*key).to_owned(), (*value).to_owned());
        }
        let layer = layer.rate_limit_headers(quotas).layer(inner);
        drop(layer.oneshot(Request::new(())).await.expect("an answer"));
    }
}

/// The number of flows that [`start_in_each_way`] starts.
const FLOWS: u64 = 5;

fn undecided(recorded: &Recorded, control_point: &str) -> Option<f64> {
    recorded.value(&format!(
        "flows_undecided_total{{control_point=\"{control_point}\"}}"
    ))
}

fn count_lines(lines: &LogLines, event: &str) -> usize {
    lines.with(&[event]).len()
}

#[tokio::test]
async fn a_control_point_that_no_policy_selects_is_logged_once_and_its_flows_are_counted() {
    let recorded = Recorded::here();
    let (lines, _guard) = LogLines::collect(tracing::Level::INFO);
    let engine = engine(&[&limiter("rate_limiter", "checkout", "")]);
    let client = ApertureClient::embedded(engine.clone());
    for _ in 0..3 {
        start_in_each_way(&client, "chekout", &[("user_id", "42")]).await;
        start_in_each_way(&client, "checkout", &[("user_id", "42")]).await;
    }
    assert_eq!(count_lines(&lines, UNSELECTED), 1, "{:?}", lines.all());
    assert_eq!(
        lines.with(&[UNSELECTED, "control_point=\"chekout\""]).len(),
        1
    );
    assert_eq!(count_lines(&lines, SKIPPED), 0);
    assert_eq!(
        (
            undecided(&recorded, "chekout"),
            undecided(&recorded, "checkout")
        ),
        (Some(15.0), Some(0.0))
    );
    let stats = client.stats();
    assert_eq!((stats.accepted, stats.undecided), (6 * FLOWS, 3 * FLOWS));
    assert_eq!(engine.stats().undecided, 3 * FLOWS);
    assert!(
        engine
            .describe()
            .ends_with("selected by no policy, so not limited:\n  `chekout`\n"),
        "{}",
        engine.describe()
    );
}

#[tokio::test]
async fn a_limiter_that_is_skipped_for_a_missing_label_is_logged_once_with_the_label() {
    for kind in [
        "rate_limiter",
        "concurrency_limiter",
        "quota_scheduler",
        "concurrency_scheduler",
    ] {
        let recorded = Recorded::here();
        let (lines, _guard) = LogLines::collect(tracing::Level::INFO);
        let engine = engine(&[&limiter(kind, "checkout", "")]);
        let client = ApertureClient::embedded(engine.clone());
        for _ in 0..2 {
            start_in_each_way(&client, "checkout", &[]).await;
            start_in_each_way(&client, "checkout", &[("userid", "42")]).await;
        }
        assert_eq!(client.stats().undecided, 4 * FLOWS, "{kind}");
        start_in_each_way(&client, "checkout", &[("user_id", "42")]).await;
        let parts = [
            SKIPPED,
            "control_point=\"checkout\"",
            "policy=\"p0\"",
            "component=\"root.0\"",
            "label=\"user_id\"",
        ];
        assert_eq!(lines.with(&parts).len(), 1, "{kind}: {:?}", lines.all());
        assert_eq!(lines.all().len(), 1, "{kind}: {:?}", lines.all());
        assert_eq!(
            client.stats().undecided,
            4 * FLOWS,
            "{kind}: flows with the label do not count"
        );
        assert_eq!(undecided(&recorded, "checkout"), Some(20.0));
        assert_eq!(engine.stats().undecided, 4 * FLOWS);
        let report = engine.check(&CheckInput::new("checkout", &FlowParams::new()));
        assert!(report.accepted() && report.undecided);
    }
}

#[tokio::test]
async fn flows_that_one_limiter_decides_do_not_count_and_the_skipped_limiter_is_still_logged() {
    let (lines, _guard) = LogLines::collect(tracing::Level::INFO);
    let all = limiter("rate_limiter", "checkout", "").replace(", limit_by_label_key: user_id", "");
    let client = ApertureClient::embedded(engine(&[
        &limiter("concurrency_limiter", "checkout", ""),
        &all,
    ]));
    start_in_each_way(&client, "checkout", &[]).await;
    assert_eq!(
        lines.with(&[SKIPPED, "policy=\"p0\""]).len(),
        1,
        "{:?}",
        lines.all()
    );
    assert_eq!(lines.all().len(), 1);
    assert_eq!(client.stats().undecided, 0);
}

#[tokio::test]
async fn policies_that_are_open_on_purpose_or_match_other_labels_cause_no_warning() {
    let open = limiter("rate_limiter", "open", "").replace("value: 1000", "value: 0");
    let open = open.replace("value: 1}", "value: 0}");
    let gold = limiter("rate_limiter", "tiers", "").replace(
        "control_point: tiers",
        "control_point: tiers, label_matcher: {match_labels: {tier: gold}}",
    );
    let meter = "
resources:
  flow_control:
    flux_meters: {latency: {selectors: [{control_point: measured}]}}
";
    let client = ApertureClient::embedded(engine(&[&open, &gold, meter]));
    let (lines, _guard) = LogLines::collect(tracing::Level::INFO);
    start_in_each_way(&client, "open", &[]).await;
    assert_eq!(
        client.stats().undecided,
        0,
        "a policy accepts these flows on purpose"
    );
    start_in_each_way(&client, "tiers", &[("tier", "free"), ("user_id", "42")]).await;
    assert_eq!(
        client.stats().undecided,
        FLOWS,
        "no component limits these flows"
    );
    start_in_each_way(&client, "measured", &[]).await;
    assert_eq!(lines.all(), [""; 0]);
}

#[tokio::test]
async fn a_few_made_up_names_are_logged_and_the_others_are_counted_once_a_minute() {
    let (lines, _guard) = LogLines::collect(tracing::Level::INFO);
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("p.yaml", limiter("rate_limiter", "checkout", ""))
        .clock(clock.clone())
        .build()
        .expect("a valid policy");
    let client = ApertureClient::embedded(engine.clone());
    let flow = async |name: &str| drop(client.start_flow(name, FlowParams::new()).await);
    for at in 0..20 {
        flow(&format!("/item/{at}")).await;
    }
    assert_eq!(count_lines(&lines, UNSELECTED), 8);
    assert_eq!(lines.with(&[COUNTED]), [""; 0]);
    clock.advance(Duration::from_secs(60));
    for _ in 0..2 {
        flow("/item/3").await;
    }
    assert_eq!(lines.with(&[COUNTED, "12 more"]).len(), 1);

    for at in 0..3000 {
        flow(&format!("/item/{at}")).await;
    }
    let long = "x".repeat(100_000);
    flow(&long).await;
    flow("evil`\n  `name").await;
    assert_eq!(lines.with(&["further ones are not counted"]).len(), 1);
    assert_eq!(count_lines(&lines, COUNTED), 1);
    clock.advance(Duration::from_secs(60));
    flow("/item/3").await;
    assert_eq!(count_lines(&lines, COUNTED), 2);
    assert_eq!(count_lines(&lines, UNSELECTED), 8);
    let text = engine.describe();
    let listed = text.matches("`/item/").count();
    assert!((512..=1024).contains(&listed), "{listed}");
    assert_eq!(
        lines
            .with(&[COUNTED, &format!("{} more", listed - 20)])
            .len(),
        1
    );
    assert!(text.len() < 100_000 && !text.contains("xxx"));
    assert_eq!(client.stats().undecided, 3025, "every flow is counted");
}

#[tokio::test]
async fn a_control_point_that_a_reload_selects_is_no_longer_listed() {
    let folder = std::env::temp_dir().join(format!("unselected-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let policy = |name: &str| {
        let text = limiter("rate_limiter", name, "");
        std::fs::write(folder.join("policy.yaml"), text).expect("written");
    };
    policy("checkout");
    let engine = Engine::builder().policy_folder(&folder).build();
    let engine = engine.expect("a valid policy");
    for name in ["b", "a", "checkout", "c\"d"] {
        let _ = engine.check(&CheckInput::new(name, &FlowParams::new()));
    }
    let listed = |text: &str| {
        let list = text.split_once("selected by no policy, so not limited:\n");
        list.map(|(_, list)| list.to_owned())
    };
    assert_eq!(
        listed(&engine.describe()).as_deref(),
        Some("  `a`\n  `b`\n  `c\\\"d`\n")
    );
    policy("a");
    engine.reload().expect("a policy");
    assert_eq!(
        listed(&engine.describe()).as_deref(),
        Some("  `b`\n  `c\\\"d`\n")
    );
    let _ = engine.check(&CheckInput::new("checkout", &FlowParams::new()));
    let listed = listed(&engine.describe()).expect("a list");
    assert!(listed.contains("`checkout`"), "{listed}");
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[tokio::test]
async fn a_queue_timeout_longer_than_the_budget_of_a_flow_is_logged_once_with_both() {
    let scheduler = "scheduler: {workloads: [\
        {name: short, label_matcher: {match_labels: {tier: free}}, \
         parameters: {queue_timeout: 0.1s}}, \
        {name: patient, label_matcher: {match_labels: {tier: gold}}, \
         parameters: {queue_timeout: 2s}}]}";
    for kind in ["concurrency_scheduler", "quota_scheduler"] {
        let policy = limiter(kind, "render", scheduler);
        let (lines, _guard) = LogLines::collect(tracing::Level::INFO);
        let client = ApertureClient::embedded(engine(&[&policy]));
        start_in_each_way(&client, "render", &[("user_id", "42"), ("tier", "free")]).await;
        start_in_each_way(&client, "render", &[("user_id", "42")]).await;
        assert_eq!(
            lines.all(),
            [""; 0],
            "{kind}: no queue timeout is longer than the budget"
        );
        for _ in 0..2 {
            start_in_each_way(&client, "render", &[("user_id", "42"), ("tier", "gold")]).await;
        }
        let parts = [
            BUDGET,
            "control_point=\"render\"",
            "policy=\"p0\"",
            "component=\"root.0\"",
            "workload=\"patient\"",
            "queue_timeout=2s",
            "budget=200ms",
        ];
        assert_eq!(lines.with(&parts).len(), 1, "{kind}: {:?}", lines.all());
        assert_eq!(lines.all().len(), 1, "{kind}");

        // Check timeouts as long as the queue timeout, longer, and unlimited.
        for timeout in [Duration::from_secs(2), Duration::MAX, Duration::ZERO] {
            let (lines, _guard) = LogLines::collect(tracing::Level::INFO);
            let engine = engine(&[&policy]);
            let client = ApertureClient::embedded_with_check_timeout(engine, timeout);
            start_in_each_way(&client, "render", &[("user_id", "42"), ("tier", "gold")]).await;
            assert_eq!(lines.all(), [""; 0], "{kind}: {timeout:?}");
            let short = FlowParams::new()
                .label("user_id", "42")
                .label("tier", "gold");
            let short = short.check_timeout(Duration::from_millis(1999));
            drop(client.start_flow("render", short).await);
            assert_eq!(lines.with(&[BUDGET, "budget=1.999s"]).len(), 1, "{kind}");
        }
    }
}

fn remote(agent: &FakeAgent) -> ApertureClient {
    let minute = Duration::from_secs(60);
    let client = ApertureClient::builder().address(agent.address());
    let client = client
        .insecure(true)
        .connect_timeout(minute)
        .check_timeout(minute);
    client.build().expect("a client")
}

#[tokio::test]
async fn an_agents_answer_without_a_component_is_logged_once_and_counted() {
    let recorded = Recorded::here();
    let (lines, _guard) = LogLines::collect(tracing::Level::INFO);
    let agent = FakeAgent::start();
    agent.on_check(|request| {
        Reply::Now(match &*request.control_point {
            "checkout" => answer::granted(request),
            "cached" => CheckResponse {
                cache_lookup_response: Some(CacheLookupResponse {
                    result_cache_response: Some(KeyLookupResponse {
                        lookup_status: CacheLookupStatus::Hit as i32,
                        ..KeyLookupResponse::default()
                    }),
                    ..CacheLookupResponse::default()
                }),
                ..answer::accepted(request)
            },
            _ => answer::accepted(request),
        })
    });
    let client = remote(&agent);
    for name in ["checkout", "chekout", "chekout", "cached"] {
        drop(client.start_flow(name, FlowParams::new()).await);
    }
    let parts = [
        "WARN tower_aperture: the Agent let a flow in and named no component",
        "control_point=\"chekout\"",
    ];
    assert_eq!(lines.with(&parts).len(), 1, "{:?}", lines.all());
    assert_eq!(count_lines(&lines, "named no component"), 1);
    assert_eq!(client.stats().undecided, 2);
    assert_eq!(undecided(&recorded, "chekout"), Some(2.0));
    assert_eq!(undecided(&recorded, "checkout"), Some(0.0));
}

#[tokio::test]
async fn an_agents_limiter_that_found_no_key_is_logged_once_and_not_counted() {
    let (lines, _guard) = LogLines::collect(tracing::Level::INFO);
    let agent = FakeAgent::start();
    agent.on_check(|request| {
        Reply::Now(CheckResponse {
            limiter_decisions: vec![LimiterDecision {
                policy_name: "per-user".into(),
                component_id: "root.3".into(),
                reason: LimiterReason::KeyNotFound as i32,
                details: Some(Details::RateLimiterInfo(RateLimiterInfo::default())),
                ..LimiterDecision::default()
            }],
            ..answer::accepted(request)
        })
    });
    let client = remote(&agent);
    for name in ["a", "b", "a"] {
        drop(client.start_flow(name, FlowParams::new()).await);
    }
    for name in ["a", "b"] {
        let point = format!("control_point=\"{name}\"");
        let parts = [
            "WARN tower_aperture: a limiter of the Agent looked at no key",
            &point,
            "policy=\"per-user\"",
            "component=\"root.3\"",
            "does not show which",
        ];
        assert_eq!(lines.with(&parts).len(), 1, "{:?}", lines.all());
    }
    assert_eq!(count_lines(&lines, "looked at no key"), 2);
    assert_eq!(
        client.stats().undecided,
        0,
        "the limiter may accept every flow on purpose"
    );
}

#[tokio::test]
async fn shortened_values_that_a_policy_reads_are_counted_in_stats_and_metrics() {
    let recorded = Recorded::here();
    let limit = RateLimit::per_second(100).by("user");
    let policy = Policy::new("per-user").at("a").limit(limit);
    let engine = Engine::builder().policy(policy).build();
    let client = ApertureClient::embedded(engine.expect("a valid policy"));
    let layer = ApertureLayer::new(client.clone(), "a").label_from_header("user", "x-user");
    let inner = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new("hello".as_bytes())))
    });
    for size in [200, 201, 5000] {
        let request = Request::get("/")
            .header("x-user", "u".repeat(size))
            .body(());
        let answer = layer
            .layer(inner)
            .oneshot(request.expect("a request"))
            .await;
        assert_eq!(answer.expect("an answer").status(), 200);
    }
    assert_eq!(client.stats().labels_shortened, 2);
    assert_eq!(recorded.value("labels_shortened_total"), Some(2.0));
    assert_eq!(recorded.value("labels_dropped_total"), Some(0.0));
}
