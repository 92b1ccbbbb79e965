//! The settings of a response cache, and which requests they keep out of it.

use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName};

use super::directives::Directives;
use super::key;
use crate::flow::{Caches, Invalidations};
use crate::layer::RequestHead;
use crate::layer::extract::TextHook;
use crate::layer::settings::ControlPoint;

/// The settings of a response cache.
#[derive(Clone)]
pub(super) struct CacheSettings {
    /// Returns the part of the key that the user chose; empty for requests that pass the cache by.
    pub(super) key: TextHook,
    /// The control point of the layer.
    pub(super) control_point: ControlPoint,
    pub(super) ttl: Duration,
    pub(super) vary: Vec<HeaderName>,
    pub(super) allow_authorized: bool,
    pub(super) max_body: usize,
    /// Used with [`Caches`] that have no invalidations of their own.
    pub(super) invalidations: Invalidations,
}

impl CacheSettings {
    /// Returns the invalidations that are shared by all users of these caches.
    pub(super) fn invalidations_of(&self, caches: &dyn Caches) -> Invalidations {
        let own = caches.invalidations();
        own.unwrap_or(&self.invalidations).clone()
    }

    /// Returns the key of the result cache for a request and the user's part of the key.
    pub(super) fn result_key(&self, head: RequestHead<'_>, user_key: &str) -> String {
        key::build(head.method(), user_key, &self.vary, head.headers())
    }

    /// Returns the cache directives of a GET or HEAD request, and whether it has `authorization`.
    /// `None` if the request passes the cache by.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Option<(Directives, bool)> {
        // Ranges, conditions and protocol upgrades are left to the inner service.
        const BYPASSING: [HeaderName; 8] = [
            header::RANGE,
            header::IF_RANGE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            header::IF_UNMODIFIED_SINCE,
            header::UPGRADE,
            // The request has a body, which is not part of the key.
            header::TRANSFER_ENCODING,
        ];
        if BYPASSING.iter().any(|name| headers.contains_key(name)) {
            return None;
        }
        let length = headers.get(header::CONTENT_LENGTH);
        if length.is_some_and(|length| length != "0") {
            return None;
        }
        let authorized = headers.contains_key(header::AUTHORIZATION);
        if authorized && !self.allow_authorized {
            return None;
        }
        let directives = Directives::from_headers(headers);
        (!directives.no_store && !directives.malformed).then_some((directives, authorized))
    }
}
