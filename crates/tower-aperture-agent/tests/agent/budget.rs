//! The memory budget of an agent: unread answers, large messages and waiting flows are bounded.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use prost::Message;
use tonic::Code;
use tower_aperture::pb::check::check_response::{DecisionType, RejectReason};
use tower_aperture::pb::check::{
    CacheEntry, CacheLookupRequest, CacheLookupResponse, CacheUpsertRequest, CheckRequest,
    CheckResponse,
};
use tower_aperture::pb::checkhttp::check_http_request::HttpRequest;
use tower_aperture::pb::checkhttp::{CheckHttpRequest, CheckHttpResponse};
use tower_aperture::pb::common::{AnyValue, KeyValue, any_value};
use tower_aperture::pb::trace::{ResourceSpans, ScopeSpans, Span};
use tower_aperture::pb::trace_collector::ExportTraceServiceRequest;

use crate::caller::{
    CHECK_HTTP, Caller, EXPORT, SERVICE, TIMEOUT, bytes, code, empty_elements, field, grpc,
};
use crate::support::{ONE_AT_A_TIME, Served, TWO, end_of, request};

const VALUES: usize = 8;
const VALUE_SIZE: usize = 900_000;

/// Fills the cache and returns a lookup of a few bytes whose answer has some megabytes.
async fn large_lookup(served: &Served) -> Vec<u8> {
    let mut caller = Caller::connect(served, 1 << 20).await;
    let keys: Vec<String> = (0..VALUES).map(|key| key.to_string()).collect();
    for key in &keys {
        let entry = CacheEntry {
            value: vec![b'x'; VALUE_SIZE].into(),
            ..CacheEntry::default()
        };
        let upsert = CacheUpsertRequest {
            global_cache_entries: [(key.clone(), entry)].into(),
            ..CacheUpsertRequest::default()
        };
        let path = format!("{SERVICE}CacheUpsert");
        let (code, _) = caller.call(&path, bytes(&upsert)).await;
        assert_eq!(code, Code::Ok);
    }
    bytes(&CacheLookupRequest {
        global_cache_keys: keys,
        ..CacheLookupRequest::default()
    })
}

#[tokio::test]
async fn unread_answers_use_a_bounded_budget_and_other_calls_are_answered() {
    let served = Served::start(TWO).await;
    let lookup = large_lookup(&served).await;
    let path = format!("{SERVICE}CacheLookup");
    let mut unread = Vec::new();
    let mut answered = 0;
    for window in [0, 1, 60_000] {
        let mut caller = Caller::connect(&served, window).await;
        let mut answers = Vec::new();
        for _ in 0..30 {
            let answer = caller.request("POST", &path, grpc(&lookup)).await;
            let answer = answer.expect("an answer");
            match code(answer.headers()) {
                None => answered += 1,
                Some(code) => assert_eq!(code, Code::ResourceExhausted),
            }
            answers.push(answer);
        }
        unread.push((caller, answers));
    }
    assert!(
        (1..=(64 << 20) / (VALUES * VALUE_SIZE)).contains(&answered),
        "{answered}"
    );
    let refused = served.metric("tower_aperture_agent_over_budget_total");
    assert_eq!(
        refused,
        f64::from(90 - u32::try_from(answered).expect("few"))
    );
    let mut checks = served.checks().await;
    checks.check(request("checkout")).await.expect("an answer");
    // The budget of closed connections is returned.
    drop(unread);
    let mut caller = Caller::connect(&served, 16 << 20).await;
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let (code, answer) = caller.call(&path, lookup.clone()).await;
        if code == Code::Ok {
            let found = CacheLookupResponse::decode(answer).expect("a message");
            assert_eq!(found.global_cache_responses.len(), VALUES);
            break;
        }
        assert!(Instant::now() < deadline, "the budget is not returned");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_connection_that_does_not_read_its_answer_is_closed() {
    let timeouts = |agent: tower_aperture_agent::AgentBuilder| {
        agent
            .answer_timeout(Duration::from_millis(400))
            .idle_timeout(TIMEOUT * 2)
    };
    let served = Served::with(TWO, timeouts, None).await;
    let lookup = large_lookup(&served).await;
    let check = bytes(&request("checkout"));
    let lookup_path = format!("{SERVICE}CacheLookup");
    let check_path = format!("{SERVICE}Check");
    for (at, (method, path, message)) in [
        ("POST", &*lookup_path, grpc(&lookup)),
        ("POST", &check_path, grpc(&check)),
        ("GET", "/metrics", Bytes::new()),
        ("GET", "/status", Bytes::new()),
        ("GET", "/health", Bytes::new()),
        ("GET", "/livez", Bytes::new()),
        ("GET", "/readyz", Bytes::new()),
        ("GET", "/nothing", Bytes::new()),
    ]
    .into_iter()
    .enumerate()
    {
        // The window takes one byte of the answer.
        let mut caller = Caller::connect(&served, 1).await;
        let answer = caller.request(method, path, message).await;
        let answer = answer.expect("an answer");
        caller.closed().await;
        drop(answer);
        let closed = served.metric("tower_aperture_agent_connections_untaken_closed_total");
        assert_eq!(closed, at as f64 + 1.0, "{path}");
    }
    // A connection that reads its answers stays open.
    let mut caller = Caller::connect(&served, 1 << 20).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1500) {
        let (code, _) = caller.call(&check_path, check.clone()).await;
        assert_eq!(code, Code::Ok);
    }
}

