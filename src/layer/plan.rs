//! What few layers do with a request beside deciding: the cache, and the handle of its flow.

use std::sync::Arc;

use http::{Request, Response};
use http_body::Body;

use super::answer::RejectBody;
use super::cache::{Ask, Tape};
use super::config::Settings;
use super::guard::Guard;
use super::handle::FlowHandle;
use super::head::RequestHead;
use crate::flow::{CacheLookup, Caches, Decider, FlowDecision, Ticket};

/// Made before the decision, for layers that were told to.
pub(crate) struct Plan {
    ask: Option<Ask>,
    expose: Option<Expose>,
}

/// What becomes a [`FlowHandle`].
struct Expose {
    control_point: Arc<str>,
    result_key: Option<Box<str>>,
    caches: Option<Arc<dyn Caches>>,
}

impl Settings {
    #[inline]
    pub(crate) fn plans(&self) -> bool {
        self.expose_flow || self.cache.is_some()
    }
}

impl Plan {
    /// `None` when there is nothing to do.
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
        let caches = caches && settings.http.is_none();
        let rules = settings.cache.as_ref().filter(|_| caches);
        let ask = rules.and_then(|rules| rules.ask(head, control_point, || decider.caches()));
        let expose = settings.expose_flow.then(|| Expose {
            control_point: control_point(),
            result_key: result_key.map(Into::into),
            caches: decider.caches(),
        });
        (ask.is_some() || expose.is_some()).then(|| Box::new(Self { ask, expose }))
    }

    /// What to look up in the result cache with the check.
    pub(crate) fn key(&self) -> Option<&str> {
        self.ask.as_ref()?.key()
    }

    /// The answer that the cache has, when it will do.
    pub(crate) fn answer<B, C>(&self, found: &CacheLookup) -> Option<Response<C>>
    where
        B: Body,
        C: RejectBody<B>,
    {
        let (head, body) = self
            .ask
            .as_ref()?
            .answer(found.result_value()?)?
            .into_parts();
        Some(Response::from_parts(head, C::stored(body)?))
    }

    /// Leaves the handle of the flow for the inner service.
    pub(crate) fn expose<B, T: Ticket>(
        &mut self,
        request: &mut Request<B>,
        decision: FlowDecision,
        found: Option<&CacheLookup>,
        guard: Option<&mut Guard<T>>,
    ) {
        let Some(expose) = self.expose.take() else {
            return;
        };
        let mut found = found.cloned().unwrap_or_default();
        if self.ask.is_some() {
            // That is between the layer and its cache.
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

    /// Looks at the head of the inner service's response; a tape where it is to be stored.
    pub(crate) fn record<B: Body>(self, response: &Response<B>, empty: bool) -> Option<Box<Tape>> {
        self.ask?.record(response, empty)
    }
}
