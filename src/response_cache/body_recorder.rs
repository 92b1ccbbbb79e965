//! Observes the body of a response while it is sent to the client: copies it to store the copy, or
//! waits for the end of the response to an unsafe request.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::stored_response;
use crate::flow::{CacheKey, Caches, Invalidations, KeyHash};

/// The cache key that the copy is stored under.
pub(super) struct CopyDestination {
    pub(super) caches: Arc<dyn Caches>,
    pub(super) control_point: Arc<str>,
    pub(super) key: String,
    pub(super) invalidations: Invalidations,
    pub(super) slot: KeyHash,
    /// The number of invalidations before the request began.
    pub(super) sequence: u64,
}

/// Copies a response body up to a limit, and stores the copy once the body is complete.
///
/// A body is not stored if it fails, is dropped before its end, exceeds the limit, or if its key
/// was invalidated since the request began.
pub(super) struct BodyRecorder {
    /// `None` once the copy is stored or discarded.
    destination: Option<CopyDestination>,
    /// The stored value: its head, then the bytes of the body copied so far.
    value: Vec<u8>,
    /// The offset of the body in `value`.
    body_start: usize,
    ttl: Duration,
    max_body: usize,
    /// The length of the body, if it is known.
    length: Option<u64>,
    /// True while the inner body is being polled.
    polling: bool,
    /// For the response to an unsafe request: dropped at the end of the body.
    on_body_end: Option<InvalidateOnBodyEnd>,
}

/// Invalidates the slots again when it is dropped at the end of the response body: the inner
/// service may have continued to make changes until then.
pub(super) struct InvalidateOnBodyEnd {
    pub(super) invalidations: Invalidations,
    pub(super) slots: Vec<KeyHash>,
}

impl BodyRecorder {
    pub(super) fn new(
        destination: CopyDestination,
        mut value: Vec<u8>,
        ttl: Duration,
        max_body: usize,
        length: Option<u64>,
    ) -> Self {
        let body_start = value.len();
        let known = length.and_then(|length| usize::try_from(length).ok());
        value.reserve(known.unwrap_or_default().min(max_body));
        Self {
            destination: Some(destination),
            body_start,
            value,
            ttl,
            max_body,
            length,
            polling: false,
            on_body_end: None,
        }
    }

    /// Returns a recorder that copies nothing and drops `on_body_end` at the end of the body.
    pub(super) const fn without_copy(on_body_end: InvalidateOnBodyEnd) -> Self {
        Self {
            destination: None,
            body_start: 0,
            value: Vec::new(),
            ttl: Duration::ZERO,
            max_body: 0,
            length: None,
            polling: false,
            on_body_end: Some(on_body_end),
        }
    }

    /// Returns the buffer that the next `more` bytes are copied to, or `None` if no copy is kept.
    pub(super) fn copy(&mut self, more: usize) -> Option<&mut Vec<u8>> {
        self.destination.as_ref()?;
        if more > self.max_body - self.copied() {
            self.discard();
            return None;
        }
        Some(&mut self.value)
    }

    fn copied(&self) -> usize {
        self.value.len() - self.body_start
    }

    /// Marks the beginning of a poll of the inner body: if the poll panics, the copy is not stored.
    pub(super) fn enter(&mut self) {
        self.polling = true;
    }

    /// Marks the end of a poll of the inner body.
    pub(super) fn leave(&mut self) {
        self.polling = false;
    }

    /// Discards the copy, so that it is not stored.
    pub(super) fn discard(&mut self) {
        self.destination = None;
        self.value = Vec::new();
        self.on_body_end = None;
    }

    fn is_complete(&self) -> bool {
        self.length
            .is_none_or(|length| length == self.copied() as u64)
    }

    /// Stores the copy at the end of the body, if it is complete and its key was not invalidated.
    pub(super) fn finish(&mut self) {
        self.on_body_end = None;
        let Some(destination) = self.destination.take() else {
            return;
        };
        let complete = self.is_complete();
        let mut value = std::mem::take(&mut self.value);
        if !complete
            || !destination
                .invalidations
                .may_use_since(destination.slot, destination.sequence)
            || stored_response::set_body_length(&mut value, self.body_start).is_none()
        {
            return;
        }
        let CopyDestination {
            caches,
            control_point,
            key,
            ..
        } = &destination;
        let place = CacheKey::Result { control_point, key };
        caches.set_later(place, value.into(), self.ttl);
    }
}

/// Servers drop a body once all its announced bytes are sent, without polling it to its end.
impl Drop for BodyRecorder {
    fn drop(&mut self) {
        let no_panic = !self.polling && !thread::panicking();
        if no_panic && self.length.is_some() {
            self.finish();
        }
    }
}

impl Drop for InvalidateOnBodyEnd {
    fn drop(&mut self) {
        for slot in &self.slots {
            self.invalidations.invalidate(*slot);
        }
    }
}
