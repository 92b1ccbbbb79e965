//! One component of a policy in force: its origin, its control points, and its warnings.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::clock::{Nanos, duration, nanos};
use super::decision::{ComponentDecision, DecisionStep, EngineDenial};
use super::engine_flow::EngineFlow;
use super::registry::Component;
use crate::policy::{Policy, Selector};
use aperture_core::Quota;
use aperture_core::quota::fields::RenderedQuota;

/// After how many reloads a flow can still be ended by reference.
const FORMER_HASHES: usize = 16;

/// A component with its policy and id.
#[derive(Debug)]
pub(crate) struct ComponentEntry {
    pub(crate) policy_name: Arc<str>,
    pub(crate) policy_hash: Arc<str>,
    pub(crate) component_id: Arc<str>,
    /// Shared with waiting and running flows, and with the index after a reload.
    pub(crate) component: Arc<Component>,
    /// The step in which the component decides.
    pub(crate) step: DecisionStep,
    /// The parameters of the component as text. A reload compares them to decide whether the state
    /// can stay.
    pub(super) parameters: Arc<str>,
    /// The hashes that the policy had before reloads that kept the state, the latest last. Flows
    /// that began then end by these.
    former_hashes: Vec<Arc<str>>,
    /// Counts the flows that the component would have rejected, if its policy is in a dry run.
    dry_run: Option<Arc<AtomicU64>>,
    /// The control points that its selectors name, each with a flag that is set once the missing
    /// label of a flow has been logged there.
    control_points: Vec<(Arc<str>, AtomicBool)>,
    /// The longest `queue_timeout` of its workloads.
    queue_timeout: Nanos,
    /// Set once a warning was logged that the budget of a flow is shorter than its `queue_timeout`.
    warned_of_budget: AtomicBool,
    /// The texts of the first quota. A reload that changes a number makes a new entry.
    quota_texts: OnceLock<Arc<RenderedQuota>>,
}

impl ComponentEntry {
    /// Creates the entry of a component. `before` is its entry before the reload, if the component
    /// keeps its state.
    pub(crate) fn new(
        policy: &Policy,
        id: &Arc<str>,
        component: Arc<Component>,
        parameters: Arc<str>,
        before: Option<&Self>,
    ) -> Self {
        let mut former_hashes = before.map_or_else(Vec::new, |before| {
            let mut hashes = before.former_hashes.clone();
            hashes.push(Arc::clone(&before.policy_hash));
            hashes
        });
        former_hashes.retain(|former| *former != policy.hash);
        let queue_timeout = component.longest_queue_timeout();
        let excess = former_hashes.len().saturating_sub(FORMER_HASHES);
        former_hashes.drain(..excess);
        Self {
            policy_name: Arc::clone(&policy.name),
            policy_hash: Arc::clone(&policy.hash),
            component_id: Arc::clone(id),
            step: component.step(),
            component,
            parameters,
            former_hashes,
            dry_run: None,
            control_points: before.map_or_else(Vec::new, |before| {
                let control_points = before.control_points.iter();
                control_points
                    .map(|(name, warned)| (Arc::clone(name), copy_flag(warned)))
                    .collect()
            }),
            queue_timeout,
            quota_texts: OnceLock::new(),
            warned_of_budget: before.map_or_else(AtomicBool::default, |before| {
                copy_flag(&before.warned_of_budget)
            }),
        }
    }

    /// Sets the control points that its selectors name, and keeps the flags of those it had before.
    pub(super) fn set_control_points(&mut self, selectors: &[&Selector]) {
        let before = std::mem::take(&mut self.control_points);
        let before: HashMap<&str, &AtomicBool> = before
            .iter()
            .map(|(name, warned)| (&**name, warned))
            .collect();
        let mut added = HashSet::new();
        for Selector { control_point, .. } in selectors {
            if added.insert(&**control_point) {
                let before = before.get(&**control_point);
                let warned = before.map_or_else(AtomicBool::default, |warned| copy_flag(warned));
                self.control_points
                    .push((Arc::clone(control_point), warned));
            }
        }
    }

    pub(crate) fn dry_run(mut self, counter: Option<Arc<AtomicU64>>) -> Self {
        self.dry_run = counter;
        self
    }

    /// Returns true if the component decides without being enforced.
    #[inline]
    pub(crate) fn is_dry_run(&self) -> bool {
        self.dry_run.is_some()
    }

