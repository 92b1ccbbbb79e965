//! API keys: which calls need one, and that only callers with a key set dynamic configuration.

use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use tower_aperture::pb::trace_collector::ExportTraceServiceRequest;
use tower_aperture::pb::trace_collector::trace_service_client::TraceServiceClient;
use tower_aperture_agent::ApiKey;

use crate::support::{Served, TWO, request};

async fn served() -> Served {
    let keys = ["first", "second"].map(ApiKey::from);
    Served::with(TWO, |agent| agent.api_keys(keys), None).await
}

fn with_key<T>(message: T, key: Option<&[u8]>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(key) = key {
        let key = MetadataValue::try_from(key).expect("bytes that a header may have");
        request.metadata_mut().insert("x-api-key", key);
    }
    request
}

#[tokio::test]
async fn only_callers_with_a_known_key_are_answered() {
    let served = served().await;
    let mut checks = served.checks().await;
    let mut traces = TraceServiceClient::new(served.channel().await);
    for (key, good) in [
        (None, false),
        (Some(&b""[..]), false),
        (Some(b"third"), false),
        (Some(b"firs"), false),
        // Not UTF-8.
        (Some(b"\xff\xfe"), false),
        (Some(b"first"), true),
        (Some(b"second"), true),
    ] {
        let check = checks.check(with_key(request("checkout"), key)).await;
        let spans = ExportTraceServiceRequest::default();
        let export = traces.export(with_key(spans, key)).await;
        for code in [
            check.err().map(|e| e.code()),
            export.err().map(|e| e.code()),
        ] {
            assert_eq!(code, (!good).then_some(Code::Unauthenticated), "{key:?}");
        }
    }
    assert_eq!(
        served.metric("tower_aperture_agent_unauthenticated_total"),
        10.0
    );
}

#[tokio::test]
async fn health_probes_and_metrics_need_no_key_and_status_needs_one() {
    let served = served().await;
    for (path, status) in [
        ("/health", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/status", 401),
    ] {
        let (got, _) = served.http(path, &[], None).await.expect("an answer");
        assert_eq!(got, status, "{path}");
    }
    let key = [("x-api-key", "second")];
    let (status, _) = served.http("/status", &key, None).await.expect("an answer");
    assert_eq!(status, 200);
}

#[tokio::test]
async fn an_empty_key_in_the_configuration_admits_no_caller() {
    let served = Served::with(TWO, |agent| agent.api_keys([ApiKey::new("")]), None).await;
    let mut checks = served.checks().await;
    for key in [None, Some(&b""[..])] {
        let refusal = checks.check(with_key(request("checkout"), key)).await;
        assert_eq!(refusal.expect_err("no key").code(), Code::Unauthenticated);
    }
}

#[test]
fn the_debug_output_of_a_key_does_not_contain_it() {
    let text = format!(
        "{:?} {:?}",
        ApiKey::new("geheim"),
        ApiKey::from("geheim".to_owned())
    );
    assert!(!text.contains("geheim"), "{text}");
}

mod dynamic_configuration {
    use axum::body::{Body, to_bytes};
    use http::{Request, StatusCode};
    use tower::ServiceExt as _;
    use tower_aperture::FlowParams;
    use tower_aperture::engine::{CheckInput, Engine};
    use tower_aperture_agent::{Agent, ApiKey};

    const SHARE: &str = "
circuit:
  components:
  - variable:
      constant_output: {value: 0}
      config_key: share
      out_ports: {output: {signal_name: SHARE}}
  - flow_control:
      sampler:
        in_ports: {accept_percentage: {signal_name: SHARE}}
        parameters: {selectors: [{control_point: checkout}]}
";

    fn engine() -> Engine {
        let engine = Engine::builder().policy_text("rollout.yaml", SHARE);
        engine.build().expect("a valid policy")
    }

    async fn put(
        agent: &Agent,
        policy: &str,
        key: Option<&str>,
        body: &str,
    ) -> (StatusCode, String) {
        let path = format!("/v1/policies/{policy}/dynamic-config");
        let mut request = Request::put(path);
        if let Some(key) = key {
            request = request.header("x-api-key", key);
        }
        let request = request
            .body(Body::from(body.to_owned()))
            .expect("a request");
        let response = agent.service().oneshot(request).await.expect("an answer");
        let (parts, body) = response.into_parts();
        let body = to_bytes(Body::new(body), 1 << 20).await.expect("a body");
        let body = String::from_utf8(body.to_vec()).expect("text");
        (parts.status, body)
    }

    #[tokio::test]
    async fn only_a_caller_with_a_known_key_sets_it() {
        let engine = engine();
        let agent = Agent::builder(engine.clone())
            .api_keys([ApiKey::from("sesame")])
            .build();
        let accepts = || {
            let params = FlowParams::new();
            engine
                .check(&CheckInput::new("checkout", &params))
                .accepted()
        };
        for key in [None, Some("simsalabim")] {
            let (status, _) = put(&agent, "rollout", key, "share: {value: 100}").await;
            assert_eq!(status, StatusCode::UNAUTHORIZED);
            assert!(!accepts());
        }
        let key = Some("sesame");
        for (policy, body, expected) in [
            ("other", "{}", StatusCode::NOT_FOUND),
            ("rollout", "share: {value: all}", StatusCode::BAD_REQUEST),
            ("rollout", "[", StatusCode::BAD_REQUEST),
        ] {
            let (status, text) = put(&agent, policy, key, body).await;
            assert_eq!(status, expected, "{text}");
            assert!(!accepts());
        }
        let long = format!("share: {{value: 100}} # {}", "x".repeat(1 << 17));
        let (status, _) = put(&agent, "rollout", key, &long).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        let (status, text) = put(&agent, "rollout", key, r#"{"share": {"value": 100}}"#).await;
        assert_eq!(status, StatusCode::OK, "{text}");
        assert!(accepts());
    }

    #[tokio::test]
    async fn an_agent_without_keys_refuses_to_set_it() {
        let engine = engine();
        let agent = Agent::builder(engine).build();
        for key in [None, Some("sesame")] {
            let (status, text) = put(&agent, "rollout", key, "share: {value: 100}").await;
            assert_eq!(status, StatusCode::FORBIDDEN);
            assert!(text.contains("API key"), "{text}");
        }
    }
}
