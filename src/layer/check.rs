//! Checks a request as the settings of its layer say: whether, at which control point, with which
//! parameters, and what follows from the verdict.

use std::borrow::Cow;
use std::sync::Arc;

use super::action::RequestAction;
use super::deadline::Deadline;
use super::extract::TextHook;
use super::guard::FlowGuard;
use super::head::RequestHead;
use super::http;
use super::names::{ControlPointName, LabelNames, PolicyNames};
use super::request_extras::RequestExtras;
use super::request_labels::RequestLabels;
use super::settings::{ControlPoint, Settings};
use crate::flow::{
    Check, Decider, Denial, FlowParams, LabelSource, RejectReason, Rejection, Ticket, TraceContext,
    Verdict,
};

/// What a request needs besides its check. It is handed on while the decision is pending.
#[derive(Default)]
pub(crate) struct RequestPlan {
    /// The deadline of the caller.
    pub(crate) deadline: Option<Deadline>,
    /// The optional work for the request.
    pub(crate) extras: Option<Box<RequestExtras>>,
}

impl RequestPlan {
    /// Returns true if the check looks up the result cache for the response cache.
    pub(crate) fn looks_up(&self) -> bool {
        let extras = self.extras.as_deref();
        extras.and_then(RequestExtras::key).is_some()
    }
}

/// The next step for a request.
pub(crate) enum NextStep<T: Ticket, P> {
    /// It runs as it is, with a flow unless it is skipped.
    Run(Option<FlowGuard<T>>),
    /// It is treated as its verdict says.
    Perform(RequestAction<T>),
    /// It waits for the decision at this control point.
    Await(P, Arc<str>),
}

impl Settings {
    /// Reads a request and starts its check. A request that runs at once reads the settings only
    /// here.
    #[inline(always)]
    pub(crate) fn start<D: Decider>(
        &self,
        decider: &D,
        head: RequestHead<'_>,
        plan: &mut RequestPlan,
    ) -> NextStep<D::Ticket, D::Pending> {
        let Some(direct) = &self.direct else {
            if self.skips(head) {
                return NextStep::Run(None);
            }
            return self.start_with_params(decider, head, Deadline::of(head), plan);
        };
        let deadline = Deadline::of(head);
        if deadline.is_some() {
            return self.start_with_params(decider, head, deadline, plan);
        }
        if decider.passes(direct.control_point(), &direct.params) {
            return NextStep::Run(None);
        }
        let names = LabelNames::new(&self.names, decider);
        let labels = RequestLabels::new(&self.extract, head.naming_labels(&names));
        match decider.admit(direct.control_point(), &direct.params, &labels) {
            None => NextStep::Run(None),
            // A detour through `RequestAction` would move the guard again.
            Some(Check::Ready(Verdict::Accepted(ticket))) => {
                let quotas = self.reports_quotas();
                NextStep::Run(Some(FlowGuard::accepted(
                    ticket,
                    head.method(),
                    None,
                    quotas,
                )))
            }
            Some(check) => {
                let name = direct.control_point().name();
                self.follow_check(check, decider, name, head, plan)
            }
        }
    }

    /// Starts the check of a request that needs parameters of its own.
    #[inline(never)]
    fn start_with_params<D: Decider>(
        &self,
        decider: &D,
        head: RequestHead<'_>,
        deadline: Option<Deadline>,
        plan: &mut RequestPlan,
    ) -> NextStep<D::Ticket, D::Pending> {
        plan.deadline = deadline;
        let Some(ControlPointName { name, is_fallback }) = self.control_point(head, decider) else {
            return NextStep::Run(None);
        };
        let shared_name = || self.to_shared(&name);
        let reject = |rejection| NextStep::Perform(RequestAction::Reject(rejection, None));
        if deadline.is_some_and(Deadline::has_passed) {
            return reject(Self::deadline_exceeded(shared_name()));
        }
        // A block, so that the parameters borrow from the extras no longer than they need.
        let check = {
            let names = LabelNames::new(&self.names, decider);
            let naming = head.naming_labels(&names);
            let labels = RequestLabels::new(&self.extract, naming);
            let on_demand = self.http.is_none() && self.extract.reads_on_demand();
            let mut params = self.shared_params();
            self.fill(naming, deadline, &mut params);
            if !on_demand {
                self.fill_labels(naming, &mut params);
            }
            let missing = match on_demand {
                true => self.missing_label(&labels),
                false => self.missing_label(&params.labels),
            };
            if let Some(label) = missing {
                return reject(Rejection::missing(shared_name(), label));
            }
            if is_fallback {
                // A cache key belongs to one control point, and the fallback stands for many.
                params.result_cache_key = None;
            }
            if self.rejects_body(head) {
                let denial = Denial::new(RejectReason::BodyTooLarge);
                return reject(Rejection::new(shared_name(), denial));
            }
            if self.needs_extras() {
                let key = params.result_cache_key.as_deref();
                plan.extras = RequestExtras::new(self, head, &name, key, !is_fallback, decider);
                if let Some(key) = plan.extras.as_deref().and_then(RequestExtras::key) {
                    params.result_cache_key = Some(Cow::Borrowed(key));
                }
            }
            match &self.http {
                None if on_demand => decider.decide_from((&*name).into(), &params, &labels),
                None => decider.decide(&name, &params),
                Some(http) => {
                    let limit = self.extract.value_limit;
                    http.check(decider, &name, &mut params, limit, head)
                }
            }
        };
        match check {
            // The common case. A detour through `RequestAction` would move the guard again.
            Check::Ready(Verdict::Accepted(ticket))
                if deadline.is_none() && plan.extras.is_none() && !self.annotates() =>
            {
                NextStep::Run(self.accept_flow(ticket, head))
            }
            check => self.follow_check(check, decider, &name, head, plan),
        }
    }

