//! Sends writes to the caches in the background, and counts them.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::cache_write::{CacheWrite, WriteTarget};
use super::call::{CACHE_DELETE, CACHE_UPSERT};
use super::state::{RemoteShared, RuntimeState};
use crate::messages::check::{CacheDeleteResponse, CacheOperationStatus, CacheUpsertResponse};

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

/// A cache write in flight. If it is dropped before the response arrives, it counts as failed.
pub(super) struct InFlightWrite {
    runtime: Arc<RuntimeState>,
    target: WriteTarget,
    /// Taken when the write is sent.
    write: Option<CacheWrite>,
    counted: bool,
}

impl InFlightWrite {
    /// Returns a write that the queue has counted as in flight.
    pub(super) fn new(
        runtime: &Arc<RuntimeState>,
        (write, target): (CacheWrite, WriteTarget),
    ) -> Self {
        Self {
            runtime: Arc::clone(runtime),
            target,
            write: Some(write),
            counted: false,
        }
    }

    pub(super) async fn send(mut self) {
        let timeout = Some(self.runtime.shared.config.background_timeout());
        let mut invalidation = None;
        let error = match self.write.take() {
            Some(CacheWrite::Upsert(request)) => {
                let answer = self.runtime.call(CACHE_UPSERT, &request, timeout).await;
                answer.map(|reply| upsert_error(&reply))
            }
            Some(CacheWrite::Delete(request, pending)) => {
                // Dropped if the call fails, which reports the deletion as lost.
                invalidation = pending;
                let answer = self.runtime.call(CACHE_DELETE, &request, timeout).await;
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
            Some(error) => {
                counters.cache_writes_failed.add(1);
                if !counters.cache_failing.swap(true, Relaxed) {
                    log_event!(warn, error, "cache writes fail");
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
    use super::*;

    #[test]
    fn an_omitted_value_is_a_success_and_an_omitted_entry_is_an_error() {
        use crate::messages::check::KeyUpsertResponse;
        use crate::messages::check::cache_upsert_response::GlobalCacheResponsesEntry;

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
}
