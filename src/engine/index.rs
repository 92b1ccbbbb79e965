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
    places: Places,
}

/// Things that selectors place, each a number: components, flux meters, classifiers.
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
        self.components.push(Arc::new(component));
    }

    /// The component of a policy that has these parameters, with its state.
    pub(crate) fn find(&self, policy: &str, id: &str, parameters: &str) -> Option<&Placed> {
        let mut components = self.components.iter().map(|one| &**one);
        components.find(|one| {
            *one.component_id == *id
                && *one.policy_name == *policy
                && *one.parameters == *parameters
        })
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
    fn matching(&self, flow: &Flow<'_, '_>) -> SmallVec<[u32; 8]> {
        let mut matching = SmallVec::from_slice(&self.always);
        let services = flow.services.iter();
        let candidates = services
            .filter_map(|service| self.services.get(*service))
            .flatten();
        for candidate in self.any.iter().chain(candidates) {
            if !matching.contains(&candidate.thing) && candidate.matches(flow) {
                matching.push(candidate.thing);
            }
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
