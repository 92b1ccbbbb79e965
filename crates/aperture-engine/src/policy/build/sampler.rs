//! Samplers and load ramps in code: parts of a policy that accept a share of the flows.

use std::time::Duration;

use http::StatusCode;

use super::field::FieldPath;
use super::flow_settings::text;
use super::hidden::Hidden;
use super::lower::{Lowering, flow_control};
use super::selector::Selector;
use super::signal::Signal;
use crate::policy::PolicyError;
use crate::policy::yaml::{Mapping, Value};

/// The settings that samplers and ramps share.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sample {
    selectors: Vec<Selector>,
    session_label: Option<String>,
    status: Option<StatusCode>,
    always_accepted: Vec<Hidden>,
}

impl Sample {
    /// Returns the fields of the parameters.
    fn parameters(
        &self,
        path: &FieldPath<'_>,
        lowering: &Lowering<'_>,
    ) -> Result<Mapping, PolicyError> {
        let status = self.status.map(|status| u32::from(status.as_u16()));
        let session = text(self.session_label.as_deref(), &path.name("by"))?;
        if session.is_none() && !self.always_accepted.is_empty() {
            return Err(path
                .name("always_accept")
                .error("the values belong to no label; name it by `by`"));
        }
        Ok(Mapping::new()
            .with("selectors", lowering.selectors(&self.selectors, path)?)
            .with_some("session_label_key", session)
            .with_some("denied_response_status_code", status))
    }

    /// Returns the values that always pass.
    fn always_accepted(&self) -> Option<Vec<Value>> {
        let values = self.always_accepted.iter();
        let values: Vec<Value> = values.map(|value| value.as_str().into()).collect();
        (!values.is_empty()).then_some(values)
    }
}

/// The methods of [`Sample`].
macro_rules! sample_settings {
    () => {
        /// Decides about flows of this control point or [`Selector`]. Several calls select the
        /// flows of any of them. Without this, the [policy's](super::Policy::at) selectors apply.
        #[must_use]
        pub fn at(mut self, selector: impl Into<Selector>) -> Self {
            self.sample.selectors.push(selector.into());
            self
        }

        /// Decides by the value of a label, the same value alike. Without this, each flow is
        /// decided at random.
        #[must_use]
        pub fn by(mut self, label: impl Into<String>) -> Self {
            self.sample.session_label = Some(label.into());
            self
        }

        /// Adds values of the label of [`by`](Self::by) that are always accepted.
        #[must_use]
        pub fn always_accept<V: Into<String>>(
            mut self,
            values: impl IntoIterator<Item = V>,
        ) -> Self {
            let values = values.into_iter().map(Hidden::new);
            self.sample.always_accepted.extend(values);
            self
        }

        /// Sets the HTTP status of rejections, 403 by default.
        #[must_use]
        pub fn rejection_status(mut self, status: http::StatusCode) -> Self {
            self.sample.status = Some(status);
            self
        }
    };
}

/// Accepts a share of the flows.
///
/// ```
/// use http::StatusCode;
/// use tower_aperture::policy::{Policy, Sampler, Signal};
///
/// // A new page for a tenth of the users, always the same ones, and for the testers.
/// let preview = Sampler::percent(10)
///     .at("preview")
///     .by("user_id")
///     .always_accept(["tester-1", "tester-2"])
///     .rejection_status(StatusCode::NOT_FOUND);
/// // A share of the flows in ramp mode, which operators set.
/// let ramp = Sampler::percent(Signal::config("share", 50)).at("checkout").ramp_mode(true);
/// let policy = Policy::new("preview").sample(preview).sample(ramp);
/// assert!(policy.to_yaml()?.contains("session_label_key: user_id"));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sampler {
    sample: Sample,
    percent: Signal,
    ramp_mode: Option<bool>,
}

impl Sampler {
    /// Returns a sampler of this share of the flows, from 0 to 100.
    pub fn percent(percent: impl Into<Signal>) -> Self {
        Self {
            sample: Sample::default(),
            percent: percent.into(),
            ramp_mode: None,
        }
    }

    /// Sets whether the sampler decides about flows in ramp mode, and about no others. Off by
    /// default.
    #[must_use]
    pub fn ramp_mode(mut self, on: bool) -> Self {
        self.ramp_mode = Some(on);
        self
    }

    sample_settings!();

    pub(super) fn selectors(&self) -> &[Selector] {
        &self.sample.selectors
    }

