//! Runs Aperture's SDK conformance checklist against the example for it.
#![cfg(all(feature = "remote", feature = "telemetry", feature = "embedded"))]

mod judge;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpSocket;
use tokio::process::{Child, Command};
use tower_aperture::pb::check::flow_control_service_client::FlowControlServiceClient;
use tower_aperture::pb::check::{CacheLookupRequest, CheckRequest, CheckResponse, FlowEndRequest};
use tower_aperture::pb::common::any_value::Value;
use tower_aperture::pb::common::{AnyValue, KeyValue};
use tower_aperture::pb::trace::{ResourceSpans, ScopeSpans, Span};
use tower_aperture::pb::trace_collector::ExportTraceServiceRequest;
use tower_aperture::pb::trace_collector::trace_service_client::TraceServiceClient;

use base64::Engine as _;
use judge::Validator;
use prost::Message as _;
use tonic::transport::Endpoint;

const LOCALHOST: Ipv4Addr = Ipv4Addr::LOCALHOST;
const REQUESTS: usize = 10;
const REJECTS: usize = 5;

/// The example as a child process, which is killed when the test ends.
struct App {
    child: Child,
    address: SocketAddr,
    http: Client<HttpConnector, Empty<Bytes>>,
}

impl App {
    async fn start(agent: SocketAddr) -> Self {
        let mut child = Command::new(build_example("validator_app").await)
            .env("APERTURE_AGENT_ADDRESS", agent.to_string())
            .env("APERTURE_AGENT_INSECURE", "true")
            .env("APERTURE_APP_PORT", "0")
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the example starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.next_line().await.expect("a readable line");
        let line = line.expect("the example prints its address");
        let address = line
            .rsplit(' ')
            .next()
            .and_then(|address| address.parse().ok());
        Self {
            child,
            address: address.expect("an address"),
            http: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    async fn try_get(&self, path: &str) -> Option<(u16, String)> {
        let uri = format!("http://{}{path}", self.address)
            .parse()
            .expect("a valid URI");
        let answer = self.http.get(uri).await.ok()?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        Some((status, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.try_get(path).await.expect("the app answers")
    }

    async fn count_rejected(&self, requests: usize) -> usize {
        let mut rejected = 0;
        for _ in 0..requests {
            rejected += usize::from(self.get("/super").await.0 >= 400);
        }
        rejected
    }
}

/// Returns the path of an example, and builds it if necessary: `cargo test --test validator` builds
/// no examples.
async fn build_example(name: &str) -> PathBuf {
    let mut path = std::env::current_exe().expect("the test knows its own path");
    path.pop();
    path.pop();
    path.push("examples");
    path.push(name);
    path.set_extension(std::env::consts::EXE_EXTENSION);
    if !path.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--all-features", "--example", name]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let built = build.status().await.expect("cargo runs");
        assert!(built.success(), "the example builds");
    }
    path
}

/// Reserves a port on which no process listens yet.
fn reserve_port() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option of TCP");
    let any = SocketAddr::from((LOCALHOST, 0));
    socket.bind(any).expect("a port is free");
    let address = socket.local_addr().expect("a bound socket has an address");
    (socket, address)
}

/// Timeout of the checklist. Only a hanging test takes as long.
const CHECKLIST_TIMEOUT: Duration = Duration::from_secs(120);

#[tokio::test]
async fn the_example_passes_the_conformance_checklist() {
    // The build has no timeout.
    build_example("validator_app").await;
    let checklist = tokio::time::timeout(CHECKLIST_TIMEOUT, checklist());
    checklist.await.expect("the checklist ends in time");
}

async fn checklist() {
    let (socket, agent) = reserve_port();
    let mut app = App::start(agent).await;

    // Before the Agent starts, the app is healthy but not connected, and its protected route fails
    // open.
    assert_eq!(app.get("/health").await, (200, "Healthy".to_owned()));
    assert_eq!(app.get("/connected").await.0, 503);
    assert_eq!(app.count_rejected(1).await, 0);

    let validator = Validator::new(REJECTS);
    let serving = validator.serve(socket.listen(64).expect("the port is reserved"));
    while app.get("/connected").await.0 != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        validator.record().checks,
        0,
        "/connected and /health start no flow"
    );

    let mut statuses = Vec::new();
    for _ in 0..REQUESTS {
        statuses.push(app.get("/super").await.0);
    }
    assert_eq!(statuses, [429, 429, 429, 429, 429, 202, 202, 202, 202, 202]);
    assert_eq!(app.get("/health").await.0, 200);
    assert_eq!(
        validator.record().checks,
        REQUESTS,
        "one check per request, and none for /health"
    );

    while validator.record().valid_spans < REQUESTS && validator.record().faults.is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(validator.record().faults, Vec::<String>::new());

    serving.stop().await;
    assert_eq!(app.count_rejected(REQUESTS).await, 0, "fail open");
    assert_eq!(
        validator.record().valid_spans,
        REQUESTS,
        "one span per flow"
    );

    // When the Agent is back, the app follows its decisions again without a restart.
    let validator = Validator::new(1);
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("an option of TCP");
    socket.bind(agent).expect("the port is free again");
    let serving = validator.serve(socket.listen(64).expect("the port is reserved"));
    while app.get("/connected").await.0 != 200 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(app.count_rejected(2).await, 1);
    app.child.kill().await.expect("the app can be stopped");
    serving.stop().await;
}

/// Returns the span that the recording describes with these words.
fn span_of(case: &str) -> Span {
    let text = |text: &str| Value::StringValue(text.to_owned());
    let response =
        base64::prelude::BASE64_STANDARD.encode(CheckResponse::default().encode_to_vec());
    let start = 1_700_000_000_000_000_000_i64;
    let mut attributes = vec![
        ("aperture.source", text("sdk")),
        ("aperture.check_response", text(&response)),
        ("aperture.flow.status", text("OK")),
        ("aperture.flow_start_timestamp", Value::IntValue(start)),
        (
            "aperture.workload_start_timestamp",
            Value::IntValue(start + 1),
        ),
        ("aperture.flow_end_timestamp", Value::IntValue(start + 2)),
    ];
    let mut set = |name: &'static str, value: Option<Value>| {
        attributes.retain(|(known, _)| *known != name);
        attributes.extend(value.map(|value| (name, value)));
    };
    match case {
        "base" => {}
        "check_response as JSON" => set(
            "aperture.check_response",
            Some(text(r#"{"controlPoint": "x"}"#)),
        ),
        "check_response = JSON object with an unknown field" => {
            set(
                "aperture.check_response",
                Some(text(r#"{"noSuchField": 1}"#)),
            );
        }
        "check_response = !!" => set("aperture.check_response", Some(text("!!"))),
        "no aperture.check_response" => set("aperture.check_response", None),
        "no aperture.source" => set("aperture.source", None),
        "aperture.source = other" => set("aperture.source", Some(text("other"))),
        "no aperture.flow.status" => set("aperture.flow.status", None),
        "aperture.flow.status = Ok" => set("aperture.flow.status", Some(text("Ok"))),
        "no workload start" => set("aperture.workload_start_timestamp", None),
        "flow start = 0" => set("aperture.flow_start_timestamp", Some(Value::IntValue(0))),
        "end stamp as a string" => set("aperture.flow_end_timestamp", Some(text("1"))),
        "stamps run backwards" => {
            set(
                "aperture.flow_end_timestamp",
                Some(Value::IntValue(start - 1)),
            );
        }
        "only _ms stamps" => {
            set("aperture.flow_start_timestamp", None);
            set("aperture.workload_start_timestamp", None);
            set("aperture.flow_end_timestamp", None);
            set("aperture.flow_start_timestamp_ms", Some(Value::IntValue(1)));
        }
        "no attributes" => attributes.clear(),
        other => panic!("unknown kind of span: {other}"),
    }
    Span {
        attributes: attributes
            .into_iter()
            .map(|(key, value)| KeyValue {
                key: key.to_owned(),
                value: Some(AnyValue { value: Some(value) }),
            })
            .collect(),
        ..Span::default()
    }
}

#[tokio::test]
async fn the_fake_agent_answers_as_the_recorded_conformance_tool() {
    let recording = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/crates/aperture-engine/tests/vectors/sdk-validator/validator.json"
    );
    let recording = std::fs::read_to_string(recording).expect("the recording");
    let recording: serde_json::Value = serde_json::from_str(&recording).expect("JSON");
    let validator = Validator::new(REJECTS);
    let (socket, _) = reserve_port();
    let serving = validator.serve(socket.listen(64).expect("the port is reserved"));
    let endpoint = Endpoint::from_shared(format!("http://{}", serving.address));
    let channel = endpoint
        .expect("a valid address")
        .connect()
        .await
        .expect("the fake Agent listens");
    let mut checks = FlowControlServiceClient::new(channel.clone());
    let mut traces = TraceServiceClient::new(channel);

    for (nth, call) in recording["checks"]
        .as_array()
        .expect("a list")
        .iter()
        .enumerate()
    {
        let labels = call["labels"].as_object().expect("a map").iter();
        let request = CheckRequest {
            labels: labels
                .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect(),
            ..CheckRequest::default()
        };
        let answer = checks.check(request).await.expect("an answer").into_inner();
        let decision = answer.decision_type().as_str_name();
        let expected = format!(
            "DECISION_TYPE_{}",
            call["decision"].as_str().expect("a text")
        );
        assert_eq!(decision, expected, "check {nth}");
        if let Some(reason) = call["reason"].as_str() {
            assert_eq!(
                answer.reject_reason().as_str_name(),
                format!("REJECT_REASON_{reason}")
            );
        }
        assert_eq!(answer.denied_response_status_code, 0);
        assert!(answer.wait_time.is_none());
    }

    let spans = &recording["spans"];
    let accepted = spans["ok"].as_array().expect("a list").iter();
    let accepted = accepted.map(|case| (case.as_str().expect("a name"), None));
    let refused = spans["failed"].as_object().expect("a map").iter();
    let refused = refused.map(|(case, text)| (case.as_str(), text.as_str()));
    for (case, text) in accepted.chain(refused) {
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                scope_spans: vec![ScopeSpans {
                    spans: vec![span_of(case)],
                    ..ScopeSpans::default()
                }],
                ..ResourceSpans::default()
            }],
        };
        let error = traces.export(request).await.err();
        assert_eq!(error.as_ref().map(tonic::Status::message), text, "{case}");
        assert!(
            error.is_none_or(|error| error.code() == tonic::Code::Unknown),
            "{case}"
        );
    }

    for code in [
        checks.flow_end(FlowEndRequest::default()).await.err(),
        checks
            .cache_lookup(CacheLookupRequest::default())
            .await
            .err(),
    ] {
        assert_eq!(
            code.map(|status| status.code()),
            Some(tonic::Code::Unimplemented)
        );
    }
    serving.stop().await;
}
