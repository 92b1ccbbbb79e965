//! The cache lookup of a flow, between the stages of its decision.

use super::store::EngineCaches;
use crate::engine::clock::{Clock, nanos};
use crate::engine::component_entry::ComponentEntry;
use crate::engine::decision::ComponentDecision;
use crate::engine::engine_flow::EngineFlow;
use crate::engine::stages::Observer;
use crate::flow::{CacheLookup, FlowParams};

/// An observer of the stages that looks up the cache keys of a flow.
pub(crate) struct CacheLookupStage<'a, 'p> {
    caches: &'a EngineCaches,
    params: &'a FlowParams<'p>,
    pub(crate) found: Option<CacheLookup>,
}

impl<'a, 'p> CacheLookupStage<'a, 'p> {
    /// Returns `None` for a flow that requests no cache key.
    pub(crate) fn if_requested(
        caches: &'a EngineCaches,
        params: &'a FlowParams<'p>,
    ) -> Option<Self> {
        let requested = params.result_cache_key.is_some() || !params.global_cache_keys.is_empty();
        requested.then(|| Self::new(caches, params))
    }

    /// Looks up for every flow that reaches this stage, even if the flow requests no key and the
    /// result is empty.
    pub(crate) fn new(caches: &'a EngineCaches, params: &'a FlowParams<'p>) -> Self {
        Self {
            caches,
            params,
            found: None,
        }
    }

    /// Looks up the keys of the flow. Returns true if the result cache has its response.
    pub(crate) fn look_up(&mut self, flow: &EngineFlow<'_, '_>, clock: &dyn Clock) -> bool {
        let result_key = self.params.result_cache_key.as_deref().unwrap_or("");
        let global_keys = self.params.global_cache_keys.iter().map(|key| &**key);
        let now = nanos(clock.now());
        let found = self
            .caches
            .look_up(flow.control_point, result_key, global_keys, now);
        let hit = found.result_value().is_some();
        self.found = Some(found);
        hit
    }
}

impl Observer for CacheLookupStage<'_, '_> {
    fn on_decision(&mut self, _: &EngineFlow<'_, '_>, _: &ComponentEntry, _: &ComponentDecision) {}

    fn look_up(&mut self, flow: &EngineFlow<'_, '_>, clock: &dyn Clock) -> bool {
        self.look_up(flow, clock)
    }
}
