//! Which components a flow meets: one look-up by control point, however many policies there are.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;

use ahash::RandomState;
use smallvec::SmallVec;

use super::limiters::Component;
use super::stages::Flow;
use crate::policy::{LabelMatcher, Policy, Selector};

/// The service of a selector that does not ask for one.
const ANY_SERVICE: &str = "any";
/// Control points up to this number are searched one by one.
const FEW: usize = 4;

/// A component and where it comes from.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) policy_name: Arc<str>,
    pub(crate) policy_hash: Arc<str>,
    pub(crate) component_id: Arc<str>,
    pub(crate) limiter: Component,
}

/// All components, by control point and service.
#[derive(Debug, Default)]
pub(crate) struct Index {
    components: Vec<Arc<Placed>>,
    places: Vec<(Arc<str>, Place)>,
    /// Where a control point's place is; used when there are many.
    by_name: HashMap<Arc<str>, usize, RandomState>,
}

#[derive(Debug, Default)]
struct Place {
    /// Components that every flow here meets.
    always: Vec<u32>,
    any: Vec<Candidate>,
    services: HashMap<Arc<str>, Vec<Candidate>, RandomState>,
}

/// A component, with the matchers of its selectors for one control point and service.
#[derive(Debug)]
struct Candidate {
    component: u32,
    matchers: SmallVec<[LabelMatcher; 1]>,
}

/// The components a flow meets.
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
    pub(crate) fn add(
        &mut self,
        policy: &Policy,
        id: &Arc<str>,
        limiter: Component,
        selectors: &[&Selector],
    ) {
        let Ok(at) = u32::try_from(self.components.len()) else {
            return;
        };
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
                Some(last) if last.component == at => last.matchers.push(matcher),
                _ => candidates.push(Candidate {
                    component: at,
                    matchers: SmallVec::from_iter([matcher]),
                }),
            }
        }
        self.components.push(Arc::new(Placed {
            policy_name: Arc::clone(&policy.name),
            policy_hash: Arc::clone(&policy.hash),
            component_id: Arc::clone(id),
            limiter,
        }));
    }

    fn place_mut(&mut self, control_point: &Arc<str>) -> &mut Place {
        let at = match self.by_name.get(control_point) {
            Some(at) => *at,
            None => {
                let at = self.places.len();
                self.by_name.insert(Arc::clone(control_point), at);
                self.places
                    .push((Arc::clone(control_point), Place::default()));
                at
            }
        };
        &mut self.places[at].1
    }

    /// Comparing a few names costs less than to hash one.
    #[inline(always)]
    fn place(&self, control_point: &str) -> Option<&Place> {
        if self.places.len() <= FEW {
            let mut places = self.places.iter();
            return places
                .find(|(name, _)| **name == *control_point)
                .map(|(_, place)| place);
        }
        let at = self.by_name.get(control_point)?;
        Some(&self.places[*at].1)
    }

    /// The components a flow meets, each once.
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

    #[inline]
    pub(crate) fn component(&self, at: u32) -> &Arc<Placed> {
        &self.components[at as usize]
    }

    pub(crate) fn components(&self) -> &[Arc<Placed>] {
        &self.components
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
            if !matching.contains(&candidate.component) && candidate.matches(flow) {
                matching.push(candidate.component);
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
