//! Results of cache lookups, as a flow or a call found them.

use bytes::Bytes;

use crate::flow::{CacheError, CacheLookup, CacheRefusal, CacheValue, FlowError, FlowErrorKind};
use crate::meter::{ClientMeter, Meter};

/// The result of the cache lookup of a flow, in the form in which the backend has it.
pub(in crate::client) trait ReadLookup {
    /// Returns the result for the key of the result cache; `None` if it was not looked up.
    fn result_value(&self) -> Option<CacheValue>;

    /// Returns the result for a key of the global cache; `None` if it was not looked up.
    fn global_value(&self, key: &str) -> Option<CacheValue>;

    /// Counts the results for all keys.
    fn count(&self, meter: &ClientMeter);
}

impl ReadLookup for CacheLookup {
    fn result_value(&self) -> Option<CacheValue> {
        self.result.clone()
    }

    fn global_value(&self, key: &str) -> Option<CacheValue> {
        self.global(key).cloned()
    }

    fn count(&self, meter: &ClientMeter) {
        if let Some(value) = &self.result {
            meter.count_result_lookup(value.into());
        }
        for (_, value) in &self.global {
            meter.count_global_lookup(value.into());
        }
    }
}

pub(super) fn read_result(lookup: &dyn ReadLookup) -> Result<Option<Bytes>, CacheError> {
    into_result(lookup.result_value().ok_or(CacheError::NotRequested)?)
}

pub(super) fn read_global(lookup: &dyn ReadLookup, key: &str) -> Result<Option<Bytes>, CacheError> {
    into_result(lookup.global_value(key).ok_or(CacheError::UnknownKey)?)
}

/// Returns the error for a refusal: that of a failed call if the store of the caches did not answer.
pub(super) fn error_of(refusal: CacheRefusal) -> CacheError {
    match refusal.is_unreachable() {
        true => CacheError::Call(FlowError::new(
            FlowErrorKind::Unavailable,
            refusal.into_text(),
        )),
        false => CacheError::Refused(refusal.into_text()),
    }
}

pub(super) fn into_result(value: CacheValue) -> Result<Option<Bytes>, CacheError> {
    value.map_err(error_of)
}
