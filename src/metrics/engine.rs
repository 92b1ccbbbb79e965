//! Records the metrics of an engine.

use metrics::{counter, gauge};

use super::{
    ENGINE_ACCEPT_PERCENTAGE, ENGINE_CONCURRENCY_LIMIT, ENGINE_KEYS, ENGINE_KEYS_EVICTED,
    ENGINE_LOAD_MULTIPLIER, ENGINE_RELOADS, describe,
};
use crate::Engine;
use crate::engine::{EngineMode, LoopOutput};

/// Records the statistics of an engine. Call it regularly, for example before each scrape.
///
/// It supports one engine per process: the values of a second one would replace those of the first.
/// A load scheduler that accepts all flows has the multiplier 1. Settings for which the circuit has
/// not produced a signal yet are left out.
///
/// ```
/// use tower_aperture::{Engine, metrics};
///
/// # fn render() {}
/// let engine = Engine::builder().build()?;
/// metrics::record_engine(&engine);
/// render();
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
pub fn record_engine<M: EngineMode>(engine: &Engine<M>) {
    describe();
    let stats = engine.stats();
    gauge!(ENGINE_KEYS).set(stats.keys as f64);
    counter!(ENGINE_KEYS_EVICTED).absolute(stats.evicted);
    counter!(ENGINE_RELOADS, "result" => "done").absolute(stats.reloads);
    counter!(ENGINE_RELOADS, "result" => "failed").absolute(stats.failed_reloads);
    for control_loop in engine.control_loops() {
        let (name, value) = match control_loop.output {
            Some(LoopOutput::LoadMultiplier {
                pass_through: true, ..
            }) => (ENGINE_LOAD_MULTIPLIER, 1.0),
            Some(LoopOutput::LoadMultiplier {
                load_multiplier, ..
            }) => (ENGINE_LOAD_MULTIPLIER, load_multiplier),
            Some(LoopOutput::AcceptPercentage(percentage)) => {
                (ENGINE_ACCEPT_PERCENTAGE, percentage)
            }
            _ => continue,
        };
        let labels = [
            ("policy", control_loop.policy_name),
            ("component", control_loop.component_id),
        ];
        gauge!(name, &labels).set(value);
    }
    for limit in engine.adaptive_limits() {
        for (statistic, value) in [
            ("lowest", limit.lowest),
            ("mean", limit.mean),
            ("highest", limit.highest),
        ] {
            let labels = [
                ("policy", limit.policy_name.to_string()),
                ("component", limit.component_id.to_string()),
                ("statistic", statistic.to_owned()),
            ];
            gauge!(ENGINE_CONCURRENCY_LIMIT, &labels).set(value);
        }
    }
}
