//! The crate's client against its agent: the scenarios that `.ci/interop` runs with the official
//! SDKs, with the same policies.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tower_aperture::{
    ApertureClient, Engine, Flow, FlowDecision, FlowError, FlowErrorKind, FlowParams, FlowStatus,
    RejectReason,
};
use tower_aperture_agent::{ApiKey, Tls};

use crate::support::{Certificates, Served};

const TIMEOUT: Duration = Duration::from_secs(60);
const KEY: &str = "open-sesame";

fn engine() -> Engine {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/policies");
    let engine = Engine::builder().policy_folder(policies).build();
    engine.expect("valid policies")
}

/// An agent, and the certificate with which its clients connect.
struct Pair {
    served: Served,
    certificates: Option<Certificates>,
}

impl Pair {
    async fn plain() -> Self {
        Self {
            served: Served::with_engine(engine(), |agent| agent, None).await,
            certificates: None,
        }
    }

    async fn secure() -> Self {
        let certificates = Certificates::new();
        let tls = Tls::from_pem(&certificates.certificate, &certificates.key)
            .expect("the certificate matches the key");
        let keys = [ApiKey::new(KEY)];
        Self {
            served: Served::with_engine(engine(), |agent| agent.api_keys(keys), Some(tls)).await,
            certificates: Some(certificates),
        }
    }

    fn client(&self, key: Option<&str>) -> ApertureClient {
        let builder = ApertureClient::builder()
            .address(format!("localhost:{}", self.served.address.port()))
            .connect_timeout(TIMEOUT)
            .check_timeout(TIMEOUT)
            .end_timeout(TIMEOUT);
        let builder = match (&self.certificates, key) {
            (None, _) => builder.insecure(true),
            (Some(certificates), None) => builder.ca_certificate(&*certificates.authority),
            (Some(certificates), Some(key)) => builder
                .ca_certificate(&*certificates.authority)
                .api_key(key),
        };
        builder.build().expect("a client")
    }
}

fn decisions(flows: &[Flow]) -> Vec<FlowDecision> {
    flows.iter().map(Flow::decision).collect()
}

use FlowDecision::{Accepted, Rejected, Unreachable};

async fn rate_limit_with_keys(client: &ApertureClient) {
    for user in ["ann", "bob"] {
        let mut flows = Vec::new();
        for _ in 0..3 {
            let params = FlowParams::new().label("user_id", user);
            flows.push(client.start_flow("rate", params).await);
        }
        assert_eq!(decisions(&flows), [Accepted, Accepted, Rejected]);
        assert!(flows[2].retry_after() > Some(Duration::ZERO));
        assert_eq!(
            flows[2].http_response_code().map(|code| code.as_u16()),
            Some(429)
        );
        for flow in flows {
            assert!(flow.end().await.error().is_none());
        }
    }
    for _ in 0..3 {
        let flow = client.start_flow("rate", FlowParams::new()).await;
        assert!(flow.should_run(), "a flow without the key is not limited");
    }
}

async fn concurrency_limit_with_end(client: &ApertureClient) {
    let start_flow = async |tenant| {
        let params = FlowParams::new().label("tenant", tenant);
        client.start_flow("slots", params).await
    };
    for status in [FlowStatus::Ok, FlowStatus::Error, FlowStatus::Unset] {
        let (first, second, other) = (
            start_flow("a").await,
            start_flow("a").await,
            start_flow("b").await,
        );
        assert_eq!(
            [first.decision(), second.decision(), other.decision()],
            [Accepted, Rejected, Accepted]
        );
        for flow in [first, other] {
            flow.set_status(status);
            let ended = flow.end().await;
            assert!(ended.error().is_none(), "{ended:?}");
            assert_eq!(ended.token_returns().len(), 1);
            assert!(ended.token_returns()[0].returned, "{ended:?}");
        }
        second.end().await;
    }
}

async fn priorities_with_deadlines(pair: &Pair, client: &ApertureClient) {
    let tier = |tier| FlowParams::new().label("tier", tier);
    let holder = client.start_flow("queue", tier("bronze")).await;
    assert_eq!(holder.decision(), Accepted);
    // The flow may wait for half a second (the margin is two seconds). Then the agent rejects it:
    // the flow is not unreachable.
    let little = tier("gold").check_timeout(Duration::from_millis(2500));
    let too_late = client.start_flow("queue", little).await;
    assert_eq!(too_late.decision(), Rejected, "{:?}", too_late.error());
    let reason = too_late.rejection().map(|rejection| rejection.reason());
    assert_eq!(reason, Some(RejectReason::NoTokens));

    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    let tiers = ["bronze", "bronze", "bronze", "gold", "gold"];
    for (tier, waiting) in tiers.into_iter().zip(1_u8..) {
        let (client, order) = (client.clone(), Arc::clone(&order));
        tasks.push(tokio::spawn(async move {
            let params = FlowParams::new().label("tier", tier);
            let flow = client.start_flow("queue", params).await;
            let decision = flow.decision();
            order.lock().expect("no panic").push((tier, decision));
            flow.end().await;
        }));
        pair.served.until_waiting(waiting.into()).await;
    }
    holder.end().await;
    for wait in tasks {
        wait.await.expect("no panic");
    }
    // The head of the queue is served first, whatever its tier. Gold overtakes the others.
    let served = ["bronze", "gold", "gold", "bronze", "bronze"].map(|tier| (tier, Accepted));
    assert_eq!(*order.lock().expect("no panic"), served);
}

