//! Spans: each decided flow has one, in the form that the Agent reads. Their export delays no flow.
#![cfg(feature = "telemetry")]

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::agent::{FakeAgent, Reply, answer, int, text};
use base64::Engine as _;
use futures_util::future::join_all;
use prost::Message;
use tonic::Status;
use tower::{Layer, Service};
use tower_aperture::pb::check::CheckResponse;
use tower_aperture::pb::check::check_response::RejectReason as Reason;
use tower_aperture::pb::trace_collector::ExportTraceServiceRequest;
use tower_aperture::{
    ApertureClient, ApertureClientBuilder, ApertureLayer, Check, Decider, FlowOutcome, FlowParams,
    FlowStatus, Ticket, TraceContext, Verdict,
};

/// A timeout that only a call that hangs reaches, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

fn builder(agent: &FakeAgent) -> ApertureClientBuilder {
    ApertureClient::builder()
        .address(agent.address())
        .insecure(true)
        .connect_timeout(LONG)
        .check_timeout(LONG)
        .end_timeout(LONG)
}

fn client(agent: &FakeAgent) -> ApertureClient {
    builder(agent).build().expect("a client")
}

fn now_ns() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("past 1970");
    i64::try_from(now.as_nanos()).expect("before 2262")
}

/// Runs `n` flows, up to 64 at the same time.
async fn run_flows(client: &ApertureClient, n: usize) {
    let flow = || async {
        let flow = client.start_flow("checkout", FlowParams::new()).await;
        assert_eq!(flow.error(), None);
        flow.finish(FlowStatus::Ok);
    };
    for at in (0..n).step_by(64) {
        join_all((at..n.min(at + 64)).map(|_| flow())).await;
    }
}

#[tokio::test]
async fn a_span_has_exactly_the_attributes_that_the_agent_reads() {
    let agent = FakeAgent::start();
    agent.on_check(|request| {
        Reply::Now(CheckResponse {
            services: vec!["shop".to_owned()],
            limiter_decisions: vec![answer::limiter(false)],
            ..answer::accepted(request)
        })
    });
    let client = client(&agent);
    let before = now_ns();
    let flow = client
        .start_flow("checkout", FlowParams::new().label("user", "42"))
        .await;
    let response = flow.check_response().expect("answered").into_owned();
    flow.end().await;
    let after = now_ns();
    assert!(client.shutdown(LONG).await);
    let spans = agent.spans();
    assert_eq!(spans.len(), 1);
    let span = &spans[0];
    assert_eq!(span.name, "Aperture Check");
    let mut keys: Vec<_> = span.attributes.iter().map(|a| a.key.as_str()).collect();
    keys.sort_unstable();
    let expected = [
        "aperture.check_response",
        "aperture.flow.status",
        "aperture.flow_end_timestamp",
        "aperture.flow_end_timestamp_ms",
        "aperture.flow_start_timestamp",
        "aperture.flow_start_timestamp_ms",
        "aperture.source",
        "aperture.workload_start_timestamp",
        "aperture.workload_start_timestamp_ms",
    ];
    assert_eq!(keys, expected);
    assert_eq!(text(span, "aperture.source").as_deref(), Some("sdk"));
    assert_eq!(text(span, "aperture.flow.status").as_deref(), Some("OK"));
    let encoded = text(span, "aperture.check_response").expect("the attribute");
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .expect("base64, padded");
    assert_eq!(
        CheckResponse::decode(&*decoded).expect("a message"),
        response
    );
    let timestamps = ["flow_start", "workload_start", "flow_end"].map(|name| {
        let ns = int(span, &format!("aperture.{name}_timestamp")).expect("the attribute");
        let ms = int(span, &format!("aperture.{name}_timestamp_ms")).expect("the attribute");
        assert_eq!(ms, ns / 1_000_000, "{name}");
        ns
    });
    assert!(before <= timestamps[0], "the timestamps are Unix time");
    assert!(
        timestamps[0] < timestamps[1],
        "the workload starts after the check"
    );
    assert!(timestamps[1] <= timestamps[2]);
    // The end comes from a monotonic clock and `after` from the system clock, which may change.
    assert!(timestamps[2] <= after + 1_000_000_000);
    assert_eq!(i64::try_from(span.start_time_unix_nano), Ok(timestamps[0]));
    assert_eq!(i64::try_from(span.end_time_unix_nano), Ok(timestamps[2]));
    assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8));
}

