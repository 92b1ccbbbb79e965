//! The control points of flows that no policy selects.

use std::sync::Arc;

use super::snapshot::Snapshot;
use super::sync::{Mutex, lock};
use aperture_core::first_seen::FirstSeen;

/// Longer names are neither kept nor logged, because clients may have made them up.
const MAX_NAME_BYTES: usize = 256;

/// The control points of flows that no policy selects.
///
/// At most 1024 of them are kept, because clients may make names up.
#[derive(Debug, Default)]
pub(super) struct UnselectedControlPoints {
    seen: FirstSeen,
    names: Mutex<Vec<Arc<str>>>,
}

impl UnselectedControlPoints {
    /// Records the control point of a flow that no component selects, and warns once for each
    /// control point that no policy selects at all.
    #[inline(never)]
    pub(super) fn note(&self, live: &Snapshot, control_point: &str) {
        if control_point.len() > MAX_NAME_BYTES
            || live.selects(control_point)
            || !self.seen.is_new(control_point)
        {
            return;
        }
        log_event!(
            warn,
            control_point,
            "no policy selects this control point: its flows are not limited"
        );
        if self.seen.is_full() {
            log_event!(
                warn,
                most = aperture_core::first_seen::MAX_VALUES,
                "many control points are selected by no policy: further ones are not named"
            );
        }
        lock(&self.names).push(control_point.into());
    }

    /// Returns the recorded names that no policy in force selects, sorted.
    pub(super) fn names(&self, live: &Snapshot) -> Vec<Arc<str>> {
        let mut names = lock(&self.names).clone();
        names.retain(|name| !live.selects(name));
        names.sort_unstable();
        names
    }
}
