//! Changes to the caches, awaited or in the background.

use std::time::Duration;

use bytes::Bytes;

use super::check_key;
#[cfg(feature = "remote")]
use super::messages;
use crate::client::{Backend, Inner};
#[cfg(feature = "embedded")]
use crate::engine::CacheEntry;
use crate::flow::{
    CacheCall, CacheChange, CacheError, CacheEvent, CachePlace, CacheRefusal, Caches,
    Invalidations, PendingInvalidation,
};

impl Inner {
    pub(super) async fn write(
        &self,
        place: CachePlace<'_>,
        value: Bytes,
        ttl: Duration,
    ) -> Result<(), CacheError> {
        check_key(place.key())?;
        check_ttl(ttl)?;
        let change: CacheChange = match &self.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => messages::upsert(remote, place, value, ttl).await?,
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => upsert(engine, place, &value, ttl),
            _ => return Err(CacheError::Unsupported),
        };
        change_result(change, place)
    }

    pub(super) async fn remove(&self, place: CachePlace<'_>) -> Result<(), CacheError> {
        check_key(place.key())?;
        let change: CacheChange = match &self.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => messages::delete(remote, place).await?,
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => delete(engine, place),
            _ => return Err(CacheError::Unsupported),
        };
        change_result(change, place)
    }
}

impl Caches for Inner {
    fn set<'a>(&'a self, place: CachePlace<'a>, value: Bytes, ttl: Duration) -> CacheCall<'a> {
        Box::pin(self.write(place, value, ttl))
    }

    fn delete<'a>(&'a self, place: CachePlace<'a>) -> CacheCall<'a> {
        Box::pin(self.remove(place))
    }

    fn set_later(&self, place: CachePlace<'_>, value: Bytes, ttl: Duration) {
        match &self.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => {
                remote.write_later(messages::upsert_request(place, value, ttl));
            }
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => {
                let change = upsert(engine, place, &value, ttl);
                self.count_write(change_result(change, place));
            }
            _ => {}
        }
    }

    fn delete_later(&self, place: CachePlace<'_>) {
        match &self.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => remote.write_later(messages::delete_request(place)),
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => {
                let change = delete(engine, place);
                self.count_write(change_result(change, place));
            }
            _ => {}
        }
    }

    fn invalidate_later(&self, place: CachePlace<'_>, pending: PendingInvalidation) {
        match &self.backend {
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => {
                remote.write_later((messages::delete_request(place), pending));
            }
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => {
                let change = delete(engine, place);
                self.count_write(change_result(change, place));
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
fn upsert(
    engine: &crate::Engine,
    place: CachePlace<'_>,
    value: &[u8],
    ttl: Duration,
) -> CacheChange {
    let entry = CacheEntry::new(place.key(), value).ttl(Some(ttl));
    match place {
        CachePlace::Result { control_point, .. } => {
            engine.cache_upsert(control_point, Some(entry), [])
        }
        CachePlace::Global { .. } => engine.cache_upsert("", None, [entry]),
    }
}

#[cfg(feature = "embedded")]
fn delete(engine: &crate::Engine, place: CachePlace<'_>) -> CacheChange {
    match place {
        CachePlace::Result { control_point, key } => engine.cache_delete(control_point, key, []),
        CachePlace::Global { key } => engine.cache_delete("", "", [key]),
    }
}

/// Returns the result of a change for its only key.
fn change_result(change: CacheChange, place: CachePlace<'_>) -> Result<(), CacheError> {
    let result: Option<Result<(), CacheRefusal>> = match place {
        CachePlace::Result { .. } => change.result,
        CachePlace::Global { key } => {
            let mut results = change.global.into_iter();
            results
                .find(|(changed, _)| changed == key)
                .map(|(_, result)| result)
        }
    };
    result
        .ok_or(CacheError::MissingInReply)?
        .map_err(|refusal| CacheError::Server(refusal.into_text()))
}

const fn check_ttl(ttl: Duration) -> Result<(), CacheError> {
    if ttl.is_zero() {
        return Err(CacheError::NoTtl);
    }
    Ok(())
}
