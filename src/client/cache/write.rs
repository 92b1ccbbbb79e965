//! Changes to the caches, awaited or in the background.

use std::time::Duration;

use bytes::Bytes;

#[cfg(feature = "remote")]
use super::messages;
use crate::client::shared::{Backend, Inner};
#[cfg(feature = "embedded")]
use crate::engine::CacheEntry;
use crate::flow::{
    CacheCall, CacheChange, CacheError, CacheEvent, CacheKey, CacheRefusal, Caches, Invalidations,
    PendingInvalidation,
};

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
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => messages::upsert(remote, key, value, ttl).await?,
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => upsert(engine, key, &value, ttl),
            _ => return Err(CacheError::Unsupported),
        };
        change_result(change, key)
    }

    pub(super) async fn remove(&self, key: CacheKey<'_>) -> Result<(), CacheError> {
        check_key(key.as_str())?;
        let change: CacheChange = match &self.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => messages::delete(remote, key).await?,
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => delete(engine, key),
            _ => return Err(CacheError::Unsupported),
        };
        change_result(change, key)
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
        match &self.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => {
                remote.write_later(messages::upsert_request(key, value, ttl));
            }
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => {
                let change = upsert(engine, key, &value, ttl);
                self.count_write(change_result(change, key));
            }
            _ => {}
        }
    }

    fn delete_later(&self, key: CacheKey<'_>) {
        match &self.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => remote.write_later(messages::delete_request(key)),
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => {
                let change = delete(engine, key);
                self.count_write(change_result(change, key));
            }
            _ => {}
        }
    }

    fn invalidate_later(&self, key: CacheKey<'_>, pending: PendingInvalidation) {
        match &self.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => {
                remote.write_later((messages::delete_request(key), pending));
            }
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => {
                let change = delete(engine, key);
                self.count_write(change_result(change, key));
                // The engine refuses to delete only keys that it never stores.
                pending.succeeded();
            }
            _ => drop(pending),
        }
    }

    fn invalidations(&self) -> Option<&Invalidations> {
        Some(&self.invalidations)
    }

    fn note(&self, event: CacheEvent) {
        self.counters.count_cache_event(event);
        self.meter.count_cache_event(event);
    }
}

impl Inner {
    #[cfg(feature = "embedded")]
    fn count_write(&self, written: Result<(), CacheError>) {
        self.meter.count_cache_write(written.is_ok());
        self.counters.count_cache_write(written);
    }
}

#[cfg(feature = "embedded")]
fn upsert(engine: &crate::Engine, key: CacheKey<'_>, value: &[u8], ttl: Duration) -> CacheChange {
    let entry = CacheEntry::new(key.as_str(), value).ttl(Some(ttl));
    match key {
        CacheKey::Result { control_point, .. } => {
            engine.cache_upsert(control_point, Some(entry), [])
        }
        CacheKey::Global { .. } => engine.cache_upsert("", None, [entry]),
    }
}

#[cfg(feature = "embedded")]
fn delete(engine: &crate::Engine, key: CacheKey<'_>) -> CacheChange {
    match key {
        CacheKey::Result { control_point, key } => engine.cache_delete(control_point, key, []),
        CacheKey::Global { key } => engine.cache_delete("", "", [key]),
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
    result
        .ok_or(CacheError::MissingInReply)?
        .map_err(|refusal| CacheError::Refused(refusal.into_text()))
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
