//! The HTTP handlers for status, health, liveness, readiness and metrics.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::json;

use super::Agent;
use super::metrics::KindDecisions;
use aperture_engine::engine::LoopOutput;

const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// The response of `GET /status`.
#[derive(Debug, Serialize)]
struct StatusReport {
    status: &'static str,
    agent_group: String,
    accepted: u64,
    rejected: u64,
    decisions: Vec<KindDecisions>,
    waiting: i64,
    connections: i64,
    keys: usize,
    evicted_keys: u64,
    reloads: u64,
    failed_reloads: u64,
    warnings: Vec<String>,
    components: Vec<ComponentStatus>,
    control_loops: Vec<ControlLoopStatus>,
}

#[derive(Debug, Serialize)]
struct ComponentStatus {
    policy_name: String,
    component_id: String,
    kind: &'static str,
    keys: usize,
    evicted_keys: u64,
}

#[derive(Debug, Serialize)]
struct ControlLoopStatus {
    policy_name: String,
    component_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<serde_json::Value>,
}

/// Converts the output of a control loop to JSON. A number that is not finite becomes null.
fn output(output: LoopOutput) -> serde_json::Value {
    match output {
        LoopOutput::LoadMultiplier {
            load_multiplier,
            pass_through,
        } => json!({"load_multiplier": load_multiplier, "pass_through": pass_through}),
        LoopOutput::AcceptPercentage(percentage) => json!({"accept_percentage": percentage}),
        LoopOutput::Bucket {
            bucket_capacity,
            fill_amount,
        } => json!({"bucket_capacity": bucket_capacity, "fill_amount": fill_amount}),
        LoopOutput::MaxConcurrency(concurrency) => json!({"max_concurrency": concurrency}),
        _ => serde_json::Value::Null,
    }
}

impl StatusReport {
    fn of(agent: &Agent) -> Self {
        let inner = &agent.inner;
        let engine = &inner.engine;
        let stats = engine.stats();
        let components = engine.components().into_iter();
        let loops = engine.control_loops().into_iter();
        let status = if inner.drain.has_begun() {
            "ending"
        } else {
            "serving"
        };
        Self {
            status,
            agent_group: engine.agent_group().to_owned(),
            accepted: stats.accepted,
            rejected: stats.rejected,
            decisions: inner.metrics.kinds(),
            waiting: inner.metrics.process.waiting.get(),
            connections: inner.metrics.process.connections.get(),
            keys: stats.keys,
            evicted_keys: stats.evicted,
            reloads: stats.reloads,
            failed_reloads: stats.failed_reloads,
            warnings: engine.warnings().iter().map(ToString::to_string).collect(),
            components: components
                .map(|component| ComponentStatus {
                    policy_name: component.policy_name.to_string(),
                    component_id: component.component_id.to_string(),
                    kind: component.kind,
                    keys: component.keys,
                    evicted_keys: component.evicted,
                })
                .collect(),
            control_loops: loops
                .map(|control_loop| ControlLoopStatus {
                    policy_name: control_loop.policy_name.to_string(),
                    component_id: control_loop.component_id.to_string(),
                    output: control_loop.output.map(output),
                })
                .collect(),
        }
    }
}

pub(super) async fn status(State(agent): State<Agent>) -> Response {
    axum::Json(StatusReport::of(&agent)).into_response()
}

pub(super) async fn health(State(agent): State<Agent>) -> Response {
    if agent.inner.drain.has_begun() {
        return (StatusCode::SERVICE_UNAVAILABLE, "ending\n").into_response();
    }
    "serving\n".into_response()
}

/// Reports that the process serves, during shutdown too.
pub(super) async fn livez() -> &'static str {
    "live\n"
}

/// Reports whether the agent wants further calls. An agent has its policies before it serves, so it
/// is ready from its first call until shutdown begins.
pub(super) async fn readyz(State(agent): State<Agent>) -> (StatusCode, &'static str) {
    if agent.inner.drain.has_begun() {
        return (StatusCode::SERVICE_UNAVAILABLE, "ending\n");
    }
    (StatusCode::OK, "ready\n")
}

pub(super) async fn metrics(State(agent): State<Agent>) -> Response {
    let text = agent.inner.metrics.text();
    ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response()
}
