use std::borrow::Cow;
use std::fmt;

use smallvec::SmallVec;

/// How many labels a flow may carry, and how many bytes they may take together.
///
/// Labels beyond a limit are dropped and counted, see [`Labels::dropped`]; a flow never fails for
/// them.
///
/// ```
/// use tower_aperture::{LabelLimits, Labels};
///
/// let mut labels = Labels::with_limits(LabelLimits { count: 1, ..LabelLimits::default() });
/// labels.insert("a", "1");
/// labels.insert("b", "2");
/// assert_eq!((labels.len(), labels.dropped()), (1, 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LabelLimits {
    /// Labels a flow, 64 by default.
    pub count: usize,
    /// Bytes of all keys and values of a flow, 8192 by default.
    pub bytes: usize,
}

impl Default for LabelLimits {
    fn default() -> Self {
        Self {
            count: 64,
            bytes: 8192,
        }
    }
}

/// The labels of one flow: a small map from key to value that borrows where it can.
///
/// Policies select flows by labels and read keys, tokens and priorities from them (Aperture calls
/// them *flow labels*). Keys and values are text; both may be empty.
///
/// ```
/// use tower_aperture::Labels;
///
/// let mut labels = Labels::new();
/// labels.insert("user_id", "42");
/// labels.insert("user_id", String::from("43")); // the last one wins
/// assert_eq!(labels.get("user_id"), Some("43"));
/// ```
#[derive(Clone, Default)]
pub struct Labels<'a> {
    entries: SmallVec<[(Cow<'a, str>, Cow<'a, str>); 6]>,
    limits: LabelLimits,
    bytes: usize,
    dropped: u32,
}

impl<'a> Labels<'a> {
    /// No labels, the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No labels, with limits of your own.
    #[must_use]
    #[inline(always)]
    pub fn with_limits(limits: LabelLimits) -> Self {
        Self {
            entries: SmallVec::new(),
            limits,
            bytes: 0,
            dropped: 0,
        }
    }

    /// All of these, whose keys must differ, without limits.
    #[cfg(feature = "embedded")]
    pub(crate) fn distinct(labels: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>) -> Self {
        let limits = LabelLimits {
            count: usize::MAX,
            bytes: usize::MAX,
        };
        let mut all = Self::with_limits(limits);
        for (key, value) in labels {
            all.push(key, value);
        }
        all
    }

    /// Sets a label; an earlier value of the same key is replaced.
    ///
    /// A label that does not fit the [limits](LabelLimits) is dropped and counted; a replacement
    /// that does not fit removes the earlier value too, so that no stale value decides.
    #[inline]
    pub fn insert(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        self.set(key.into(), value.into());
    }

    /// [`insert`](Self::insert), for callers on the way of every request.
    #[inline(always)]
    pub(crate) fn set(&mut self, key: Cow<'a, str>, value: Cow<'a, str>) {
        match self.position(&key) {
            Some(at) => self.replace(at, value),
            None => self.push(key, value),
        }
    }

    /// Apart, so that what is left of an insertion is small enough to be inlined.
    #[inline(never)]
    fn replace(&mut self, at: usize, value: Cow<'a, str>) {
        let (key, old) = &mut self.entries[at];
        self.bytes = self.bytes + value.len() - old.len();
        if self.bytes > self.limits.bytes {
            self.bytes -= key.len() + value.len();
            self.entries.remove(at);
            self.dropped = self.dropped.saturating_add(1);
        } else {
            *old = value;
        }
    }

    /// Sets a label unless its key is there already.
    #[inline]
    pub fn insert_if_absent(
        &mut self,
        key: impl Into<Cow<'a, str>>,
        value: impl Into<Cow<'a, str>>,
    ) {
        let key = key.into();
        if self.position(&key).is_none() {
            self.push(key, value.into());
        }
    }

    #[inline(always)]
    fn push(&mut self, key: Cow<'a, str>, value: Cow<'a, str>) {
        let bytes = self.bytes + key.len() + value.len();
        if self.entries.len() >= self.limits.count || bytes > self.limits.bytes {
            self.dropped = self.dropped.saturating_add(1);
            return;
        }
        self.bytes = bytes;
        self.entries.push((key, value));
    }

    #[inline]
    fn position(&self, key: &str) -> Option<usize> {
        self.entries.iter().position(|(known, _)| known == key)
    }

    /// The value of a label.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut entries = self.entries.iter();
        entries
            .find(|(known, _)| known == key)
            .map(|(_, value)| &**value)
    }

    /// All labels, in no promised order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(key, value)| (&**key, &**value))
    }

    /// How many labels there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// There are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many labels did not fit the limits.
    #[must_use]
    pub const fn dropped(&self) -> u32 {
        self.dropped
    }

    /// The same labels, borrowing nothing.
    #[must_use]
    pub fn into_owned(self) -> Labels<'static> {
        Labels {
            entries: self
                .entries
                .into_iter()
                .map(|(key, value)| (Cow::Owned(key.into_owned()), Cow::Owned(value.into_owned())))
                .collect(),
            limits: self.limits,
            bytes: self.bytes,
            dropped: self.dropped,
        }
    }
}

impl<'a, K, V> FromIterator<(K, V)> for Labels<'a>
where
    K: Into<Cow<'a, str>>,
    V: Into<Cow<'a, str>>,
{
    fn from_iter<I: IntoIterator<Item = (K, V)>>(labels: I) -> Self {
        let mut all = Self::new();
        all.extend(labels);
        all
    }
}

impl<'a, K, V> Extend<(K, V)> for Labels<'a>
where
    K: Into<Cow<'a, str>>,
    V: Into<Cow<'a, str>>,
{
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, labels: I) {
        for (key, value) in labels {
            self.insert(key, value);
        }
    }
}

/// Shows the keys only: values may identify people.
impl fmt::Debug for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.entries.iter().map(|(key, _)| key))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replacement_that_does_not_fit_removes_the_stale_value() {
        let mut labels = Labels::with_limits(LabelLimits {
            count: 8,
            bytes: 10,
        });
        labels.insert("key", "1234567");
        labels.insert("key", "12345678");
        assert_eq!(labels.get("key"), None);
        assert_eq!(labels.dropped(), 1);
        labels.insert("key", "1234567");
        assert_eq!(labels.get("key"), Some("1234567"));
    }

    #[test]
    fn debug_shows_no_values() {
        let labels: Labels<'_> = [("user", "secret")].into_iter().collect();
        assert_eq!(format!("{labels:?}"), r#"{"user"}"#);
    }
}
