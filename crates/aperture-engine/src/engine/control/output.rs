//! The settings of control loops as users see them.

use std::sync::Arc;

/// The last output of a policy's control loop to one of its components, for metrics and debugging.
/// [`Engine::control_loops`](super::super::Engine::control_loops) has an example.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ControlLoop {
    /// The policy of the loop.
    pub policy_name: Arc<str>,
    /// The component of the policy that is driven: `root.0.4` is the load scheduler of a composite
    /// that comes first.
    pub component_id: Arc<str>,
    /// The last setting; `None` until a setting was applied, which takes a load scheduler ten ticks
    /// of its policy's circuit.
    pub output: Option<LoopOutput>,
}

/// A setting of a component.
///
/// No number is NaN. An invalid signal lets flows pass, and is shown as the number with that
/// effect: a percentage of 100, or 0 for a ramp, and else infinity.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum LoopOutput {
    /// For a load scheduler.
    LoadMultiplier {
        /// The share of the demand that is accepted, zero or more.
        load_multiplier: f64,
        /// True if everything is accepted, whatever the multiplier.
        pass_through: bool,
    },
    /// For a sampler, including that of a load ramp: the accepted percentage.
    AcceptPercentage(f64),
    /// For a rate limiter or quota scheduler.
    Bucket {
        /// In tokens.
        bucket_capacity: f64,
        /// In tokens per interval.
        fill_amount: f64,
    },
    /// For a concurrency limiter or scheduler: the maximum number of tokens in flight.
    MaxConcurrency(f64),
}
