//! The labels of a flow, and their limits.

mod limits;
mod source;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use smallvec::SmallVec;

pub use self::source::{LabelLosses, LabelSource};
use super::shorten::shorten;

/// The most bytes of a value that a client can choose. With a key of up to 55 bytes, `key:value`
/// then stays below 256 bytes, from which on an Agent lets every flow of a key pass.
pub const VALUE_LIMIT: usize = 200;

/// The limits of a flow's labels: their number and the bytes that they take together.
///
/// Values that do not fit are [shortened](Labels::shortened), the largest first. A label that still
/// does not fit is dropped and counted, see [`Labels::dropped`]. Neither makes a flow fail.
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
    /// The most labels of a flow; 64 by default.
    pub count: usize,
    /// The most bytes of all keys and values of a flow; 8192 by default.
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

/// The labels of one flow: a small map of keys and values, which may be borrowed.
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
///
/// # Long values
///
/// A limit by a label must also hold for a client that sends a huge value. A value that is too long
/// is therefore shortened and not dropped: to its first 64 bytes, `~`, and 128 bits of its SHA-256
/// in hexadecimal, 97 bytes together. Different values stay different keys, and every process
/// makes the same key of the same value.
///
/// A value by [`insert_client`](Self::insert_client), or one that a layer reads from a request, is
/// too long beyond 200 bytes. Values by [`insert`](Self::insert) are the application's own and stay
/// unchanged while the flow's [limits](LabelLimits) have room for them.
#[derive(Clone)]
pub struct Labels<'a> {
    entries: SmallVec<[(Cow<'a, str>, Cow<'a, str>); 6]>,
    limits: LabelLimits,
    /// The most bytes of an inserted value; longer ones are shortened.
    value_limit: usize,
    /// The positions of the entries that are constants of the application.
    constants: Range<usize>,
    bytes: usize,
    dropped: u32,
    shortened: u32,
}

impl Default for Labels<'_> {
    fn default() -> Self {
        Self::with_limits(LabelLimits::default())
    }
}

impl<'a> Labels<'a> {
    /// Returns an empty set of labels with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns an empty set of labels with these limits.
    #[must_use]
    #[inline(always)]
    pub fn with_limits(limits: LabelLimits) -> Self {
        Self {
            entries: SmallVec::new(),
            limits,
            value_limit: usize::MAX,
            constants: 0..0,
            bytes: 0,
            dropped: 0,
            shortened: 0,
        }
    }

    pub(crate) const fn limits(&self) -> LabelLimits {
        self.limits
    }

    /// Returns an empty set of labels without limits.
    #[doc(hidden)]
    pub fn unlimited() -> Self {
        Self::with_limits(LabelLimits {
            count: usize::MAX,
            bytes: usize::MAX,
        })
    }

    /// Returns these labels without limits. Their keys must differ.
    #[doc(hidden)]
    pub fn distinct(labels: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>) -> Self {
        let mut all = Self::unlimited();
        for (key, value) in labels {
            all.push(key, value);
        }
        all
    }

    /// Sets a label and replaces an earlier value of the same key.
    ///
    /// If the label exceeds the byte [limit](LabelLimits), the longest values are
    /// [shortened](Self::shortened) until it fits. A label that still does not fit, or exceeds the
    /// number of labels, is dropped and counted. A replacement that does not fit also removes the
    /// earlier value, so that no decision uses a stale value. Insert the labels that limits and
    /// selectors need first.
    #[inline]
    pub fn insert(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        self.set(key.into(), value.into());
    }

    /// Sets a label whose value a client can choose. A value of more than 200 bytes is
    /// [shortened](Self#long-values); otherwise the method works like [`insert`](Self::insert).
    ///
    /// ```
    /// use tower_aperture::Labels;
    ///
    /// let long = "x".repeat(100_000);
    /// let mut labels = Labels::new();
    /// labels.insert_client("user_id", &long);
    /// labels.insert_client("plan", "free");
    /// let user_id = labels.get("user_id").unwrap();
    /// assert_eq!((user_id.len(), labels.shortened()), (97, 1));
    /// assert_eq!(labels.get("plan"), Some("free"));
    /// ```
    pub fn insert_client(&mut self, key: impl Into<Cow<'a, str>>, value: impl Into<Cow<'a, str>>) {
        let value = self.shorten_to(VALUE_LIMIT, value.into());
        self.set(key.into(), value);
    }

