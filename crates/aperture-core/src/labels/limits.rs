//! Brings labels within their limits: the largest values that clients can choose are shortened
//! first, then labels are dropped.

use std::borrow::Cow;

use super::{LabelLimits, Labels};
use crate::shorten::{SHORTENED_LEN, shorten};

/// While a layer collects labels, closures may insert this many times the labels that a flow may
/// have. The surplus is dropped afterwards, the largest labels first.
const COLLECTION_FACTOR: usize = 4;

/// A state of the labels to restore later.
#[derive(Clone, Copy, Debug)]
pub struct LabelsCheckpoint {
    len: usize,
    bytes: usize,
    dropped: u32,
    shortened: u32,
}

impl<'a> Labels<'a> {
    /// Lifts the limits while a layer collects labels. Each value is limited to `value_limit`
    /// bytes, and the number of labels that closures insert to a generous count.
    /// [`enforce_limits`](Self::enforce_limits) must follow.
    #[inline(always)]
    #[doc(hidden)]
    pub fn collect_within(&mut self, value_limit: usize) {
        self.value_limit = value_limit;
        self.limits = LabelLimits {
            count: self.limits.count.saturating_mul(COLLECTION_FACTOR),
            bytes: usize::MAX,
        };
    }

    /// Adds the application's constants, except those whose keys a reader has set. Constants are
    /// never shortened and are dropped last.
    #[inline(always)]
    #[doc(hidden)]
    pub fn add_constants(&mut self, constants: &'a [(Cow<'static, str>, Cow<'static, str>)]) {
        let start = self.entries.len();
        for (key, value) in constants {
            if self.position(key).is_none() {
                self.append(Cow::Borrowed(key), Cow::Borrowed(value));
            }
        }
        self.constants = start..self.entries.len();
    }

    /// Brings the labels within `limits`. Shortens the longest values that clients can choose, then
    /// drops labels in this order: those whose keys are not `named`, the named ones, each with the
    /// largest first, and the constants from the last to the first.
    #[inline(always)]
    #[doc(hidden)]
    pub fn enforce_limits(&mut self, limits: LabelLimits, named: impl Fn(&str) -> bool) {
        self.limits = limits;
        if self.entries.len() > limits.count || self.bytes > limits.bytes {
            self.shrink(&named);
        }
    }

    #[cold]
    #[inline(never)]
    fn shrink(&mut self, named: &dyn Fn(&str) -> bool) {
        while self.bytes > self.limits.bytes {
            let Some(at) = self.longest_value() else {
                break;
            };
            self.shorten_entry(at);
        }
        while self.entries.len() > self.limits.count || self.bytes > self.limits.bytes {
            let largest = |is_named: bool| {
                let entries = self.entries.iter().enumerate();
                entries
                    .filter(|(at, (key, _))| !self.constants.contains(at) && named(key) == is_named)
                    .max_by_key(|(_, (key, value))| key.len() + value.len())
                    .map(|(at, _)| at)
            };
            let last_constant = || self.constants.end.checked_sub(1);
            let at = largest(false)
                .or_else(|| largest(true))
                .or_else(last_constant);
            let Some(at) = at else {
                return;
            };
            self.bytes -= self.entries[at].0.len() + self.entries[at].1.len();
            self.remove_entry(at);
            self.count_dropped(1);
        }
    }

    /// Returns the position of the longest value that shortening makes smaller, except constants.
    fn longest_value(&self) -> Option<usize> {
        let entries = self.entries.iter().enumerate();
        entries
            .filter(|(at, (_, value))| !self.constants.contains(at) && value.len() > SHORTENED_LEN)
            .max_by_key(|(_, (_, value))| value.len())
            .map(|(at, _)| at)
    }

    fn shorten_entry(&mut self, at: usize) {
        let value = &mut self.entries[at].1;
        let short = shorten(value, SHORTENED_LEN);
        self.bytes -= value.len() - short.len();
        *value = Cow::Owned(short);
        self.shortened = self.shortened.saturating_add(1);
    }

    /// Removes an entry, whose bytes the caller has subtracted already.
    pub(super) fn remove_entry(&mut self, at: usize) {
        self.entries.remove(at);
        if at < self.constants.end {
            self.constants.end -= 1;
            self.constants.start -= usize::from(at < self.constants.start);
        }
    }

