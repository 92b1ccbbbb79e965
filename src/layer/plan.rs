//! What some layers do with a request beside deciding: the cache, and the handle of its flow.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::answer::RejectBody;
use super::cache::{BodyRecorder, CacheUse};
use super::config::{Ruling, Settings};
use super::deadline::Deadline;
use super::guard::Guard;
use super::handle::FlowHandle;
use super::head::RequestHead;
use super::names::LabelNames;
use crate::flow::{CacheLookup, Caches, Check, Decider, FlowDecision, FlowParams, Ticket};

/// Made before the decision, for layers with a cache or exposed flows.
pub(crate) struct Plan {
    ask: Option<CacheUse>,
    expose: Option<Expose>,
    /// What the caches had, once the flow was accepted.
    found: Option<CacheLookup>,
    /// The response that the result cache had.
    stored: Option<Response<Bytes>>,
}

/// What becomes a [`FlowHandle`].
struct Expose {
    control_point: Arc<str>,
    result_key: Option<Box<str>>,
    caches: Option<Arc<dyn Caches>>,
}

/// What a value of the result cache is good for.
#[cfg_attr(not(feature = "response-cache"), allow(dead_code))]
pub(crate) enum Hit {
    Answer(Response<Bytes>),
    /// The inner service has to answer: the value cannot be read, is stale or was invalidated.
    Unusable,
}

impl Settings {
    #[inline]
    pub(crate) fn plans(&self) -> bool {
        self.expose_flow || self.cache.is_some()
    }
}

impl Settings {
    /// Asks about a request once more, without a key for the result cache, so that schedulers are
    /// asked as well.
    #[cold]
    pub(crate) fn ask_again<D: Decider>(
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

impl Plan {
    /// Returns `None` when there is nothing to do.
    #[inline(never)]
    pub(crate) fn new<D: Decider>(
        settings: &Settings,
        head: RequestHead<'_>,
        control_point: &str,
        result_key: Option<&str>,
        caches: bool,
        decider: &D,
    ) -> Option<Box<Self>> {
        let control_point = || settings.keep(control_point);
        // Checks of requests by their attributes have no room for a key.
        let rules = settings.cache.as_ref().filter(|_| settings.http.is_none());
        let ask = rules.and_then(|rules| match caches {
            true => rules.cache_use(head, control_point, || decider.caches()),
            false => rules.invalidation(head, || decider.caches()),
        });
        let expose = settings.expose_flow.then(|| Expose {
            control_point: control_point(),
            result_key: result_key.map(Into::into),
            caches: decider.caches(),
        });
        (ask.is_some() || expose.is_some()).then(|| Self::boxed(ask, expose))
    }

    /// Returns what is to be done with a skipped request, which may invalidate responses like any
    /// other.
    #[inline(never)]
    pub(crate) fn of_skipped<D: Decider>(
        settings: &Settings,
        head: RequestHead<'_>,
        decider: &D,
    ) -> Option<Box<Self>> {
        let rules = settings
            .cache
            .as_ref()
            .filter(|_| settings.http.is_none())?;
        let ask = rules.invalidation(head, || decider.caches())?;
        Some(Self::boxed(Some(ask), None))
    }

    fn boxed(ask: Option<CacheUse>, expose: Option<Expose>) -> Box<Self> {
        Box::new(Self {
            ask,
            expose,
            found: None,
            stored: None,
        })
    }

    /// Returns the key to look up in the result cache with the check.
    pub(crate) fn key(&self) -> Option<&str> {
        self.ask.as_ref()?.key()
    }

    /// Takes what the caches had for a request that may run. Returns true when the result cache had
    /// a response that is of no use: schedulers were not asked about a request that has to run. Its
    /// flow is ended, and the decider has to be [asked again](Settings::ask_again).
    pub(crate) fn look_at<T: Ticket>(&mut self, ruling: &mut Ruling<T>) -> bool {
        let (guard, limited) = match ruling {
            Ruling::Run(Some(guard)) => (guard, true),
            // It runs whatever schedulers say.
            Ruling::Shadow(_, guard) => (guard, false),
            Ruling::Run(None) | Ruling::Reject(..) => return false,
        };
        self.found = guard.take_cache_lookup();
        let value = self.found.as_ref().and_then(CacheLookup::result_value);
        match self
            .ask
            .as_mut()
            .zip(value)
            .and_then(|(ask, value)| ask.answer_from(value))
        {
            Some(Hit::Answer(response)) => {
                self.stored = Some(response);
                false
            }
            Some(Hit::Unusable) if limited => {
                guard.withdraw();
                true
            }
            Some(Hit::Unusable) | None => false,
        }
    }

    /// Takes the response that the cache has.
    pub(crate) fn take_stored<B, C>(&mut self) -> Option<Response<C>>
    where
        B: Body,
        C: RejectBody<B>,
    {
        let (head, body) = self.stored.take()?.into_parts();
        Some(Response::from_parts(head, C::stored(body)?))
    }

    pub(crate) fn take_found(&mut self) -> Option<CacheLookup> {
        self.found.take()
    }

    /// Returns true for a request that is followed even without a flow.
    pub(crate) fn is_invalidating(&self) -> bool {
        self.ask.as_ref().is_some_and(CacheUse::is_invalidating)
    }

    /// The inner service is about to be called.
    pub(crate) fn start(&mut self) {
        if let Some(ask) = &mut self.ask {
            ask.start();
        }
    }

    /// Leaves the handle of the flow for the inner service.
    pub(crate) fn expose<B, T: Ticket>(
        &mut self,
        request: &mut Request<B>,
        decision: FlowDecision,
        guard: Option<&mut Guard<T>>,
    ) {
        let Some(expose) = self.expose.take() else {
            return;
        };
        let mut found = self.found.clone().unwrap_or_default();
        if self.ask.is_some() {
            // The response is the layer's own business.
            found.result = None;
        }
        let handle = FlowHandle::new(
            expose.control_point,
            decision,
            (expose.result_key, expose.caches, found),
            guard,
        );
        request.extensions_mut().insert(handle);
    }

    /// Looks at the head of the inner service's response. Returns a recorder when its body has to be
    /// followed.
    pub(crate) fn record<B: Body>(
        self,
        response: &Response<B>,
        empty: bool,
    ) -> Option<Box<BodyRecorder>> {
        self.ask?.record(response, empty)
    }
}