    /// Sets a label like [`insert`](Self::insert), inlined for callers on the path of every request.
    #[inline(always)]
    #[doc(hidden)]
    pub fn set(&mut self, key: Cow<'a, str>, value: Cow<'a, str>) {
        let value = self.shorten_to(self.value_limit, value);
        match self.position(&key) {
            Some(at) => self.replace(at, value),
            None => self.push(key, value),
        }
    }

    /// Sets the label of a named reader, regardless of the limits.
    #[inline(always)]
    #[doc(hidden)]
    pub fn set_named(&mut self, key: &'a str, value: Cow<'a, str>) {
        let value = self.shorten_to(self.value_limit, value);
        match self.position(key) {
            Some(at) => self.replace(at, value),
            None => self.append(Cow::Borrowed(key), value),
        }
    }

    #[inline(always)]
    fn shorten_to(&mut self, limit: usize, value: Cow<'a, str>) -> Cow<'a, str> {
        if value.len() <= limit {
            return value;
        }
        self.shortened = self.shortened.saturating_add(1);
        Cow::Owned(shorten(&value, limit))
    }

    /// Not inlined, so that the rest of an insertion is small enough to be inlined.
    #[inline(never)]
    fn replace(&mut self, at: usize, value: Cow<'a, str>) {
        let (key, old) = &mut self.entries[at];
        let key = key.len();
        self.bytes -= old.len();
        *old = Cow::Borrowed("");
        // The bytes of the key are counted already.
        match self.make_room(0, value) {
            Some(value) => {
                self.bytes += value.len();
                self.entries[at].1 = value;
            }
            None => {
                self.bytes -= key;
                self.remove_entry(at);
                self.count_dropped(1);
            }
        }
    }

    /// Sets a label unless its key has a value already.
    #[inline]
    pub fn insert_if_absent(
        &mut self,
        key: impl Into<Cow<'a, str>>,
        value: impl Into<Cow<'a, str>>,
    ) {
        let key = key.into();
        if self.position(&key).is_none() {
            let value = self.shorten_to(self.value_limit, value.into());
            self.push(key, value);
        }
    }

    #[inline(always)]
    fn push(&mut self, key: Cow<'a, str>, value: Cow<'a, str>) {
        if self.fits(key.len() + value.len()) {
            self.append(key, value);
        } else {
            self.push_with_room(key, value);
        }
    }

    #[inline(always)]
    fn fits(&self, more: usize) -> bool {
        self.entries.len() < self.limits.count
            && self.bytes.saturating_add(more) <= self.limits.bytes
    }

    #[inline(always)]
    fn append(&mut self, key: Cow<'a, str>, value: Cow<'a, str>) {
        self.bytes += key.len() + value.len();
        self.entries.push((key, value));
    }

    #[inline]
    fn position(&self, key: &str) -> Option<usize> {
        self.entries.iter().position(|(known, _)| known == key)
    }

    /// Returns the value of a label.
    #[inline]
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let mut entries = self.entries.iter();
        entries
            .find(|(known, _)| known == key)
            .map(|(_, value)| &**value)
    }

    /// Returns all labels in an unspecified order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|(key, value)| (&**key, &**value))
    }

    /// Returns the number of labels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether there are no labels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns the number of labels that were dropped because they did not fit the limits.
    #[must_use]
    pub const fn dropped(&self) -> u32 {
        self.dropped
    }

    /// Returns the number of values that were shortened because they were
    /// [too long](Self#long-values).
    #[must_use]
    pub const fn shortened(&self) -> u32 {
        self.shortened
    }

    #[doc(hidden)]
    pub fn count_dropped(&mut self, labels: u32) {
        self.dropped = self.dropped.saturating_add(labels);
    }

    #[doc(hidden)]
    pub fn count_shortened(&mut self, values: u32) {
        self.shortened = self.shortened.saturating_add(values);
    }

    /// Returns the same labels with owned keys and values.
    #[must_use]
    pub fn into_owned(self) -> Labels<'static> {
        Labels {
            entries: self
                .entries
                .into_iter()
                .map(|(key, value)| (Cow::Owned(key.into_owned()), Cow::Owned(value.into_owned())))
                .collect(),
            limits: self.limits,
            value_limit: self.value_limit,
            constants: self.constants,
            bytes: self.bytes,
            dropped: self.dropped,
            shortened: self.shortened,
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

/// Shows the keys only, because values may identify people.
impl fmt::Debug for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.entries.iter().map(|(key, _)| key))
            .finish()
    }
}
