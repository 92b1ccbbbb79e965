//! Control loops on the constant signals of a recording, against what the Controller published.

use std::time::Duration;

use serde_json::Value;
use tower_aperture::engine::{Engine, LoopOutput, ManualClock, SignalSource};

use crate::Verdict;

/// Why a recording whose loop asks for more than constants is skipped.
pub(crate) const ASKS_PROMETHEUS: &str = "asks Prometheus";

/// Answers the queries `vector(…)` of a number.
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

/// Only a Prometheus could answer a query of these policies.
pub(crate) fn asks_prometheus(engine: &Engine) -> bool {
    let mut queries = engine.queries().into_iter();
    queries.any(|one| constant(&one.text).is_none())
}

/// A published value; NaN is pass-through.
type Published = f64;

/// `None` for a recording without a loop whose signals are constant.
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
    // A policy that is refused has no loop; the conversation is judged by the refusal.
    let engine = builder.clock(clock.clone()).build().ok()?;

    let mut loops = engine.control_loops().into_iter();
    let driven = loops.next()?;
    if asks_prometheus(&engine) {
        return Some(Verdict::Skipped(ASKS_PROMETHEUS.into()));
    }
    if loops.next().is_some() {
        return Some(Verdict::Skipped("several loops".into()));
    }
    let recorded: Vec<Published> = decisions
        .iter()
        .filter(|one| ends_in(&one["key"], &driven.component_id))
        .map(recorded)
        .collect();
    if recorded.len() != decisions.len() {
        let id = driven.component_id;
        return Some(Verdict::Differs(format!(
            "the loop drives `{id}`, others were recorded"
        )));
    }
    if value["policies"]
        .to_string()
        .contains("aimd_load_scheduler")
        && recorded.iter().any(|value| !value.is_nan())
    {
        return Some(Verdict::Skipped(
            "what it publishes depends on the traffic".into(),
        ));
    }

    // A load scheduler hears from its loop every ten ticks, the first time at the tenth; the
    // others at each tick.
    let load = decisions[0].get("load_multiplier").is_some();
    let (mut at, step) = if load { (9, 10) } else { (0, 1) };
    let mut own = Vec::new();
    // Some recordings begin later than their loop.
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
    let begins = |from: usize| {
        own.get(from..).is_some_and(|own| {
            own.len() >= recorded.len()
                && own.iter().zip(&recorded).all(|(own, one)| same(*own, *one))
        })
    };
    let late = decisions[0]["at"].is_null();
    Some(match begins(0) || late && (1..=10).any(begins) {
        true => Verdict::Partly(format!("{} values", recorded.len())),
        false => Verdict::Differs(format!("published: expected {recorded:?}, got {own:?}")),
    })
}

fn ends_in(key: &Value, id: &str) -> bool {
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
