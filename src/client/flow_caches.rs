//! The access of a flow to the caches.

use super::cache::FlowCache;
use super::flow::Flow;
use crate::flow::CacheKey;

impl Flow {
    /// Returns the access to the flow's key of the result cache,
    /// [`FlowParams::result_cache_key`](crate::FlowParams::result_cache_key).
    #[must_use]
    pub fn result_cache(&self) -> FlowCache<'_> {
        let key = self.result_cache_key.as_deref();
        let key = key.filter(|key| !key.is_empty());
        let key = key.map(|key| CacheKey::Result {
            control_point: &self.control_point,
            key,
        });
        FlowCache::result_of_client(self.cache_lookup(), key, &self.client)
    }

    /// Returns the access to a key of the global cache. The flow has its value only if the key is
    /// one of its [global cache keys](crate::FlowParams::global_cache_key).
    #[must_use]
    pub fn global_cache<'a>(&'a self, key: &'a str) -> FlowCache<'a> {
        FlowCache::global_of_client(self.cache_lookup(), key, &self.client)
    }
}