    /// Returns the next step after a check whose request does not simply run.
    #[inline(never)]
    fn follow_check<D: Decider>(
        &self,
        check: Check<D::Ticket, D::Pending>,
        decider: &D,
        name: &str,
        head: RequestHead<'_>,
        plan: &mut RequestPlan,
    ) -> NextStep<D::Ticket, D::Pending> {
        let shared_name = || self.to_shared(name);
        let followed = match check {
            Check::Ready(verdict) => {
                self.follow(verdict, Some(decider), name, shared_name, head, plan)
            }
            Check::Pending(pending) => Err(pending),
        };
        match followed {
            Ok(action) => NextStep::Perform(action),
            Err(pending) => NextStep::Await(pending, shared_name()),
        }
    }

    /// Returns the treatment of a request after a verdict.
    ///
    /// If the result cache had a response that cannot be used, the decider checks the request again.
    /// Returns `Err` with the future of that check if it must be awaited.
    #[inline(always)]
    pub(crate) fn follow<D: Decider>(
        &self,
        verdict: Verdict<D::Ticket>,
        decider: Option<&D>,
        control_point: &str,
        shared_name: impl Fn() -> Arc<str>,
        head: RequestHead<'_>,
        plan: &mut RequestPlan,
    ) -> Result<RequestAction<D::Ticket>, D::Pending> {
        let deadline = plan.deadline;
        let mut action = self.apply_verdict(verdict, head, deadline, &shared_name);
        let extras = plan.extras.as_mut();
        if extras.is_some_and(|extras| extras.read_lookup(&mut action))
            && let Some(decider) = decider
        {
            match self.check_again(decider, control_point, head, deadline) {
                Check::Ready(verdict) => {
                    action = self.apply_verdict(verdict, head, deadline, shared_name);
                }
                Check::Pending(pending) => return Err(pending),
            }
        }
        Ok(action)
    }

    #[inline]
    fn skips(&self, head: RequestHead<'_>) -> bool {
        self.skip.iter().any(|skip| skip(head))
    }

    /// Returns the name of the control point; `None` if the route table skips the request.
    #[inline]
    fn control_point<'a>(
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

    /// Sets the parameters that depend on the request, except the labels and the trace. In place,
    /// because the parameters are too large to move cheaply.
    #[inline(always)]
    fn fill<'a>(
        &'a self,
        head: RequestHead<'a>,
        deadline: Option<Deadline>,
        params: &mut FlowParams<'a>,
    ) {
        if let Some(deadline) = deadline {
            params.caller_timeout = Some(deadline.time_left());
            if self.check_timeout.is_some() {
                // For deciders that read only the check timeout.
                params.check_timeout = params.budget(None);
            }
        }
        if self.result_cache_key.is_some() || !self.global_cache_keys.is_empty() {
            self.fill_cache_keys(head, params);
        }
    }

    /// Sets the labels and the trace, for deciders that get all of them.
    #[inline(always)]
    fn fill_labels<'a>(&'a self, head: RequestHead<'a>, params: &mut FlowParams<'a>) {
        params.trace_context = Some(TraceContext::from_headers(head.headers()));
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
    fn missing_label(&self, labels: &dyn LabelSource) -> Option<Arc<str>> {
        let missing = self.extract.first_missing(labels)?;
        (!self.shadow).then(|| Arc::clone(missing))
    }

    /// Returns true if policies need the complete body but its capture was cut off at the limit;
    /// always false in shadow mode.
    #[inline]
    fn rejects_body(&self, head: RequestHead<'_>) -> bool {
        self.http.is_some() && !self.shadow && http::body_too_large(head)
    }

    #[inline]
    pub(super) fn needs_extras(&self) -> bool {
        self.expose_flow || self.response_lookup.is_some()
    }

    /// Checks a request a second time, without a key for the result cache, so that schedulers
    /// decide too.
    #[cold]
    fn check_again<D: Decider>(
        &self,
        decider: &D,
        control_point: &str,
        head: RequestHead<'_>,
        deadline: Option<Deadline>,
    ) -> Check<D::Ticket, D::Pending> {
        let names = LabelNames::new(&self.names, decider);
        let mut params = self.shared_params();
        let naming = head.naming_labels(&names);
        self.fill(naming, deadline, &mut params);
        self.fill_labels(naming, &mut params);
        decider.decide(control_point, &params)
    }
}
