//! Manual actuation, for the replay of recorded decisions.

use std::time::Duration;

use super::clock::nanos;
use super::control::{Actuator as _, LoadDecision, Setting};
use super::{Engine, EngineMode};

/// A setting that a control loop would apply to a component, given by hand for the replay of
/// recordings.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Actuation {
    /// For a sampler, in percent.
    AcceptPercentage(f64),
    /// For a load scheduler.
    Load {
        /// The share of the demand that passes.
        load_multiplier: f64,
        /// Lets everything pass.
        pass_through: bool,
        /// The time of the engine's clock after which everything passes.
        valid_until: Option<Duration>,
    },
}

impl<M: EngineMode> Engine<M> {
    /// Applies a setting to the components with this ID. Returns false if there is no such
    /// component, or none of the kind of the setting.
    #[doc(hidden)]
    pub fn actuate(&self, component_id: &str, actuation: Actuation) -> bool {
        let now = nanos(self.shared.clock.now());
        let live = self.shared.live.load();
        let mut found = false;
        for entry in live.index.components() {
            if *entry.component_id != *component_id {
                continue;
            }
            let setting = match actuation {
                Actuation::AcceptPercentage(percentage) => Setting::AcceptPercentage(percentage),
                Actuation::Load {
                    load_multiplier,
                    pass_through,
                    valid_until,
                } => Setting::Load(LoadDecision {
                    load_multiplier,
                    pass_through,
                    valid_until: valid_until.map(nanos),
                    tokens: None,
                }),
            };
            found |= entry.component.apply(setting, now);
        }
        found
    }
}