    /// Shortens the longest values, including the new one, until a label with a key of `key` bytes
    /// fits. Returns the new value, or `None` if the label still does not fit.
    pub(super) fn make_room(
        &mut self,
        key: usize,
        mut value: Cow<'a, str>,
    ) -> Option<Cow<'a, str>> {
        while self.bytes.saturating_add(key).saturating_add(value.len()) > self.limits.bytes {
            let longest = self.longest_value();
            match longest.filter(|at| self.entries[*at].1.len() > value.len()) {
                Some(at) => self.shorten_entry(at),
                None if value.len() > SHORTENED_LEN => {
                    value = self.shorten_to(SHORTENED_LEN, value);
                }
                None => return None,
            }
        }
        Some(value)
    }

    #[cold]
    #[inline(never)]
    pub(super) fn push_with_room(&mut self, key: Cow<'a, str>, value: Cow<'a, str>) {
        if self.entries.len() < self.limits.count
            && let Some(value) = self.make_room(key.len(), value)
        {
            return self.append(key, value);
        }
        self.count_dropped(1);
    }

    /// Adds a label unless its key has a value, without shortening others to make room. Returns
    /// `false` if the label was dropped.
    #[inline]
    #[doc(hidden)]
    pub fn offer(&mut self, key: &'a str, value: Cow<'a, str>) -> bool {
        if self.position(key).is_some() {
            return true;
        }
        let value = self.shorten_to(self.value_limit, value);
        let fits = self.fits(key.len() + value.len());
        if fits {
            self.append(Cow::Borrowed(key), value);
        } else {
            self.count_dropped(1);
        }
        fits
    }

    /// Returns the current state of the labels, to be restored later.
    #[doc(hidden)]
    pub fn checkpoint(&self) -> LabelsCheckpoint {
        LabelsCheckpoint {
            len: self.entries.len(),
            bytes: self.bytes,
            dropped: self.dropped,
            shortened: self.shortened,
        }
    }

    /// Removes all labels that were added since the checkpoint, and restores the counts.
    #[doc(hidden)]
    pub fn restore_to(&mut self, checkpoint: LabelsCheckpoint) {
        self.entries.truncate(checkpoint.len);
        self.bytes = checkpoint.bytes;
        self.dropped = checkpoint.dropped;
        self.shortened = checkpoint.shortened;
    }

    /// Returns whether the label at this position is a constant of the application, in the order
    /// of [`iter`](Self::iter).
    #[doc(hidden)]
    pub fn is_constant(&self, at: usize) -> bool {
        self.constants.contains(&at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NO_LIMITS: LabelLimits = LabelLimits {
        count: usize::MAX,
        bytes: usize::MAX,
    };

    fn limited(count: usize, bytes: usize) -> Labels<'static> {
        Labels::with_limits(LabelLimits { count, bytes })
    }

    #[test]
    fn a_replacement_that_does_not_fit_removes_the_stale_value() {
        let mut labels = limited(8, 10);
        labels.insert("key", "1234567");
        labels.insert("key", "12345678");
        assert_eq!(labels.get("key"), None);
        assert_eq!(labels.dropped(), 1);
        labels.insert("key", "1234567");
        assert_eq!(labels.get("key"), Some("1234567"));
    }

    #[test]
    fn a_value_that_does_not_fit_shortens_the_longest_one() {
        let mut labels = limited(8, 1000);
        let long = "x".repeat(900);
        labels.insert("middle", "m".repeat(80));
        labels.insert("long", long.clone());
        assert_eq!(labels.get("long"), Some(&*long), "while there is room");
        labels.insert("tier", "gold");
        labels.insert("late", "l".repeat(800));
        assert_eq!(labels.get("long"), Some(&*shorten(&long, SHORTENED_LEN)));
        assert_eq!(labels.get("tier"), Some("gold"));
        assert_eq!(labels.get("late").map(str::len), Some(800));
        assert_eq!((labels.shortened(), labels.dropped()), (1, 0));
        labels.insert("late", "l".repeat(2000));
        assert_eq!(labels.get("late").map(str::len), Some(SHORTENED_LEN));
        assert_eq!((labels.shortened(), labels.dropped()), (2, 0));
        let bytes: usize = labels
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        assert_eq!(labels.bytes, bytes);
    }

    #[test]
    fn constants_are_dropped_last_and_named_keys_before_them() {
        let constants = [("own".into(), "o".repeat(300).into())];
        let named = |key: &str| key == "named" || key == "own";
        let settled = |limits: LabelLimits| {
            let mut labels = Labels::with_limits(limits);
            labels.collect_within(200);
            labels.insert("named", "n".repeat(5000));
            labels.insert("made", "m".repeat(90));
            labels.insert("k".repeat(400), "");
            labels.add_constants(&constants);
            labels.enforce_limits(limits, named);
            let mut keys: Vec<String> = labels.iter().map(|(key, _)| key[..1].to_owned()).collect();
            keys.sort();
            assert!(labels.len() <= limits.count && labels.bytes <= limits.bytes);
            assert_eq!(labels.len() + labels.dropped() as usize, 4);
            keys.concat()
        };
        assert_eq!(settled(NO_LIMITS), "kmno");
        let count = |count| LabelLimits { count, ..NO_LIMITS };
        assert_eq!(settled(count(3)), "mno");
        assert_eq!(settled(count(2)), "no");
        assert_eq!(settled(count(1)), "o");
        assert_eq!(settled(count(0)), "");
        let bytes = |bytes| LabelLimits { bytes, ..NO_LIMITS };
        assert_eq!(settled(bytes(600)), "mno");
        assert_eq!(settled(bytes(450)), "no");
        assert_eq!(settled(bytes(310)), "o");
        assert_eq!(settled(bytes(0)), "");
    }

    #[test]
    fn debug_shows_no_values() {
        let labels: Labels<'_> = [("user", "secret")].into_iter().collect();
        assert_eq!(format!("{labels:?}"), r#"{"user"}"#);
    }
}