#[tokio::test]
async fn spans_name_the_library_as_resource_and_scope() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    run_flows(&client, 1).await;
    assert!(client.shutdown(LONG).await);
    let export = &agent.exports()[0].resource_spans[0];
    let resource = export.resource.as_ref().expect("a resource");
    let named: Vec<_> = resource
        .attributes
        .iter()
        .map(|a| (a.key.as_str(), a.value.clone().and_then(|v| v.value)))
        .collect();
    use tower_aperture::pb::common::any_value::Value::StringValue;
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        named,
        [
            (
                "service.name",
                Some(StringValue("tower-aperture".to_owned()))
            ),
            ("service.version", Some(StringValue(version.to_owned()))),
        ]
    );
    let scope = export.scope_spans[0].scope.as_ref().expect("a scope");
    assert_eq!(
        (scope.name.as_str(), scope.version.as_str()),
        ("tower-aperture", version)
    );
}

#[tokio::test]
async fn every_span_has_its_own_trace_id_and_span_id() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    run_flows(&client, 100).await;
    assert!(client.shutdown(LONG).await);
    let spans = agent.spans();
    let traces: HashSet<_> = spans.iter().map(|s| &s.trace_id).collect();
    let ids: HashSet<_> = spans.iter().map(|s| &s.span_id).collect();
    assert_eq!((spans.len(), traces.len(), ids.len()), (100, 100, 100));
}

#[tokio::test]
async fn rejected_flows_have_spans_and_unreachable_flows_have_none() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    agent.on_check(|request| Reply::Now(answer::rejected(request, Reason::RateLimited)));
    client
        .start_flow("checkout", FlowParams::new())
        .await
        .end()
        .await;
    agent.on_check(|_| Reply::Status(Status::internal("no")));
    client
        .start_flow("checkout", FlowParams::new())
        .await
        .end()
        .await;
    assert!(client.shutdown(LONG).await);
    let spans = agent.spans();
    assert_eq!(spans.len(), 1);
    assert_eq!(
        text(&spans[0], "aperture.flow.status").as_deref(),
        Some("Unset")
    );
    assert_eq!(client.stats().spans_exported, 1);
}

/// Returns the status that the Agent reads from the attributes of a span.
fn status_read_by_agent(status: Option<&str>, code: Option<&str>) -> String {
    match (code.map(|code| &code[..1]), status) {
        (Some("1" | "2" | "3"), _) => "OK".to_owned(),
        (_, Some(status)) if !status.is_empty() => status.to_owned(),
        _ => "Error".to_owned(),
    }
}

#[tokio::test]
async fn the_agent_reads_the_flow_status_whatever_the_http_status_code() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    // Status and code of the flow; the code in its span; the status that the Agent reads.
    let cases = [
        (FlowStatus::Ok, Some(200), Some("200"), "OK"),
        (FlowStatus::Ok, Some(302), Some("302"), "OK"),
        // The code decides nothing: the Agent takes the status of the flow.
        (FlowStatus::Ok, Some(404), Some("404"), "OK"),
        (FlowStatus::Ok, None, None, "OK"),
        (FlowStatus::Error, Some(500), Some("500"), "Error"),
        (FlowStatus::Error, Some(404), Some("404"), "Error"),
        // The body failed: the status code of the head would read as success.
        (FlowStatus::Error, Some(200), None, "Error"),
        (FlowStatus::Error, Some(101), None, "Error"),
        (FlowStatus::Error, None, None, "Error"),
        (FlowStatus::Unset, Some(429), Some("429"), "Unset"),
    ];
    for (status, code, ..) in cases {
        let ticket = match client.decide("checkout", &FlowParams::new()) {
            Check::Pending(pending) => match pending.await {
                Verdict::Accepted(ticket) => ticket,
                other => panic!("{other:?}"),
            },
            Check::Ready(other) => panic!("{other:?}"),
        };
        let mut outcome = FlowOutcome::new(status);
        if let Some(code) = code {
            outcome = outcome.with_http_status(http::StatusCode::from_u16(code).expect("a code"));
        }
        ticket.end(outcome);
    }
    assert!(client.shutdown(LONG).await);
    let spans = agent.spans();
    assert_eq!(spans.len(), cases.len());
    for (span, (status, code, sent, read)) in spans.iter().zip(cases) {
        let flow_status = text(span, "aperture.flow.status");
        let http = text(span, "http.status_code");
        assert_eq!(http.as_deref(), sent, "{status:?} {code:?}");
        assert_eq!(flow_status.as_deref(), Some(read), "{status:?} {code:?}");
        let agent_status = status_read_by_agent(flow_status.as_deref(), http.as_deref());
        assert_eq!(agent_status, read, "{status:?} {code:?}");
    }
}

