//! Which components a flow meets: one look-up by control point, however many policies there are.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use ahash::RandomState;
use smallvec::SmallVec;

use super::flux_meter::Workload;
use super::limiters::Component;
use super::placed::Placed;
use super::stages::Flow;
use crate::policy::{LabelMatcher, Selector};

/// The service of a selector that does not ask for one.
const ANY_SERVICE: &str = "any";
/// Control points up to this number are searched one by one.
const FEW: usize = 4;

/// All components, by control point and service.
#[derive(Debug, Default)]
pub(crate) struct Index {
    components: Vec<Arc<Placed>>,
    /// Where a component is, by the names of its policy and its own.
    by_id: HashMap<(Arc<str>, Arc<str>), u32, RandomState>,
    places: Places,
}

/// Things that selectors place, each a number, and added in that order: components, flux meters,
/// classifiers.
#[derive(Debug, Default)]
pub(crate) struct Places {
    all: Vec<(Arc<str>, Place)>,
    /// Where a control point's place is; used when there are many.
    by_name: HashMap<Arc<str>, usize, RandomState>,
}

#[derive(Debug, Default)]
struct Place {
    /// Things that every flow here meets.
    always: Vec<u32>,
    any: Vec<Candidate>,
    services: HashMap<Arc<str>, Vec<Candidate>, RandomState>,
}

/// A thing, with the matchers of its selectors for one control point and service.
#[derive(Debug)]
struct Candidate {
    thing: u32,
    matchers: SmallVec<[LabelMatcher; 1]>,
}

/// The things a flow meets.
pub(crate) enum Matching<'a> {
    All(&'a [u32]),
    Some(SmallVec<[u32; 8]>),
}

impl Deref for Matching<'_> {
    type Target = [u32];

    #[inline]
    fn deref(&self) -> &[u32] {
        match self {
            Self::All(all) => all,
            Self::Some(some) => some,
        }
    }
}

impl Index {
    /// Adds a component with those of its selectors that apply here.
    pub(crate) fn add(&mut self, mut component: Placed, selectors: &[&Selector]) {
        let Ok(at) = u32::try_from(self.components.len()) else {
            return;
        };
        self.places.add(at, selectors);
        component.stands_at(selectors);
        let id = (
            Arc::clone(&component.policy_name),
            Arc::clone(&component.component_id),
        );
        self.by_id.insert(id, at);
        self.components.push(Arc::new(component));
    }

    /// Returns the component of a policy that has this id.
    pub(crate) fn named(&self, policy: &str, id: &str) -> Option<&Arc<Placed>> {
        let at = self.by_id.get(&(policy.into(), id.into()))?;
        Some(self.component(*at))
    }

    /// The component of a policy, with its state.
    pub(crate) fn find(&self, policy: &Arc<str>, id: &Arc<str>) -> Option<&Placed> {
        let at = self.by_id.get(&(Arc::clone(policy), Arc::clone(id)))?;
        Some(self.component(*at))
    }

    /// The components a flow meets, each once.
    #[inline(always)]
    pub(crate) fn matching(&self, flow: &Flow<'_, '_>) -> Matching<'_> {
        self.places.matching(flow)
    }

    /// Some selector names the control point.
    pub(crate) fn selects(&self, control_point: &str) -> bool {
        self.places.selects(control_point)
    }

    /// What a flow is to the load schedulers that measure it.
    #[cold]
    pub(crate) fn workloads(&self, flow: &Flow<'_, '_>) -> Vec<Workload> {
        let matching = self.matching(flow);
        let components = matching.iter().map(|at| self.component(*at));
        components
            .filter_map(|one| match &*one.limiter {
                Component::LoadScheduler(scheduler) => scheduler.workload(flow),
                _ => None,
            })
            .collect()
    }

    #[inline]
    pub(crate) fn component(&self, at: u32) -> &Arc<Placed> {
        &self.components[at as usize]
    }

    pub(crate) fn components(&self) -> &[Arc<Placed>] {
        &self.components
    }
}

impl Places {
    /// Places a thing by those of its selectors that apply here; things come in order.
    pub(crate) fn add(&mut self, at: u32, selectors: &[&Selector]) {
        for selector in selectors {
            let place = self.place_mut(&selector.control_point);
            if *selector.service == *ANY_SERVICE && selector.matcher.is_empty() {
                if place.always.last() != Some(&at) {
                    place.always.push(at);
                }
                continue;
            }
            let candidates = if *selector.service == *ANY_SERVICE {
                &mut place.any
            } else {
                place
                    .services
                    .entry(Arc::clone(&selector.service))
                    .or_default()
            };
            let matcher = selector.matcher.clone();
            match candidates.last_mut() {
                Some(last) if last.thing == at => last.matchers.push(matcher),
                _ => candidates.push(Candidate {
                    thing: at,
                    matchers: SmallVec::from_iter([matcher]),
                }),
            }
        }
    }

    fn place_mut(&mut self, control_point: &Arc<str>) -> &mut Place {
        let at = match self.by_name.get(control_point) {
            Some(at) => *at,
            None => {
                let at = self.all.len();
                self.by_name.insert(Arc::clone(control_point), at);
                self.all.push((Arc::clone(control_point), Place::default()));
                at
            }
        };
        &mut self.all[at].1
    }

    /// Returns true if a selector names the control point.
    pub(crate) fn selects(&self, control_point: &str) -> bool {
        self.place(control_point).is_some()
    }

    /// Comparing a few names costs less than to hash one.
    #[inline(always)]
    fn place(&self, control_point: &str) -> Option<&Place> {
        if self.all.len() <= FEW {
            let mut places = self.all.iter();
            return places
                .find(|(name, _)| **name == *control_point)
                .map(|(_, place)| place);
        }
        let at = self.by_name.get(control_point)?;
        Some(&self.all[*at].1)
    }

    /// The things a flow meets, each once.
    #[inline(always)]
    pub(crate) fn matching(&self, flow: &Flow<'_, '_>) -> Matching<'_> {
        match self.place(flow.control_point) {
            None => Matching::All(&[]),
            Some(place) if place.any.is_empty() && place.services.is_empty() => {
                Matching::All(&place.always)
            }
            Some(place) => Matching::Some(place.matching(flow)),
        }
    }
}

impl Place {
    /// In the order of the things. A list holds each of them once; several lists may hold the same.
    fn matching(&self, flow: &Flow<'_, '_>) -> SmallVec<[u32; 8]> {
        let mut matching = SmallVec::from_slice(&self.always);
        let mut lists: SmallVec<[&[Candidate]; 4]> = SmallVec::new();
        lists.push(&self.any);
        for service in flow.services {
            // A flow may name a service over and over.
            if lists.len() <= self.services.len()
                && let Some(list) = self.services.get(*service)
                && !lists.iter().any(|known| std::ptr::eq(*known, &**list))
            {
                lists.push(list);
            }
        }
        let candidates = lists.iter().copied().flatten();
        let things = candidates.filter(|candidate| candidate.matches(flow));
        matching.extend(things.map(|candidate| candidate.thing));
        if matching.len() > 1 {
            matching.sort_unstable();
            matching.dedup();
        }
        matching
    }
}

impl Candidate {
    fn matches(&self, flow: &Flow<'_, '_>) -> bool {
        self.matchers
            .iter()
            .any(|matcher| matcher.matches(flow.labels))
    }
}
