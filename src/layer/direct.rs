//! The check of requests that need nothing but their labels, prepared once per layer.

use std::sync::Arc;

use super::settings::{ControlPoint, Settings};
use super::unreachable::{FailureMode, OnUnreachable};
use crate::flow::{self, ControlPointMemo, FlowParams};

/// The control point and the parameters that all requests of a layer share.
///
/// Only layers whose settings read nothing of a request but its labels and its deadline have one:
/// their requests borrow the parameters instead of making them.
#[derive(Clone, Debug)]
pub(crate) struct DirectCheck {
    name: Arc<str>,
    memo: ControlPointMemo,
    pub(crate) params: FlowParams<'static>,
}

impl DirectCheck {
    /// Returns the control point of the requests.
    #[inline(always)]
    pub(crate) fn control_point(&self) -> flow::ControlPoint<'_> {
        flow::ControlPoint::new(&self.name).with_memo(&self.memo)
    }
}

impl Settings {
    /// Prepares the check of requests that need nothing but their labels. Called after each change
    /// of the settings.
    pub(crate) fn prepare_direct(&mut self) {
        let ControlPoint::Fixed(name) = &self.control_point else {
            self.direct = None;
            return;
        };
        let reads_only_labels = self.skip.is_empty()
            && self.http.is_none()
            && self.extract.reads_on_demand()
            && !self.extract.requires_labels()
            && self.result_cache_key.is_none()
            && self.global_cache_keys.is_empty()
            && !self.needs_extras()
            && !self.annotates()
            && self.classify.is_none();
        self.direct = reads_only_labels.then(|| {
            Box::new(DirectCheck {
                name: Arc::clone(name),
                memo: ControlPointMemo::new(),
                params: self.shared_params(),
            })
        });
    }

    /// Returns the parameters that all requests share: without labels, deadlines, cache keys and
    /// trace.
    #[inline(always)]
    pub(crate) fn shared_params<'p>(&self) -> FlowParams<'p> {
        let mut params = FlowParams::with_limits(self.extract.limits);
        params.check_timeout = self.check_timeout;
        params.ramp_mode = self.ramp_mode;
        params.reject_unreachable = matches!(
            self.on_unreachable,
            Some(OnUnreachable::Always(FailureMode::Closed))
        );
        params.quotas = self.reports_quotas();
        params.shadow = self.shadow;
        params
    }
}
