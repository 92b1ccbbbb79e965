//! Tests flows that the caller settles with what they cost.

#[cfg(feature = "embedded")]
mod embedded {
    use tower_aperture::engine::ManualClock;
    use tower_aperture::{ApertureClient, Engine, Flow, FlowParams, FlowStatus, SettleError};

    /// 100 tokens, of which none come back within the test.
    const POLICY: &str = "
blueprint: rate-limiting/base
policy:
  policy_name: rows
  rate_limiter:
    bucket_capacity: 100
    fill_amount: 100
    parameters: {interval: 60s}
    request_parameters: {tokens_label_key: rows}
    selectors: [{control_point: query}]
";

    fn client() -> ApertureClient {
        let engine = Engine::builder().policy_text("rows.yaml", POLICY);
        let engine = engine.clock(ManualClock::new()).build();
        ApertureClient::embedded(engine.expect("the policy is valid"))
    }

    async fn query(client: &ApertureClient, rows: &'static str) -> Flow {
        let params = FlowParams::new().label("rows", rows);
        client.start_flow("query", params).await
    }

    /// Returns the tokens that are left, and takes them.
    async fn left(client: &ApertureClient) -> usize {
        let mut left = 0;
        while query(client, "1").await.should_run() {
            left += 1;
        }
        left
    }

    #[tokio::test]
    async fn every_end_of_a_flow_applies_its_last_settlement() {
        let ends: [fn(Flow); 3] = [
            |flow| {
                futures_util::FutureExt::now_or_never(flow.end()).expect("it ends at once");
            },
            |flow| flow.finish(FlowStatus::Error),
            drop,
        ];
        for end in ends {
            let client = client();
            let flow = query(&client, "60").await;
            assert_eq!(flow.settle(90.0), Ok(()));
            assert_eq!(flow.settle(25.0), Ok(()));
            assert_eq!(query(&client, "50").await.rejection().map(|_| ()), Some(()));
            end(flow);
            assert_eq!(left(&client).await, 75);
        }
    }

    #[tokio::test]
    async fn a_flow_that_is_not_settled_costs_its_estimate() {
        let client = client();
        query(&client, "60").await.end().await;
        assert_eq!(left(&client).await, 40);
    }

    #[tokio::test]
    async fn invalid_tokens_are_refused_and_leave_the_estimate() {
        let client = client();
        let flow = query(&client, "60").await;
        for tokens in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.5] {
            assert_eq!(flow.settle(tokens), Err(SettleError::InvalidTokens));
        }
        flow.end().await;
        assert_eq!(left(&client).await, 40);
    }

    #[tokio::test]
    async fn a_rejected_or_unreachable_flow_is_settled_without_effect() {
        let client = client();
        let flow = query(&client, "200").await;
        assert!(flow.rejection().is_some());
        assert_eq!(flow.settle(50.0), Ok(()));
        assert_eq!(flow.settle(-1.0), Err(SettleError::InvalidTokens));
        flow.end().await;
        assert_eq!(left(&client).await, 100);

        let flow = query(&ApertureClient::disabled(), "1").await;
        assert_eq!(flow.settle(50.0), Ok(()));
    }
}

#[cfg(feature = "test-util")]
#[tokio::test]
async fn a_script_records_settlements() {
    use tower_aperture::FlowParams;
    use tower_aperture::client::Script;

    let script = Script::new();
    let client = script.client();
    let flow = client.start_flow("query", FlowParams::new()).await;
    flow.settle(7.0).expect("a script settles flows");
    flow.settle(5.0).expect("a script settles flows");
    assert_eq!(script.flows()[0].settled, None, "it counts at the end");
    drop(flow);
    client
        .start_flow("query", FlowParams::new())
        .await
        .end()
        .await;
    let settled: Vec<_> = script.flows().iter().map(|flow| flow.settled).collect();
    assert_eq!(settled, [Some(5.0), None]);
}

#[cfg(feature = "remote")]
#[tokio::test]
async fn a_flow_that_an_agent_accepted_cannot_be_settled() {
    use std::time::Duration;

    use crate::support::agent::FakeAgent;
    use tower_aperture::{ApertureClient, FlowParams, SettleError};

    let agent = FakeAgent::start();
    let client = ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .connect_timeout(Duration::from_secs(60))
        .check_timeout(Duration::from_secs(60))
        .build()
        .expect("a client");
    let flow = client.start_flow("query", FlowParams::new()).await;
    assert!(flow.should_run() && flow.is_decided());
    let error = flow.settle(5.0).expect_err("an Agent cannot settle flows");
    assert_eq!(error, SettleError::Unsupported);
    assert!(error.to_string().contains("an Agent keeps the estimate"));
    flow.end().await;
}
