//! Results of cache lookups, as a flow or a call found them.

use bytes::Bytes;

#[cfg(feature = "remote")]
use super::messages;
use crate::flow::{CacheError, CacheLookup, CacheValue};
#[cfg(feature = "remote")]
use crate::pb::check::CacheLookupResponse;

/// The result of the cache lookup of a flow.
pub(in crate::client) enum FlowLookup<'a> {
    Read(&'a CacheLookup),
    /// The Agent's message, of which only the required part is read.
    #[cfg(feature = "remote")]
    Message(&'a CacheLookupResponse),
}

impl FlowLookup<'_> {
    pub(super) fn result(&self) -> Result<Option<Bytes>, CacheError> {
        let value = match self {
            Self::Read(lookup) => lookup.result.clone(),
            #[cfg(feature = "remote")]
            Self::Message(reply) => messages::result_value(reply),
        };
        into_result(value.ok_or(CacheError::NotRequested)?)
    }

    pub(super) fn global(&self, key: &str) -> Result<Option<Bytes>, CacheError> {
        let value: Option<CacheValue> = match self {
            Self::Read(lookup) => lookup.global(key).cloned(),
            #[cfg(feature = "remote")]
            Self::Message(reply) => messages::global_value(reply, key),
        };
        into_result(value.ok_or(CacheError::UnknownKey)?)
    }
}

pub(super) fn into_result(value: CacheValue) -> Result<Option<Bytes>, CacheError> {
    value.map_err(|refusal| CacheError::Refused(refusal.into_text()))
}
