//! What a flow asks the caches for, between the steps of its decision.

use super::store::Caches;
use crate::engine::clock::{Clock, nanos};
use crate::engine::component_entry::ComponentEntry;
use crate::engine::limiters::ComponentDecision;
use crate::engine::stages::{EngineFlow, Observer};
use crate::flow::{CacheLookup, FlowParams};

/// Looks up, between the steps, what a flow asks the caches for.
pub(crate) struct Recall<'a, 'p> {
    caches: &'a Caches,
    params: &'a FlowParams<'p>,
    pub(crate) found: Option<CacheLookup>,
}

impl<'a, 'p> Recall<'a, 'p> {
    /// `None` for a flow that asks for nothing.
    pub(crate) fn of(caches: &'a Caches, params: &'a FlowParams<'p>) -> Option<Self> {
        let asks = params.result_cache_key.is_some() || !params.global_cache_keys.is_empty();
        asks.then(|| Self::always(caches, params))
    }

    /// Has an answer, be it an empty one, for every flow that comes so far.
    pub(crate) fn always(caches: &'a Caches, params: &'a FlowParams<'p>) -> Self {
        Self {
            caches,
            params,
            found: None,
        }
    }

    /// Whether the result cache has the flow's answer.
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

impl Observer for Recall<'_, '_> {
    fn on_decision(&mut self, _: &EngineFlow<'_, '_>, _: &ComponentEntry, _: &ComponentDecision) {}

    fn look_up(&mut self, flow: &EngineFlow<'_, '_>, clock: &dyn Clock) -> bool {
        self.look_up(flow, clock)
    }
}
