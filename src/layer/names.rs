//! Bounds the names that clients can bring up: control points, and labels from gRPC paths.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use super::head::RequestHead;
use super::layer::ApertureLayer;
use crate::flow::Decider;

/// The name of requests whose own name is not known: `other`.
///
/// See [names that clients choose](crate::layer#names-that-clients-choose), and
/// [`ApertureLayer::known_names`] for an example.
pub const FALLBACK_NAME: &str = "other";

/// How many names a layer learns from requests where nothing else tells which ones exist.
const MOST_NAMES: usize = 1024;
/// Longer names are never learned, in bytes. With [`MOST_NAMES`] this bounds the memory.
const LONGEST_NAME: usize = 256;
/// Half of the slots stay empty, so that probing ends soon. A power of two.
const SLOTS: usize = 2 * MOST_NAMES;

/// What a decider knows of its policies, without its types.
pub(crate) trait PolicyNames {
    fn knows_control_point(&self, name: &str) -> Option<bool>;
    fn compares_label_value(&self, value: &str) -> Option<bool>;
}

impl<D: Decider> PolicyNames for D {
    fn knows_control_point(&self, name: &str) -> Option<bool> {
        Decider::knows_control_point(self, name)
    }

    fn compares_label_value(&self, value: &str) -> Option<bool> {
        Decider::compares_label_value(self, value)
    }
}

/// The name of a request's control point.
pub(crate) struct ControlPointName<'a> {
    pub(crate) name: Cow<'a, str>,
    /// The request shares the name with all others that are not known by their own.
    pub(crate) is_fallback: bool,
}

/// What a layer knows of names, shared by its services and clones.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// What the application listed; `None` if it listed nothing.
    listed: Option<HashSet<Box<str>>>,
    learned: LearnedNames,
}

/// The first names that requests brought up, for all services of a layer.
///
/// A hash table with open addressing that only grows. Looking up a known name takes no lock and
/// allocates nothing.
#[derive(Default)]
pub(crate) struct LearnedNames {
    /// Made for the first name.
    table: OnceLock<Table>,
    warned: AtomicBool,
}

struct Table {
    slots: Box<[OnceLock<Box<str>>]>,
    /// Taken slots, and those about to be taken.
    used: AtomicUsize,
    hasher: RandomState,
}

impl Table {
    fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| OnceLock::new()).collect(),
            used: AtomicUsize::new(0),
            // Random, so that no client finds names that collide.
            hasher: RandomState::new(),
        }
    }

    /// The slots where a name may be, in order.
    fn probe(&self, name: &str) -> impl Iterator<Item = &OnceLock<Box<str>>> {
        let start = self.hasher.hash_one(name) as usize;
        (0..SLOTS).map(move |step| &self.slots[start.wrapping_add(step) % SLOTS])
    }

    fn contains(&self, name: &str) -> bool {
        self.probe(name)
            .map_while(OnceLock::get)
            .any(|known| **known == *name)
    }

    /// Returns true if the name is there afterwards.
    fn learn(&self, name: &str) -> bool {
        let room = |used: usize| (used < MOST_NAMES).then_some(used + 1);
        let reserved = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, room);
        if reserved.is_err() {
            return self.contains(name);
        }
        for slot in self.probe(name) {
            let mut taken = false;
            let known = slot.get_or_init(|| {
                taken = true;
                name.into()
            });
            if taken {
                return true;
            }
            if **known == *name {
                break;
            }
        }
        // Another request brought it up meanwhile. The loop ends by no other way, because half of
        // the slots are empty.
        self.used.fetch_sub(1, Ordering::Relaxed);
        true
    }
}

impl LearnedNames {
    fn contains(&self, name: &str) -> bool {
        let table = self.table.get();
        table.is_some_and(|table| table.contains(name))
    }

    /// Returns true if the name is there, or now is.
    fn learn(&self, name: &str) -> bool {
        if self.contains(name) {
            return true;
        }
        let table = self.table.get_or_init(Table::new);
        if name.len() <= LONGEST_NAME && table.learn(name) {
            return true;
        }
        if !self.warned.swap(true, Ordering::Relaxed) {
            log_event!(
                target: "tower_aperture::layer",
                warn,
                "requests brought up more than {MOST_NAMES} names, or one of more than \
                 {LONGEST_NAME} bytes: further ones count as `{FALLBACK_NAME}`; list the names \
                 that exist with `ApertureLayer::known_names`"
            );
        }
        false
    }
}

impl Names {
    fn is_listed(&self, name: &str) -> bool {
        let listed = self.listed.as_ref();
        listed.is_some_and(|listed| listed.contains(name))
    }

    /// Returns true if the name is known; without a list it becomes known.
    fn learn(&self, name: &str) -> bool {
        self.listed.is_none() && self.learned.learn(name)
    }

