//! Compares control loops on constant signals with the decisions that the Controller published.

use std::time::Duration;

use serde_json::Value;
use tower_aperture::engine::{Engine, EngineMode, LoopOutput, ManualClock, SignalSource};

use crate::Verdict;

/// Why a recording is skipped whose loop needs other values than constants.
pub(crate) const QUERIES_PROMETHEUS: &str = "queries Prometheus";

/// A signal source that evaluates the query `vector(…)` of a number.
#[derive(Debug)]
pub(crate) struct Constants;

impl SignalSource for Constants {
    fn latest(&self, query: &str) -> Option<f64> {
        constant(query)
    }
}

fn constant(query: &str) -> Option<f64> {
    query
        .strip_prefix("vector(")?
        .strip_suffix(')')?
        .parse()
        .ok()
}

/// Returns whether a policy has a query that only Prometheus can evaluate.
pub(crate) fn queries_prometheus<M: EngineMode>(engine: &Engine<M>) -> bool {
    let mut queries = engine.queries().into_iter();
    queries.any(|one| constant(&one.text).is_none())
}

/// A published value; NaN is pass-through.
type Published = f64;

/// Replays the control loop of a recording; returns `None` if the recording has none, or if its
/// policies are refused.
pub(crate) fn replay(value: &Value) -> Option<Verdict> {
    let decisions = value["decisions"]
        .as_array()
        .filter(|all| !all.is_empty())?;
    let mut builder = Engine::builder().signal_source(Constants);
    if let Some(group) = value["agent_group"].as_str() {
        builder = builder.agent_group(group);
    }
    for (number, text) in value["policies"].as_array()?.iter().enumerate() {
        builder = builder.policy_text(format!("policy-{number}.yaml"), text.as_str()?);
    }
    let clock = ManualClock::new();
    // A refused policy has no loop; the replay of the conversation reports the refusal.
    let engine = builder.clock(clock.clone()).build().ok()?;

    let mut loops = engine.control_loops().into_iter();
    let driven = loops.next()?;
    if queries_prometheus(&engine) {
        return Some(Verdict::Skipped(QUERIES_PROMETHEUS.into()));
    }
    if loops.next().is_some() {
        return Some(Verdict::Skipped("several loops".into()));
    }
    let recorded: Vec<Published> = decisions
        .iter()
        .filter(|one| ends_with_component(&one["key"], &driven.component_id))
        .map(recorded)
        .collect();
    if recorded.len() != decisions.len() {
        let id = driven.component_id;
        return Some(Verdict::Differs(format!(
            "the loop drives `{id}`, but the recording has decisions for other components"
        )));
    }
    if value["policies"]
        .to_string()
        .contains("aimd_load_scheduler")
        && recorded.iter().any(|value| !value.is_nan())
    {
        return Some(Verdict::Skipped(
            "the published values depend on the traffic".into(),
        ));
    }

    // A loop publishes to a load scheduler at every tenth tick, and to other components at each
    // one.
    let load = decisions[0].get("load_multiplier").is_some();
    let (mut at, step) = if load { (9, 10) } else { (0, 1) };
    let mut own = Vec::new();
    // Some recordings begin after their loop, so compare more ticks than were recorded.
    for _ in 0..recorded.len() + 10 {
        clock.advance_to(Duration::from_secs(at));
        own.extend(
            engine
                .control_loops()
                .first()
                .and_then(|one| one.output)
                .map(published),
        );
        at += step;
    }
    let matches_from = |from: usize| {
        own.get(from..).is_some_and(|own| {
            own.len() >= recorded.len()
                && own.iter().zip(&recorded).all(|(own, one)| same(*own, *one))
        })
    };
    let starts_late = decisions[0]["at"].is_null();
    Some(
        match matches_from(0) || starts_late && (1..=10).any(matches_from) {
            true => Verdict::Partly(format!("{} values", recorded.len())),
            false => Verdict::Differs(format!("published: expected {recorded:?}, got {own:?}")),
        },
    )
}

fn ends_with_component(key: &Value, id: &str) -> bool {
    key.as_str()
        .and_then(|key| key.strip_suffix(id))
        .is_some_and(|rest| rest.ends_with('-'))
}

fn recorded(decision: &Value) -> Published {
    if decision["pass_through"].as_bool() == Some(true) {
        return f64::NAN;
    }
    let value = decision.get("load_multiplier");
    let value = value.or_else(|| decision.get("accept_percentage"));
    value.and_then(Value::as_f64).unwrap_or(f64::INFINITY)
}

fn published(output: LoopOutput) -> Published {
    match output {
        LoopOutput::LoadMultiplier {
            pass_through: true, ..
        } => f64::NAN,
        LoopOutput::LoadMultiplier {
            load_multiplier, ..
        } => load_multiplier,
        LoopOutput::AcceptPercentage(percentage) => percentage,
        _ => f64::INFINITY,
    }
}

fn same(own: Published, recorded: Published) -> bool {
    (own - recorded).abs() < 1e-6 || own.is_nan() && recorded.is_nan()
}