fn export(spans: &[u8]) -> Vec<u8> {
    field(1, &field(2, spans))
}

#[tokio::test]
async fn small_messages_that_decode_large_are_refused() {
    let served = Served::start(TWO).await;
    let mut caller = Caller::connect(&served, 1 << 20).await;
    let many = 1_000_000;
    // Spans, resources, attributes of a span, its links, references, labels, keys and headers.
    let calls: Vec<(String, Vec<u8>)> = vec![
        (EXPORT.into(), export(&empty_elements(2, many))),
        (EXPORT.into(), empty_elements(1, many)),
        (EXPORT.into(), export(&field(2, &empty_elements(9, many)))),
        (EXPORT.into(), export(&field(2, &empty_elements(13, many)))),
        (format!("{SERVICE}FlowEnd"), empty_elements(2, many)),
        (format!("{SERVICE}Check"), empty_elements(2, many)),
        (
            format!("{SERVICE}Check"),
            field(4, &empty_elements(3, many)),
        ),
        (format!("{SERVICE}CacheLookup"), empty_elements(3, many)),
        (format!("{SERVICE}CacheDelete"), empty_elements(3, many)),
        (format!("{SERVICE}CacheUpsert"), empty_elements(3, many)),
        (CHECK_HTTP.into(), field(3, &empty_elements(2, many))),
    ];
    for (path, message) in calls {
        let start = &message[..8];
        let (code, _) = caller.call(&path, message.clone()).await;
        assert_eq!(code, Code::ResourceExhausted, "{path} {start:?}");
    }
    let stats = served.agent.engine().stats();
    assert_eq!((stats.accepted, stats.rejected), (0, 0));
    let decoded = "tower_aperture_agent_over_budget_total";
    assert_eq!(
        served.metric(decoded),
        0.0,
        "each message is refused for its own size, not for the shared budget"
    );
}

#[tokio::test]
async fn small_json_messages_that_decode_large_are_refused() {
    let served = Served::start(TWO).await;
    let many = 200_000;
    let list = |name: &str, item: &str| {
        format!(
            "{{\"{name}\": [{}{item}]}}",
            format!("{item},").repeat(many)
        )
    };
    let deep = format!("{}{}", "{\"a\":[".repeat(many), "]}".repeat(many));
    for (path, body) in [
        ("flowend", list("inflight_requests", "{}")),
        ("cachelookup", list("globalCacheKeys", "\"\"")),
        ("cachedelete", list("globalCacheKeys", "\"\"")),
        ("check", list("unknown", "0")),
        ("check", deep.clone()),
        ("checkhttp", deep),
    ] {
        let path = format!("/v1/flowcontrol/{path}");
        let answer = served.http(&path, &[], Some(&body)).await;
        let (status, text) = answer.expect("an answer");
        assert_eq!(status, 429, "{path}: {text}");
        assert!(text.contains("too large"), "{text}");
    }
    // Commas and brackets in strings do not count.
    let texts = format!(
        "{{\"controlPoint\": \"checkout\", \"a\": \"{}\"}}",
        "[{,".repeat(many)
    );
    let answer = served
        .http("/v1/flowcontrol/check", &[], Some(&texts))
        .await;
    assert_eq!(answer.expect("an answer").0, 200);
}

