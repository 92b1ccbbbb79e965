//! Changes to the caches, made in the background.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Shared;
use super::call::{CACHE_DELETE, CACHE_UPSERT};
use super::live::Live;
use crate::flow::PendingInvalidation;
use crate::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheOperationStatus, CacheUpsertRequest,
    CacheUpsertResponse,
};

/// Changes that may wait for the Agent, and bytes of their values.
const MAX_WRITES: usize = 1024;
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Calls at once: one that hangs does not hold up the others.
const PARALLEL: usize = 8;

/// A change to a cache.
pub(crate) enum CacheWrite {
    Upsert(CacheUpsertRequest),
    /// Deletes, and reports the success to the invalidation that asked for it.
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

/// Queues a change in the current runtime, or else in another one; counts it when it is lost.
pub(super) fn submit(shared: &Arc<Shared>, write: CacheWrite) {
    if shared.offer(None, write, Live::push_cache_write).is_err() {
        shared.counters.cache_writes_dropped.add(1);
    }
}

/// A control point, empty for the global cache, and the key there.
type Place = (String, String);

/// Changes that wait for the worker, and the places that calls under way are about.
#[derive(Default)]
pub(super) struct CacheWrites {
    waiting: VecDeque<CacheWrite>,
    bytes: usize,
    busy: Vec<Place>,
}

// === impl CacheWrites ===

impl CacheWrites {
    /// Queues a change; returns it when there is no room.
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

    /// Nothing waits and no call is under way.
    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.busy.is_empty()
    }

    /// Takes all that wait.
    pub(super) fn take_all(&mut self) -> Vec<CacheWrite> {
        self.bytes = 0;
        self.waiting.drain(..).collect()
    }

    /// The oldest change to a place that no call is about: changes to one place keep their order.
    fn take_next(&mut self) -> Option<(CacheWrite, Place)> {
        if self.busy.len() >= PARALLEL {
            return None;
        }
        let free = |write: &CacheWrite| !self.busy.iter().any(|busy| write.is_at(busy));
        let at = self.waiting.iter().position(free)?;
        let write = self.waiting.remove(at)?;
        self.bytes -= write.bytes();
        let place = write.place();
        self.busy.push(place.clone());
        Some((write, place))
    }

    pub(super) fn start_next(&mut self, live: &Arc<Live>) -> Option<Writing> {
        let (write, place) = self.take_next()?;
        Some(Writing {
            live: Arc::clone(live),
            place,
            write: Some(write),
            counted: false,
        })
    }

    fn done(&mut self, place: &Place) {
        self.busy.retain(|busy| busy != place);
    }
}

// === impl CacheWrite ===

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

    fn place(&self) -> Place {
        let (control_point, key) = self.parts();
        (control_point.to_owned(), key.to_owned())
    }

    fn is_at(&self, place: &Place) -> bool {
        self.parts() == (&place.0, &place.1)
    }
}

/// A change on its way. Dropped before an answer came, it counts as failed.
pub(super) struct Writing {
    live: Arc<Live>,
    place: Place,
    /// Taken when it is sent.
    write: Option<CacheWrite>,
    counted: bool,
}