async fn caches(client: &ApertureClient) {
    let ttl = Duration::from_secs(600);
    let start = async |point| {
        let params = FlowParams::new().result_cache_key("answer");
        let params = params.global_cache_key("shared").global_cache_key("absent");
        client.start_flow(point, params).await
    };
    let read = |flow: &Flow| {
        let result = flow.result_cache().get().expect("the key was looked up");
        let global = flow
            .global_cache("shared")
            .get()
            .expect("the key was looked up");
        (result, global)
    };
    let flow = start("cache").await;
    assert_eq!(read(&flow), (None, None));
    flow.result_cache()
        .set("forty-two ü", ttl)
        .await
        .expect("the agent stores the value");
    flow.global_cache("shared")
        .set("everybody's", ttl)
        .await
        .expect("the agent stores the value");
    flow.end().await;

    let flow = start("cache").await;
    let (result, global) = (Some("forty-two ü".into()), Some("everybody's".into()));
    assert_eq!(read(&flow), (result, global.clone()));
    assert_eq!(
        flow.global_cache("absent")
            .get()
            .expect("the key was looked up"),
        None
    );
    assert_eq!(read(&start("cache-elsewhere").await), (None, global));
    flow.result_cache()
        .delete()
        .await
        .expect("the agent deletes the value");
    flow.global_cache("shared")
        .delete()
        .await
        .expect("the agent deletes the value");
    assert_eq!(read(&start("cache").await), (None, None));
}

async fn ramp(client: &ApertureClient) {
    let start_flow = async |point, user: &str| {
        let params = FlowParams::new()
            .label("user_id", user.to_owned())
            .ramp_mode(true);
        client.start_flow(point, params).await
    };
    assert_eq!(start_flow("ramp-all", "ann").await.decision(), Accepted);
    for point in ["ramp-none", "a-point-without-a-ramp"] {
        let flow = start_flow(point, "ann").await;
        assert_eq!(flow.decision(), Rejected, "{point}");
        let reason = flow.rejection().map(|rejection| rejection.reason());
        assert_eq!(reason, Some(RejectReason::NoMatchingRamp), "{point}");
    }
    let mut inside = 0;
    for user in (0..100).map(|user| format!("user-{user}")) {
        let first = start_flow("ramp-half", &user).await.should_run();
        let second = start_flow("ramp-half", &user).await.should_run();
        assert_eq!(first, second, "the ramp decides alike for {user} each time");
        inside += u32::from(first);
    }
    assert!((10..90).contains(&inside), "{inside}");
}

async fn run_all_scenarios(pair: Pair) {
    let client = pair.client(Some(KEY));
    rate_limit_with_keys(&client).await;
    concurrency_limit_with_end(&client).await;
    priorities_with_deadlines(&pair, &client).await;
    caches(&client).await;
    ramp(&client).await;
    assert!(
        client.shutdown(TIMEOUT).await,
        "shutdown delivers all ends and spans"
    );
    assert_eq!(
        pair.served
            .metric("tower_aperture_agent_unauthenticated_total"),
        0.0
    );
    pair.served.stopped().await;
}

#[tokio::test]
async fn the_client_passes_the_scenarios_of_the_sdks() {
    run_all_scenarios(Pair::plain().await).await;
}

#[tokio::test]
async fn the_client_passes_the_scenarios_of_the_sdks_over_tls_with_a_key() {
    run_all_scenarios(Pair::secure().await).await;
}

#[tokio::test]
async fn flows_without_a_known_key_are_unreachable() {
    let pair = Pair::secure().await;
    for key in [None, Some("no-such-key")] {
        let client = pair.client(key);
        let flow = client.start_flow("rate", FlowParams::new()).await;
        assert_eq!((flow.decision(), flow.should_run()), (Unreachable, true));
        let kind = flow.error().map(FlowError::kind);
        assert_eq!(
            kind,
            Some(FlowErrorKind::Unauthenticated),
            "{:?}",
            flow.error()
        );
        let ramped = FlowParams::new().ramp_mode(true);
        assert!(!client.start_flow("ramp-all", ramped).await.should_run());
    }
}
