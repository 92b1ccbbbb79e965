use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use tower_aperture::agent::ApiKey;
use tower_aperture::pb::trace_collector::ExportTraceServiceRequest;
use tower_aperture::pb::trace_collector::trace_service_client::TraceServiceClient;

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
async fn only_those_with_a_key_are_answered() {
    let served = served().await;
    let mut checks = served.checks().await;
    let mut traces = TraceServiceClient::new(served.channel().await);
    for (key, good) in [
        (None, false),
        (Some(&b""[..]), false),
        (Some(b"third"), false),
        (Some(b"firs"), false),
        // No UTF-8.
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
async fn health_and_metrics_need_no_key_and_the_rest_does() {
    let served = served().await;
    for (path, status) in [("/health", 200), ("/metrics", 200), ("/status", 401)] {
        let (got, _) = served.http(path, &[], None).await.expect("an answer");
        assert_eq!(got, status, "{path}");
    }
    let key = [("x-api-key", "second")];
    let (status, _) = served.http("/status", &key, None).await.expect("an answer");
    assert_eq!(status, 200);
}

#[tokio::test]
async fn no_key_at_all_lets_nobody_in() {
    let served = Served::with(TWO, |agent| agent.api_keys([ApiKey::new("")]), None).await;
    let mut checks = served.checks().await;
    for key in [None, Some(&b""[..])] {
        let refusal = checks.check(with_key(request("checkout"), key)).await;
        assert_eq!(refusal.expect_err("no key").code(), Code::Unauthenticated);
    }
}

#[test]
fn keys_are_not_shown() {
    let text = format!(
        "{:?} {:?}",
        ApiKey::new("geheim"),
        ApiKey::from("geheim".to_owned())
    );
    assert!(!text.contains("geheim"), "{text}");
}
