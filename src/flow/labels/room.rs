//! What goes when labels do not fit: the client's largest values are shortened first, then dropped.

use std::borrow::Cow;

use super::{LabelLimits, Labels};
use crate::flow::shorten::{SHORTENED, shorten};

/// A hook may insert this many times the labels that a flow may have; the largest of them go
/// afterwards.
const COLLECTED: usize = 4;

/// Labels as they were, to go back to.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    len: usize,
    bytes: usize,
    dropped: u32,
    shortened: u32,
}

impl<'a> Labels<'a> {
    /// Collects the labels of a layer: each value within `value_limit`, and all of them within no
    /// limit but, for those that closures insert, a generous count. [`settle`](Self::settle) comes
    /// after it.
    #[inline(always)]
    pub(crate) fn collect_within(&mut self, value_limit: usize) {
        self.value_limit = value_limit;
        self.limits = LabelLimits {
            count: self.limits.count.saturating_mul(COLLECTED),
            bytes: usize::MAX,
        };
    }

    /// Adds the application's constants, unless a reader has set their keys. They are as long as
    /// the application made them, and the last to go.
    #[inline(always)]
    pub(crate) fn add_constants(
        &mut self,
        constants: &'a [(Cow<'static, str>, Cow<'static, str>)],
    ) {
        let start = self.entries.len();
        for (key, value) in constants {
            if self.position(key).is_none() {
                self.append(Cow::Borrowed(key), Cow::Borrowed(value));
            }
        }
        self.own = start..self.entries.len();
    }

    /// Brings the labels within their limits: the longest values that clients can choose are
    /// shortened, then labels are dropped: those with keys that are not `named` before the named
    /// ones, of each the largest first, and the constants at last, from the last one on.
    #[inline(always)]
    pub(crate) fn settle(&mut self, limits: LabelLimits, named: impl Fn(&str) -> bool) {
        self.limits = limits;
        if self.entries.len() > limits.count || self.bytes > limits.bytes {
            self.cut(&named);
        }
    }

    #[cold]
    #[inline(never)]
    fn cut(&mut self, named: &dyn Fn(&str) -> bool) {
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
                    .filter(|(at, (key, _))| !self.own.contains(at) && named(key) == is_named)
                    .max_by_key(|(_, (key, value))| key.len() + value.len())
                    .map(|(at, _)| at)
            };
            let last_constant = || self.own.end.checked_sub(1);
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

    /// The longest value that shortening makes smaller, unless it is a constant.
    fn longest_value(&self) -> Option<usize> {
        let entries = self.entries.iter().enumerate();
        entries
            .filter(|(at, (_, value))| !self.own.contains(at) && value.len() > SHORTENED)
            .max_by_key(|(_, (_, value))| value.len())
            .map(|(at, _)| at)
    }

    fn shorten_entry(&mut self, at: usize) {
        let value = &mut self.entries[at].1;
        let short = shorten(value, SHORTENED);
        self.bytes -= value.len() - short.len();
        *value = Cow::Owned(short);
        self.shortened = self.shortened.saturating_add(1);
    }

    /// Its bytes are taken off before.
    pub(super) fn remove_entry(&mut self, at: usize) {
        self.entries.remove(at);
        if at < self.own.end {
            self.own.end -= 1;
            self.own.start -= usize::from(at < self.own.start);
        }
    }

    /// Shortens the longest values, the new one among them, until a label fits with so many bytes
    /// of its key; `None` where it does not.
    pub(super) fn make_room(
        &mut self,
        key: usize,
        mut value: Cow<'a, str>,
    ) -> Option<Cow<'a, str>> {
        while self.bytes.saturating_add(key).saturating_add(value.len()) > self.limits.bytes {
            let longest = self.longest_value();
            match longest.filter(|at| self.entries[*at].1.len() > value.len()) {
                Some(at) => self.shorten_entry(at),
                None if value.len() > SHORTENED => value = self.at_most(SHORTENED, value),
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

    /// Adds a label that no other makes room for, unless its key is there; false when it was
    /// dropped.
    #[inline]
    pub(crate) fn offer(&mut self, key: &'a str, value: Cow<'a, str>) -> bool {
        if self.position(key).is_some() {
            return true;
        }
        let value = self.at_most(self.value_limit, value);
        let fits = self.fits(key.len() + value.len());
        if fits {
            self.append(Cow::Borrowed(key), value);
        } else {
            self.count_dropped(1);
        }
        fits
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            len: self.entries.len(),
            bytes: self.bytes,
            dropped: self.dropped,
            shortened: self.shortened,
        }
    }

    /// Forgets all that was added since.
    pub(crate) fn back_to(&mut self, mark: Mark) {
        self.entries.truncate(mark.len);
        self.bytes = mark.bytes;
        self.dropped = mark.dropped;
        self.shortened = mark.shortened;
    }

    /// Which labels are constants of the application, in the order of [`iter`](Self::iter).
    #[cfg(any(feature = "embedded", feature = "remote", test))]
    pub(crate) fn is_own(&self, at: usize) -> bool {
        self.own.contains(&at)
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
    fn a_value_that_does_not_fit_makes_the_longest_one_short() {
        let mut labels = limited(8, 1000);
        let long = "x".repeat(900);
        labels.insert("middle", "m".repeat(80));
        labels.insert("long", long.clone());
        assert_eq!(labels.get("long"), Some(&*long), "while there is room");
        labels.insert("tier", "gold");
        labels.insert("late", "l".repeat(800));
        assert_eq!(labels.get("long"), Some(&*shorten(&long, SHORTENED)));
        assert_eq!(labels.get("tier"), Some("gold"));
        assert_eq!(labels.get("late").map(str::len), Some(800));
        assert_eq!((labels.shortened(), labels.dropped()), (1, 0));
        labels.insert("late", "l".repeat(2000));
        assert_eq!(labels.get("late").map(str::len), Some(SHORTENED));
        assert_eq!((labels.shortened(), labels.dropped()), (2, 0));
        let bytes: usize = labels
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        assert_eq!(labels.bytes, bytes);
    }

    #[test]
    fn constants_go_last_and_named_keys_before_them() {
        let constants = [("own".into(), "o".repeat(300).into())];
        let named = |key: &str| key == "named" || key == "own";
        let settled = |limits: LabelLimits| {
            let mut labels = Labels::with_limits(limits);
            labels.collect_within(200);
            labels.insert("named", "n".repeat(5000));
            labels.insert("made", "m".repeat(90));
            labels.insert("k".repeat(400), "");
            labels.add_constants(&constants);
            labels.settle(limits, named);
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
