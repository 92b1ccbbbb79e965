//! The settings of a layer, shared by all its services and clones.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use super::classifier::SharedClassifier;
use super::direct::DirectCheck;
use super::extract::{LabelExtractor, TextHook};
use super::guard::FlowGuard;
use super::head::RequestHead;
use super::http::HttpCheckSettings;
use super::names::KnownNames;
use super::response_lookup::ResponseLookup;
use super::routes::RouteTable;
use super::unreachable::OnUnreachable;
use crate::flow::Ticket;

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
    /// Set if requests need nothing but their labels. Derived from the other settings.
    pub(crate) direct: Option<Box<DirectCheck>>,
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

impl Settings {
    pub(crate) fn new(control_point: ControlPoint) -> Self {
        let mut settings = Self {
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
            direct: None,
        };
        settings.prepare_direct();
        settings
    }

    /// Returns the control point as an `Arc`, for use after the request has moved.
    pub(crate) fn to_shared(&self, name: &str) -> Arc<str> {
        self.control_point.to_shared(name)
    }

    /// Returns the guard of an accepted flow, or `None` if nothing depends on its end.
    #[inline(always)]
    pub(super) fn accept_flow<T: Ticket>(
        &self,
        ticket: T,
        head: RequestHead<'_>,
    ) -> Option<FlowGuard<T>> {
        let is_watched = self.classify.is_some() || self.reports_quotas() || ticket.needs_end();
        is_watched.then(|| self.accept(ticket, head))
    }

    /// Returns the guard of an accepted flow.
    #[inline(always)]
    pub(super) fn accept<T: Ticket>(&self, ticket: T, head: RequestHead<'_>) -> FlowGuard<T> {
        let classify = self.classify.clone();
        FlowGuard::accepted(ticket, head.method(), classify, self.reports_quotas())
    }

    /// Returns true if an accepted request carries something for the inner service.
    #[inline]
    pub(super) fn annotates(&self) -> bool {
        self.insert_decision || self.insert_cache_lookup || self.http.is_some()
    }

    /// Shadow mode does not report quotas: they are not enforced, and clients would obey them.
    #[inline]
    pub(super) fn reports_quotas(&self) -> bool {
        self.rate_limit_headers && !self.shadow
    }
}
