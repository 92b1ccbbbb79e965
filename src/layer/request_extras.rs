//! The optional work of a layer for a request besides its check: the lookup of a response cache, and
//! the handle of the flow.

use std::sync::Arc;

use http::{Extensions, Request};

use super::action::RequestAction;
use super::guard::FlowGuard;
use super::handle::FlowHandle;
use super::head::RequestHead;
use super::response_lookup::RequestLookup;
use super::settings::Settings;
use crate::flow::{CacheLookup, Caches, Decider, FlowDecision, Ticket};

/// The optional work for one request. Created before the check, by layers that cache responses or
/// expose flows.
pub(crate) struct RequestExtras {
    lookup: Option<Box<dyn RequestLookup>>,
    handle: Option<HandleParts>,
    /// What the check found in the caches; set once the flow was accepted.
    found: Option<CacheLookup>,
    /// The response cache answers the request.
    is_answered: bool,
}

/// The parts of the future [`FlowHandle`].
struct HandleParts {
    control_point: Arc<str>,
    result_key: Option<Box<str>>,
    caches: Option<Arc<dyn Caches>>,
}

impl RequestExtras {
    /// Returns `None` if the request needs no optional work.
    ///
    /// With `may_look_up` false, the response cache has no part in the request.
    #[inline(never)]
    pub(crate) fn new<D: Decider>(
        settings: &Settings,
        head: RequestHead<'_>,
        control_point: &str,
        result_key: Option<&str>,
        may_look_up: bool,
        decider: &D,
    ) -> Option<Box<Self>> {
        let control_point = || settings.to_shared(control_point);
        let caches = || decider.caches();
        let cache = settings.response_lookup.as_ref().filter(|_| may_look_up);
        let lookup = cache.and_then(|cache| Arc::clone(cache).begin(head, &control_point, &caches));
        let handle = settings.expose_flow.then(|| HandleParts {
            control_point: control_point(),
            result_key: result_key.map(Into::into),
            caches: caches(),
        });
        (lookup.is_some() || handle.is_some()).then(|| {
            Box::new(Self {
                lookup,
                handle,
                found: None,
                is_answered: false,
            })
        })
    }

    /// Returns the key that the check looks up in the result cache.
    pub(crate) fn key(&self) -> Option<&str> {
        self.lookup.as_ref()?.key()
    }

    /// Reads what the check found in the caches for a request that may run.
    ///
    /// Returns true if the result cache had a response that cannot be used. The request must then
    /// run, but schedulers have not decided about it, because of the hit. Its flow has been ended,
    /// and the caller must check it again.
    pub(crate) fn read_lookup<T: Ticket>(&mut self, action: &mut RequestAction<T>) -> bool {
        let (guard, is_limited) = match action {
            RequestAction::Run(Some(guard)) => (guard, true),
            // Runs in any case, so the decision of schedulers does not matter.
            RequestAction::Shadow(_, guard) => (guard, false),
            RequestAction::Run(None) | RequestAction::Reject(..) => return false,
        };
        self.found = guard.take_cache_lookup();
        let value = self.found.as_ref().and_then(CacheLookup::result_value);
        let lookup = self.lookup.as_mut().filter(|lookup| lookup.key().is_some());
        let is_usable = lookup.zip(value).map(|(lookup, value)| lookup.read(value));
        self.is_answered = is_usable == Some(true);
        let must_check_again = is_limited && is_usable == Some(false);
        if must_check_again {
            guard.withdraw();
        }
        must_check_again
    }

    /// Leaves in the extensions of a request what the response cache and the inner service need,
    /// just before the request runs.
    pub(crate) fn attach<B, T: Ticket>(
        mut self,
        settings: &Settings,
        request: &mut Request<B>,
        decision: FlowDecision,
        mut guard: Option<&mut FlowGuard<T>>,
    ) {
        // The inner service does not see a request that the cache answers.
        if !self.is_answered {
            self.expose(request.extensions_mut(), decision, guard.as_deref_mut());
            let found = self.found.take();
            settings.insert_extensions(request, decision, guard.as_deref_mut(), found);
        }
        // Without a decision, the cache was not looked up and the response is not stored.
        if let (Some(lookup), Some(_)) = (self.lookup, guard) {
            lookup.attach(request.extensions_mut());
        }
    }

    /// Inserts the handle of the flow as an extension for the inner service.
    fn expose<T: Ticket>(
        &mut self,
        extensions: &mut Extensions,
        decision: FlowDecision,
        guard: Option<&mut FlowGuard<T>>,
    ) {
        let Some(handle) = self.handle.take() else {
            return;
        };
        let mut found = self.found.clone().unwrap_or_default();
        if self.lookup.is_some() {
            // The result belongs to the response cache.
            found.result = None;
        }
        let handle = FlowHandle::new(
            handle.control_point,
            decision,
            (handle.result_key, handle.caches, found),
            guard,
        );
        extensions.insert(handle);
    }
}
