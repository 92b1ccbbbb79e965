//! Converts the results of cache operations to the Agent's messages.

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

pub(crate) fn lookup_response(lookup: CacheLookup) -> CacheLookupResponse {
    let global = lookup.global.into_iter();
    CacheLookupResponse {
        result_cache_response: lookup.result.map(key_lookup_response),
        global_cache_responses: global
            .map(
                |(key, value)| cache_lookup_response::GlobalCacheResponsesEntry {
                    key,
                    value: Some(key_lookup_response(value)),
                },
            )
            .collect(),
    }
}

fn key_lookup_response(value: CacheValue) -> KeyLookupResponse {
    let mut response = KeyLookupResponse {
        // Set explicitly, because the default of protobuf is `Hit`.
        lookup_status: CacheLookupStatus::Miss.into(),
        ..KeyLookupResponse::default()
    };
    match value {
        Ok(None) => {}
        Ok(Some(value)) => {
            response.lookup_status = CacheLookupStatus::Hit.into();
            response.value = value;
        }
        Err(refusal) => {
            response.operation_status = CacheOperationStatus::Error.into();
            response.error = refusal.into_text();
        }
    }
    response
}

#[cfg(feature = "server")]
pub(crate) fn upsert_response(change: CacheChange) -> CacheUpsertResponse {
    let key_response = |done| {
        let (operation_status, error) = status(done);
        KeyUpsertResponse {
            operation_status,
            error,
        }
    };
    let global = change.global.into_iter();
    CacheUpsertResponse {
        result_cache_response: change.result.map(key_response),
        global_cache_responses: global
            .map(
                |(key, done)| cache_upsert_response::GlobalCacheResponsesEntry {
                    key,
                    value: Some(key_response(done)),
                },
            )
            .collect(),
    }
}

#[cfg(feature = "server")]
pub(crate) fn delete_response(change: CacheChange) -> CacheDeleteResponse {
    let key_response = |done| {
        let (operation_status, error) = status(done);
        KeyDeleteResponse {
            operation_status,
            error,
        }
    };
    let global = change.global.into_iter();
    CacheDeleteResponse {
        result_cache_response: change.result.map(key_response),
        global_cache_responses: global
            .map(
                |(key, done)| cache_delete_response::GlobalCacheResponsesEntry {
                    key,
                    value: Some(key_response(done)),
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
