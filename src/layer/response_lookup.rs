//! What the layer knows of a response cache inside of it: the key to look up with the check, and
//! whether the value that was found can be used.

use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;

use super::head::RequestHead;
use crate::flow::Caches;

/// Looks up responses for a response cache inside of the layer, because the check carries the key.
pub(crate) trait ResponseLookup: Send + Sync {
    /// Returns the lookup of a request. `None` if the request passes the cache by.
    fn begin(
        self: Arc<Self>,
        head: RequestHead<'_>,
        control_point: &dyn Fn() -> Arc<str>,
        caches: &dyn Fn() -> Option<Arc<dyn Caches>>,
    ) -> Option<Box<dyn RequestLookup>>;
}

/// The lookup of one request.
pub(crate) trait RequestLookup: Send + Sync {
    /// Returns the key that the check looks up, or `None` if a stored response must not be used.
    fn key(&self) -> Option<&str>;

    /// Reads the value that the result cache has for the key. Returns true if it is a response that
    /// answers the request, and false if it cannot be decoded, is stale or was invalidated, so that
    /// the inner service must respond.
    fn read(&mut self, value: &Bytes) -> bool;

    /// Leaves the lookup in the extensions of the request, for the cache.
    fn attach(self: Box<Self>, extensions: &mut Extensions);
}
