//! The part of a shared store in which engines share their caches.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::{StoreKey, StoreReply};

/// The result caches and the global cache of all engines that share a store.
///
/// No method blocks. The caches complete each `reply` later, from any thread, or at once; if an
/// operation cannot be queued, they complete it with an error. Operations that are submitted one
/// after the other, without a pause, should share a round trip. A key is a hash of the control point
/// and the cache key; a value has less than 1 MiB.
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::Mutex;
/// use std::time::{Duration, Instant};
///
/// use bytes::Bytes;
/// use tower_aperture::engine::shared::{SharedCaches, StoreKey, StoreReply};
///
/// /// The caches of several engines in one process.
/// #[derive(Debug, Default)]
/// struct ProcessCaches(Mutex<HashMap<StoreKey, (Bytes, Instant)>>);
///
/// impl SharedCaches for ProcessCaches {
///     fn get(&self, key: StoreKey, reply: StoreReply<Option<Bytes>>) {
///         let values = self.0.lock().unwrap();
///         let found = values.get(&key).filter(|(_, expires)| *expires > Instant::now());
///         reply.complete(Ok(found.map(|(value, _)| value.clone())));
///     }
///     fn set(&self, key: StoreKey, value: Bytes, ttl: Duration, reply: StoreReply<()>) {
///         self.0.lock().unwrap().insert(key, (value, Instant::now() + ttl));
///         reply.complete(Ok(()));
///     }
///     fn delete(&self, key: StoreKey, reply: StoreReply<()>) {
///         self.0.lock().unwrap().remove(&key);
///         reply.complete(Ok(()));
///     }
///     fn deadline(&self) -> Duration {
///         Duration::from_millis(20)
///     }
///     fn is_available(&self) -> bool {
///         true
///     }
/// }
///
/// let (caches, key) = (ProcessCaches::default(), StoreKey::from_bytes([7; 16]));
/// caches.set(key, "ann".into(), Duration::from_secs(60), StoreReply::new(drop));
/// caches.get(key, StoreReply::new(|found| assert_eq!(found, Ok(Some("ann".into())))));
/// ```
pub trait SharedCaches: fmt::Debug + Send + Sync + 'static {
    /// Reads a value; `None` is a miss.
    fn get(&self, key: StoreKey, reply: StoreReply<Option<Bytes>>);

    /// Stores a value for `ttl`, at least a millisecond and at most seven days, by the clock of the
    /// store. Replaces an existing value and its time to live.
    fn set(&self, key: StoreKey, value: Bytes, ttl: Duration, reply: StoreReply<()>);

    /// Deletes a value; a missing value is no error.
    fn delete(&self, key: StoreKey, reply: StoreReply<()>);

    /// Returns the longest time for which a flow, or a caller of the engine, waits for a reply.
    fn deadline(&self) -> Duration;

    /// Returns false while the caches are given up. The engine then submits nothing: lookups are
    /// misses with an error, and changes fail.
    fn is_available(&self) -> bool;
}
