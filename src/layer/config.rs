//! What a layer was told, shared by all its services and clones.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response, header};
use http_body::Body;

use super::cache::CacheSettings;
use super::deadline::Deadline;
use super::extract::{LabelExtractor, TextHook};
use super::guard::{Guard, Judge};
use super::head::RequestHead;
use super::http::{self, HttpCheckSettings};
use super::names::{ControlPointName, Names, PolicyNames};
use super::reject::{NO_STORE, OnReject};
use super::routes::RouteTable;
use super::unreachable::{FailureMode, OnUnreachable};
use crate::flow::{
    CacheLookup, Denial, FlowDecision, FlowParams, Labels, RejectReason, Rejection, Ticket,
    TraceContext, Verdict,
};

pub(crate) type Classify = Arc<dyn Judge>;
pub(crate) type Skip = Arc<dyn Fn(RequestHead<'_>) -> bool + Send + Sync>;

#[derive(Clone)]
pub(crate) enum ControlPoint {
    Fixed(Arc<str>),
    Hook(TextHook),
    Routes(Arc<RouteTable>),
}

impl ControlPoint {
    /// Returns the name as it is read; `None` if a table of routes leaves the request alone.
    #[inline]
    pub(crate) fn name<'a>(&'a self, head: RequestHead<'a>) -> Option<Cow<'a, str>> {
        Some(match self {
            Self::Fixed(name) => Cow::Borrowed(name),
            Self::Hook(hook) => hook(head),
            Self::Routes(routes) => Cow::Borrowed(routes.control_point(head)?),
        })
    }

    /// Returns a name to keep: the shared one, where there is one.
    pub(crate) fn keep(&self, name: &str) -> Arc<str> {
        match self {
            Self::Fixed(name) => name.clone(),
            Self::Hook(_) | Self::Routes(_) => Arc::from(name),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) control_point: ControlPoint,
    pub(crate) names: Arc<Names>,
    pub(crate) skip: Vec<Skip>,
    pub(crate) extract: LabelExtractor,
    pub(crate) check_timeout: Option<Duration>,
    pub(crate) ramp_mode: bool,
    /// `None` follows ramp mode.
    pub(crate) on_unreachable: Option<OnUnreachable>,
    pub(crate) classify: Option<Classify>,
    pub(crate) insert_decision: bool,
    pub(crate) result_cache_key: Option<TextHook>,
    pub(crate) global_cache_keys: Vec<TextHook>,
    pub(crate) insert_cache_lookup: bool,
    pub(crate) rate_limit_headers: bool,
    pub(crate) shadow: bool,
    /// Asks with the attributes of the request. Boxed: most layers do not.
    pub(crate) http: Option<Box<HttpCheckSettings>>,
    pub(crate) expose_flow: bool,
    pub(crate) cache: Option<Arc<CacheSettings>>,
}

pub(crate) struct Config<R> {
    pub(crate) settings: Settings,
    /// Shared, so that a hook need not be `Clone`.
    pub(crate) reject: Arc<R>,
}

/// By hand: no bound on the hook.
impl<R> Clone for Config<R> {
    fn clone(&self) -> Self {
        Self {
            settings: self.settings.clone(),
            reject: self.reject.clone(),
        }
    }
}

/// What becomes of a request; a guard for every answered flow.
pub(crate) enum Ruling<T: Ticket> {
    Run(Option<Guard<T>>),
    /// Rejected, and runs all the same.
    Shadow(Rejection, Guard<T>),
    Reject(Rejection, Option<Guard<T>>),
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
            cache: None,
        }
    }

    #[inline]
    pub(crate) fn skips(&self, head: RequestHead<'_>) -> bool {
        self.skip.iter().any(|skip| skip(head))
    }

    /// Names the control point; `None` if a table of routes leaves the request alone.
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

    /// Returns the control point to keep.
    pub(crate) fn keep(&self, name: &str) -> Arc<str> {
        self.control_point.keep(name)
    }

    /// Fills in all but the labels' limits, in place: parameters are too large to be moved.
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
                // For deciders that look at nothing else.
                params.check_timeout = params.budget(None);
            }
        }
        params.ramp_mode = self.ramp_mode;
        params.refuse_unreachable = matches!(
            self.on_unreachable,
            Some(OnUnreachable::Always(FailureMode::Closed))
        );
        params.quotas = self.tells_quotas();
        params.shadow = self.shadow;
        params.trace_context = Some(TraceContext::from_headers(head.headers()));
        if self.result_cache_key.is_some() || !self.global_cache_keys.is_empty() {
            self.fill_cache_keys(head, params);
        }
        self.extract.fill(head, &mut params.labels);
    }

    /// A label without which the request is rejected; in shadow mode nothing is.
    #[inline]
    pub(crate) fn missing_label(&self, labels: &Labels<'_>) -> Option<Arc<str>> {
        let missing = self.extract.first_missing(labels)?;
        (!self.shadow).then(|| Arc::clone(missing))
    }

    /// Returns true where policies would see the beginning only of a body that they are to see
    /// whole; in shadow mode nothing is rejected.
    #[inline]
    pub(crate) fn refuses_body(&self, head: RequestHead<'_>) -> bool {
        self.http.is_some() && !self.shadow && http::body_too_large(head)
    }

    /// Limits that are not enforced are not told: clients would keep to them.
    #[inline]
    fn tells_quotas(&self) -> bool {
        self.rate_limit_headers && !self.shadow
    }

    #[inline(always)]
    pub(crate) fn accept<T: Ticket>(&self, ticket: T) -> Guard<T> {
        Guard::accepted(ticket, self.classify.clone(), self.tells_quotas())
    }

    #[inline(never)]
    fn fill_cache_keys<'a>(&'a self, head: RequestHead<'a>, params: &mut FlowParams<'a>) {
        let key = |hook: &'a TextHook| Some(hook(head)).filter(|key| !key.is_empty());
        params.result_cache_key = self.result_cache_key.as_ref().and_then(key);
        params.global_cache_keys = self.global_cache_keys.iter().filter_map(key).collect();
    }

    #[inline(never)]
    pub(crate) fn rule<T: Ticket>(
        &self,
        verdict: Verdict<T>,
        head: RequestHead<'_>,
        deadline: Option<Deadline>,
        control_point: impl FnOnce() -> Arc<str>,
    ) -> Ruling<T> {
        if deadline.is_some_and(Deadline::has_passed) {
            return self.late(verdict, control_point());
        }
        match verdict {
            Verdict::Accepted(ticket) => Ruling::Run(Some(self.accept(ticket))),
            Verdict::Rejected(denial, mut ticket) => {
                let extras = ticket.take_http_extras();
                let rejection = Rejection::new(control_point(), denial).and_extras(extras);
                if self.shadow {
                    log_event!(
                        target: "tower_aperture::layer",
                        debug,
                        control_point = rejection.control_point(),
                        reason = rejection.reason().as_str(),
                        "shadow mode: {rejection}, and runs"
                    );
                    return Ruling::Shadow(rejection, self.accept(ticket));
                }
                let guard = Guard::rejected(ticket, self.tells_quotas());
                Ruling::Reject(rejection, Some(guard))
            }
            Verdict::Unreachable(error) => {
                let open = match &self.on_unreachable {
                    _ if self.shadow => true,
                    Some(on_unreachable) => on_unreachable.is_open(&error, head),
                    None => !self.ramp_mode,
                };
                if open {
                    Ruling::Run(None)
                } else {
                    let denial = Denial::new(RejectReason::Unreachable);
                    Ruling::Reject(Rejection::new(control_point(), denial), None)
                }
            }
        }
    }

    /// The caller no longer waits: the request must not run, whatever was decided.
    #[cold]
    fn late<T: Ticket>(&self, verdict: Verdict<T>, control_point: Arc<str>) -> Ruling<T> {
        let guard = match verdict {
            Verdict::Accepted(ticket) | Verdict::Rejected(_, ticket) => {
                Some(Guard::rejected(ticket, self.tells_quotas()))
            }
            Verdict::Unreachable(_) => None,
        };
        Ruling::Reject(Self::deadline_exceeded(control_point), guard)
    }

    pub(crate) fn deadline_exceeded(control_point: Arc<str>) -> Rejection {
        Rejection::new(control_point, Denial::new(RejectReason::DeadlineExceeded))
    }

    /// Leaves the decision, and what the caches had, for the inner service, if asked to; and sets
    /// the headers that came with the decision.
    #[inline(always)]
    pub(crate) fn mark<B, T: Ticket>(
        &self,
        request: &mut Request<B>,
        decision: FlowDecision,
        guard: Option<&mut Guard<T>>,
    ) {
        if self.insert_decision || self.insert_cache_lookup || self.http.is_some() {
            self.insert(request, decision, guard, None);
        }
    }

    /// Like [`mark`](Self::mark) for one who may have `found` already what the caches had.
    #[inline(never)]
    pub(crate) fn insert<B, T: Ticket>(
        &self,
        request: &mut Request<B>,
        decision: FlowDecision,
        mut guard: Option<&mut Guard<T>>,
        found: Option<CacheLookup>,
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
            && let Some(found) = found.or_else(|| guard?.take_cache_lookup())
        {
            request.extensions_mut().insert(found);
        }
    }
}

impl<R> Config<R> {
    /// Builds the answer to a rejected request and ends its flow.
    pub(crate) fn refuse<B, T>(
        &self,
        rejection: &Rejection,
        guard: Option<Guard<T>>,
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
            // Full at 32768 values; the hook of such a response is on its own.
            let _ = headers.try_insert(header::CACHE_CONTROL, NO_STORE);
        }
        log_event!(
            target: "tower_aperture::layer",
            debug,
            control_point = rejection.control_point(),
            reason = rejection.reason().as_str(),
            label = rejection.missing_label(),
            status = response.status().as_u16(),
            "a request was refused"
        );
        if let Some(mut guard) = guard {
            guard.tell_quotas(response.headers_mut());
            guard.http_status(response.status());
            guard.finish();
        }
        response
    }
}
