//! Converts the Agent's cache messages. A missing result is never read as a hit.

use std::time::Duration;

use bytes::Bytes;

use crate::client::cache::ReadLookup;
use crate::flow::{CacheChange, CacheError, CacheKey, CacheLookup, CacheRefusal, CacheValue};
use crate::messages::check::{
    CacheDeleteRequest, CacheEntry, CacheLookupRequest, CacheLookupResponse, CacheLookupStatus,
    CacheOperationStatus, CacheUpsertRequest, KeyDeleteResponse, KeyLookupResponse,
    KeyUpsertResponse,
};
use crate::meter::{ClientMeter, LookupOutcome, Meter};
use crate::remote::Remote;

pub(super) fn read_lookup(reply: &CacheLookupResponse) -> CacheLookup {
    let global = reply.global_cache_responses.iter();
    CacheLookup::new(
        reply.result_value(),
        global.map(|entry| (entry.key.clone(), value(entry.value.as_ref()))),
    )
}

/// Reads only the part of the message that is needed.
impl ReadLookup for CacheLookupResponse {
    fn result_value(&self) -> Option<CacheValue> {
        let reply = self.result_cache_response.as_ref();
        reply.map(|reply| value(Some(reply)))
    }

    fn global_value(&self, key: &str) -> Option<CacheValue> {
        let mut entries = self.global_cache_responses.iter();
        let entry = entries.find(|entry| entry.key == key)?;
        Some(value(entry.value.as_ref()))
    }

    fn count(&self, meter: &ClientMeter) {
        if let Some(reply) = &self.result_cache_response {
            meter.count_result_lookup(outcome(Some(reply)));
        }
        for entry in &self.global_cache_responses {
            meter.count_global_lookup(outcome(entry.value.as_ref()));
        }
    }
}

fn value(reply: Option<&KeyLookupResponse>) -> CacheValue {
    // A missing entry is a miss.
    let Some(reply) = reply else { return Ok(None) };
    check_status(reply.operation_status, &reply.error)?;
    Ok(is_hit(reply).then(|| reply.value.clone()))
}

fn outcome(reply: Option<&KeyLookupResponse>) -> LookupOutcome {
    match reply {
        Some(reply) if !is_success(reply.operation_status, &reply.error) => LookupOutcome::Refused,
        Some(reply) if is_hit(reply) => LookupOutcome::Hit,
        _ => LookupOutcome::Miss,
    }
}

const fn is_hit(reply: &KeyLookupResponse) -> bool {
    reply.lookup_status == CacheLookupStatus::Hit as i32
}

const fn is_success(status: i32, error: &str) -> bool {
    status == CacheOperationStatus::Success as i32 && error.is_empty()
}

fn check_status(status: i32, error: &str) -> Result<(), CacheRefusal> {
    if is_success(status, error) {
        return Ok(());
    }
    Err(CacheRefusal::new(error.to_owned()))
}

pub(super) async fn lookup(remote: &Remote, key: CacheKey<'_>) -> Result<CacheLookup, CacheError> {
    let mut request = CacheLookupRequest::default();
    match key {
        CacheKey::Result { control_point, key } => {
            request.control_point = control_point.to_owned();
            request.result_cache_key = key.to_owned();
        }
        CacheKey::Global { key } => request.global_cache_keys = vec![key.to_owned()],
    }
    let reply = remote
        .cache_lookup(request)
        .await
        .map_err(CacheError::Call)?;
    Ok(read_lookup(&reply))
}

pub(super) fn upsert_request(key: CacheKey<'_>, value: Bytes, ttl: Duration) -> CacheUpsertRequest {
    let entry = CacheEntry {
        key: key.as_str().to_owned(),
        value,
        // A time beyond the range of the message is omitted, which means seven days, the maximum.
        ttl: ttl.try_into().ok(),
    };
    let mut request = CacheUpsertRequest::default();
    match key {
        CacheKey::Result { control_point, .. } => {
            request.control_point = control_point.to_owned();
            request.result_cache_entry = Some(entry);
        }
        CacheKey::Global { key } => {
            request.global_cache_entries = [(key.to_owned(), entry)].into();
        }
    }
    request
}

pub(super) async fn upsert(
    remote: &Remote,
    key: CacheKey<'_>,
    value: Bytes,
    ttl: Duration,
) -> Result<CacheChange, CacheError> {
    let reply = remote
        .cache_upsert(upsert_request(key, value, ttl))
        .await
        .map_err(CacheError::Call)?;
    // An omitted response means success.
    let result = |reply: Option<&KeyUpsertResponse>| {
        reply.map_or(Ok(()), |reply| {
            check_status(reply.operation_status, &reply.error)
        })
    };
    let global = reply.global_cache_responses.iter();
    Ok(CacheChange::new(
        reply
            .result_cache_response
            .as_ref()
            .map(|reply| result(Some(reply))),
        global.map(|entry| (entry.key.clone(), result(entry.value.as_ref()))),
    ))
}

pub(super) fn delete_request(key: CacheKey<'_>) -> CacheDeleteRequest {
    match key {
        CacheKey::Result { control_point, key } => CacheDeleteRequest {
            control_point: control_point.to_owned(),
            result_cache_key: key.to_owned(),
            ..CacheDeleteRequest::default()
        },
        CacheKey::Global { key } => CacheDeleteRequest {
            global_cache_keys: vec![key.to_owned()],
            ..CacheDeleteRequest::default()
        },
    }
}

pub(super) async fn delete(remote: &Remote, key: CacheKey<'_>) -> Result<CacheChange, CacheError> {
    let reply = remote
        .cache_delete(delete_request(key))
        .await
        .map_err(CacheError::Call)?;
    // An omitted response means success.
    let result = |reply: Option<&KeyDeleteResponse>| {
        reply.map_or(Ok(()), |reply| {
            check_status(reply.operation_status, &reply.error)
        })
    };
    let global = reply.global_cache_responses.iter();
    Ok(CacheChange::new(
        reply
            .result_cache_response
            .as_ref()
            .map(|reply| result(Some(reply))),
        global.map(|entry| (entry.key.clone(), result(entry.value.as_ref()))),
    ))
}
