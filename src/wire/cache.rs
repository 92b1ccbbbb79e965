use crate::flow::{CacheLookup, CacheValue};
use crate::pb::check::{
    CacheLookupResponse, CacheLookupStatus, CacheOperationStatus, KeyLookupResponse,
    cache_lookup_response,
};
#[cfg(feature = "server")]
use crate::{
    flow::{CacheChange, CacheRefusal},
    pb::check::{
        CacheDeleteResponse, CacheUpsertResponse, KeyDeleteResponse, KeyUpsertResponse,
        cache_delete_response, cache_upsert_response,
    },
};

pub(crate) fn looked_up(lookup: CacheLookup) -> CacheLookupResponse {
    let global = lookup.global.into_iter();
    CacheLookupResponse {
        result_cache_response: lookup.result.map(told),
        global_cache_responses: global
            .map(
                |(key, value)| cache_lookup_response::GlobalCacheResponsesEntry {
                    key,
                    value: Some(told(value)),
                },
            )
            .collect(),
    }
}

/// What is not there says so: a response that says nothing is a hit.
fn told(value: CacheValue) -> KeyLookupResponse {
    let mut reply = KeyLookupResponse {
        lookup_status: CacheLookupStatus::Miss.into(),
        ..KeyLookupResponse::default()
    };
    match value {
        Ok(None) => {}
        Ok(Some(value)) => {
            reply.lookup_status = CacheLookupStatus::Hit.into();
            reply.value = value;
        }
        Err(refusal) => {
            reply.operation_status = CacheOperationStatus::Error.into();
            reply.error = refusal.into_text();
        }
    }
    reply
}

#[cfg(feature = "server")]
pub(crate) fn upserted(change: CacheChange) -> CacheUpsertResponse {
    let told = |done| {
        let (operation_status, error) = status(done);
        KeyUpsertResponse {
            operation_status,
            error,
        }
    };
    let global = change.global.into_iter();
    CacheUpsertResponse {
        result_cache_response: change.result.map(told),
        global_cache_responses: global
            .map(
                |(key, done)| cache_upsert_response::GlobalCacheResponsesEntry {
                    key,
                    value: Some(told(done)),
                },
            )
            .collect(),
    }
}

#[cfg(feature = "server")]
pub(crate) fn deleted(change: CacheChange) -> CacheDeleteResponse {
    let told = |done| {
        let (operation_status, error) = status(done);
        KeyDeleteResponse {
            operation_status,
            error,
        }
    };
    let global = change.global.into_iter();
    CacheDeleteResponse {
        result_cache_response: change.result.map(told),
        global_cache_responses: global
            .map(
                |(key, done)| cache_delete_response::GlobalCacheResponsesEntry {
                    key,
                    value: Some(told(done)),
                },
            )
            .collect(),
    }
}

#[cfg(feature = "server")]
fn status(done: Result<(), CacheRefusal>) -> (i32, String) {
    match done {
        Ok(()) => (CacheOperationStatus::Success.into(), String::new()),
        Err(refusal) => (CacheOperationStatus::Error.into(), refusal.into_text()),
    }
}
