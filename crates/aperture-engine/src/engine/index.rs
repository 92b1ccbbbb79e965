//! The components in force, by selector and by id.

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

use super::component_entry::ComponentEntry;
use super::engine_flow::EngineFlow;
use super::selector_index::{MatchingItems, SelectorIndex};
use super::workload_latency::MeasuredWorkload;
use crate::policy::Selector;

/// All components, by control point and service.
#[derive(Debug, Default)]
pub(crate) struct Index {
    components: Vec<Arc<ComponentEntry>>,
    /// The index of a component, by its policy and its id.
    by_id: HashMap<(Arc<str>, Arc<str>), u32, RandomState>,
    selectors: SelectorIndex,
}

impl Index {
    /// Adds a component with those of its selectors that apply here.
    pub(crate) fn add(&mut self, mut component: ComponentEntry, selectors: &[&Selector]) {
        let Ok(at) = u32::try_from(self.components.len()) else {
            return;
        };
        self.selectors.add(at, selectors);
        component.set_control_points(selectors);
        let id = (
            Arc::clone(&component.policy_name),
            Arc::clone(&component.component_id),
        );
        self.by_id.insert(id, at);
        self.components.push(Arc::new(component));
    }

    /// Returns the component of a policy by its id.
    pub(crate) fn named(&self, policy: &str, id: &str) -> Option<&Arc<ComponentEntry>> {
        let at = self.by_id.get(&(policy.into(), id.into()))?;
        Some(self.component(*at))
    }

    /// Returns the component of a policy by its id, for callers that share both texts.
    pub(crate) fn find(&self, policy: &Arc<str>, id: &Arc<str>) -> Option<&ComponentEntry> {
        let at = self.by_id.get(&(Arc::clone(policy), Arc::clone(id)))?;
        Some(self.component(*at))
    }

    /// Returns the components that select a flow, each once.
    #[inline(always)]
    pub(crate) fn matching(&self, flow: &EngineFlow<'_, '_>) -> MatchingItems<'_> {
        self.selectors.matching(flow)
    }

    #[inline]
    pub(crate) const fn selectors(&self) -> &SelectorIndex {
        &self.selectors
    }

    /// Returns true if a selector names the control point.
    pub(crate) fn selects(&self, control_point: &str) -> bool {
        self.selectors.selects(control_point)
    }

    /// Returns the workloads of a flow in the load schedulers that measure it.
    #[cold]
    pub(crate) fn workloads(&self, flow: &EngineFlow<'_, '_>) -> Vec<MeasuredWorkload> {
        let matching = self.matching(flow);
        let components = matching.iter().map(|at| self.component(*at));
        components
            .filter_map(|entry| entry.component.scheduler()?.measured_workload(flow))
            .collect()
    }

    #[inline]
    pub(crate) fn component(&self, at: u32) -> &Arc<ComponentEntry> {
        &self.components[at as usize]
    }

    pub(crate) fn components(&self) -> &[Arc<ComponentEntry>] {
        &self.components
    }
}
