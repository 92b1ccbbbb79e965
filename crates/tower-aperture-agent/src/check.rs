//! The gRPC service `aperture.flowcontrol.check.v1`: checks, ends of flows, caches.

use std::time::{Duration, SystemTime};

use tonic::Status;

use super::call::{Call, CallResponse};
use super::delivery::SlotGrant;
use super::{Agent, convert};
use aperture_core::FlowParams;
use aperture_engine::engine::{CacheEntry, CheckInput, SlotRef};
use tower_aperture::pb::check::{
    CacheDeleteRequest, CacheDeleteResponse, CacheEntry as CacheEntryPb, CacheLookupRequest,
    CacheLookupResponse, CacheUpsertRequest, CacheUpsertResponse, CheckRequest, CheckResponse,
    FlowEndRequest, FlowEndResponse, InflightRequestRef, TokenReturnStatus,
};

pub(super) async fn check(
    agent: Agent,
    call: Call<CheckRequest>,
) -> Result<CallResponse<CheckResponse>, Status> {
    let began = SystemTime::now();
    let timeout = convert::grpc_timeout(&call.headers)?;
    let charge = call.charge;
    let pending = {
        let request = call.message;
        let mut params = FlowParams::new().ramp_mode(request.ramp_mode);
        params.labels = convert::labels(&request.labels, agent.inner.limits.labels)?;
        if let Some(lookup) = &request.cache_lookup_request {
            let keys = lookup.global_cache_keys.iter();
            params.global_cache_keys = keys.map(|key| key.as_str().into()).collect();
            params.result_cache_key = Some(lookup.result_cache_key.as_str().into());
        }
        let input = CheckInput::new(&request.control_point, &params)
            .cache_lookup(request.cache_lookup_request.is_some())
            .expect_end(request.expect_end)
            .deadline(timeout);
        agent.inner.engine.start(&input)
    };
    let (report, ticket) = agent.await_decision(pending, &charge).await;
    agent.inner.metrics.decided(&report);
    let grant = SlotGrant::new(&report, ticket);
    let mut message = CheckResponse::from(report);
    (message.start, message.end) = convert::decision_timestamps(began);
    Ok(CallResponse { message, grant })
}

pub(super) async fn cache_lookup(
    agent: Agent,
    call: Call<CacheLookupRequest>,
) -> Result<CallResponse<CacheLookupResponse>, Status> {
    let request = &call.message;
    let lookup = agent.inner.engine.start_cache_lookup(
        &request.control_point,
        &request.result_cache_key,
        request.global_cache_keys.iter().map(String::as_str),
    );
    let found = lookup.await;
    agent.inner.metrics.caches.looked_up(&found);
    Ok(CacheLookupResponse::from(found).into())
}

pub(super) async fn cache_upsert(
    agent: Agent,
    call: Call<CacheUpsertRequest>,
) -> Result<CallResponse<CacheUpsertResponse>, Status> {
    let request = &call.message;
    let result = request.result_cache_entry.as_ref();
    let global = request.global_cache_entries.iter();
    let change = agent.inner.engine.start_cache_upsert(
        &request.control_point,
        result.map(|entry| cache_entry(&entry.key, entry)),
        global.map(|(key, entry)| cache_entry(key, entry)),
    );
    let changed = change.await;
    agent.inner.metrics.caches.changed("upsert", &changed);
    Ok(CacheUpsertResponse::from(changed).into())
}

pub(super) async fn cache_delete(
    agent: Agent,
    call: Call<CacheDeleteRequest>,
) -> Result<CallResponse<CacheDeleteResponse>, Status> {
    let request = &call.message;
    let change = agent.inner.engine.start_cache_delete(
        &request.control_point,
        &request.result_cache_key,
        request.global_cache_keys.iter().map(String::as_str),
    );
    let changed = change.await;
    agent.inner.metrics.caches.changed("delete", &changed);
    Ok(CacheDeleteResponse::from(changed).into())
}

pub(super) async fn flow_end(
    agent: Agent,
    call: Call<FlowEndRequest>,
) -> Result<CallResponse<FlowEndResponse>, Status> {
    let timeout = convert::grpc_timeout(&call.headers)?;
    let request = call.message;
    agent.inner.metrics.ended(&request.control_point);
    let slots = request.inflight_requests;
    let refs: Vec<SlotRef> = slots.iter().map(slot_ref).collect();
    let returns = agent.inner.engine.start_flow_end(&refs, timeout).await;
    let statuses = slots.into_iter().zip(returns);
    let statuses = statuses.map(|(slot, status)| TokenReturnStatus {
        inflight_request_ref: Some(slot),
        returned: status.returned,
        error: status.error.unwrap_or_default().to_owned(),
    });
    let token_return_statuses = statuses.collect();
    Ok(FlowEndResponse {
        token_return_statuses,
    }
    .into())
}

/// Returns the reference to a slot in the engine's form.
fn slot_ref(slot: &InflightRequestRef) -> SlotRef {
    SlotRef {
        policy_name: slot.policy_name.clone(),
        policy_hash: slot.policy_hash.clone(),
        component_id: slot.component_id.clone(),
        label: slot.label.clone(),
        request_id: slot.request_id.clone(),
    }
}

/// Converts a cache entry. A negative time to live becomes one nanosecond, so that the entry is
/// expired as soon as it is stored.
fn cache_entry<'a>(key: &'a str, entry: &'a CacheEntryPb) -> CacheEntry<'a> {
    let ttl = entry
        .ttl
        .map(|ttl| Duration::try_from(ttl).unwrap_or(Duration::from_nanos(1)));
    CacheEntry::new(key, &entry.value).ttl(ttl)
}