#[tokio::test]
async fn the_agent_reads_a_404_of_a_service_as_ok_and_a_503_as_error() {
    for (code, read) in [(200, "OK"), (404, "OK"), (503, "Error")] {
        let agent = FakeAgent::start();
        let client = client(&agent);
        let status = http::StatusCode::from_u16(code).expect("a code");
        let inner = tower::service_fn(move |_: http::Request<String>| {
            let mut response = http::Response::new(String::new());
            *response.status_mut() = status;
            std::future::ready(Ok::<_, std::convert::Infallible>(response))
        });
        let mut service = ApertureLayer::new(client.clone(), "checkout").layer(inner);
        let response = service.call(http::Request::new(String::new())).await;
        let response = response.expect("no error");
        assert_eq!(response.status(), status);
        drop((response, service));
        assert!(client.shutdown(LONG).await);
        let spans = agent.spans();
        assert_eq!(spans.len(), 1);
        let flow_status = text(&spans[0], "aperture.flow.status");
        let http = text(&spans[0], "http.status_code");
        assert_eq!(flow_status.as_deref(), Some(read));
        assert_eq!(http, Some(code.to_string()));
        let agent_status = status_read_by_agent(flow_status.as_deref(), http.as_deref());
        assert_eq!(agent_status, read);
    }
}

#[tokio::test]
async fn spans_are_exported_in_batches_without_a_shutdown() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    run_flows(&client, 700).await;
    agent
        .until("the agent has all spans", |agent| {
            agent.spans().len() == 700
        })
        .await;
    assert!(
        agent.exports().len() <= 10,
        "{} exports",
        agent.exports().len()
    );
    agent
        .until("all spans are counted as exported", |_| {
            client.stats().spans_exported == 700
        })
        .await;
}

/// Counts how often each message arrived. The id of its first span identifies a message.
fn attempts(agent: &FakeAgent) -> HashMap<Vec<u8>, usize> {
    let mut attempts = HashMap::new();
    for export in agent.exports() {
        *attempts.entry(first_id(&export)).or_default() += 1;
    }
    attempts
}

fn first_id(export: &ExportTraceServiceRequest) -> Vec<u8> {
    export.resource_spans[0].scope_spans[0].spans[0]
        .span_id
        .clone()
}

#[tokio::test]
async fn an_export_is_retried_once() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let first_ids = Mutex::new(HashSet::new());
    agent.on_export(move |export| {
        let first = first_ids.lock().expect("no panic").insert(first_id(export));
        match first {
            true => Reply::Status(Status::unavailable("one moment")),
            false => Reply::Now(Default::default()),
        }
    });
    run_flows(&client, 3).await;
    client.shutdown(LONG).await;
    let stats = client.stats();
    assert_eq!((stats.spans_exported, stats.spans_failed), (3, 0));
    assert!(attempts(&agent).values().all(|attempts| *attempts == 2));
}

#[tokio::test]
async fn an_export_that_fails_twice_is_counted_and_not_sent_again() {
    for (status, allowed) in [
        (Status::unavailable("no"), 2),
        (Status::unimplemented("no collector here"), 1),
    ] {
        let agent = FakeAgent::start();
        let client = client(&agent);
        agent.on_export(move |_| Reply::Status(status.clone()));
        run_flows(&client, 3).await;
        client.shutdown(LONG).await;
        let stats = client.stats();
        assert_eq!((stats.spans_exported, stats.spans_failed), (0, 3));
        assert!(
            attempts(&agent)
                .values()
                .all(|attempts| *attempts == allowed)
        );
    }
}

#[tokio::test]
async fn spans_that_the_collector_rejects_are_counted_as_failed() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    agent.on_export(|_| {
        use tower_aperture::pb::trace_collector::{
            ExportTracePartialSuccess, ExportTraceServiceResponse,
        };
        Reply::Now(ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans: 2,
                error_message: "no".to_owned(),
            }),
        })
    });
    run_flows(&client, 5).await;
    client.shutdown(LONG).await;
    let stats = client.stats();
    assert_eq!((stats.spans_exported, stats.spans_failed), (3, 2));
}

#[tokio::test]
async fn a_collector_that_hangs_delays_no_flow_and_loses_only_spans() {
    let agent = FakeAgent::start();
    agent.on_export(|_| Reply::Hang);
    agent.on_check(|request| match request.control_point.as_str() {
        "held" => Reply::Now(answer::granted(request)),
        _ => Reply::Now(answer::accepted(request)),
    });
    let client = builder(&agent).end_timeout(LONG).build().expect("a client");
    run_flows(&client, 600).await;
    agent
        .until("the first export hangs", |agent| agent.exports().len() == 1)
        .await;
    // More than the buffer holds.
    run_flows(&client, 2500).await;
    let ended = client
        .start_flow("held", FlowParams::new())
        .await
        .end()
        .await;
    assert_eq!(ended.error(), None);
    assert_eq!(agent.tokens_in_flight(), 0);
    let stats = client.stats();
    assert!(stats.spans_dropped > 0, "{stats:?}");
    assert_eq!(stats.spans_exported, 0);
    assert_eq!(stats.ends_dropped + stats.ends_failed, 0);
}

