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

    /// Reads the value that the result cache has for the key. Returns `None` if there is no key.
    fn read(&mut self, value: &Bytes) -> Option<StoredValue>;

    /// Leaves the lookup in the extensions of the request, for the cache.
    fn attach(self: Box<Self>, extensions: &mut Extensions);
}

/// Whether a value of the result cache is a response to the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "response-cache"), allow(dead_code))]
pub(crate) enum StoredValue {
    /// The cache answers the request.
    Usable,
    /// The value cannot be decoded, is stale or was invalidated, so the inner service must respond.
    Unusable,
}
