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
    components: Vec<Placed>,
    places: HashMap<Arc<str>, Place, RandomState>,
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
            let place = self
                .places
                .entry(Arc::clone(&selector.control_point))
                .or_default();
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
        self.components.push(Placed {
            policy_name: Arc::clone(&policy.name),
            policy_hash: Arc::clone(&policy.hash),
            component_id: Arc::clone(id),
            limiter,
        });
    }

    /// The components a flow meets, each once.
    #[inline]
    pub(crate) fn matching(&self, flow: &Flow<'_, '_>) -> Matching<'_> {
        match self.places.get(flow.control_point) {
            None => Matching::All(&[]),
            Some(place) if place.any.is_empty() && place.services.is_empty() => {
                Matching::All(&place.always)
            }
            Some(place) => Matching::Some(place.matching(flow)),
        }
    }

    #[inline]
    pub(crate) fn component(&self, at: u32) -> &Placed {
        &self.components[at as usize]
    }

    pub(crate) fn components(&self) -> &[Placed] {
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