    /// Judges the control point that a hook read.
    pub(crate) fn control_point<'a>(
        &self,
        policies: &dyn PolicyNames,
        head: RequestHead<'_>,
        name: Cow<'a, str>,
    ) -> ControlPointName<'a> {
        let known = match &name {
            _ if name.is_empty() => false,
            Cow::Borrowed(name) if !head.holds(name) => true,
            // The client's own words, or possibly made of them.
            name => {
                self.is_listed(name)
                    || match policies.knows_control_point(name) {
                        Some(known) => known,
                        None => self.learn(name),
                    }
            }
        };
        ControlPointName {
            name: match known {
                true => name,
                false => Cow::Borrowed(FALLBACK_NAME),
            },
            is_fallback: !known,
        }
    }
}

impl fmt::Debug for LearnedNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = |table: &Table| table.used.load(Ordering::Relaxed);
        f.debug_struct("LearnedNames")
            .field("count", &self.table.get().map_or(0, used))
            .finish_non_exhaustive()
    }
}

/// Judges the names of services and methods that become labels.
pub(crate) struct LabelNames<'a> {
    names: &'a Names,
    policies: &'a dyn PolicyNames,
}

impl<'a> LabelNames<'a> {
    pub(crate) fn new(names: &'a Names, policies: &'a dyn PolicyNames) -> Self {
        Self { names, policies }
    }

    /// Returns the name if it is known, and the fallback otherwise. A request that no gRPC client
    /// sends (`learns` is false) brings up no new name.
    pub(crate) fn known<'h>(&self, name: &'h str, learns: bool) -> &'h str {
        let names = self.names;
        let known = names.is_listed(name)
            || names.learned.contains(name)
            // Before it is learned: what policies name takes no room.
            || self.policies.compares_label_value(name) == Some(true)
            || (learns && names.learn(name));
        if known { name } else { FALLBACK_NAME }
    }
}

impl fmt::Debug for LabelNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.names.fmt(f)
    }
}

impl<D, R> ApertureLayer<D, R> {
    /// Lists the names that exist, for control points that a hook reads from requests and for
    /// labels that [`grpc_service`](crate::layer::grpc_service) and
    /// [`grpc_method`](crate::layer::grpc_method) read. Any other is [`other`](FALLBACK_NAME),
    /// unless a policy of an embedded engine names it. Later calls add to the list.
    ///
    /// Without a list an Agent is asked about the first 1024 names that requests bring up, and a
    /// client that makes names up can use these before the real ones appear. See
    /// [names that clients choose](crate::layer#names-that-clients-choose).
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// use tower_aperture::ApertureLayer;
    /// use tower_aperture::layer::{grpc_method, grpc_service};
    ///
    /// let layer = ApertureLayer::with_control_point(client, grpc_service)
    ///     .label_from("method", grpc_method)
    ///     .known_names(["shop.v1.Carts", "shop.v1.Orders"])
    ///     .known_names(["Add", "Remove", "List"]);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn known_names(self, names: impl IntoIterator<Item = impl Into<Box<str>>>) -> Self {
        self.set(|settings| {
            let mut listed = settings.names.listed.clone().unwrap_or_default();
            listed.extend(names.into_iter().map(Into::into));
            settings.names = Arc::new(Names {
                listed: Some(listed),
                learned: LearnedNames::default(),
            });
        })
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn racing_threads_learn_each_name_once_and_no_more_than_the_bound() {
        let names = LearnedNames::default();
        thread::scope(|scope| {
            for first in 0..8 {
                let names = &names;
                scope.spawn(move || {
                    for step in 0..2000 {
                        names.learn(&format!("name-{}", (step * (2 * first + 1)) % 2000));
                    }
                });
            }
        });
        for number in 0..2000 {
            names.learn(&format!("name-{number}"));
        }
        let table = names.table.get().expect("names were learned");
        let mut known: Vec<&str> = table
            .slots
            .iter()
            .filter_map(OnceLock::get)
            .map(|n| &**n)
            .collect();
        assert_eq!(known.len(), MOST_NAMES);
        assert_eq!(table.used.load(Ordering::Relaxed), MOST_NAMES);
        known.sort_unstable();
        known.dedup();
        assert_eq!(known.len(), MOST_NAMES, "no name twice");
        for name in known {
            assert!(names.learn(name), "`{name}` stays known");
        }
        assert!(!names.learn("one more"));
    }

    #[test]
    fn a_name_beyond_the_longest_is_never_learned() {
        let names = LearnedNames::default();
        assert!(!names.learn(&"x".repeat(LONGEST_NAME + 1)));
        assert!(names.learn(&"x".repeat(LONGEST_NAME)));
    }
}
