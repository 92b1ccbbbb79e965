//! The JSON routes of an agent, and its routes for health, status and metrics.

use serde_json::{Value, json};

use crate::support::{ONE_AT_A_TIME, Served, TWO};

async fn post(served: &Served, path: &str, body: &str) -> (u16, Value) {
    let (status, text) = served.http(path, &[], Some(body)).await.expect("an answer");
    (status, serde_json::from_str(&text).expect("JSON"))
}

async fn get(served: &Served, path: &str) -> (u16, String) {
    served.http(path, &[], None).await.expect("an answer")
}

#[tokio::test]
async fn requests_accept_snake_case_and_camel_case_and_responses_have_camel_case() {
    let served = Served::start(TWO).await;
    for body in [
        r#"{"control_point": "checkout", "labels": {"user_id": "7"}, "expect_end": true}"#,
        r#"{"controlPoint": "checkout", "labels": {"user_id": "7"}, "unknown": 1}"#,
    ] {
        let (status, answer) = post(&served, "/v1/flowcontrol/check", body).await;
        assert_eq!(
            (status, &answer["decisionType"]),
            (200, &json!("DECISION_TYPE_ACCEPTED"))
        );
        assert_eq!(answer["controlPoint"], "checkout");
        assert_eq!(answer["limiterDecisions"][0]["dropped"], false);
    }
    let body = r#"{"controlPoint": "checkout", "labels": {"user_id": "7"}}"#;
    let (status, answer) = post(&served, "/v1/flowcontrol/check", body).await;
    assert_eq!(
        (status, &answer["rejectReason"]),
        (200, &json!("REJECT_REASON_RATE_LIMITED"))
    );
}

#[tokio::test]
async fn a_rejected_http_request_is_a_response_with_status_200() {
    let served = Served::start(&TWO.replace("limit_by_label_key: user_id", "")).await;
    let body = r#"{"control_point": "checkout", "request": {"method": "GET", "path": "/"}}"#;
    for _ in 0..2 {
        let (status, answer) = post(&served, "/v1/flowcontrol/checkhttp", body).await;
        assert_eq!((status, &answer["status"]["code"]), (200, &json!(0)));
    }
    let (status, answer) = post(&served, "/v1/flowcontrol/checkhttp", body).await;
    assert_eq!((status, &answer["status"]["code"]), (200, &json!(14)));
    assert_eq!(answer["deniedResponse"]["status"], 429);
    let wait = &answer["deniedResponse"]["headers"]["retry-after"];
    assert!(
        wait.as_str()
            .is_some_and(|wait| wait.parse::<u64>().is_ok()),
        "{wait}"
    );
    assert!(answer["dynamicMetadata"]["aperture.check_response"].is_string());
    assert_eq!(answer["checkResponse"]["waitTime"], Value::Null);
}