    /// Returns true if a decision rejects the flow; `dropped` is that of the decision. In a dry run,
    /// counts the decision and returns false; call it once per decision.
    #[inline(always)]
    pub(crate) fn rejects(&self, dropped: bool) -> bool {
        match &self.dry_run {
            _ if !dropped => false,
            None => true,
            Some(counter) => {
                counter.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// Returns true if the decision of the component is the decision about a flow that no other
    /// component selects.
    #[inline(always)]
    pub(crate) fn decides_alone(&self, flow: &EngineFlow<'_, '_>) -> bool {
        !flow.ramp_mode && self.step != DecisionStep::Ramps
    }

    /// Returns the denial of a flow that only this component rejects, with the
    /// [reported wait](ComponentDecision::reported_wait).
    #[inline(never)]
    pub(crate) fn denial(&self, wait: Nanos) -> EngineDenial {
        self.step.denial(self.component.denied_code(), wait)
    }

    /// Returns true if the component decided about a flow. It did not if it was skipped because the
    /// flow lacks the label that it limits by, which is logged once per control point. `key_missing` is
    /// that of its decision.
    #[inline(always)]
    pub(crate) fn has_decided(&self, flow: &EngineFlow<'_, '_>, key_missing: bool) -> bool {
        !key_missing || !self.was_skipped(flow)
    }

    #[cold]
    #[inline(never)]
    fn was_skipped(&self, flow: &EngineFlow<'_, '_>) -> bool {
        let Some(label) = self.component.missing_label(flow) else {
            return false;
        };
        let mut control_points = self.control_points.iter();
        if let Some((_, warned)) = control_points.find(|(name, _)| **name == *flow.control_point)
            && !warned.load(Ordering::Relaxed)
            && !warned.swap(true, Ordering::Relaxed)
        {
            log_event!(
                warn,
                control_point = flow.control_point,
                policy = &*self.policy_name,
                component = &*self.component_id,
                label,
                "a limiter was skipped because a flow lacks the label that it limits by: such \
                 flows are not limited by it"
            );
        }
        true
    }

    /// Logs a warning, once, if the time left of a flow is shorter than the `queue_timeout` of its
    /// workload.
    #[inline(always)]
    pub(crate) fn check_budget(&self, flow: &EngineFlow<'_, '_>) {
        if flow.time_left < self.queue_timeout && !self.warned_of_budget.load(Ordering::Relaxed) {
            self.warn_of_budget(flow);
        }
    }

    #[cold]
    #[inline(never)]
    fn warn_of_budget(&self, flow: &EngineFlow<'_, '_>) {
        let Some((workload, timeout)) = self.component.queue_timeout(flow) else {
            return;
        };
        if flow.time_left < nanos(timeout) && !self.warned_of_budget.swap(true, Ordering::Relaxed) {
            log_event!(
                warn,
                control_point = flow.control_point,
                policy = &*self.policy_name,
                component = &*self.component_id,
                workload,
                queue_timeout = ?timeout,
                budget = ?duration(flow.time_left),
                "a queue timeout is longer than the check timeout of a flow, or than the timeout of \
                 its caller; the flow waits no longer than that: raise `check_timeout`, or lower \
                 `queue_timeout`"
            );
        }
    }

    /// Returns the quota to report for a decision, if the component has one.
    pub(crate) fn quota(&self, decision: &ComponentDecision) -> Option<Quota> {
        let counts = decision.evaluated && !self.is_dry_run();
        let times = self.component.fill_times(decision.remaining);
        let times = times.filter(|_| counts)?;
        let mut quota = Quota::from_tokens(
            Arc::clone(&self.policy_name),
            Arc::clone(&self.component_id),
            (decision.remaining, decision.current),
            decision.dropped,
        )?;
        let before = |time: Nanos| (time > 0).then(|| duration(time));
        quota.window = before(times.whole);
        quota.reset = before(match decision.dropped {
            true => decision.wait,
            false => times.rest,
        });
        let texts = || Arc::new(RenderedQuota::new(&quota));
        let texts = Arc::clone(self.quota_texts.get_or_init(texts));
        quota.texts = texts.into();
        Some(quota)
    }

    /// Returns true if a flow may have been decided while the policy had this hash.
    pub(crate) fn has_had_hash(&self, hash: &str) -> bool {
        *self.policy_hash == *hash || self.former_hashes.iter().any(|former| **former == *hash)
    }
}

fn copy_flag(flag: &AtomicBool) -> AtomicBool {
    AtomicBool::new(flag.load(Ordering::Relaxed))
}
