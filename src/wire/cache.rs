//! Converts the results of cache operations to the Agent's messages.

use crate::flow::{CacheChange, CacheLookup, CacheRefusal, CacheValue};
use crate::messages::check::{
    CacheDeleteResponse, CacheLookupResponse, CacheLookupStatus, CacheOperationStatus,
    CacheUpsertResponse, KeyDeleteResponse, KeyLookupResponse, KeyUpsertResponse,
    cache_delete_response, cache_lookup_response, cache_upsert_response,
};

impl From<CacheLookup> for CacheLookupResponse {
    fn from(lookup: CacheLookup) -> Self {
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

impl From<CacheChange> for CacheUpsertResponse {
    fn from(change: CacheChange) -> Self {
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
}

impl From<CacheChange> for CacheDeleteResponse {
    fn from(change: CacheChange) -> Self {
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
}

fn status(done: Result<(), CacheRefusal>) -> (i32, String) {
    match done {
        Ok(()) => (CacheOperationStatus::Success.into(), String::new()),
        Err(refusal) => (CacheOperationStatus::Error.into(), refusal.into_text()),
    }
}
