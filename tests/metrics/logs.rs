//! Targets and fields of log events. Users filter by them, so they are part of the interface.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_aperture::client::{Script, ScriptedDecision};
use tower_aperture::metrics::MAX_CONTROL_POINTS;
use tower_aperture::{ApertureLayer, FlowErrorKind, FlowParams, FlowStatus, RejectReason};

use super::support::logs::LogLines;

#[tokio::test]
async fn each_rejection_is_an_event_without_labels() {
    let (lines, _guard) = LogLines::collect(tracing::Level::DEBUG);
    let script = Script::new();
    let client = script.client();
    let wait = Duration::from_secs(2);
    script.next(ScriptedDecision::reject(RejectReason::RateLimited).wait(wait));
    let params = FlowParams::new().label("user", "secret");
    drop(client.start_flow("checkout", params).await);
    drop(client.start_flow("checkout", FlowParams::new()).await);
    let rejected = lines.with(&[
        "DEBUG tower_aperture::client: a flow was rejected",
        "control_point=\"checkout\"",
        "reason=\"rate_limited\"",
        "2s",
    ]);
    assert_eq!(rejected.len(), 1, "{:?}", lines.all());
    assert_eq!(lines.with(&["secret"]), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_waiting_check_has_a_span_that_contains_its_decision() {
    let (lines, _guard) = LogLines::collect(tracing::Level::DEBUG);
    let script = Script::new();
    let client = script.client();
    let later = Duration::from_secs(1);
    script.next(ScriptedDecision::reject(RejectReason::NoTokens).after(later));
    drop(client.start_flow("checkout", FlowParams::new()).await);
    let within = "decision{control_point=\"checkout\"}: tower_aperture::client: ";
    let rejected = lines.with(&[within, "a flow was rejected", "reason=\"no_tokens\""]);
    assert_eq!(rejected.len(), 1, "{:?}", lines.all());
    assert_eq!(lines.with(&[within, "close"]).len(), 1);
}

#[tokio::test]
async fn a_layer_logs_the_response_that_it_sends_for_a_rejected_request() {
    let (lines, _guard) = LogLines::collect(tracing::Level::DEBUG);
    let script = Script::new();
    script.next(ScriptedDecision::unreachable(FlowErrorKind::Timeout));
    let inner = service_fn(async |_: Request<()>| {
        Ok::<_, Infallible>(Response::new(Full::new("hello".as_bytes())))
    });
    let layer = ApertureLayer::new(script.client(), "checkout").ramp_mode(true);
    let answer = layer.layer(inner).oneshot(Request::new(())).await;
    assert_eq!(answer.expect("an answer").status(), 503);
    let refused = lines.with(&[
        "DEBUG tower_aperture::layer: the request was rejected",
        "control_point=\"checkout\"",
        "reason=\"unreachable\"",
        "status=503",
    ]);
    assert_eq!(refused.len(), 1, "{:?}", lines.all());
}

#[tokio::test]
async fn too_many_control_points_are_logged_once() {
    let (lines, _guard) = LogLines::collect(tracing::Level::INFO);
    let client = Script::new().client();
    for at in 0..MAX_CONTROL_POINTS + 20 {
        let name = format!("/item/{at}");
        let flow = client.start_flow(&name, FlowParams::new()).await;
        flow.finish(FlowStatus::Ok);
    }
    let warned = lines.with(&["WARN tower_aperture: ", "too many control points"]);
    assert_eq!(warned.len(), 1, "{:?}", lines.all());
    assert_eq!(
        lines.all().len(),
        1,
        "no other line is logged at this level"
    );
}
