use std::time::Duration;

use super::Engine;
use super::clock::nanos;
use super::limiters::Component;
use super::schedulers::LoadSchedulerDecision;

/// What a controller tells a component, made by hand: for replaying what a recorded one told.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Actuation {
    /// To a sampler, in percent.
    AcceptPercentage(f64),
    /// To a load scheduler.
    Load {
        /// Which share of the demand passes.
        load_multiplier: f64,
        /// Everything passes.
        pass_through: bool,
        /// Everything passes from this time of the engine's clock on.
        valid_until: Option<Duration>,
    },
}

impl Engine {
    /// Tells a component what a controller would; false when there is none such.
    #[doc(hidden)]
    pub fn actuate(&self, component_id: &str, actuation: Actuation) -> bool {
        let now = nanos(self.shared.clock.now());
        let live = self.shared.live.load();
        let mut told = false;
        for component in live.index.components() {
            if *component.component_id != *component_id {
                continue;
            }
            told |= match (&*component.limiter, actuation) {
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
        told
    }
}
