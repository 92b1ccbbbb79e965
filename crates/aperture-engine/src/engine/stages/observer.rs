//! What the steps of a decision call for each decision and for the cache lookup.

use crate::engine::clock::DecisionTime;
use crate::engine::component_entry::ComponentEntry;
use crate::engine::decision::ComponentDecision;
use crate::engine::engine_flow::EngineFlow;

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
}

impl Observer for () {
    fn on_decision(&mut self, _: &EngineFlow<'_, '_>, _: &ComponentEntry, _: &ComponentDecision) {}
}
