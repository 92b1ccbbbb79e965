//! The name of a control point, with a memo of where a decider has found it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A control point of a flow: its name and, for callers that pass the same name again and again, a
/// [memo](ControlPointMemo).
///
/// ```
/// use tower_aperture::decider::{ControlPoint, ControlPointMemo};
///
/// let memo = ControlPointMemo::new();
/// let control_point = ControlPoint::new("checkout").with_memo(&memo);
/// assert_eq!(control_point.name(), "checkout");
/// assert_eq!(ControlPoint::from("checkout").name(), "checkout");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ControlPoint<'a> {
    name: &'a str,
    memo: Option<&'a ControlPointMemo>,
}

impl<'a> ControlPoint<'a> {
    /// Returns the control point of this name, without a memo.
    #[must_use]
    #[inline(always)]
    pub const fn new(name: &'a str) -> Self {
        Self { name, memo: None }
    }

    /// Sets the memo. It must belong to this name, and always go to the same decider.
    #[must_use]
    #[inline(always)]
    pub const fn with_memo(mut self, memo: &'a ControlPointMemo) -> Self {
        self.memo = Some(memo);
        self
    }

    /// Returns the name.
    #[must_use]
    #[inline(always)]
    pub const fn name(self) -> &'a str {
        self.name
    }

    /// Returns the memo, if the caller keeps one.
    #[must_use]
    #[inline(always)]
    pub const fn memo(self) -> Option<&'a ControlPointMemo> {
        self.memo
    }
}

impl<'a> From<&'a str> for ControlPoint<'a> {
    fn from(name: &'a str) -> Self {
        Self::new(name)
    }
}

/// A note of where a decider has found a control point: it looks the name up once for each version
/// of its policies, and not for each flow.
///
/// A layer with a fixed control point keeps one. Reads and writes take no lock. A note of another
/// version counts as none, so a memo never has to be cleared.
///
/// ```
/// use tower_aperture::decider::ControlPointMemo;
///
/// let memo = ControlPointMemo::new();
/// assert_eq!(memo.get(7), None);
/// memo.set(7, 42);
/// assert_eq!((memo.get(7), memo.get(8)), (Some(42), None));
/// ```
#[derive(Default)]
pub struct ControlPointMemo(AtomicU64);

impl ControlPointMemo {
    /// Returns an empty memo.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Returns the place that was noted with this version, which is not zero.
    #[must_use]
    #[inline(always)]
    pub fn get(&self, version: u32) -> Option<u32> {
        let note = self.0.load(Relaxed);
        ((note >> 32) as u32 == version).then_some(note as u32)
    }

    /// Notes a place with a version, which is not zero.
    pub fn set(&self, version: u32, place: u32) {
        // Relaxed suffices: the version and the place are one value.
        self.0
            .store(u64::from(version) << 32 | u64::from(place), Relaxed);
    }
}

/// A clone is empty.
impl Clone for ControlPointMemo {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl fmt::Debug for ControlPointMemo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlPointMemo")
    }
}
