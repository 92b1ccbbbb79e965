//! The optional work of a layer for a request besides its check: the result cache, and the handle
//! of the flow.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

use super::cache::{BodyRecorder, CacheUse};
use super::config::{RequestAction, Settings};
use super::deadline::Deadline;
use super::guard::FlowGuard;
use super::handle::FlowHandle;
use super::head::RequestHead;
use super::names::LabelNames;
use super::replacement_body::RejectBody;
use crate::flow::{CacheLookup, Caches, Check, Decider, FlowDecision, FlowParams, Ticket};

/// The optional work for one request. Created before the check, by layers that cache responses or
/// expose flows.
pub(crate) struct RequestExtras {
    cache: Option<CacheUse>,
    handle: Option<HandleParts>,
    /// What the check found in the caches; set once the flow was accepted.
    lookup: Option<CacheLookup>,
    /// The response from the result cache.
    cached_response: Option<Response<Bytes>>,
}

/// The parts of the future [`FlowHandle`].
struct HandleParts {
    control_point: Arc<str>,
    result_key: Option<Box<str>>,
    caches: Option<Arc<dyn Caches>>,
}

/// A value of the result cache: a response, or a value that cannot be used.
#[cfg_attr(not(feature = "response-cache"), allow(dead_code))]
pub(crate) enum Hit {
    Answer(Response<Bytes>),
    /// The value cannot be decoded, is stale or was invalidated, so the inner service must respond.
    Unusable,
}

impl Settings {
    #[inline]
    pub(crate) fn needs_extras(&self) -> bool {
        self.expose_flow || self.cache.is_some()
    }
}

impl Settings {
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

impl RequestExtras {
    /// Returns `None` if the request needs no optional work.
    ///
    /// With `may_cache` false, the request is neither looked up nor stored, but may invalidate
    /// responses.
    #[inline(never)]
    pub(crate) fn new<D: Decider>(
        settings: &Settings,
        head: RequestHead<'_>,
        control_point: &str,
        result_key: Option<&str>,
        may_cache: bool,
        decider: &D,
    ) -> Option<Box<Self>> {
        let control_point = || settings.to_shared(control_point);
        // The check message with HTTP attributes has no field for a cache key.
        let rules = settings.cache.as_ref().filter(|_| settings.http.is_none());
        let cache = rules.and_then(|rules| match may_cache {
            true => rules.cache_use(head, control_point, || decider.caches()),
            false => rules.invalidation(head, || decider.caches()),
        });
        let handle = settings.expose_flow.then(|| HandleParts {
            control_point: control_point(),
            result_key: result_key.map(Into::into),
            caches: decider.caches(),
        });
        (cache.is_some() || handle.is_some()).then(|| Self::boxed(cache, handle))
    }

    /// Returns the work for a skipped request, which may invalidate cached responses like any
    /// other.
    #[inline(never)]
    pub(crate) fn for_skipped<D: Decider>(
        settings: &Settings,
        head: RequestHead<'_>,
        decider: &D,
    ) -> Option<Box<Self>> {
        let rules = settings
            .cache
            .as_ref()
            .filter(|_| settings.http.is_none())?;
        let cache = rules.invalidation(head, || decider.caches())?;
        Some(Self::boxed(Some(cache), None))
    }

    fn boxed(cache: Option<CacheUse>, handle: Option<HandleParts>) -> Box<Self> {
        Box::new(Self {
            cache,
            handle,
            lookup: None,
            cached_response: None,
        })
    }

    /// Returns the key that the check looks up in the result cache.
    pub(crate) fn key(&self) -> Option<&str> {
        self.cache.as_ref()?.key()
    }

    /// Takes the cache lookup of a request that may run.
    ///
    /// Returns true if the result cache had a response that cannot be used. The request must then
    /// run, but schedulers have not decided about it, because of the hit. Its flow has been ended,
    /// and the caller must [check it again](Settings::check_again).
    pub(crate) fn take_lookup<T: Ticket>(&mut self, action: &mut RequestAction<T>) -> bool {
        let (guard, is_limited) = match action {
            RequestAction::Run(Some(guard)) => (guard, true),
            // Runs in any case, so the decision of schedulers does not matter.
            RequestAction::Shadow(_, guard) => (guard, false),
            RequestAction::Run(None) | RequestAction::Reject(..) => return false,
        };
        self.lookup = guard.take_cache_lookup();
        let value = self.lookup.as_ref().and_then(CacheLookup::result_value);
        match self
            .cache
            .as_mut()
            .zip(value)
            .and_then(|(cache, value)| cache.answer_from(value))
        {
            Some(Hit::Answer(response)) => {
                self.cached_response = Some(response);
                false
            }
            Some(Hit::Unusable) if is_limited => {
                guard.withdraw();
                true
            }
            Some(Hit::Unusable) | None => false,
        }
    }

    /// Takes the response from the result cache.
    pub(crate) fn take_cached_response<B, C>(&mut self) -> Option<Response<C>>
    where
        B: Body,
        C: RejectBody<B>,
    {
        let (head, body) = self.cached_response.take()?.into_parts();
        Some(Response::from_parts(head, C::from_cache(body)?))
    }

    pub(crate) fn take_cache_lookup(&mut self) -> Option<CacheLookup> {
        self.lookup.take()
    }

    /// Returns true if the response may invalidate cached responses, and so matters even without a
    /// flow.
    pub(crate) fn is_invalidating(&self) -> bool {
        self.cache.as_ref().is_some_and(CacheUse::is_invalidating)
    }

    /// Records that the inner service is about to be called.
    pub(crate) fn start(&mut self) {
        if let Some(cache) = &mut self.cache {
            cache.start();
        }
    }

    /// Inserts the handle of the flow as an extension for the inner service.
    pub(crate) fn expose<B, T: Ticket>(
        &mut self,
        request: &mut Request<B>,
        decision: FlowDecision,
        guard: Option<&mut FlowGuard<T>>,
    ) {
        let Some(handle) = self.handle.take() else {
            return;
        };
        let mut lookup = self.lookup.clone().unwrap_or_default();
        if self.cache.is_some() {
            // The layer itself uses the cached response.
            lookup.result = None;
        }
        let handle = FlowHandle::new(
            handle.control_point,
            decision,
            (handle.result_key, handle.caches, lookup),
            guard,
        );
        request.extensions_mut().insert(handle);
    }

    /// Reads the head of the inner service's response. Returns a recorder if its body must be
    /// copied or followed. `is_empty` states that HTTP sends no body.
    pub(crate) fn record<B: Body>(
        self,
        response: &Response<B>,
        is_empty: bool,
    ) -> Option<Box<BodyRecorder>> {
        self.cache?.record(response, is_empty)
    }
}
