//! Manual actuation, for the replay of recorded decisions.

use std::time::Duration;

use super::Engine;
use super::clock::nanos;
use super::registry::Component;
use super::schedulers::LoadSchedulerDecision;

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

impl Engine {
    /// Applies a setting to the components with this ID. Returns false if there is no such
    /// component, or none of the kind of the setting.
    #[doc(hidden)]
    pub fn actuate(&self, component_id: &str, actuation: Actuation) -> bool {
        let now = nanos(self.shared.clock.now());
        let live = self.shared.live.load();
        let mut found = false;
        for component in live.index.components() {
            if *component.component_id != *component_id {
                continue;
            }
            found |= match (&*component.limiter, actuation) {
                (Component::Sampler(sampler), Actuation::AcceptPercentage(percentage)) => {
                    sampler.set_percentage(percentage);
                    true
                }
                (
                    Component::LoadScheduler(scheduler),
                    Actuation::Load {
                        load_multiplier,
                        pass_through,
                        valid_until,
                    },
                ) => {
                    let decision = LoadSchedulerDecision {
                        load_multiplier,
                        pass_through,
                        valid_until: valid_until.map(nanos),
                    };
                    scheduler.publish(decision, now);
                    true
                }
                _ => false,
            };
        }
        found
    }
}
