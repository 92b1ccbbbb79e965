//! Which components a flow meets: one look-up by control point, however many policies there are.

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;
use smallvec::SmallVec;

use super::clock::{Nanos, duration};
use super::flux_meter::Workload;
use super::limiters::{Component, Decided};
use super::stages::Flow;
use crate::flow::Quota;
use crate::policy::{LabelMatcher, Policy, Selector};

/// The service of a selector that does not ask for one.
const ANY_SERVICE: &str = "any";
/// Control points up to this number are searched one by one.
const FEW: usize = 4;

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
    parameters: Box<str>,
    /// Of the policy before reloads that kept the state, the latest last: flows that began then
    /// end by these.
    former_hashes: Vec<Arc<str>>,
    /// Its policy is in a dry run; counts the flows that it would have turned away.
    dry_run: Option<Arc<AtomicU64>>,
}

impl Placed {
    /// A component of a policy; `known` is what it was before a reload, if it goes on.
    pub(crate) fn new(
        policy: &Policy,
        id: &Arc<str>,
        limiter: Arc<Component>,
        parameters: Box<str>,
        known: Option<&Self>,
    ) -> Self {
        let mut former_hashes = known.map_or_else(Vec::new, |known| {
            let mut hashes = known.former_hashes.clone();
            hashes.push(Arc::clone(&known.policy_hash));
            hashes
        });
        former_hashes.retain(|former| *former != policy.hash);
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

    /// What a limiter has to say of its quota.
    pub(crate) fn quota(&self, decided: &Decided) -> Option<Quota> {
        let counts = decided.looked && !self.is_dry();
        let shape = self.limiter.shape().filter(|_| counts)?;
        let mut quota = Quota::of_tokens(
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
    pub(crate) fn add(&mut self, component: Placed, selectors: &[&Selector]) {
        let Ok(at) = u32::try_from(self.components.len()) else {
            return;
        };
        self.places.add(at, selectors);
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
