//! Metrics of Agents, ends, spans and engines.

use std::time::Duration;

use tower_aperture::pb::check::CheckResponse;
use tower_aperture::policy::AdaptiveConcurrency;
use tower_aperture::{
    ApertureClient, ApertureClientBuilder, Engine, FlowDecision, FlowParams, FlowStatus, metrics,
};

use super::Recorded;
use super::support::agent::{FakeAgent, Reply, answer};

/// A timeout that only a call that hangs reaches, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn builder(agent: &FakeAgent) -> ApertureClientBuilder {
    ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .connect_timeout(LONG)
        .check_timeout(LONG)
        .end_timeout(LONG)
        .breaker(2, Duration::from_millis(20))
}

async fn decision(client: &ApertureClient) -> FlowDecision {
    let flow = client.start_flow("a", FlowParams::new()).await;
    flow.decision()
}

async fn until_given_up(client: &ApertureClient) {
    for _ in 0..1000 {
        if client.agents()[0].given_up {
            return;
        }
        decision(client).await;
    }
    panic!("the agent is never given up");
}

#[tokio::test]
async fn the_gauge_of_an_agent_counts_the_clients_that_gave_it_up() {
    let recorded = Recorded::here();
    let agent = FakeAgent::start();
    let address = agent.address();
    let gauge = || recorded.value(&format!("agent_given_up{{agent=\"{address}\"}}"));
    let clients = [(); 2].map(|()| builder(&agent).build().expect("a client"));
    assert_eq!(gauge(), None);
    for client in &clients {
        assert_eq!(decision(client).await, FlowDecision::Accepted);
    }
    assert_eq!(
        gauge(),
        Some(0.0),
        "the gauge exists before the first failure"
    );
    agent.kill();
    let [first, second] = clients;
    until_given_up(&first).await;
    assert_eq!(gauge(), Some(1.0));
    until_given_up(&second).await;
    assert_eq!(gauge(), Some(2.0));
    assert_eq!(recorded.value("agents_given_up_total"), Some(2.0));
    drop(second);
    let one_given_up = async {
        while gauge() != Some(1.0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let one_given_up = tokio::time::timeout(LONG, one_given_up).await;
    one_given_up.expect("a dropped client no longer counts in the gauge");
    agent.restart();
    let returned = async {
        while decision(&first).await != FlowDecision::Accepted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, returned)
        .await
        .expect("a probe finds the agent");
    assert_eq!(gauge(), Some(0.0));
    let stats = first.stats();
    assert!(recorded.value("probes_total") >= Some(stats.probes as f64));
    assert!(recorded.value("checks_spared_total") >= Some(stats.checks_not_sent as f64));
}

#[tokio::test]
async fn ends_and_spans_count_by_their_result() {
    let recorded = Recorded::here();
    let agent = FakeAgent::start();
    agent.on_check(|request| Reply::Now(answer::granted(request)));
    let client = builder(&agent).build().expect("a client");
    for _ in 0..3 {
        let flow = client.start_flow("a", FlowParams::new()).await;
        flow.finish(FlowStatus::Ok);
    }
    let holding = client.start_flow("a", FlowParams::new()).await;
    let held = client.shutdown(Duration::from_secs(2)).await;
    assert!(!held, "a flow still holds a slot");
    holding.finish(FlowStatus::Ok);
    for metric in ["ends_total", "spans_total"] {
        let count = |result| recorded.value(&format!("{metric}{{result=\"{result}\"}}"));
        assert_eq!(count("delivered"), Some(3.0), "{metric}");
        assert_eq!(count("failed"), Some(0.0), "{metric}");
        assert_eq!(count("dropped"), Some(1.0), "{metric}");
    }
    let ended = "flows_ended_total{control_point=\"a\",status=\"ok\"}";
    assert_eq!(recorded.value(ended), Some(4.0));
}

#[tokio::test]
async fn the_queue_duration_at_an_agent_is_measured_by_the_agent() {
    let recorded = Recorded::here();
    let agent = FakeAgent::start();
    let at = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
    agent.on_check(move |request| {
        let mut response: CheckResponse = match request.control_point.as_str() {
            "scheduled" => CheckResponse {
                limiter_decisions: vec![answer::scheduler(false)],
                ..answer::accepted(request)
            },
            _ => answer::accepted(request),
        };
        response.start = at(1_700_000_000, 900_000_000);
        response.end = at(1_700_000_002, 400_000_000);
        Reply::Now(response)
    });
    let client = builder(&agent).build().expect("a client");
    for name in ["scheduled", "plain"] {
        drop(client.start_flow(name, FlowParams::new()).await);
    }
    let sum = |name| {
        let series = format!("queue_duration_seconds_sum{{control_point=\"{name}\"}}");
        recorded.value(&series)
    };
    assert_eq!((sum("scheduled"), sum("plain")), (Some(1.5), None));
}

#[tokio::test]
async fn a_check_at_an_agent_whose_caller_left_counts_as_abandoned() {
    let recorded = Recorded::here();
    let agent = FakeAgent::start();
    agent.on_check(|_| Reply::Hang);
    let client = builder(&agent).build().expect("a client");
    let params = FlowParams::new();
    let flow = client.start_flow("a", params);
    let left = tokio::time::timeout(Duration::from_millis(1), flow).await;
    assert!(left.is_err());
    let abandoned = recorded.value("checks_abandoned_total{control_point=\"a\"}");
    assert_eq!(abandoned, Some(1.0));
    assert_eq!(recorded.total("flows_total"), 0.0);
}

#[test]
fn record_engine_records_the_state_of_an_engine() {
    let recorded = Recorded::here();
    let policy = "
blueprint: rate-limiting/base
policy:
  policy_name: per-user
  rate_limiter:
    bucket_capacity: 5
    fill_amount: 1
    parameters: {interval: 3600s, limit_by_label_key: user}
    selectors: [{control_point: a}]
";
    let engine = Engine::builder().policy_text("p.yaml", policy).build();
    let engine = engine.expect("a valid policy");
    metrics::record_engine(&engine);
    assert_eq!(recorded.value("engine_keys"), Some(0.0));
    for user in ["ann", "bob"] {
        let params = FlowParams::new().label("user", user);
        drop(tower_aperture::Decider::decide(&engine, "a", &params));
    }
    assert!(
        engine
            .reload_with([("p.yaml", "nonsense".to_owned())])
            .is_err()
    );
    metrics::record_engine(&engine);
    assert_eq!(recorded.value("engine_keys"), Some(2.0));
    let failed = recorded.value("engine_reloads_total{result=\"failed\"}");
    assert_eq!(failed, Some(1.0));
}

#[test]
fn record_engine_records_the_limits_that_concurrency_limiters_have_found() {
    let recorded = Recorded::here();
    let policy = "
blueprint: concurrency-limiting/base
policy:
  policy_name: exports
  concurrency_limiter:
    max_concurrency: 20
    parameters: {max_inflight_duration: 60s, limit_by_label_key: user}
    selectors: [{control_point: a}]
";
    let settings = AdaptiveConcurrency::vegas().initial(30);
    let engine = Engine::builder()
        .policy_text("p.yaml", policy)
        .adaptive_limit("exports", "root.0", settings)
        .build();
    metrics::record_engine(&engine.expect("a valid policy"));
    for statistic in ["lowest", "mean", "highest"] {
        let series = format!(
            "engine_concurrency_limit{{policy=\"exports\",component=\"root.0\",\
             statistic=\"{statistic}\"}}"
        );
        assert_eq!(recorded.value(&series), Some(30.0), "{}", recorded.text());
    }
}
