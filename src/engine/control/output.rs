use std::sync::Arc;

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

/// A setting of a component.
///
/// No number is NaN. An invalid signal lets flows pass, and is shown as the number that does: a
/// percentage of 100, or 0 for a ramp, and else infinity.
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
