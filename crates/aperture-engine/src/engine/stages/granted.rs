//! What the components of a batch granted, until it is clear whether all of them accept the flow.

use smallvec::SmallVec;

use crate::engine::clock::DecisionTime;
use crate::engine::component_entry::ComponentEntry;
use crate::engine::decision::ComponentDecision;
use crate::engine::engine_flow::EngineFlow;
use crate::engine::held_slots::HeldSlot;

pub(super) type GrantedComponents<'a> =
    SmallVec<[(&'a ComponentEntry, ComponentDecision, Option<HeldSlot>); 4]>;

/// Returns what a batch granted before one of its components rejected the flow. Slots are returned
/// by dropping them.
pub(super) fn revert(
    granted: GrantedComponents<'_>,
    flow: &EngineFlow<'_, '_>,
    time: &DecisionTime<'_>,
) {
    for (component, decision, slot) in granted {
        if !decision.key_missing && decision.consumed > 0.0 {
            component.component.revert(flow, &decision, time.now());
        }
        drop(slot);
    }
}
