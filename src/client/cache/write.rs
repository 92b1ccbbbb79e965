//! Changes to the caches, awaited or in the background.

use std::time::Duration;

use bytes::Bytes;

use super::lookup::error_of;
use crate::client::backend::{AnyBackend, CacheBackend};
use crate::client::shared::Inner;
use crate::flow::{
    CacheCall, CacheChange, CacheError, CacheEvent, CacheKey, CacheRefusal, Caches, Invalidations,
    PendingInvalidation,
};
use crate::meter::Meter;

impl Inner {
    pub(super) async fn write(
        &self,
        key: CacheKey<'_>,
        value: Bytes,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        check_key(key.as_str())?;
        check_ttl(ttl)?;
        let change: CacheChange = match &self.backend {
            AnyBackend::Embedded(backend) => backend.store(key, value, ttl).await?,
            AnyBackend::Remote(backend) => backend.store(key, value, ttl).await?,
            AnyBackend::Disabled | AnyBackend::Scripted(_) => return Err(CacheError::Unsupported),
        };
        change_result(change, key)
    }

    pub(super) async fn remove(&self, key: CacheKey<'_>) -> Result<(), CacheError> {
        check_key(key.as_str())?;
        let change: CacheChange = match &self.backend {
            AnyBackend::Embedded(backend) => backend.delete(key).await?,
            AnyBackend::Remote(backend) => backend.delete(key).await?,
            AnyBackend::Disabled | AnyBackend::Scripted(_) => return Err(CacheError::Unsupported),
        };
        change_result(change, key)
    }

    /// Counts a change in the background that is already done.
    fn count_write(&self, change: Option<CacheChange>) {
        if let Some(change) = change {
            self.counters.cache_writes().count(only_result(change));
        }
    }
}

impl Caches for Inner {
    fn set<'a>(&'a self, key: CacheKey<'a>, value: Bytes, ttl: Duration) -> CacheCall<'a> {
        Box::pin(self.write(key, value, ttl))
    }

    fn delete<'a>(&'a self, key: CacheKey<'a>) -> CacheCall<'a> {
        Box::pin(self.remove(key))
    }

    fn set_later(&self, key: CacheKey<'_>, value: Bytes, ttl: Duration) {
        let writes = self.counters.cache_writes();
        let change = match &self.backend {
            AnyBackend::Embedded(backend) => backend.store_later(key, value, ttl, writes),
            AnyBackend::Remote(backend) => backend.store_later(key, value, ttl, writes),
            AnyBackend::Disabled | AnyBackend::Scripted(_) => None,
        };
        self.count_write(change);
    }

    fn delete_later(&self, key: CacheKey<'_>) {
        let writes = self.counters.cache_writes();
        let change = match &self.backend {
            AnyBackend::Embedded(backend) => backend.delete_later(key, writes),
            AnyBackend::Remote(backend) => backend.delete_later(key, writes),
            AnyBackend::Disabled | AnyBackend::Scripted(_) => None,
        };
        self.count_write(change);
    }

    fn invalidate_later(&self, key: CacheKey<'_>, pending: PendingInvalidation) {
        let writes = self.counters.cache_writes();
        let change = match &self.backend {
            AnyBackend::Embedded(backend) => backend.invalidate_later(key, pending, writes),
            AnyBackend::Remote(backend) => backend.invalidate_later(key, pending, writes),
            AnyBackend::Disabled | AnyBackend::Scripted(_) => None,
        };
        self.count_write(change);
    }

    fn invalidations(&self) -> Option<&Invalidations> {
        Some(&self.invalidations)
    }

    fn note(&self, event: CacheEvent) {
        self.counters.count_cache_event(event);
        self.meter.count_cache_event(event);
    }
}

/// Returns the result of a change for its only key.
fn change_result(change: CacheChange, key: CacheKey<'_>) -> Result<(), CacheError> {
    let result: Option<Result<(), CacheRefusal>> = match key {
        CacheKey::Result { .. } => change.result,
        CacheKey::Global { key } => {
            let mut results = change.global.into_iter();
            results
                .find(|(changed, _)| changed == key)
                .map(|(_, result)| result)
        }
    };
    result.ok_or(CacheError::MissingInReply)?.map_err(error_of)
}

/// Returns the result of a change of one key.
pub(in crate::client) fn only_result(mut change: CacheChange) -> Result<(), CacheError> {
    let global = || change.global.pop().map(|(_, result)| result);
    let result = change.result.or_else(global);
    result.ok_or(CacheError::MissingInReply)?.map_err(error_of)
}

const fn check_ttl(ttl: Duration) -> Result<(), CacheError> {
    if ttl.is_zero() {
        return Err(CacheError::NoTtl);
    }
    Ok(())
}

pub(super) const fn check_key(key: &str) -> Result<(), CacheError> {
    if key.is_empty() {
        return Err(CacheError::NoKey);
    }
    Ok(())
}
