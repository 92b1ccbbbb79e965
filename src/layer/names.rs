//! Bounds the number of names that clients can introduce: control points, and labels from gRPC
//! paths.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::flow::Decider;

/// The name that replaces an unknown name in a request: `other`.
///
/// See [names that clients choose](crate::layer#names-that-clients-choose), and
/// [`ApertureLayer::known_names`](crate::ApertureLayer::known_names) for an example.
pub const FALLBACK_NAME: &str = "other";

/// The largest number of names that a layer learns from requests, if neither a list nor a policy
/// defines the names.
const MAX_LEARNED_NAMES: usize = 1024;
/// The length, in bytes, beyond which a name is never learned. With [`MAX_LEARNED_NAMES`] this
/// bounds the memory.
const MAX_NAME_LEN: usize = 256;
/// The size of the hash table, a power of two. Half of the slots stay empty, so that probing is
/// short.
const SLOTS: usize = 2 * MAX_LEARNED_NAMES;

/// The names in the policies of a decider; an object-safe part of [`Decider`].
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
    /// The name is [`FALLBACK_NAME`], which all requests with unknown names share.
    pub(crate) is_fallback: bool,
}

/// The names that a layer knows, shared by its services and clones.
#[derive(Debug, Default)]
pub(crate) struct KnownNames {
    /// The names that the application listed; `None` without a list.
    listed: Option<HashSet<Box<str>>>,
    learned: LearnedNames,
}

/// The first names that appeared in requests, for all services of a layer.
///
/// A hash table with open addressing that only grows. Looking up a known name takes no lock and
/// allocates nothing.
#[derive(Default)]
pub(crate) struct LearnedNames {
    /// Allocated for the first name.
    table: OnceLock<NameTable>,
    warned: AtomicBool,
}

struct NameTable {
    slots: Box<[OnceLock<Box<str>>]>,
    /// The number of slots that are taken or reserved.
    used: AtomicUsize,
    hasher: RandomState,
}

impl NameTable {
    fn new() -> Self {
        Self {
            slots: (0..SLOTS).map(|_| OnceLock::new()).collect(),
            used: AtomicUsize::new(0),
            // Random keys, so that clients cannot construct names that collide.
            hasher: RandomState::new(),
        }
    }

    /// Returns the slots that may contain a name, in probing order.
    fn probe(&self, name: &str) -> impl Iterator<Item = &OnceLock<Box<str>>> {
        let start = self.hasher.hash_one(name) as usize;
        (0..SLOTS).map(move |step| &self.slots[start.wrapping_add(step) % SLOTS])
    }

    fn contains(&self, name: &str) -> bool {
        self.probe(name)
            .map_while(OnceLock::get)
            .any(|known| **known == *name)
    }

    /// Adds a name if there is room. Returns true if the table then contains it.
    fn learn(&self, name: &str) -> bool {
        let room = |used: usize| (used < MAX_LEARNED_NAMES).then_some(used + 1);
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
        // Another request added the name meanwhile. The loop always ends before, because half of
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

    /// Returns true if the name is known or has now been learned.
    fn learn(&self, name: &str) -> bool {
        if self.contains(name) {
            return true;
        }
        let table = self.table.get_or_init(NameTable::new);
        if name.len() <= MAX_NAME_LEN && table.learn(name) {
            return true;
        }
        if !self.warned.swap(true, Ordering::Relaxed) {
            log_event!(
                target: "tower_aperture::layer",
                warn,
                "requests used more than {MAX_LEARNED_NAMES} names, or one longer than \
                 {MAX_NAME_LEN} bytes: further names are replaced by `{FALLBACK_NAME}`; list the \
                 valid names with `ApertureLayer::known_names`"
            );
        }
        false
    }
}

impl KnownNames {
    /// Returns the names with others added to the list.
    pub(crate) fn listing(&self, names: impl IntoIterator<Item = Box<str>>) -> Self {
        let mut listed = self.listed.clone().unwrap_or_default();
        listed.extend(names);
        Self {
            listed: Some(listed),
            learned: LearnedNames::default(),
        }
    }

    fn is_listed(&self, name: &str) -> bool {
        let listed = self.listed.as_ref();
        listed.is_some_and(|listed| listed.contains(name))
    }

    /// Learns the name, unless there is a list. Returns true if the name is then known.
    fn learn(&self, name: &str) -> bool {
        self.listed.is_none() && self.learned.learn(name)
    }

    /// Replaces the control point that a hook read by the fallback, unless its name is known. Every
    /// name that is a borrowed text and not `is_in_request` is known.
    pub(crate) fn control_point<'a>(
        &self,
        policies: &dyn PolicyNames,
        name: Cow<'a, str>,
        is_in_request: impl FnOnce(&str) -> bool,
    ) -> ControlPointName<'a> {
        let known = match &name {
            _ if name.is_empty() => false,
            Cow::Borrowed(name) if !is_in_request(name) => true,
            // Chosen by the client, or possibly built from the request.
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
        let used = |table: &NameTable| table.used.load(Ordering::Relaxed);
        f.debug_struct("LearnedNames")
            .field("count", &self.table.get().map_or(0, used))
            .finish_non_exhaustive()
    }
}

/// Replaces unknown names of services and methods in labels by the fallback.
pub(crate) struct LabelNames<'a> {
    names: &'a KnownNames,
    policies: &'a dyn PolicyNames,
}

impl<'a> LabelNames<'a> {
    pub(crate) fn new(names: &'a KnownNames, policies: &'a dyn PolicyNames) -> Self {
        Self { names, policies }
    }

    /// Returns the name if it is known, and the fallback otherwise. Only requests of gRPC clients
    /// (`learns` is true) can introduce a new name.
    pub(crate) fn known<'h>(&self, name: &'h str, learns: bool) -> &'h str {
        let names = self.names;
        let known = names.is_listed(name)
            || names.learned.contains(name)
            // Checked before learning, so that names in policies take no room.
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

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn concurrent_threads_learn_each_name_once_and_at_most_the_maximum() {
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
        assert_eq!(known.len(), MAX_LEARNED_NAMES);
        assert_eq!(table.used.load(Ordering::Relaxed), MAX_LEARNED_NAMES);
        known.sort_unstable();
        known.dedup();
        assert_eq!(known.len(), MAX_LEARNED_NAMES, "no duplicate names");
        for name in known {
            assert!(names.learn(name), "`{name}` stays known");
        }
        assert!(!names.learn("one more"));
    }

    #[test]
    fn a_name_longer_than_the_maximum_is_never_learned() {
        let names = LearnedNames::default();
        assert!(!names.learn(&"x".repeat(MAX_NAME_LEN + 1)));
        assert!(names.learn(&"x".repeat(MAX_NAME_LEN)));
    }
}
