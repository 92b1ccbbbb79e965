//! Reads a request: whether it is checked, at which control point, and with which parameters.

use std::sync::Arc;

use super::deadline::Deadline;
use super::extract::TextHook;
use super::head::RequestHead;
use super::http;
use super::names::{ControlPointName, LabelNames, PolicyNames};
use super::settings::{ControlPoint, Settings};
use super::unreachable::{FailureMode, OnUnreachable};
use crate::flow::{Check, Decider, FlowParams, Labels, TraceContext};

impl Settings {
    #[inline]
    pub(crate) fn skips(&self, head: RequestHead<'_>) -> bool {
        self.skip.iter().any(|skip| skip(head))
    }

    /// Returns the name of the control point; `None` if the route table skips the request.
    #[inline]
    pub(crate) fn control_point<'a>(
        &'a self,
        head: RequestHead<'a>,
        policies: &dyn PolicyNames,
    ) -> Option<ControlPointName<'a>> {
        let name = self.control_point.name(head)?;
        Some(match &self.control_point {
            ControlPoint::Hook(_) => {
                let is_in_request = |name: &str| head.contains_slice(name);
                self.names.control_point(policies, name, is_in_request)
            }
            ControlPoint::Fixed(_) | ControlPoint::Routes(_) => ControlPointName {
                name,
                is_fallback: false,
            },
        })
    }

    /// Sets all parameters except the limits of labels. In place, because the parameters are too
    /// large to move cheaply.
    #[inline(always)]
    pub(crate) fn fill<'a>(
        &'a self,
        head: RequestHead<'a>,
        deadline: Option<Deadline>,
        params: &mut FlowParams<'a>,
    ) {
        params.check_timeout = self.check_timeout;
        if let Some(deadline) = deadline {
            params.caller_timeout = Some(deadline.time_left());
            if self.check_timeout.is_some() {
                // For deciders that read only the check timeout.
                params.check_timeout = params.budget(None);
            }
        }
        params.ramp_mode = self.ramp_mode;
        params.reject_unreachable = matches!(
            self.on_unreachable,
            Some(OnUnreachable::Always(FailureMode::Closed))
        );
        params.quotas = self.reports_quotas();
        params.shadow = self.shadow;
        params.trace_context = Some(TraceContext::from_headers(head.headers()));
        if self.result_cache_key.is_some() || !self.global_cache_keys.is_empty() {
            self.fill_cache_keys(head, params);
        }
        self.extract.fill(head, &mut params.labels);
    }

    #[inline(never)]
    fn fill_cache_keys<'a>(&'a self, head: RequestHead<'a>, params: &mut FlowParams<'a>) {
        let key = |hook: &'a TextHook| Some(hook(head)).filter(|key| !key.is_empty());
        params.result_cache_key = self.result_cache_key.as_ref().and_then(key);
        params.global_cache_keys = self.global_cache_keys.iter().filter_map(key).collect();
    }

    /// Returns the required label that is missing; always `None` in shadow mode.
    #[inline]
    pub(crate) fn missing_label(&self, labels: &Labels<'_>) -> Option<Arc<str>> {
        let missing = self.extract.first_missing(labels)?;
        (!self.shadow).then(|| Arc::clone(missing))
    }

    /// Returns true if policies need the complete body but its capture was cut off at the limit;
    /// always false in shadow mode.
    #[inline]
    pub(crate) fn rejects_body(&self, head: RequestHead<'_>) -> bool {
        self.http.is_some() && !self.shadow && http::body_too_large(head)
    }

    #[inline]
    pub(crate) fn needs_extras(&self) -> bool {
        self.expose_flow || self.response_lookup.is_some()
    }

    /// Checks a request a second time, without a key for the result cache, so that schedulers
    /// decide too.
    #[cold]
    pub(crate) fn check_again<D: Decider>(
        &self,
        decider: &D,
        control_point: &str,
        head: RequestHead<'_>,
        deadline: Option<Deadline>,
    ) -> Check<D::Ticket, D::Pending> {
        let names = LabelNames::new(&self.names, decider);
        let mut params = FlowParams::with_limits(self.extract.limits);
        self.fill(head.naming_labels(&names), deadline, &mut params);
        decider.decide(control_point, &params)
    }
}