#[tokio::test]
async fn errors_have_the_form_of_grpc_gateway() {
    let served = Served::start(TWO).await;
    for (path, body, status, code) in [
        ("/v1/flowcontrol/checkhttp", "{}", 400, 3),
        ("/v1/flowcontrol/checkhttp", "{", 400, 3),
        ("/v1/flowcontrol/check", r#"{"labels": 3}"#, 400, 3),
        ("/v1/nothing", "{}", 404, 5),
        ("/status", "{}", 405, 12),
    ] {
        let (got_status, answer) = post(&served, path, body).await;
        assert_eq!(
            (got_status, &answer["code"]),
            (status, &json!(code)),
            "{path} {body}"
        );
        assert!(answer["details"].as_array().is_some_and(Vec::is_empty));
    }
    let (_, answer) = post(&served, "/v1/flowcontrol/checkhttp", "{}").await;
    assert_eq!(answer["message"], "missing control-point");
    let bad = r#"{"control_point": "a", "source": {"port": 1}}"#;
    let (status, answer) = post(&served, "/v1/flowcontrol/checkhttp", bad).await;
    assert_eq!((status, &answer["code"]), (500, &json!(2)));
}

#[tokio::test]
async fn caches_and_ends_have_routes() {
    let served = Served::start(ONE_AT_A_TIME).await;
    let entry = r#"{"controlPoint": "render", "resultCacheEntry": {"key": "k", "value": "YQ==", "ttl": "60s"}}"#;
    let (_, answer) = post(&served, "/v1/flowcontrol/cacheupsert", entry).await;
    assert_eq!(answer["resultCacheResponse"]["operationStatus"], "SUCCESS");
    let key = r#"{"controlPoint": "render", "resultCacheKey": "k"}"#;
    let (_, answer) = post(&served, "/v1/flowcontrol/cachelookup", key).await;
    assert_eq!(answer["resultCacheResponse"]["value"], "YQ==");
    let (_, answer) = post(&served, "/v1/flowcontrol/cachedelete", key).await;
    assert_eq!(answer["resultCacheResponse"]["operationStatus"], "SUCCESS");
    let (_, answer) = post(&served, "/v1/flowcontrol/cachelookup", key).await;
    assert_eq!(answer["resultCacheResponse"]["lookupStatus"], "MISS");

    let check = r#"{"controlPoint": "render", "expectEnd": true}"#;
    let (_, answer) = post(&served, "/v1/flowcontrol/check", check).await;
    let decision = &answer["limiterDecisions"][0];
    let end = json!({"inflightRequests": [{
        "policyName": decision["policyName"],
        "policyHash": decision["policyHash"],
        "componentId": decision["componentId"],
        "label": decision["concurrencySchedulerInfo"]["label"],
        "requestId": decision["concurrencySchedulerInfo"]["requestId"],
    }]});
    let (_, answer) = post(&served, "/v1/flowcontrol/flowend", &end.to_string()).await;
    assert_eq!(answer["tokenReturnStatuses"][0]["returned"], true);
}

#[tokio::test]
async fn a_flow_waits_no_longer_than_its_grpc_timeout() {
    let served = Served::start(ONE_AT_A_TIME).await;
    let body = r#"{"controlPoint": "render", "expectEnd": true}"#;
    let (_, first) = post(&served, "/v1/flowcontrol/check", body).await;
    assert_eq!(first["decisionType"], "DECISION_TYPE_ACCEPTED");
    let check_with_timeout = async |timeout: &str| {
        let headers = [("grpc-timeout", timeout)];
        let answer = served
            .http("/v1/flowcontrol/check", &headers, Some(body))
            .await;
        answer.expect("an answer")
    };
    let (_, answer) = check_with_timeout("200m").await;
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert_eq!(answer["rejectReason"], "REJECT_REASON_NO_TOKENS");
    for malformed in ["200", "m", "123456789m", "-1S", ""] {
        assert_eq!(check_with_timeout(malformed).await.0, 400, "{malformed}");
    }
}

#[tokio::test]
async fn health_status_and_metrics_show_the_state() {
    let served = Served::start(TWO).await;
    let body = r#"{"controlPoint": "checkout", "labels": {"user_id": "7"}}"#;
    post(&served, "/v1/flowcontrol/check", body).await;
    assert_eq!(get(&served, "/health").await, (200, "serving\n".into()));
    let (_, status) = get(&served, "/status").await;
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["status"], "serving");
    assert_eq!(
        (&status["accepted"], &status["keys"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(status["components"][0]["kind"], "rate_limiter");
    assert_eq!(status["decisions"][0]["accepted"], 1);
    let (_, metrics) = get(&served, "/metrics").await;
    assert!(metrics.contains("flowcontrol_requests_total{"), "{metrics}");
    assert!(metrics.contains(r#"control_point="checkout""#), "{metrics}");
    assert!(metrics.ends_with("# EOF\n"));
    served.agent.shutdown();
}
