//! Labels that are read on demand.

use std::borrow::Cow;
use std::fmt;

use super::Labels;
use crate::TraceContext;

/// The labels of one flow, read on demand: a decider asks for the labels that its policies name,
/// and the source does not read the others.
///
/// [`Labels`] are the labels that exist already. A layer is a source that reads a header when its
/// label is asked for.
///
/// ```
/// use tower_aperture::decider::LabelSource;
/// use tower_aperture::Labels;
///
/// let mut labels = Labels::new();
/// labels.insert("user_id", "42");
/// let source: &dyn LabelSource = &labels;
/// assert_eq!(source.get("user_id"), Some("42"));
/// ```
pub trait LabelSource: fmt::Debug {
    /// Returns the value of a label, or `None` if the flow lacks it. Returns the same value each
    /// time.
    fn get(&self, key: &str) -> Option<&str>;

    /// Adds all labels, within the limits of `labels`.
    fn fill<'s>(&'s self, labels: &mut Labels<'s>);

    /// Returns how many labels were dropped and how many values were shortened so far.
    fn losses(&self) -> LabelLosses;

    /// Returns the trace that the flow belongs to, if the source knows it. The default is `None`.
    fn trace_context(&self) -> Option<TraceContext<'_>> {
        None
    }
}

/// Labels that do not have the values that clients sent.
///
/// ```
/// use tower_aperture::Labels;
/// use tower_aperture::decider::LabelSource;
///
/// let mut labels = Labels::new();
/// labels.insert_client("user_id", "x".repeat(1000));
/// let losses = labels.losses();
/// assert_eq!((losses.dropped, losses.shortened), (0, 1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LabelLosses {
    /// The number of labels that were dropped, see [`Labels::dropped`].
    pub dropped: u32,
    /// The number of values that were shortened, see [`Labels::shortened`].
    pub shortened: u32,
}

impl LabelSource for Labels<'_> {
    #[inline]
    fn get(&self, key: &str) -> Option<&str> {
        Labels::get(self, key)
    }

    fn fill<'s>(&'s self, labels: &mut Labels<'s>) {
        let none_known = labels.is_empty();
        for (key, value) in self.iter() {
            let (key, value) = (Cow::Borrowed(key), Cow::Borrowed(value));
            match none_known {
                true => labels.push(key, value),
                false => labels.set(key, value),
            }
        }
        labels.count_dropped(self.dropped);
        labels.count_shortened(self.shortened);
    }

    #[inline]
    fn losses(&self) -> LabelLosses {
        LabelLosses {
            dropped: self.dropped,
            shortened: self.shortened,
        }
    }
}
