//! A flow as its caller describes it, and as components read it: the borrowed parts that they decide
//! by.

use std::time::Duration;

use super::clock::{Nanos, nanos};
use aperture_core::{FlowParams, LabelSource};

/// The time left of a flow without a deadline.
pub(crate) const NO_DEADLINE: Nanos = Nanos::MAX;
/// The longest time left, and the latest time, that counts as a deadline. Longer ones are capped.
pub(crate) const LATEST_DEADLINE: Nanos = NO_DEADLINE - 1;

/// A deadline that is at most this far away counts as over, because the decision would arrive too
/// late.
pub(crate) const DEADLINE_MARGIN: Nanos = 10_000_000;

/// Returns the time left until a deadline. A distant deadline is capped, so that it stays a
/// deadline: a flow without one does not wait for a slot.
#[inline]
pub(crate) fn time_left(deadline: Option<Duration>) -> Nanos {
    deadline.map_or(NO_DEADLINE, |left| nanos(left).min(LATEST_DEADLINE))
}

/// The parts of a flow that the engine reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EngineFlow<'a, 'l> {
    pub(crate) control_point: &'a str,
    pub(crate) services: &'a [&'a str],
    pub(crate) labels: &'a (dyn LabelSource + 'l),
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

/// A check of a flow by an [`Engine`](super::Engine) that asks for the full report, as an Agent's
/// `Check` gives it.
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::engine::{CheckInput, Engine};
/// use tower_aperture::FlowParams;
///
/// let engine = Engine::builder().build()?;
/// let params = FlowParams::new().label("user_id", "42");
/// let input = CheckInput::new("checkout", &params)
///     .services(&["shop.example"])
///     .deadline(Some(Duration::from_millis(200)));
/// let report = engine.check(&input);
/// assert!(report.accepted());
/// assert_eq!(report.flow_label_keys, ["user_id"]);
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct CheckInput<'a, 'l> {
    pub(super) control_point: &'a str,
    pub(super) services: &'a [&'a str],
    pub(super) params: &'a FlowParams<'l>,
    pub(super) labels: &'a dyn LabelSource,
    pub(super) deadline: Option<Duration>,
    pub(super) expect_end: bool,
    pub(super) cache_lookup: bool,
}

impl<'a, 'l> CheckInput<'a, 'l> {
    /// Creates the input for a flow at a control point, without services. Its deadline is its
    /// [budget](FlowParams::budget).
    #[must_use]
    pub fn new(control_point: &'a str, params: &'a FlowParams<'l>) -> Self {
        Self {
            control_point,
            services: &[],
            params,
            labels: &params.labels,
            deadline: params.budget(None),
            expect_end: false,
            cache_lookup: params.looks_up_caches(),
        }
    }

    pub(super) fn flow(&self) -> EngineFlow<'a, 'a> {
        EngineFlow {
            control_point: self.control_point,
            services: self.services,
            labels: self.labels,
            ramp_mode: self.params.ramp_mode,
            time_left: time_left(self.deadline),
        }
    }

    /// Reads the labels of the flow from elsewhere than its parameters.
    pub(super) const fn labels_from(mut self, labels: &'a dyn LabelSource) -> Self {
        self.labels = labels;
        self
    }

    /// Sets the services that the flow belongs to. Selectors may require one of them.
    #[must_use]
    pub const fn services(mut self, services: &'a [&'a str]) -> Self {
        self.services = services;
        self
    }

    /// Sets whether the caller will report the end of the flow. The default is false.
    #[must_use]
    pub const fn expect_end(mut self, expect_end: bool) -> Self {
        self.expect_end = expect_end;
        self
    }

    /// Sets whether to look up the caches. The default is true if the parameters have cache keys.
    /// Without keys, the [result of the lookup](super::CheckReport::cache_lookup) is present but empty.
    #[must_use]
    pub const fn cache_lookup(mut self, cache_lookup: bool) -> Self {
        self.cache_lookup = cache_lookup;
        self
    }

    /// Sets how much time is left to decide. `None` means no limit, zero means that no time is
    /// left.
    ///
    /// A time of 10 ms or less counts as none: a limiter that would have to read its state then
    /// rejects the flow.
    #[must_use]
    pub const fn deadline(mut self, left: Option<Duration>) -> Self {
        self.deadline = left;
        self
    }
}
