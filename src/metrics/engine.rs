use metrics::{counter, gauge};

use super::{
    ENGINE_ACCEPT_PERCENTAGE, ENGINE_KEYS, ENGINE_KEYS_EVICTED, ENGINE_LOAD_MULTIPLIER,
    ENGINE_RELOADS, describe,
};
use crate::Engine;
use crate::engine::LoopOutput;

/// Records what an engine knows of itself, to be called now and then: before a scrape, say.
///
/// It is for one engine a process: those of a second one take the place of the first one's. A load
/// scheduler that lets everything in has the multiplier 1, and settings that no signal has
/// reached yet are left out.
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
pub fn record_engine(engine: &Engine) {
    describe();
    let stats = engine.stats();
    gauge!(ENGINE_KEYS).set(stats.keys as f64);
    counter!(ENGINE_KEYS_EVICTED).absolute(stats.evicted);
    counter!(ENGINE_RELOADS, "result" => "done").absolute(stats.reloads);
    counter!(ENGINE_RELOADS, "result" => "failed").absolute(stats.failed_reloads);
    for driven in engine.control_loops() {
        let (name, value) = match driven.output {
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
            ("policy", driven.policy_name),
            ("component", driven.component_id),
        ];
        gauge!(name, &labels).set(value);
    }
}
