use std::sync::Arc;

use super::Setting;

/// What a policy's control loop has told one of its components last: for metrics, and to see a
/// loop at work. [`Engine::control_loops`](super::super::Engine::control_loops) has an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ControlLoop {
    /// The policy of the loop.
    pub policy_name: Arc<str>,
    /// Which component of the policy is driven: `root.0.4` is the load scheduler of a composite
    /// that comes first.
    pub component_id: Arc<str>,
    /// `None` until the component was told anything, which takes a load scheduler ten ticks of
    /// its policy's circuit.
    pub output: Option<LoopOutput>,
}

/// A setting of a component. Signals that are invalid are NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum LoopOutput {
    /// Of a load scheduler.
    LoadMultiplier {
        /// The share of the demand, zero or more, that is let in.
        load_multiplier: f64,
        /// Everything is let in, whatever the multiplier.
        pass_through: bool,
    },
    /// Of a sampler, also the one of a load ramp.
    AcceptPercentage(f64),
    /// Of a rate limiter or quota scheduler.
    Bucket {
        /// Tokens.
        bucket_capacity: f64,
        /// Tokens an interval.
        fill_amount: f64,
    },
    /// Of a concurrency limiter or scheduler: tokens in flight.
    MaxConcurrency(f64),
}

impl From<&Setting> for LoopOutput {
    fn from(setting: &Setting) -> Self {
        match setting {
            Setting::Load(decision) => Self::LoadMultiplier {
                load_multiplier: decision.load_multiplier,
                pass_through: decision.pass_through,
            },
            Setting::AcceptPercentage(percentage) => Self::AcceptPercentage(*percentage),
            Setting::Bucket { capacity, fill, .. } => Self::Bucket {
                bucket_capacity: *capacity,
                fill_amount: *fill,
            },
            Setting::Slots {
                max_concurrency, ..
            } => Self::MaxConcurrency(*max_concurrency),
        }
    }
}
