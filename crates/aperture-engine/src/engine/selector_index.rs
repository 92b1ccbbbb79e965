//! Finds the items that select a flow, by one look-up of its control point, however many policies
//! are in force.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use ahash::RandomState;
use smallvec::SmallVec;

use super::engine_flow::EngineFlow;
use crate::policy::{LabelMatcher, Selector};
use aperture_core::ControlPointMemo;

/// The service of a selector that selects all services.
const ANY_SERVICE: &str = "any";
/// Up to this number, control points are searched linearly.
const MAX_LINEAR: usize = 4;

/// The place in a memo of a control point that no selector names.
const UNSELECTED: u32 = u32::MAX;
/// The same, of a control point whose flows the engine only counts.
const PASSES: u32 = u32::MAX - 1;

/// An index of items by their selectors. Each item (a component, flux meter or classifier) is a
/// number, and items are added in ascending order.
#[derive(Debug)]
pub(crate) struct SelectorIndex {
    /// Identifies this index in the memos of control points. Not zero.
    version: u32,
    all: Vec<(Arc<str>, ControlPointIndex)>,
    /// The index of a control point in `all`; used if there are many.
    by_name: HashMap<Arc<str>, usize, RandomState>,
}

impl Default for SelectorIndex {
    fn default() -> Self {
        static LATEST: AtomicU32 = AtomicU32::new(0);
        Self {
            // A memo would have to outlive four billion indexes to meet its version again.
            version: LATEST.fetch_add(1, Relaxed).wrapping_add(1).max(1),
            all: Vec::new(),
            by_name: HashMap::default(),
        }
    }
}

#[derive(Debug, Default)]
struct ControlPointIndex {
    /// Items that select every flow of the control point.
    always: Vec<u32>,
    any: Vec<Candidate>,
    services: HashMap<Arc<str>, Vec<Candidate>, RandomState>,
}

/// An item, with the matchers of its selectors for one control point and service.
#[derive(Debug)]
struct Candidate {
    item: u32,
    matchers: SmallVec<[LabelMatcher; 1]>,
}

/// The items that select a flow.
pub(crate) enum MatchingItems<'a> {
    All(&'a [u32]),
    Some(SmallVec<[u32; 8]>),
}

impl Deref for MatchingItems<'_> {
    type Target = [u32];

    #[inline]
    fn deref(&self) -> &[u32] {
        match self {
            Self::All(all) => all,
            Self::Some(some) => some,
        }
    }
}

impl SelectorIndex {
    /// Adds an item with those of its selectors that apply here. Items have to be added in
    /// ascending order.
    pub(crate) fn add(&mut self, at: u32, selectors: &[&Selector]) {
        for selector in selectors {
            let point = self.control_point_mut(&selector.control_point);
            if *selector.service == *ANY_SERVICE && selector.matcher.is_empty() {
                if point.always.last() != Some(&at) {
                    point.always.push(at);
                }
                continue;
            }
            let candidates = if *selector.service == *ANY_SERVICE {
                &mut point.any
            } else {
                point
                    .services
                    .entry(Arc::clone(&selector.service))
                    .or_default()
            };
            let matcher = selector.matcher.clone();
            match candidates.last_mut() {
                Some(last) if last.item == at => last.matchers.push(matcher),
                _ => candidates.push(Candidate {
                    item: at,
                    matchers: SmallVec::from_iter([matcher]),
                }),
            }
        }
    }

    fn control_point_mut(&mut self, control_point: &Arc<str>) -> &mut ControlPointIndex {
        let at = match self.by_name.get(control_point) {
            Some(at) => *at,
            None => {
                let at = self.all.len();
                self.by_name.insert(Arc::clone(control_point), at);
                self.all
                    .push((Arc::clone(control_point), ControlPointIndex::default()));
                at
            }
        };
        &mut self.all[at].1
    }

    /// Returns true if a selector names the control point.
    pub(crate) fn selects(&self, control_point: &str) -> bool {
        self.point(control_point).is_some()
    }

    /// Finds a control point. Comparing a few names is cheaper than hashing one.
    #[inline(always)]
    fn point(&self, control_point: &str) -> Option<&ControlPointIndex> {
        if self.all.len() <= MAX_LINEAR {
            let mut points = self.all.iter();
            return points
                .find(|(name, _)| **name == *control_point)
                .map(|(_, point)| point);
        }
        let at = self.by_name.get(control_point)?;
        Some(&self.all[*at].1)
    }