#[tokio::test]
async fn large_messages_within_the_bound_are_answered() {
    let served = Served::start(TWO).await;
    let mut caller = Caller::connect(&served, 16 << 20).await;
    let keys: Vec<String> = (0..60_000).map(|key| format!("{key:05x}")).collect();
    let lookup = CacheLookupRequest {
        global_cache_keys: keys,
        ..CacheLookupRequest::default()
    };
    let begun = Instant::now();
    let path = format!("{SERVICE}CacheLookup");
    let (code, answer) = caller.call(&path, bytes(&lookup)).await;
    assert_eq!(code, Code::Ok);
    assert!(begun.elapsed() < TIMEOUT);
    let found = CacheLookupResponse::decode(answer).expect("a message");
    assert_eq!(found.global_cache_responses.len(), 60_000);
    // A batch such as a collector sends.
    let attribute = KeyValue {
        key: "http.status_code".into(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue("200".into())),
        }),
    };
    let span = Span {
        attributes: vec![attribute; 20],
        ..Span::default()
    };
    let batch = ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans {
            scope_spans: vec![ScopeSpans {
                spans: vec![span; 2048],
                ..ScopeSpans::default()
            }],
            ..ResourceSpans::default()
        }],
    };
    assert_eq!(caller.call(EXPORT, bytes(&batch)).await.0, Code::Ok);
}

#[tokio::test]
async fn a_span_with_a_huge_decision_is_accepted_without_it() {
    let served = Served::start(TWO).await;
    let mut caller = Caller::connect(&served, 1 << 20).await;
    let attribute = |key: &str, text: String| KeyValue {
        key: key.into(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(text)),
        }),
    };
    let list = format!("{{\"limiterDecisions\": [{}{{}}]}}", "{},".repeat(500_000));
    for decision in [BASE64_STANDARD.encode(empty_elements(7, 700_000)), list] {
        let span = Span {
            attributes: vec![
                attribute("aperture.source", "sdk".into()),
                attribute("aperture.check_response", decision),
            ],
            ..Span::default()
        };
        let message = export(&field(2, &bytes(&span)));
        assert_eq!(caller.call(EXPORT, message).await.0, Code::Ok);
    }
    let mut checks = served.checks().await;
    checks.check(request("checkout")).await.expect("an answer");
}

fn http_request(path: String, host: String) -> Vec<u8> {
    bytes(&CheckHttpRequest {
        control_point: "render".into(),
        request: Some(HttpRequest {
            method: "GET".into(),
            path,
            host,
            ..HttpRequest::default()
        }),
        ..CheckHttpRequest::default()
    })
}