impl Writing {
    pub(super) async fn send(mut self) {
        let timeout = Some(self.live.shared.config.background_timeout());
        let mut invalidation = None;
        let refused = match self.write.take() {
            Some(CacheWrite::Upsert(request)) => {
                let answer = self.live.call(CACHE_UPSERT, request, timeout).await;
                answer.map(|reply| refusal_of_upsert(&reply))
            }
            Some(CacheWrite::Delete(request, pending)) => {
                // Dropped on failure, which reports the deletion as lost.
                invalidation = pending;
                let answer = self.live.call(CACHE_DELETE, request, timeout).await;
                answer.map(|reply| refusal_of_delete(&reply))
            }
            None => return,
        };
        let refused = refused.unwrap_or_else(|failure| Some(failure.into_error().to_string()));
        self.counted = true;
        let counters = &self.live.shared.counters;
        match refused {
            None => {
                if let Some(pending) = invalidation {
                    pending.succeeded();
                }
                counters.cache_writes.add(1);
                if counters.cache_failing.swap(false, Relaxed) {
                    log_event!(info, "the caches are written to again");
                }
            }
            Some(_error) => {
                counters.cache_writes_failed.add(1);
                if !counters.cache_failing.swap(true, Relaxed) {
                    log_event!(warn, error = _error, "the caches are not written to");
                }
            }
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        if !self.counted {
            self.live.shared.counters.cache_writes_failed.add(1);
        }
        self.live.queue().cache_writes.done(&self.place);
    }
}

/// What the Agent said against it; silence is no success.
fn refusal_of_upsert(reply: &CacheUpsertResponse) -> Option<String> {
    let result = reply.result_cache_response.as_ref();
    let result = result.map(|answer| (answer.operation_status, &*answer.error));
    let global = reply.global_cache_responses.first().map(|entry| {
        // An entry without a value is one whose value says nothing: it went well.
        let answer = entry.value.as_ref();
        answer.map_or((0, ""), |answer| (answer.operation_status, &*answer.error))
    });
    refusal(result.or(global))
}

fn refusal_of_delete(reply: &CacheDeleteResponse) -> Option<String> {
    let result = reply.result_cache_response.as_ref();
    let result = result.map(|answer| (answer.operation_status, &*answer.error));
    let global = reply.global_cache_responses.first().map(|entry| {
        // An entry without a value is one whose value says nothing: it went well.
        let answer = entry.value.as_ref();
        answer.map_or((0, ""), |answer| (answer.operation_status, &*answer.error))
    });
    refusal(result.or(global))
}

fn refusal(answer: Option<(i32, &str)>) -> Option<String> {
    match answer {
        None => Some("the agent's answer has no part for the key".to_owned()),
        Some((status, "")) if status == CacheOperationStatus::Success as i32 => None,
        Some((_, error)) => Some(error.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::pb::check::CacheEntry;

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
        let (write, place) = writes.take_next()?;
        let kind = match write {
            CacheWrite::Upsert(_) => "upsert",
            CacheWrite::Delete(..) => "delete",
        };
        Some((kind, place.1))
    }

    #[test]
    fn changes_to_one_place_keep_their_order_and_hold_up_no_others() {
        let mut writes = CacheWrites::default();
        for write in [upsert("a", 1), delete("a"), upsert("a", 1), upsert("b", 1)] {
            assert!(writes.push(write).is_none());
        }
        let a = ("shop".to_owned(), "a".to_owned());
        assert_eq!(next(&mut writes), Some(("upsert", "a".to_owned())));
        assert_eq!(next(&mut writes), Some(("upsert", "b".to_owned())));
        assert_eq!(next(&mut writes), None, "the rest is about `a`");
        writes.done(&a);
        assert_eq!(next(&mut writes), Some(("delete", "a".to_owned())));
        assert_eq!(next(&mut writes), None);
        writes.done(&a);
        assert_eq!(next(&mut writes), Some(("upsert", "a".to_owned())));
        assert!(writes.is_empty());
    }

    #[test]
    fn a_part_that_says_nothing_is_a_success_and_no_part_is_not() {
        use crate::pb::check::KeyUpsertResponse;
        use crate::pb::check::cache_upsert_response::GlobalCacheResponsesEntry;

        let mut reply = CacheUpsertResponse::default();
        assert!(refusal_of_upsert(&reply).is_some());
        reply.global_cache_responses = vec![GlobalCacheResponsesEntry {
            key: "k".to_owned(),
            value: None,
        }];
        assert_eq!(refusal_of_upsert(&reply), None);
        reply.global_cache_responses[0].value = Some(KeyUpsertResponse {
            operation_status: CacheOperationStatus::Error as i32,
            error: "no".to_owned(),
        });
        assert_eq!(refusal_of_upsert(&reply).as_deref(), Some("no"));
    }

    #[test]
    fn so_many_calls_run_at_once() {
        let mut writes = CacheWrites::default();
        for at in 0..=PARALLEL {
            assert!(writes.push(delete(&at.to_string())).is_none());
        }
        for _ in 0..PARALLEL {
            assert!(next(&mut writes).is_some());
        }
        assert_eq!(next(&mut writes), None);
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let mut writes = CacheWrites::default();
        for at in 0..MAX_WRITES {
            assert!(writes.push(delete(&at.to_string())).is_none());
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
