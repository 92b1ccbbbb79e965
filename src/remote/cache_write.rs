//! The queue of cache writes, which the worker sends in the background.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::RemoteShared;
use super::call::{CACHE_DELETE, CACHE_UPSERT};
use super::runtime_state::RuntimeState;
use crate::flow::PendingInvalidation;
use crate::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheOperationStatus, CacheUpsertRequest,
    CacheUpsertResponse,
};

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

/// Queues a write in the current runtime or another one. Counts it as dropped if no queue accepts
/// it.
pub(super) fn submit(shared: &Arc<RemoteShared>, write: CacheWrite) {
    if shared
        .enqueue(None, write, RuntimeState::push_cache_write)
        .is_err()
    {
        shared.counters.cache_writes_dropped.add(1);
    }
}

/// The target of a write: the control point, which is empty for the global cache, and the key.
type WriteTarget = (String, String);

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

    /// Takes the oldest write whose target has no call in flight. Writes to one target therefore
    /// keep their order.
    fn take_next(&mut self) -> Option<(CacheWrite, WriteTarget)> {
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

    pub(super) fn start_next(&mut self, runtime: &Arc<RuntimeState>) -> Option<InFlightWrite> {
        let (write, target) = self.take_next()?;
        Some(InFlightWrite {
            runtime: Arc::clone(runtime),
            target,
            write: Some(write),
            counted: false,
        })
    }

    fn finish(&mut self, target: &WriteTarget) {
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

/// A cache write in flight. If it is dropped before the response arrives, it counts as failed.
pub(super) struct InFlightWrite {
    runtime: Arc<RuntimeState>,
    target: WriteTarget,
    /// Taken when the write is sent.
    write: Option<CacheWrite>,
    counted: bool,
}

impl InFlightWrite {
    pub(super) async fn send(mut self) {
        let timeout = Some(self.runtime.shared.config.background_timeout());
        let mut invalidation = None;
        let error = match self.write.take() {
            Some(CacheWrite::Upsert(request)) => {
                let answer = self.runtime.call(CACHE_UPSERT, request, timeout).await;
                answer.map(|reply| upsert_error(&reply))
            }
            Some(CacheWrite::Delete(request, pending)) => {
                // Dropped if the call fails, which reports the deletion as lost.
                invalidation = pending;
                let answer = self.runtime.call(CACHE_DELETE, request, timeout).await;
                answer.map(|reply| delete_error(&reply))
            }
            None => return,
        };
        let error = error.unwrap_or_else(|failure| Some(failure.into_error().to_string()));
        self.counted = true;
        let counters = &self.runtime.shared.counters;
        match error {
            None => {
                if let Some(pending) = invalidation {
                    pending.succeeded();
                }
                counters.cache_writes.add(1);
                if counters.cache_failing.swap(false, Relaxed) {
                    log_event!(info, "cache writes succeed again");
                }
            }
            Some(_error) => {
                counters.cache_writes_failed.add(1);
                if !counters.cache_failing.swap(true, Relaxed) {
                    log_event!(warn, error = _error, "cache writes fail");
                }
            }
        }
    }
}

impl Drop for InFlightWrite {
    fn drop(&mut self) {
        if !self.counted {
            self.runtime.shared.counters.cache_writes_failed.add(1);
        }
        self.runtime.queue().cache_writes.finish(&self.target);
    }
}

/// Returns the Agent's error. A response without a part for the key is an error too.
fn upsert_error(reply: &CacheUpsertResponse) -> Option<String> {
    let result = reply.result_cache_response.as_ref();
    let result = result.map(|answer| (answer.operation_status, &*answer.error));
    let global = reply.global_cache_responses.first().map(|entry| {
        // An omitted value means success: the protobuf defaults are `SUCCESS` and no error.
        let answer = entry.value.as_ref();
        answer.map_or((0, ""), |answer| (answer.operation_status, &*answer.error))
    });
    key_error(result.or(global))
}

fn delete_error(reply: &CacheDeleteResponse) -> Option<String> {
    let result = reply.result_cache_response.as_ref();
    let result = result.map(|answer| (answer.operation_status, &*answer.error));
    let global = reply.global_cache_responses.first().map(|entry| {
        // An omitted value means success: the protobuf defaults are `SUCCESS` and no error.
        let answer = entry.value.as_ref();
        answer.map_or((0, ""), |answer| (answer.operation_status, &*answer.error))
    });
    key_error(result.or(global))
}

fn key_error(answer: Option<(i32, &str)>) -> Option<String> {
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
        let (write, target) = writes.take_next()?;
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
    fn an_omitted_value_is_a_success_and_an_omitted_entry_is_an_error() {
        use crate::pb::check::KeyUpsertResponse;
        use crate::pb::check::cache_upsert_response::GlobalCacheResponsesEntry;

        let mut reply = CacheUpsertResponse::default();
        assert!(upsert_error(&reply).is_some());
        reply.global_cache_responses = vec![GlobalCacheResponsesEntry {
            key: "k".to_owned(),
            value: None,
        }];
        assert_eq!(upsert_error(&reply), None);
        reply.global_cache_responses[0].value = Some(KeyUpsertResponse {
            operation_status: CacheOperationStatus::Error as i32,
            error: "no".to_owned(),
        });
        assert_eq!(upsert_error(&reply).as_deref(), Some("no"));
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
