//! The settings of a layer, shared by all its services and clones.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response, header};
use http_body::Body;

use super::deadline::Deadline;
use super::extract::{LabelExtractor, TextHook};
use super::guard::{FlowGuard, ResponseClassifier};
use super::head::RequestHead;
use super::http::{self, HttpCheckSettings};
use super::names::{ControlPointName, KnownNames, PolicyNames};
use super::reject::{NO_STORE, OnReject};
use super::response_lookup::ResponseLookup;
use super::routes::RouteTable;
use super::unreachable::{FailureMode, OnUnreachable};
use crate::flow::{
    CacheLookup, Denial, FlowDecision, FlowParams, Labels, RejectReason, Rejection, Ticket,
    TraceContext, Verdict,
};

pub(crate) type SharedClassifier = Arc<dyn ResponseClassifier>;
pub(crate) type SkipHook = Arc<dyn Fn(RequestHead<'_>) -> bool + Send + Sync>;

#[derive(Clone)]
pub(crate) enum ControlPoint {
    Fixed(Arc<str>),
    Hook(TextHook),
    Routes(Arc<RouteTable>),
}

impl ControlPoint {
    /// Returns the name before it is checked against the known names; `None` if the route table
    /// skips the request.
    #[inline]
    pub(crate) fn name<'a>(&'a self, head: RequestHead<'a>) -> Option<Cow<'a, str>> {
        Some(match self {
            Self::Fixed(name) => Cow::Borrowed(name),
            Self::Hook(hook) => hook(head),
            Self::Routes(routes) => Cow::Borrowed(routes.control_point(head)?),
        })
    }

    /// Returns the name as an `Arc`. A fixed name is shared instead of copied.
    pub(crate) fn to_shared(&self, name: &str) -> Arc<str> {
        match self {
            Self::Fixed(name) => name.clone(),
            Self::Hook(_) | Self::Routes(_) => Arc::from(name),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) control_point: ControlPoint,
    pub(crate) names: Arc<KnownNames>,
    pub(crate) skip: Vec<SkipHook>,
    pub(crate) extract: LabelExtractor,
    pub(crate) check_timeout: Option<Duration>,
    pub(crate) ramp_mode: bool,
    /// With `None`, unreachable requests run unless ramp mode is on.
    pub(crate) on_unreachable: Option<OnUnreachable>,
    pub(crate) classify: Option<SharedClassifier>,
    pub(crate) insert_decision: bool,
    pub(crate) result_cache_key: Option<TextHook>,
    pub(crate) global_cache_keys: Vec<TextHook>,
    pub(crate) insert_cache_lookup: bool,
    pub(crate) rate_limit_headers: bool,
    pub(crate) shadow: bool,
    /// Sends the attributes of requests with the check. Boxed, because most layers do not.
    pub(crate) http: Option<Box<HttpCheckSettings>>,
    pub(crate) expose_flow: bool,
    /// Makes the lookups of a response cache inside of the layer.
    pub(crate) response_lookup: Option<Arc<dyn ResponseLookup>>,
}

pub(crate) struct Config<R> {
    pub(crate) settings: Settings,
    /// Shared, so that the hook does not have to be `Clone`.
    pub(crate) reject: Arc<R>,
}

// Not derived, to avoid a `Clone` bound on the hook.
impl<R> Clone for Config<R> {
    fn clone(&self) -> Self {
        Self {
            settings: self.settings.clone(),
            reject: self.reject.clone(),
        }
    }
}

/// The treatment of a request after its check. The guard is present if a decision came.
pub(crate) enum RequestAction<T: Ticket> {
    Run(Option<FlowGuard<T>>),
    /// Rejected, but runs because of shadow mode.
    Shadow(Rejection, FlowGuard<T>),
    Reject(Rejection, Option<FlowGuard<T>>),
}

impl Settings {
    pub(crate) fn new(control_point: ControlPoint) -> Self {
        Self {
            control_point,
            names: Arc::default(),
            skip: Vec::new(),
            extract: LabelExtractor::default(),
            check_timeout: None,
            ramp_mode: false,
            on_unreachable: None,
            classify: None,
            insert_decision: false,
            result_cache_key: None,
            global_cache_keys: Vec::new(),
            insert_cache_lookup: false,
            rate_limit_headers: false,
            shadow: false,
            http: None,
            expose_flow: false,
            response_lookup: None,
        }
    }

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
            ControlPoint::Hook(_) => self.names.control_point(policies, head, name),
            ControlPoint::Fixed(_) | ControlPoint::Routes(_) => ControlPointName {
                name,
                is_fallback: false,
            },
        })
    }

    /// Returns the control point as an `Arc`, for use after the request has moved.
    pub(crate) fn to_shared(&self, name: &str) -> Arc<str> {
        self.control_point.to_shared(name)
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

    /// Shadow mode does not report quotas: they are not enforced, and clients would obey them.
    #[inline]
    fn reports_quotas(&self) -> bool {
        self.rate_limit_headers && !self.shadow
    }

    #[inline(always)]
    pub(crate) fn accept<T: Ticket>(&self, ticket: T) -> FlowGuard<T> {
        FlowGuard::accepted(ticket, self.classify.clone(), self.reports_quotas())
    }

    #[inline(never)]
    fn fill_cache_keys<'a>(&'a self, head: RequestHead<'a>, params: &mut FlowParams<'a>) {
        let key = |hook: &'a TextHook| Some(hook(head)).filter(|key| !key.is_empty());
        params.result_cache_key = self.result_cache_key.as_ref().and_then(key);
        params.global_cache_keys = self.global_cache_keys.iter().filter_map(key).collect();
    }

    #[inline(never)]
    pub(crate) fn apply_verdict<T: Ticket>(
        &self,
        verdict: Verdict<T>,
        head: RequestHead<'_>,
        deadline: Option<Deadline>,
        control_point: impl FnOnce() -> Arc<str>,
    ) -> RequestAction<T> {
        if deadline.is_some_and(Deadline::has_passed) {
            return self.reject_late(verdict, control_point());
        }
        match verdict {
            Verdict::Accepted(ticket) => RequestAction::Run(Some(self.accept(ticket))),
            Verdict::Rejected(denial, mut ticket) => {
                let extras = ticket.take_http_extras();
                let rejection =
                    Rejection::new(control_point(), denial).with_optional_extras(extras);
                if self.shadow {
                    log_event!(
                        target: "tower_aperture::layer",
                        debug,
                        control_point = rejection.control_point(),
                        reason = rejection.reason().as_str(),
                        "{rejection}; the request runs because of shadow mode"
                    );
                    return RequestAction::Shadow(rejection, self.accept(ticket));
                }
                let guard = FlowGuard::rejected(ticket, self.reports_quotas());
                RequestAction::Reject(rejection, Some(guard))
            }
            Verdict::Unreachable(error) => {
                let is_open = match &self.on_unreachable {
                    _ if self.shadow => true,
                    Some(on_unreachable) => on_unreachable.is_open(&error, head),
                    None => !self.ramp_mode,
                };
                if is_open {
                    RequestAction::Run(None)
                } else {
                    let denial = Denial::new(RejectReason::Unreachable);
                    RequestAction::Reject(Rejection::new(control_point(), denial), None)
                }
            }
        }
    }

    /// Rejects a request whose deadline has passed, whatever the decision.
    #[cold]
    fn reject_late<T: Ticket>(
        &self,
        verdict: Verdict<T>,
        control_point: Arc<str>,
    ) -> RequestAction<T> {
        let guard = match verdict {
            Verdict::Accepted(ticket) | Verdict::Rejected(_, ticket) => {
                Some(FlowGuard::rejected(ticket, self.reports_quotas()))
            }
            Verdict::Unreachable(_) => None,
        };
        RequestAction::Reject(Self::deadline_exceeded(control_point), guard)
    }

    pub(crate) fn deadline_exceeded(control_point: Arc<str>) -> Rejection {
        Rejection::new(control_point, Denial::new(RejectReason::DeadlineExceeded))
    }

    /// Inserts the decision and the cache lookup as extensions for the inner service, if enabled,
    /// and sets the headers that came with the decision.
    #[inline(always)]
    pub(crate) fn annotate<B, T: Ticket>(
        &self,
        request: &mut Request<B>,
        decision: FlowDecision,
        guard: Option<&mut FlowGuard<T>>,
    ) {
        if self.insert_decision || self.insert_cache_lookup || self.http.is_some() {
            self.insert_extensions(request, decision, guard, None);
        }
    }

    /// Like [`annotate`](Self::annotate), for callers that may have taken the cache lookup from the
    /// guard already, as `lookup`.
    #[inline(never)]
    pub(crate) fn insert_extensions<B, T: Ticket>(
        &self,
        request: &mut Request<B>,
        decision: FlowDecision,
        mut guard: Option<&mut FlowGuard<T>>,
        lookup: Option<CacheLookup>,
    ) {
        if self.http.is_some()
            && let Some(extras) = guard.as_mut().and_then(|guard| guard.take_http_extras())
        {
            extras.set_on(request.headers_mut());
        }
        if self.insert_decision {
            request.extensions_mut().insert(decision);
        }
        if self.insert_cache_lookup
            && let Some(lookup) = lookup.or_else(|| guard?.take_cache_lookup())
        {
            request.extensions_mut().insert(lookup);
        }
    }
}

impl<R> Config<R> {
    /// Builds the response to a rejected request and ends its flow.
    pub(crate) fn reject<B, T>(
        &self,
        rejection: &Rejection,
        guard: Option<FlowGuard<T>>,
        head: RequestHead<'_>,
    ) -> Response<R::Body>
    where
        B: Body,
        R: OnReject<B>,
        T: Ticket,
    {
        let mut response = self.reject.on_reject(rejection, head);
        let headers = response.headers_mut();
        if !headers.contains_key(header::CACHE_CONTROL) {
            // The map is full at 32768 values; such a response goes out without the header.
            let _ = headers.try_insert(header::CACHE_CONTROL, NO_STORE);
        }
        log_event!(
            target: "tower_aperture::layer",
            debug,
            control_point = rejection.control_point(),
            reason = rejection.reason().as_str(),
            label = rejection.missing_label(),
            status = response.status().as_u16(),
            "the request was rejected"
        );
        if let Some(mut guard) = guard {
            guard.append_rate_limits(response.headers_mut());
            guard.http_status(response.status());
            guard.finish();
        }
        response
    }
}
