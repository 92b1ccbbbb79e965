//! Follows the body of a response on its way to the client: copies it, to store the copy, or waits
//! for the end of the response to a change.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::change::BodyEnd;
use super::entry;
use crate::flow::{CachePlace, Caches, Invalidations, KeyHash};

/// Where the copy goes.
pub(super) struct Place {
    pub(super) caches: Arc<dyn Caches>,
    pub(super) control_point: Arc<str>,
    pub(super) key: String,
    pub(super) invalidations: Invalidations,
    pub(super) slot: KeyHash,
    /// The invalidations before the request began.
    pub(super) sequence: u64,
}

/// Copies a body up to a limit, and stores the copy once the body was complete. A body that
/// failed, was dropped on the way or turned out too large is not stored, and neither is one whose
/// key was invalidated since its request began.
pub(crate) struct Tape {
    /// Taken when the copy is stored, or given up.
    place: Option<Place>,
    value: Vec<u8>,
    body_at: usize,
    ttl: Duration,
    max_body: usize,
    /// The length of the body, if it is known.
    length: Option<u64>,
    /// The body's own code is at work.
    inside: bool,
    /// Dropped when the body is over, of the response to a change.
    change: Option<BodyEnd>,
}

impl Tape {
    pub(super) fn new(
        place: Place,
        mut value: Vec<u8>,
        ttl: Duration,
        max_body: usize,
        length: Option<u64>,
    ) -> Self {
        let body_at = value.len();
        let known = length.and_then(|length| usize::try_from(length).ok());
        value.reserve(known.unwrap_or_default().min(max_body));
        Self {
            place: Some(place),
            body_at,
            value,
            ttl,
            max_body,
            length,
            inside: false,
            change: None,
        }
    }

    /// Copies nothing, and waits for the end.
    pub(super) const fn of_change(end: BodyEnd) -> Self {
        Self {
            place: None,
            body_at: 0,
            value: Vec::new(),
            ttl: Duration::ZERO,
            max_body: 0,
            length: None,
            inside: false,
            change: Some(end),
        }
    }

    /// Returns where data is to be copied to, while it is of use.
    pub(crate) fn copy(&mut self, more: usize) -> Option<&mut Vec<u8>> {
        self.place.as_ref()?;
        if more > self.max_body - self.copied() {
            self.give_up();
            return None;
        }
        Some(&mut self.value)
    }

    fn copied(&self) -> usize {
        self.value.len() - self.body_at
    }

    /// Enters the body's code: should that panic, nothing is stored.
    pub(crate) fn enter(&mut self) {
        self.inside = true;
    }

    pub(crate) fn leave(&mut self) {
        self.inside = false;
    }

    /// Keeps the copy from being stored.
    pub(crate) fn give_up(&mut self) {
        self.place = None;
        self.value = Vec::new();
        self.change = None;
    }

    fn is_complete(&self) -> bool {
        self.length
            .is_none_or(|length| length == self.copied() as u64)
    }

    /// The body is at its end.
    pub(crate) fn finish(&mut self) {
        self.change = None;
        let Some(place) = self.place.take() else {
            return;
        };
        let complete = self.is_complete();
        let mut value = std::mem::take(&mut self.value);
        if !complete
            || !place
                .invalidations
                .may_use_since(place.slot, place.sequence)
            || entry::complete(&mut value, self.body_at).is_none()
        {
            return;
        }
        let Place {
            caches,
            control_point,
            key,
            ..
        } = &place;
        let place = CachePlace::Result { control_point, key };
        caches.set_later(place, value.into(), self.ttl);
    }
}

/// Servers drop a body whose bytes they have all sent, and do not ask it for its end.
impl Drop for Tape {
    fn drop(&mut self) {
        let calm = !self.inside && !thread::panicking();
        if calm && self.length.is_some() {
            self.finish();
        }
    }
}
