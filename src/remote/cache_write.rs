//! The queue of cache writes, which the worker sends in the background.

use std::collections::VecDeque;

use crate::flow::PendingInvalidation;
use crate::messages::check::{CacheDeleteRequest, CacheUpsertRequest};

/// The most cache writes that may wait, and the most bytes of their keys and values.
const MAX_WRITES: usize = 1024;
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// The most calls in flight. A call that hangs does not delay the others.
const MAX_CALLS: usize = 8;

/// A write to a cache.
pub(crate) enum CacheWrite {
    Upsert(CacheUpsertRequest),
    /// A deletion. Its success is reported to the invalidation that requested it.
    Delete(CacheDeleteRequest, Option<PendingInvalidation>),
}

impl From<CacheUpsertRequest> for CacheWrite {
    fn from(request: CacheUpsertRequest) -> Self {
        Self::Upsert(request)
    }
}

impl From<CacheDeleteRequest> for CacheWrite {
    fn from(request: CacheDeleteRequest) -> Self {
        Self::Delete(request, None)
    }
}

impl From<(CacheDeleteRequest, PendingInvalidation)> for CacheWrite {
    fn from((request, pending): (CacheDeleteRequest, PendingInvalidation)) -> Self {
        Self::Delete(request, Some(pending))
    }
}

/// The target of a write: the control point, which is empty for the global cache, and the key.
pub(super) type WriteTarget = (String, String);

/// The writes that wait for the worker, and the targets of the calls in flight.
#[derive(Default)]
pub(super) struct CacheWrites {
    waiting: VecDeque<CacheWrite>,
    bytes: usize,
    in_flight: Vec<WriteTarget>,
}

impl CacheWrites {
    /// Queues a write, or returns it if there is no room.
    #[must_use]
    pub(super) fn push(&mut self, write: CacheWrite) -> Option<CacheWrite> {
        let bytes = self.bytes + write.bytes();
        if self.waiting.len() >= MAX_WRITES || bytes > MAX_BYTES {
            return Some(write);
        }
        self.bytes = bytes;
        self.waiting.push_back(write);
        None
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Returns `true` if no write waits and no call is in flight.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// Takes all waiting writes.
    pub(super) fn take_all(&mut self) -> Vec<CacheWrite> {
        self.bytes = 0;
        self.waiting.drain(..).collect()
    }

    /// Takes the oldest write whose target has no call in flight, and counts its call as in flight
    /// until [`finish`](Self::finish). Writes to one target therefore keep their order.
    pub(super) fn start_next(&mut self) -> Option<(CacheWrite, WriteTarget)> {
        if self.in_flight.len() >= MAX_CALLS {
            return None;
        }
        let free = |write: &CacheWrite| {
            !self
                .in_flight
                .iter()
                .any(|in_flight| write.targets(in_flight))
        };
        let index = self.waiting.iter().position(free)?;
        let write = self.waiting.remove(index)?;
        self.bytes -= write.bytes();
        let target = write.target();
        self.in_flight.push(target.clone());
        Some((write, target))
    }

    pub(super) fn finish(&mut self, target: &WriteTarget) {
        self.in_flight.retain(|in_flight| in_flight != target);
    }
}

impl CacheWrite {
    fn bytes(&self) -> usize {
        match self {
            Self::Upsert(request) => {
                let global = request.global_cache_entries.values();
                let entries = request.result_cache_entry.iter().chain(global);
                entries
                    .map(|entry| entry.value.len() + entry.key.len())
                    .sum()
            }
            Self::Delete(request, _) => request.result_cache_key.len(),
        }
    }

    fn parts(&self) -> (&str, &str) {
        let (control_point, result, global) = match self {
            Self::Upsert(request) => (
                &request.control_point,
                request.result_cache_entry.as_ref().map(|entry| &entry.key),
                request.global_cache_entries.keys().next(),
            ),
            Self::Delete(request, _) => (
                &request.control_point,
                Some(&request.result_cache_key).filter(|key| !key.is_empty()),
                request.global_cache_keys.first(),
            ),
        };
        (control_point, result.or(global).map_or("", String::as_str))
    }

    fn target(&self) -> WriteTarget {
        let (control_point, key) = self.parts();
        (control_point.to_owned(), key.to_owned())
    }

    fn targets(&self, target: &WriteTarget) -> bool {
        self.parts() == (&target.0, &target.1)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::messages::check::CacheEntry;

    fn upsert(key: &str, bytes: usize) -> CacheWrite {
        let entry = CacheEntry {
            key: key.to_owned(),
            value: Bytes::from(vec![0; bytes]),
            ttl: None,
        };
        CacheWrite::Upsert(CacheUpsertRequest {
            control_point: "shop".to_owned(),
            result_cache_entry: Some(entry),
            ..CacheUpsertRequest::default()
        })
    }

    fn delete(key: &str) -> CacheWrite {
        let request = CacheDeleteRequest {
            control_point: "shop".to_owned(),
            result_cache_key: key.to_owned(),
            ..CacheDeleteRequest::default()
        };
        request.into()
    }

    fn next(writes: &mut CacheWrites) -> Option<(&'static str, String)> {
        let (write, target) = writes.start_next()?;
        let kind = match write {
            CacheWrite::Upsert(_) => "upsert",
            CacheWrite::Delete(..) => "delete",
        };
        Some((kind, target.1))
    }

    #[test]
    fn writes_to_one_target_keep_their_order_and_do_not_delay_others() {
        let mut writes = CacheWrites::default();
        for write in [upsert("a", 1), delete("a"), upsert("a", 1), upsert("b", 1)] {
            assert!(writes.push(write).is_none());
        }
        let a = ("shop".to_owned(), "a".to_owned());
        assert_eq!(next(&mut writes), Some(("upsert", "a".to_owned())));
        assert_eq!(next(&mut writes), Some(("upsert", "b".to_owned())));
        assert_eq!(next(&mut writes), None, "the others target `a`");
        writes.finish(&a);
        assert_eq!(next(&mut writes), Some(("delete", "a".to_owned())));
        assert_eq!(next(&mut writes), None);
        writes.finish(&a);
        assert_eq!(next(&mut writes), Some(("upsert", "a".to_owned())));
        assert!(writes.is_empty());
    }

    #[test]
    fn calls_in_flight_are_bounded() {
        let mut writes = CacheWrites::default();
        for index in 0..=MAX_CALLS {
            assert!(writes.push(delete(&index.to_string())).is_none());
        }
        for _ in 0..MAX_CALLS {
            assert!(next(&mut writes).is_some());
        }
        assert_eq!(next(&mut writes), None);
    }

    #[test]
    fn waiting_writes_are_bounded_in_number_and_bytes() {
        let mut writes = CacheWrites::default();
        for index in 0..MAX_WRITES {
            assert!(writes.push(delete(&index.to_string())).is_none());
        }
        assert!(writes.push(delete("more")).is_some());
        assert_eq!(writes.take_all().len(), MAX_WRITES);
        assert!(writes.is_done());

        let mut writes = CacheWrites::default();
        let half = MAX_BYTES / 2;
        assert!(writes.push(upsert("a", half)).is_none());
        assert!(writes.push(upsert("b", half)).is_some(), "keys count too");
        assert!(writes.push(upsert("b", half - 2)).is_none());
        assert!(next(&mut writes).is_some());
        assert!(writes.push(upsert("c", half - 2)).is_none());
    }
}
