//! Changes to the caches that nobody waits for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::Shared;
use super::call::{CACHE_DELETE, CACHE_UPSERT};
use super::live::Live;
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
    Delete(CacheDeleteRequest),
}

impl From<CacheUpsertRequest> for CacheWrite {
    fn from(request: CacheUpsertRequest) -> Self {
        Self::Upsert(request)
    }
}

impl From<CacheDeleteRequest> for CacheWrite {
    fn from(request: CacheDeleteRequest) -> Self {
        Self::Delete(request)
    }
}

/// Queues a change, with another runtime when the current one has none; counts it when it is lost.
pub(super) fn submit(shared: &Arc<Shared>, write: CacheWrite) {
    let live = shared.live().ok().or_else(|| shared.any_live());
    if live.is_none_or(|live| live.push_cache_write(write).is_err()) {
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
    pub(super) fn push(&mut self, write: CacheWrite) -> Result<(), CacheWrite> {
        let bytes = self.bytes + write.bytes();
        if self.waiting.len() >= MAX_WRITES || bytes > MAX_BYTES {
            return Err(write);
        }
        self.bytes = bytes;
        self.waiting.push_back(write);
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The oldest change to a place that no call is about: changes to one place keep their order.
    pub(super) fn start_next(&mut self, live: &Arc<Live>) -> Option<Writing> {
        if self.busy.len() >= PARALLEL {
            return None;
        }
        let free = |write: &CacheWrite| !self.busy.iter().any(|busy| write.is_at(busy));
        let at = self.waiting.iter().position(free)?;
        let write = self.waiting.remove(at)?;
        self.bytes -= write.bytes();
        let place = write.place();
        self.busy.push(place.clone());
        Some(Writing {
            live: Arc::clone(live),
            place,
            write: Some(write),
            counted: false,
        })
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
            Self::Delete(request) => request.result_cache_key.len(),
        }
    }

    fn parts(&self) -> (&str, &str) {
        let (control_point, result, global) = match self {
            Self::Upsert(request) => (
                &request.control_point,
                request.result_cache_entry.as_ref().map(|entry| &entry.key),
                request.global_cache_entries.keys().next(),
            ),
            Self::Delete(request) => (
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
        let refused = match self.write.take() {
            Some(CacheWrite::Upsert(request)) => {
                let answer = self.live.call(CACHE_UPSERT, request, timeout).await;
                answer.map(|reply| refusal_of_upsert(&reply))
            }
            Some(CacheWrite::Delete(request)) => {
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
                counters.cache_writes.add(1);
                counters.cache_failing.store(false, Relaxed);
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
        let mut queue = self.live.queue();
        queue.cache_writes.busy.retain(|busy| *busy != self.place);
    }
}

/// What the Agent said against it; silence is no success.
fn refusal_of_upsert(reply: &CacheUpsertResponse) -> Option<String> {
    let global = reply.global_cache_responses.values().next();
    let answer = reply.result_cache_response.as_ref().or(global);
    refusal(answer.map(|answer| (answer.operation_status, &*answer.error)))
}

fn refusal_of_delete(reply: &CacheDeleteResponse) -> Option<String> {
    let global = reply.global_cache_responses.values().next();
    let answer = reply.result_cache_response.as_ref().or(global);
    refusal(answer.map(|answer| (answer.operation_status, &*answer.error)))
}

fn refusal(answer: Option<(i32, &str)>) -> Option<String> {
    match answer {
        None => Some("the agent's answer has no part for the key".to_owned()),
        Some((status, "")) if status == CacheOperationStatus::Success as i32 => None,
        Some((_, error)) => Some(error.to_owned()),
    }
}
