//! The Agent's messages. A part that is absent is never read as a hit or as a success.

use std::time::Duration;

use bytes::Bytes;

use super::CacheError;
use crate::flow::{CacheChange, CacheLookup, CacheRefusal, CacheValue};
use crate::pb::check::{
    CacheDeleteRequest, CacheEntry, CacheLookupRequest, CacheLookupResponse, CacheLookupStatus,
    CacheOperationStatus, CacheUpsertRequest, KeyDeleteResponse, KeyLookupResponse,
    KeyUpsertResponse,
};
use crate::remote::Remote;

pub(in crate::client) fn looked_up(reply: &CacheLookupResponse) -> CacheLookup {
    let global = reply.global_cache_responses.iter();
    CacheLookup {
        result: reply.result_cache_response.as_ref().map(value),
        global: global
            .map(|(key, reply)| (key.clone(), value(reply)))
            .collect(),
    }
}

#[cfg(feature = "metrics")]
pub(in crate::client) fn count(reply: &CacheLookupResponse, meter: &crate::meter::Meter) {
    if let Some(reply) = &reply.result_cache_response {
        meter.looked_up_result(&value(reply));
    }
    for reply in reply.global_cache_responses.values() {
        meter.looked_up_global(&value(reply));
    }
}

fn value(reply: &KeyLookupResponse) -> CacheValue {
    succeeded(reply.operation_status, &reply.error)?;
    let hit = reply.lookup_status == CacheLookupStatus::Hit as i32;
    Ok(hit.then(|| reply.value.clone()))
}

fn succeeded(status: i32, error: &str) -> Result<(), CacheRefusal> {
    if status == CacheOperationStatus::Success as i32 && error.is_empty() {
        return Ok(());
    }
    Err(CacheRefusal::new(error.to_owned()))
}

pub(super) async fn lookup(
    remote: &Remote,
    control_point: &str,
    result_key: &str,
    global_key: Option<&str>,
) -> Result<CacheLookup, CacheError> {
    let request = CacheLookupRequest {
        control_point: control_point.to_owned(),
        result_cache_key: result_key.to_owned(),
        global_cache_keys: global_key.into_iter().map(str::to_owned).collect(),
    };
    let reply = remote
        .cache_lookup(request)
        .await
        .map_err(CacheError::Call)?;
    Ok(looked_up(&reply))
}

/// Into the result cache of a control point, or the global cache.
pub(super) async fn upsert(
    remote: &Remote,
    control_point: Option<&str>,
    key: &str,
    value: Bytes,
    ttl: Duration,
) -> Result<CacheChange, CacheError> {
    let entry = CacheEntry {
        key: key.to_owned(),
        value,
        // A time beyond the message's range is far beyond the seven days that are kept.
        ttl: ttl.try_into().ok(),
    };
    let mut request = CacheUpsertRequest::default();
    match control_point {
        Some(control_point) => {
            request.control_point = control_point.to_owned();
            request.result_cache_entry = Some(entry);
        }
        None => request.global_cache_entries = [(key.to_owned(), entry)].into(),
    }
    let reply = remote
        .cache_upsert(request)
        .await
        .map_err(CacheError::Call)?;
    let done = |reply: &KeyUpsertResponse| succeeded(reply.operation_status, &reply.error);
    let global = reply.global_cache_responses.iter();
    Ok(CacheChange {
        result: reply.result_cache_response.as_ref().map(done),
        global: global
            .map(|(key, reply)| (key.clone(), done(reply)))
            .collect(),
    })
}

pub(super) async fn delete(
    remote: &Remote,
    control_point: &str,
    result_key: &str,
    global_key: Option<&str>,
) -> Result<CacheChange, CacheError> {
    let request = CacheDeleteRequest {
        control_point: control_point.to_owned(),
        result_cache_key: result_key.to_owned(),
        global_cache_keys: global_key.into_iter().map(str::to_owned).collect(),
    };
    let reply = remote
        .cache_delete(request)
        .await
        .map_err(CacheError::Call)?;
    let done = |reply: &KeyDeleteResponse| succeeded(reply.operation_status, &reply.error);
    let global = reply.global_cache_responses.iter();
    Ok(CacheChange {
        result: reply.result_cache_response.as_ref().map(done),
        global: global
            .map(|(key, reply)| (key.clone(), done(reply)))
            .collect(),
    })
}