    pub(super) fn lower<'p>(
        &'p self,
        path: &FieldPath<'_>,
        lowering: &mut Lowering<'p>,
    ) -> Result<Value, PolicyError> {
        let percent_path = path.name("percent");
        if let Some(percent) = self.percent.initial() {
            let percent = percent_path.within(percent, 0.0, 100.0)?;
            let is_constant = self.percent.is_constant();
            if percent == 0.0 && is_constant && self.sample.always_accepted.is_empty() {
                return Err(percent_path.error(
                    "0 rejects every flow; give more, or name who passes by `always_accept`",
                ));
            }
        }
        let port = lowering.port(&self.percent, &percent_path)?;
        let parameters = self
            .sample
            .parameters(path, lowering)?
            .with_some("ramp_mode", self.ramp_mode);
        let fields = Mapping::new()
            .with("in_ports", Mapping::new().with("accept_percentage", port))
            .with("parameters", parameters)
            .with_some("pass_through_label_values", self.sample.always_accepted());
        Ok(flow_control("sampler", fields))
    }
}

/// Accepts a share of the flows in ramp mode that grows in steps.
///
/// A ramp decides only about flows in [ramp mode](aperture_core::FlowParams::ramp_mode). It moves
/// towards its end, unless signals move it.
///
/// ```
/// use std::time::Duration;
///
/// use http::StatusCode;
/// use tower_aperture::policy::{FluxMeter, LoadRamp, Policy, Signal};
///
/// let latency = || Signal::mean_latency("checkout", Duration::from_secs(30));
/// let ramp = LoadRamp::new()
///     .step(5.0, Duration::from_secs(60))
///     .step(100.0, Duration::from_secs(600))
///     .by("user_id")
///     .always_accept(["tester"])
///     .rejection_status(StatusCode::NOT_FOUND)
///     .forward_while(latency().less_than(75))
///     .backward_while(latency().greater_than(100))
///     .reset_while(latency().greater_than(500));
/// let policy = Policy::new("rollout")
///     .measure(FluxMeter::new("checkout").at("checkout"))
///     .ramp(ramp.at("checkout"));
/// assert!(policy.to_yaml()?.contains("load_ramp"));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct LoadRamp {
    sample: Sample,
    steps: Vec<(f64, Duration)>,
    forward: Signal,
    backward: Option<Signal>,
    reset: Option<Signal>,
}

impl LoadRamp {
    /// Returns a ramp without steps, of which it needs at least one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sample: Sample::default(),
            steps: Vec::new(),
            forward: Signal::from(1),
            backward: None,
            reset: None,
        }
    }

    /// Adds a step: the share of the flows, from 0 to 100, that is accepted at its end, and how
    /// long it takes. The ramp begins at the share of its first step.
    #[must_use]
    pub fn step(mut self, target_percent: f64, duration: Duration) -> Self {
        self.steps.push((target_percent, duration));
        self
    }

    /// Moves the ramp towards its end while this signal alone is on. On by default.
    #[must_use]
    pub fn forward_while(mut self, signal: impl Into<Signal>) -> Self {
        self.forward = signal.into();
        self
    }

    /// Moves the ramp towards its start while this signal alone is on.
    #[must_use]
    pub fn backward_while(mut self, signal: impl Into<Signal>) -> Self {
        self.backward = Some(signal.into());
        self
    }

    /// Moves the ramp to its start while this signal is on.
    #[must_use]
    pub fn reset_while(mut self, signal: impl Into<Signal>) -> Self {
        self.reset = Some(signal.into());
        self
    }

    sample_settings!();

    pub(super) fn selectors(&self) -> &[Selector] {
        &self.sample.selectors
    }

    pub(super) fn lower<'p>(
        &'p self,
        path: &FieldPath<'_>,
        lowering: &mut Lowering<'p>,
    ) -> Result<Value, PolicyError> {
        let steps_path = path.name("steps");
        if self.steps.is_empty() {
            return Err(steps_path.error("the ramp has no step; add one by `step`"));
        }
        let mut steps = Vec::new();
        for (index, (percent, duration)) in self.steps.iter().enumerate() {
            let path = steps_path.index(index);
            let percent = path.name("target_percent").within(*percent, 0.0, 100.0)?;
            let step = Mapping::new()
                .with("target_accept_percentage", percent)
                .with("duration", path.name("duration").duration(*duration)?);
            steps.push(step.into());
        }
        let forward = lowering.port(&self.forward, &path.name("forward_while"))?;
        let mut port = |name, signal: &'p Option<Signal>| {
            let signal = signal.as_ref();
            signal
                .map(|signal| lowering.port(signal, &path.name(name)))
                .transpose()
        };
        let in_ports = Mapping::new()
            .with("forward", forward)
            .with_some("backward", port("backward_while", &self.backward)?)
            .with_some("reset", port("reset_while", &self.reset)?);
        let parameters = Mapping::new()
            .with("sampler", self.sample.parameters(path, lowering)?)
            .with("steps", Value::List(steps));
        let fields = Mapping::new()
            .with("in_ports", in_ports)
            .with("parameters", parameters)
            .with_some("pass_through_label_values", self.sample.always_accepted());
        Ok(flow_control("load_ramp", fields))
    }
}

impl Default for LoadRamp {
    fn default() -> Self {
        Self::new()
    }
}
