//! A flow as the engine reads it: the borrowed parts that components decide by.

use std::time::Duration;

use super::clock::{Nanos, nanos};
use crate::flow::Labels;

/// The time left of a flow without a deadline.
pub(crate) const NO_DEADLINE: Nanos = Nanos::MAX;
/// The longest time left, and the latest time, that counts as a deadline. Longer ones are capped.
pub(crate) const LATEST_DEADLINE: Nanos = NO_DEADLINE - 1;

/// A deadline that is at most this far away counts as over, because the decision would arrive too
/// late.
pub(crate) const DEADLINE_MARGIN: Nanos = 10_000_000;

/// Returns the time left until a deadline. A distant deadline is capped, so that it stays a
/// deadline: a flow without one does not wait for a slot.
pub(crate) fn time_left(deadline: Option<Duration>) -> Nanos {
    deadline.map_or(NO_DEADLINE, |left| nanos(left).min(LATEST_DEADLINE))
}

/// The parts of a flow that the engine reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineFlow<'a, 'l> {
    pub(crate) control_point: &'a str,
    pub(crate) services: &'a [&'a str],
    pub(crate) labels: &'a Labels<'l>,
    pub(crate) ramp_mode: bool,
    /// The time until the deadline, or [`NO_DEADLINE`].
    pub(crate) time_left: Nanos,
}

impl EngineFlow<'_, '_> {
    /// Returns the flow with enough time left to be decided at once: it has waited for a shared
    /// store until just before its deadline.
    pub(crate) fn decided_in_time(self) -> Self {
        Self {
            time_left: self.time_left.max(DEADLINE_MARGIN + 1),
            ..self
        }
    }
}
