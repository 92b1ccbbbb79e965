//! One component of a policy in force: where it comes from, and what it says of its decisions.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::clock::{Nanos, duration, nanos};
use super::limiters::{Component, Decided};
use super::report::LimiterReason;
use super::stages::Flow;
use crate::flow::Quota;
use crate::policy::{Policy, Selector};

/// Reloads that a flow may outlive and still be ended by reference.
const FORMER_HASHES: usize = 16;

/// A component and where it comes from.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) policy_name: Arc<str>,
    pub(crate) policy_hash: Arc<str>,
    pub(crate) component_id: Arc<str>,
    /// Shared with what waits or runs, and with the index after a reload.
    pub(crate) limiter: Arc<Component>,
    /// What tells whether a reload may keep the state.
    pub(super) parameters: Arc<str>,
    /// Of the policy before reloads that kept the state, the latest last: flows that began then
    /// end by these.
    former_hashes: Vec<Arc<str>>,
    /// Its policy is in a dry run; counts the flows that it would have turned away.
    dry_run: Option<Arc<AtomicU64>>,
    /// The control points that its selectors name, each with whether a warning has said that a
    /// flow there lacked the label.
    points: Vec<(Arc<str>, AtomicBool)>,
    /// The longest `queue_timeout` of its workloads.
    queue_timeout: Nanos,
    /// A warning has said that a flow's budget was shorter than its `queue_timeout`.
    outlasted: AtomicBool,
}

impl Placed {
    /// A component of a policy; `known` is what it was before a reload, if it goes on.
    pub(crate) fn new(
        policy: &Policy,
        id: &Arc<str>,
        limiter: Arc<Component>,
        parameters: Arc<str>,
        known: Option<&Self>,
    ) -> Self {
        let mut former_hashes = known.map_or_else(Vec::new, |known| {
            let mut hashes = known.former_hashes.clone();
            hashes.push(Arc::clone(&known.policy_hash));
            hashes
        });
        former_hashes.retain(|former| *former != policy.hash);
        let limiter_timeout = limiter.longest_queue_timeout();
        let excess = former_hashes.len().saturating_sub(FORMER_HASHES);
        former_hashes.drain(..excess);
        Self {
            policy_name: Arc::clone(&policy.name),
            policy_hash: Arc::clone(&policy.hash),
            component_id: Arc::clone(id),
            limiter,
            parameters,
            former_hashes,
            dry_run: None,
            points: known.map_or_else(Vec::new, |known| {
                let points = known.points.iter();
                points
                    .map(|(name, warned)| (Arc::clone(name), copied(warned)))
                    .collect()
            }),
            queue_timeout: limiter_timeout,
            outlasted: known.map_or_else(AtomicBool::default, |known| copied(&known.outlasted)),
        }
    }

    /// Takes the control points that its selectors name, and what was warned of there before.
    pub(super) fn stands_at(&mut self, selectors: &[&Selector]) {
        let known = std::mem::take(&mut self.points);
        let known: HashMap<&str, &AtomicBool> = known
            .iter()
            .map(|(name, warned)| (&**name, warned))
            .collect();
        let mut added = HashSet::new();
        for Selector { control_point, .. } in selectors {
            if added.insert(&**control_point) {
                let before = known.get(&**control_point);
                let warned = before.map_or_else(AtomicBool::default, |warned| copied(warned));
                self.points.push((Arc::clone(control_point), warned));
            }
        }
    }

    pub(crate) fn dry_run(mut self, counter: Option<Arc<AtomicU64>>) -> Self {
        self.dry_run = counter;
        self
    }

    /// It decides, and nothing follows.
    #[inline]
    pub(crate) fn is_dry(&self) -> bool {
        self.dry_run.is_some()
    }

    /// Whether a decision turns the flow away; in a dry run it is only counted. Ask once.
    #[inline]
    pub(crate) fn rejects(&self, decided: &Decided) -> bool {
        match &self.dry_run {
            _ if !decided.dropped => false,
            None => true,
            Some(counter) => {
                counter.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// Whether it decided about a flow: not where it was skipped because the flow lacks the label
    /// that it limits by, which is logged once for each of its control points.
    #[inline(always)]
    pub(crate) fn has_decided(&self, flow: &Flow<'_, '_>, decided: &Decided) -> bool {
        decided.reason != LimiterReason::KeyNotFound || !self.was_skipped(flow)
    }

    #[cold]
    #[inline(never)]
    fn was_skipped(&self, flow: &Flow<'_, '_>) -> bool {
        let Some(_label) = self.limiter.missing_label(flow) else {
            return false;
        };
        let mut points = self.points.iter();
        if let Some((_, warned)) = points.find(|(name, _)| **name == *flow.control_point)
            && !warned.load(Ordering::Relaxed)
            && !warned.swap(true, Ordering::Relaxed)
        {
            log_event!(
                warn,
                control_point = flow.control_point,
                policy = &*self.policy_name,
                component = &*self.component_id,
                label = _label,
                "a limiter was skipped because a flow lacks the label that it limits by: such \
                 flows are not limited by it"
            );
        }
        true
    }

    /// Warns once when a flow's time is over before its workload's `queue_timeout` is.
    #[inline(always)]
    pub(crate) fn check_budget(&self, flow: &Flow<'_, '_>) {
        if flow.time_left < self.queue_timeout && !self.outlasted.load(Ordering::Relaxed) {
            self.warn_of_budget(flow);
        }
    }

    #[cold]
    #[inline(never)]
    fn warn_of_budget(&self, flow: &Flow<'_, '_>) {
        let Some((_workload, timeout)) = self.limiter.queue_timeout(flow) else {
            return;
        };
        if flow.time_left < nanos(timeout) && !self.outlasted.swap(true, Ordering::Relaxed) {
            log_event!(
                warn,
                control_point = flow.control_point,
                policy = &*self.policy_name,
                component = &*self.component_id,
                workload = _workload,
                queue_timeout = ?timeout,
                budget = ?duration(flow.time_left),
                "a queue timeout is longer than the check timeout of a flow, or than its caller \
                 waits; the flow waits no longer than that: raise `check_timeout`, or lower \
                 `queue_timeout`"
            );
        }
    }

    /// What a limiter has to say of its quota.
    pub(crate) fn quota(&self, decided: &Decided) -> Option<Quota> {
        let counts = decided.looked && !self.is_dry();
        let shape = self.limiter.shape().filter(|_| counts)?;
        let mut quota = Quota::from_tokens(
            Arc::clone(&self.policy_name),
            Arc::clone(&self.component_id),
            (decided.remaining, decided.current),
            decided.dropped,
        )?;
        let known = |time: Nanos| (time > 0).then(|| duration(time));
        quota.window = known(shape.time_to_fill(shape.capacity));
        quota.reset = known(match decided.dropped {
            true => decided.wait,
            false => shape.time_to_fill(shape.capacity - decided.remaining),
        });
        Some(quota)
    }

    /// Whether a flow may have heard of it under this hash.
    pub(crate) fn had_hash(&self, hash: &str) -> bool {
        *self.policy_hash == *hash || self.former_hashes.iter().any(|former| **former == *hash)
    }
}

fn copied(flag: &AtomicBool) -> AtomicBool {
    AtomicBool::new(flag.load(Ordering::Relaxed))
}
