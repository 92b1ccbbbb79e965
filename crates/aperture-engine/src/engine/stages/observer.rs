//! What the steps of a decision call for each decision and for the cache lookup.

use crate::engine::cache::LookupAsk;
use crate::engine::clock::DecisionTime;
use crate::engine::component_entry::ComponentEntry;
use crate::engine::decision::ComponentDecision;
use crate::engine::engine_flow::EngineFlow;
use aperture_core::CacheLookup;

/// Observes each decision. Nothing is allocated for an observer that ignores them.
pub(crate) trait Observer {
    fn on_decision(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        component: &ComponentEntry,
        decision: &ComponentDecision,
    );

    /// Looks up the caches that the flow asks for; called once per flow, when the steps before
    /// quota and load schedulers have accepted it. Returns true if the result cache has the
    /// response: the flow is then accepted without those schedulers.
    #[inline(always)]
    fn look_up(&mut self, _flow: &EngineFlow<'_, '_>, _time: &DecisionTime<'_>) -> bool {
        false
    }

    /// Starts the lookup if the caches are in a shared store. Called once per flow that all steps
    /// without a wait have accepted, so that the lookup shares a round trip with the next step.
    #[inline(always)]
    fn start_lookup(
        &mut self,
        _flow: &EngineFlow<'_, '_>,
        _time: &DecisionTime<'_>,
    ) -> Option<LookupAsk> {
        None
    }

    /// Takes what was found in the shared store, in place of [`look_up`](Self::look_up). Returns
    /// true if the result cache has the response.
    fn on_lookup(&mut self, _found: CacheLookup) -> bool {
        false
    }
}

impl Observer for () {
    fn on_decision(&mut self, _: &EngineFlow<'_, '_>, _: &ComponentEntry, _: &ComponentDecision) {}
}