    /// Like [`point`](Self::point), with a memo of the control point.
    #[inline(always)]
    fn point_by(&self, memo: &ControlPointMemo, control_point: &str) -> Option<&ControlPointIndex> {
        match memo.get(self.version) {
            Some(place) => self.all.get(place as usize).map(|(_, point)| point),
            None => self.note_place(memo, control_point),
        }
    }

    /// Finds a control point, and notes the place of one that has selectors.
    #[cold]
    #[inline(never)]
    fn note_place(
        &self,
        memo: &ControlPointMemo,
        control_point: &str,
    ) -> Option<&ControlPointIndex> {
        let place = *self.by_name.get(control_point)?;
        if let Ok(place) = u32::try_from(place) {
            memo.set(self.version, place);
        }
        Some(&self.all[place].1)
    }

    /// Returns the items that select a flow, each once.
    #[inline(always)]
    pub(crate) fn matching(&self, flow: &EngineFlow<'_, '_>) -> MatchingItems<'_> {
        Self::matching_at(self.point(flow.control_point), flow)
    }

    /// Like [`matching`](Self::matching), with the memo of the flow's control point.
    #[inline(always)]
    pub(crate) fn matching_by(
        &self,
        memo: Option<&ControlPointMemo>,
        flow: &EngineFlow<'_, '_>,
    ) -> MatchingItems<'_> {
        let point = match memo {
            None => self.point(flow.control_point),
            Some(memo) => self.point_by(memo, flow.control_point),
        };
        Self::matching_at(point, flow)
    }

    /// Returns true if the memo says that no selector names the control point.
    #[inline(always)]
    pub(crate) fn is_noted_as_unselected(&self, memo: Option<&ControlPointMemo>) -> bool {
        let place = memo.and_then(|memo| memo.get(self.version));
        matches!(place, Some(UNSELECTED | PASSES))
    }

    /// Notes that no selector names the control point. `passes` means that the engine only counts
    /// its flows.
    pub(crate) fn note_as_unselected(&self, memo: Option<&ControlPointMemo>, passes: bool) {
        if let Some(memo) = memo {
            memo.set(self.version, if passes { PASSES } else { UNSELECTED });
        }
    }

    /// Identifies this index in the memos of control points.
    pub(crate) const fn version(&self) -> u32 {
        self.version
    }

    /// Returns true if the memo says, for the index of this version, that the engine only counts the
    /// flows of the control point.
    #[inline(always)]
    pub(crate) fn is_noted_to_pass(memo: &ControlPointMemo, version: u32) -> bool {
        memo.get(version) == Some(PASSES)
    }

    #[inline(always)]
    fn matching_at<'a>(
        point: Option<&'a ControlPointIndex>,
        flow: &EngineFlow<'_, '_>,
    ) -> MatchingItems<'a> {
        match point {
            None => MatchingItems::All(&[]),
            Some(point) if point.any.is_empty() && point.services.is_empty() => {
                MatchingItems::All(&point.always)
            }
            Some(point) => MatchingItems::Some(point.matching(flow)),
        }
    }
}

impl ControlPointIndex {
    /// Returns the items in ascending order. A list holds each item once, but several lists may
    /// hold the same item.
    fn matching(&self, flow: &EngineFlow<'_, '_>) -> SmallVec<[u32; 8]> {
        let mut matching = SmallVec::from_slice(&self.always);
        let mut lists: SmallVec<[&[Candidate]; 4]> = SmallVec::new();
        lists.push(&self.any);
        for service in flow.services {
            // A flow may name the same service repeatedly.
            if lists.len() <= self.services.len()
                && let Some(list) = self.services.get(*service)
                && !lists.iter().any(|known| std::ptr::eq(*known, &**list))
            {
                lists.push(list);
            }
        }
        let candidates = lists.iter().copied().flatten();
        let items = candidates.filter(|candidate| candidate.matches(flow));
        matching.extend(items.map(|candidate| candidate.item));
        if matching.len() > 1 {
            matching.sort_unstable();
            matching.dedup();
        }
        matching
    }
}

impl Candidate {
    fn matches(&self, flow: &EngineFlow<'_, '_>) -> bool {
        self.matchers
            .iter()
            .any(|matcher| matcher.matches(flow.labels))
    }
}
