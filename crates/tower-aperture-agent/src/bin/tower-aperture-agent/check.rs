//! The command `check`: checks one flow with an agent and shows the decision.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tower_aperture::pb::check::limiter_decision::{Details, LimiterReason, TokensInfo};
use tower_aperture::pb::check::{CheckResponse, LimiterDecision};
use tower_aperture::{ApertureClient, Flow, FlowDecision, FlowParams};

use crate::args::{CheckArgs, TargetArgs};
use crate::output::{CommandError, ErrorChain, print_error, print_line};
use crate::{keys, tls};

/// The exit code for a rejected flow.
const REJECTED: u8 = 3;

pub(crate) fn run(args: &CheckArgs) -> Result<ExitCode, CommandError> {
    let client = client(&args.target, args.timeout)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(check(args, &client))
}

fn client(target: &TargetArgs, timeout: Duration) -> Result<ApertureClient, CommandError> {
    let mut builder = ApertureClient::builder()
        .address(target.address()?)
        .insecure(!target.is_secure())
        // The flow does no work, so a span would distort the agent's metrics.
        .telemetry(false)
        .check_timeout(timeout);
    if !timeout.is_zero() {
        builder = builder.connect_timeout(timeout);
    }
    if let Some(ca) = &target.ca {
        builder = builder.ca_certificate(tls::read(ca)?);
    }
    if let (Some(certificate), Some(key)) = (&target.cert, &target.key) {
        builder = builder.client_identity(tls::read(certificate)?, tls::read(key)?);
    }
    if let Some(key) = api_key(target)? {
        builder = builder.api_key(key);
    }
    Ok(builder.build()?)
}

/// Returns the API key to send, if there is one.
pub(crate) fn api_key(target: &TargetArgs) -> Result<Option<String>, CommandError> {
    match &target.api_key_file {
        Some(file) => keys::first(file).map(Some),
        None => match std::env::var("APERTURE_API_KEY") {
            Ok(key) => Ok(Some(key.trim().to_owned()).filter(|key| !key.is_empty())),
            Err(std::env::VarError::NotPresent) => Ok(None),
            Err(std::env::VarError::NotUnicode(_)) => {
                Err("the variable APERTURE_API_KEY is not Unicode".into())
            }
        },
    }
}

async fn check(args: &CheckArgs, client: &ApertureClient) -> Result<ExitCode, CommandError> {
    let labels = args.labels.iter();
    let params = FlowParams::new()
        .labels(labels.map(|(key, value)| (key.as_str(), value.as_str())))
        .ramp_mode(args.ramp);
    let began = Instant::now();
    let flow = client.start_flow(&args.control_point, params).await;
    let took = began.elapsed();
    if let Some(error) = flow.error() {
        let error = ErrorChain(error);
        return Err(format!("{} is unreachable: {error}", args.target.addr).into());
    }
    print_line(describe(&flow, &args.control_point, took));
    let code = match flow.decision() {
        FlowDecision::Accepted => ExitCode::SUCCESS,
        _ => ExitCode::from(REJECTED),
    };
    // The flow does no work that would need its slots.
    if let Some(error) = flow.end().await.error() {
        let error = ErrorChain(error);
        print_error(format_args!("the flow could not be ended: {error}"));
    }
    Ok(code)
}

/// Describes the decision.
fn describe(flow: &Flow, control_point: &str, took: Duration) -> String {
    let mut text = String::new();
    let _ = match flow.rejection() {
        None => write!(text, "accepted"),
        Some(rejection) => {
            let (reason, status) = (rejection.reason().as_str(), rejection.status());
            let _ = write!(text, "rejected: {reason}, HTTP status {}", status.as_u16());
            rejection
                .retry_after()
                .map_or(Ok(()), |wait| write!(text, ", try again in {wait:.1?}"))
        }
    };
    let _ = write!(text, " (`{control_point}`, answered in {took:.1?})");
    let response = flow.check_response();
    let CheckResponse {
        limiter_decisions,
        flux_meter_infos,
        flow_label_keys,
        ..
    } = response.unwrap_or_default().into_owned();
    if limiter_decisions.is_empty() {
        text.push_str("\n  no policy decides here");
    }
    for decision in &limiter_decisions {
        let _ = write!(
            text,
            "\n  {}",
            describe_component(decision, &flow_label_keys)
        );
    }
    for meter in &flux_meter_infos {
        let _ = write!(
            text,
            "\n  measured by flux meter `{}`",
            meter.flux_meter_name
        );
    }
    text
}

/// Describes the decision of one component.
fn describe_component(decision: &LimiterDecision, labels: &[String]) -> String {
    let (kind, label, tokens, workload) = match &decision.details {
        Some(Details::RateLimiterInfo(info)) => (
            "rate limiter",
            &*info.label,
            info.tokens_info.as_ref(),
            None,
        ),
        Some(Details::ConcurrencyLimiterInfo(info)) => (
            "concurrency limiter",
            &*info.label,
            info.tokens_info.as_ref(),
            None,
        ),
        Some(Details::SamplerInfo(info)) => ("sampler", &*info.label, None, None),
        Some(Details::QuotaSchedulerInfo(info)) => (
            "quota scheduler",
            &*info.label,
            info.tokens_info.as_ref(),
            Some((&info.workload_index, info.priority)),
        ),
        Some(Details::ConcurrencySchedulerInfo(info)) => (
            "concurrency scheduler",
            &*info.label,
            info.tokens_info.as_ref(),
            Some((&info.workload_index, info.priority)),
        ),
        Some(Details::LoadSchedulerInfo(info)) => (
            "load scheduler",
            "",
            info.tokens_info.as_ref(),
            Some((&info.workload_index, info.priority)),
        ),
        None => ("limiter", "", None, None),
    };
    let mut text = format!(
        "policy `{}` {} {kind}: ",
        decision.policy_name, decision.component_id,
    );
    if decision.reason == LimiterReason::KeyNotFound as i32 {
        // The response does not name the label, and looks the same for a limiter in pass-through.
        text.push_str(
            "skipped: the label it limits by is missing, or the limiter is in pass-through; ",
        );
        if labels.is_empty() {
            text.push_str("the flow has no labels");
        } else {
            let _ = write!(text, "the flow has the labels {}", labels.join(", "));
        }
        return text;
    }
    text.push_str(if decision.dropped { "no" } else { "yes" });
    if !label.is_empty() {
        let _ = write!(text, ", key `{label}`");
    }
    if let Some((workload, priority)) = workload {
        let _ = write!(text, ", workload `{workload}`, priority {priority}");
    }
    if let Some(TokensInfo {
        remaining,
        current,
        consumed,
    }) = tokens
    {
        let _ = write!(
            text,
            ", tokens: took {consumed}, {remaining:.2} remaining, {current:.2} current"
        );
    }
    text
}