#[tokio::test]
async fn large_answers_are_split_over_exports_and_a_value_too_large_for_one_is_cut() {
    use tower_aperture::pb::check::{CacheLookupResponse, KeyLookupResponse};

    let agent = FakeAgent::start();
    let checks = AtomicUsize::new(0);
    agent.on_check(move |request| {
        let size = match checks.fetch_add(1, SeqCst) {
            0 => 6 * 1024 * 1024,
            _ => 300 * 1024,
        };
        Reply::Now(CheckResponse {
            cache_lookup_response: Some(CacheLookupResponse {
                result_cache_response: Some(KeyLookupResponse {
                    value: vec![7; size].into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..answer::accepted(request)
        })
    });
    let client = client(&agent);
    for _ in 0..12 {
        run_flows(&client, 1).await;
    }
    assert!(client.shutdown(LONG).await);
    assert_eq!(client.stats().spans_exported, 12);
    for export in agent.exports() {
        assert!(export.encoded_len() < 4 * 1024 * 1024);
    }
    let lookups: Vec<_> = agent
        .spans()
        .iter()
        .map(|span| {
            let encoded = text(span, "aperture.check_response").expect("the attribute");
            let decoded = base64::engine::general_purpose::STANDARD.decode(encoded);
            CheckResponse::decode(&*decoded.expect("base64"))
                .expect("a message")
                .cache_lookup_response
                .expect("the lookup is kept")
                .result_cache_response
                .expect("the outcome is kept")
        })
        .collect();
    assert!(
        lookups[0].value.is_empty(),
        "a value that fits no message is cut"
    );
    assert!(
        lookups[1..]
            .iter()
            .all(|lookup| lookup.value.len() == 300 * 1024)
    );
}

#[tokio::test]
async fn without_telemetry_no_span_is_exported() {
    let agent = FakeAgent::start();
    let client = builder(&agent).telemetry(false).build().expect("a client");
    run_flows(&client, 3).await;
    assert!(client.shutdown(LONG).await);
    assert!(agent.exports().is_empty());
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test]
async fn the_span_links_to_the_trace_of_the_flow() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    for trace in [
        TraceContext::new(PARENT, "vendor=1"),
        TraceContext::new("00-nonsense", ""),
    ] {
        let params = FlowParams::new().trace_context(trace);
        client.start_flow("checkout", params).await.end().await;
    }
    assert!(client.shutdown(LONG).await);
    let spans = agent.spans();
    assert_eq!(spans[0].links.len(), 1);
    let link = &spans[0].links[0];
    assert_eq!(link.trace_id[..3], [0x4b, 0xf9, 0x2f]);
    assert_eq!(link.span_id[..3], [0, 0xf0, 0x67]);
    assert_eq!(link.trace_state, "vendor=1");
    // The flags say that the linked span is sampled and remote.
    assert_eq!(link.flags, 0x301);
    assert_ne!(
        spans[0].trace_id, link.trace_id,
        "the span links to the trace and is not part of it"
    );
    assert!(spans[0].parent_span_id.is_empty());
    assert!(
        spans[1].links.is_empty(),
        "a malformed traceparent makes no link"
    );
}

#[tokio::test]
async fn the_layer_reads_the_trace_context_from_the_request() {
    let agent = FakeAgent::start();
    let client = client(&agent);
    let inner = tower::service_fn(async |_: http::Request<String>| {
        Ok::<_, std::convert::Infallible>(http::Response::new(String::new()))
    });
    let mut service = ApertureLayer::new(client.clone(), "checkout").layer(inner);
    for traced in [true, false] {
        let mut request = http::Request::new(String::new());
        if traced {
            let parent = http::HeaderValue::from_static(PARENT);
            request.headers_mut().insert("traceparent", parent);
        }
        let response = service.call(request).await.expect("no error");
        assert_eq!(response.status(), http::StatusCode::OK);
        drop(response);
    }
    drop(service);
    assert!(client.shutdown(LONG).await);
    let links: Vec<_> = agent.spans().iter().map(|span| span.links.len()).collect();
    assert_eq!(links, [1, 0]);
}