#[tokio::test]
async fn waiting_flows_are_bounded_by_the_memory_that_they_hold() {
    const FLOWS: usize = 120;
    let long = || "x".repeat(2 << 20);
    let keys = CheckRequest {
        cache_lookup_request: Some(CacheLookupRequest {
            control_point: "render".into(),
            result_cache_key: "a".into(),
            global_cache_keys: vec!["x".repeat(1 << 10); 2 << 10],
        }),
        ..request("render")
    };
    let check = format!("{SERVICE}Check");
    for (path, message) in [
        (CHECK_HTTP, http_request(long(), String::new())),
        (CHECK_HTTP, http_request(String::new(), long())),
        (&check, bytes(&keys)),
    ] {
        let served = Served::start(ONE_AT_A_TIME).await;
        let mut checks = served.checks().await;
        let holder = checks.check(request("render")).await.expect("an answer");
        let mut callers = Vec::new();
        let mut calls = Vec::new();
        for _ in 0..4 {
            let caller = Caller::connect(&served, 1 << 20).await;
            for _ in 0..FLOWS / 4 {
                let mut caller = caller.send.clone();
                let call = http::Request::post(served.url(path))
                    .header("content-type", "application/grpc")
                    .body(http_body_util::Full::new(grpc(&message)))
                    .expect("a call");
                calls.push(tokio::spawn(async move {
                    caller.ready().await.expect("the connection is open");
                    caller.send_request(call).await
                }));
            }
            callers.push(caller);
        }
        // Each flow is rejected, refused, or waits.
        let waiting = async || {
            let deadline = Instant::now() + TIMEOUT;
            loop {
                let done = calls.iter().filter(|call| call.is_finished()).count();
                let waiting = served.metric("tower_aperture_agent_waiting") as usize;
                if done + waiting == FLOWS {
                    return waiting;
                }
                assert!(
                    Instant::now() < deadline,
                    "{done} calls ended and {waiting} wait"
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waiting = waiting().await;
        assert!((1..=32).contains(&waiting), "{path}: {waiting}");
        // A caller with a small flow can still wait.
        let mut second = checks.clone();
        let waits = tokio::spawn(async move { second.check(request("render")).await });
        served.until_waiting(waiting as f64 + 1.0).await;
        waits.abort();
        drop((callers, holder));
    }
}

#[tokio::test]
async fn one_connection_cannot_use_the_whole_queue() {
    let served = Served::with(ONE_AT_A_TIME, |agent| agent.max_waiting(10), None).await;
    let mut checks = served.checks().await;
    let holder = checks.check(request("render")).await.expect("an answer");
    let mut waits = Vec::new();
    for _ in 0..20 {
        let mut checks = checks.clone();
        waits.push(tokio::spawn(async move {
            checks.check(request("render")).await
        }));
    }
    let deadline = Instant::now() + TIMEOUT;
    while served.metric("tower_aperture_agent_crowded_out_total") < 15.0 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    served.until_waiting(5.0).await;
    // Other connections can still queue flows.
    let mut others = Vec::new();
    for waiting in [6.0, 7.0, 8.0, 9.0, 10.0] {
        let mut other = served.checks().await;
        others.push(tokio::spawn(
            async move { other.check(request("render")).await },
        ));
        served.until_waiting(waiting).await;
    }
    let mut last = served.checks().await;
    let answer = last.check(request("render")).await.expect("an answer");
    assert_eq!(answer.get_ref().reject_reason(), RejectReason::NoTokens);
    // A place that a flow leaves can be used again.
    let other = others.pop().expect("five");
    other.abort();
    served.until_waiting(9.0).await;
    others.push(tokio::spawn(
        async move { last.check(request("render")).await },
    ));
    served.until_waiting(10.0).await;
    let end = end_of(holder.get_ref());
    checks.flow_end(end).await.expect("an answer");
    waits.extend(others);
    waits.into_iter().for_each(|wait| wait.abort());
}

#[tokio::test]
async fn long_keys_have_separate_limits() {
    const ONE_EACH: &str = "
blueprint: concurrency-limiting/base
policy:
  policy_name: one-each
  concurrency_limiter:
    max_concurrency: 1
    parameters: {max_inflight_duration: 600s, limit_by_label_key: user_id}
    selectors: [{control_point: checkout}]
";
    let served = Served::start(ONE_EACH).await;
    let mut checks = served.checks().await;
    let flow = |user: &str| CheckRequest {
        labels: [("user_id".into(), "x".repeat(60_000) + user)].into(),
        ..request("checkout")
    };
    let mut accepted = async |user: &str| {
        let answer = checks.check(flow(user)).await.expect("an answer");
        let answer: CheckResponse = answer.into_inner();
        (answer.decision_type() == DecisionType::Accepted, answer)
    };
    let (first, ann) = accepted("ann").await;
    let (second, _) = accepted("ann").await;
    let (other, bob) = accepted("bob").await;
    assert!(first && other && !second, "each key has one slot");
    // Decisions have the full text of the key.
    let mut ends = served.checks().await;
    for answer in [ann, bob] {
        let end = end_of(&answer);
        assert!(end.inflight_requests[0].label.len() > 60_000);
        let ended = ends.flow_end(end).await.expect("an answer").into_inner();
        assert!(ended.token_return_statuses[0].returned);
    }
    assert!(accepted("ann").await.0 && accepted("bob").await.0);
}

#[tokio::test]
async fn deeply_nested_bodies_do_not_delay_the_agent() {
    const CLASSIFIER: &str = "
circuit:
  components:
  - flow_control:
      rate_limiter:
        selectors: [{control_point: render}]
        in_ports: {bucket_capacity: {constant_signal: {value: 1000}}, fill_amount: {constant_signal: {value: 1}}}
        parameters: {interval: 1s}
resources:
  flow_control:
    classifiers:
    - selectors: [{control_point: render}]
      rules:
        whole: {extractor: {json: {from: request.http.body, pointer: ''}}}
        inner: {extractor: {json: {from: request.http.body, pointer: /a/0}}}
";
    let served = Served::start(CLASSIFIER).await;
    let mut caller = Caller::connect(&served, 16 << 20).await;
    let deep = 1 << 20;
    let begun = Instant::now();
    for body in [
        "[".repeat(deep) + &"]".repeat(deep),
        "{\"a\":".repeat(deep / 2) + "1" + &"}".repeat(deep / 2),
        "[".repeat(120) + &"1,".repeat(deep) + "1" + &"]".repeat(120),
    ] {
        let flow = CheckHttpRequest {
            control_point: "render".into(),
            request: Some(HttpRequest {
                method: "POST".into(),
                body,
                ..HttpRequest::default()
            }),
            ..CheckHttpRequest::default()
        };
        let (code, answer) = caller.call(CHECK_HTTP, bytes(&flow)).await;
        assert_eq!(code, Code::Ok);
        CheckHttpResponse::decode(answer).expect("a message");
    }
    assert!(begun.elapsed() < TIMEOUT);
}
