//! The settings that all limits and schedulers share.

use std::time::Duration;

use http::StatusCode;

use super::field::FieldPath;
use super::lower::Lowering;
use super::selector::Selector;
use super::signal::Signal;
use crate::policy::PolicyError;
use crate::policy::yaml::{Mapping, Value};

/// The settings that all limits and schedulers share.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct FlowSettings {
    pub(super) selectors: Vec<Selector>,
    pub(super) key: Option<String>,
    pub(super) tokens_label: Option<String>,
    pub(super) status: Option<StatusCode>,
    pub(super) max_idle_time: Option<Duration>,
    pub(super) pass_through: Option<Signal>,
}

impl FlowSettings {
    /// Returns the `request_parameters`; `None` if none is set.
    pub(super) fn request(&self, path: &FieldPath<'_>) -> Result<Option<Mapping>, PolicyError> {
        let parameters = Mapping::new()
            .with_some("tokens_label_key", self.tokens_label_key(path)?)
            .with_some("denied_response_status_code", self.status());
        Ok(parameters.unless_empty())
    }

    pub(super) fn tokens_label_key(
        &self,
        path: &FieldPath<'_>,
    ) -> Result<Option<Value>, PolicyError> {
        text(self.tokens_label.as_deref(), &path.name("tokens_from"))
    }

    pub(super) fn status(&self) -> Option<u32> {
        self.status.map(|status| u32::from(status.as_u16()))
    }

    /// Adds the key and its idle time to the parameters of a bucket or of slots.
    pub(super) fn parameters(
        &self,
        map: Mapping,
        path: &FieldPath<'_>,
    ) -> Result<Mapping, PolicyError> {
        let idle = self.max_idle_time;
        let idle = idle.map(|idle| path.name("max_idle_time").duration(idle));
        Ok(map
            .with_some(
                "limit_by_label_key",
                text(self.key.as_deref(), &path.name("by"))?,
            )
            .with_some("max_idle_time", idle.transpose()?))
    }

    pub(super) fn pass_through<'p>(
        &'p self,
        map: Mapping,
        lowering: &mut Lowering<'p>,
        path: &FieldPath<'_>,
    ) -> Result<Mapping, PolicyError> {
        let signal = self.pass_through.as_ref();
        let port = signal.map(|signal| lowering.port(signal, &path.name("pass_through_while")));
        Ok(map.with_some("pass_through", port.transpose()?))
    }
}

/// Returns a text that must not be empty, if there is one.
pub(super) fn text(text: Option<&str>, path: &FieldPath<'_>) -> Result<Option<Value>, PolicyError> {
    text.map(|text| path.text_value(text)).transpose()
}

/// The methods of [`FlowSettings`] of a public type, whose field leads to them.
macro_rules! flow_settings {
    ($($field:tt).+) => {
        /// Limits flows of this control point or [`Selector`]. Several calls select the flows of
        /// any of them. Without this, the [policy's](super::Policy::at) selectors apply.
        #[must_use]
        pub fn at(mut self, selector: impl Into<Selector>) -> Self {
            self.$($field).+.selectors.push(selector.into());
            self
        }

        /// Limits each value of a label on its own; flows without the label pass. Without this, all
        /// flows share one limit.
        #[must_use]
        pub fn by(mut self, label: impl Into<String>) -> Self {
            self.$($field).+.key = Some(label.into());
            self
        }

        /// Reads the number of tokens that a flow takes from a label. Without this, or without a
        /// number in the label, a flow takes one.
        #[must_use]
        pub fn tokens_from(mut self, label: impl Into<String>) -> Self {
            self.$($field).+.tokens_label = Some(label.into());
            self
        }

        /// Sets the HTTP status of rejections, in place of the default for their reason.
        #[must_use]
        pub fn rejection_status(mut self, status: http::StatusCode) -> Self {
            self.$($field).+.status = Some(status);
            self
        }

        /// Sets the time after which the state of an unused key is removed, two hours by default.
        #[must_use]
        pub fn max_idle_time(mut self, time: std::time::Duration) -> Self {
            self.$($field).+.max_idle_time = Some(time);
            self
        }

        /// Lets every flow pass while the signal is valid and not 0.
        #[must_use]
        pub fn pass_through_while(mut self, signal: impl Into<Signal>) -> Self {
            self.$($field).+.pass_through = Some(signal.into());
            self
        }
    };
}
pub(super) use flow_settings;
