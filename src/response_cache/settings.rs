//! The settings of a response cache, which decide how a request uses it: lookup and storage,
//! invalidation, or not at all.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use http::header::{self, HeaderMap, HeaderName};

use super::cacheable_request::CacheableRequest;
use super::directives::Directives;
use super::invalidating_request::InvalidatingRequest;
use super::key;
use crate::flow::{Caches, Invalidations};
use crate::layer::{ControlPoint, RequestHead, RequestLookup, ResponseLookup, TextHook};

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

impl ResponseLookup for CacheSettings {
    fn begin(
        self: Arc<Self>,
        head: RequestHead<'_>,
        control_point: &dyn Fn() -> Arc<str>,
        caches: &dyn Fn() -> Option<Arc<dyn Caches>>,
    ) -> Option<Box<dyn RequestLookup>> {
        let method = head.method();
        if *method != Method::GET && *method != Method::HEAD {
            return None;
        }
        let (directives, authorized) = self.admit(head.headers())?;
        let user_key = (self.key)(head);
        if user_key.is_empty() {
            return None;
        }
        let caches = caches()?;
        let invalidations = self.invalidations_of(&*caches);
        invalidations.record_ttl(self.ttl);
        // Read before the clock and the cache, so that all invalidations from here on count as
        // later than the request.
        let sequence = invalidations.sequence();
        let slot = invalidations.hash_key(&user_key);
        let looks_up = !directives.skips_lookup(head.headers()) && invalidations.may_use(slot);
        Some(Box::new(CacheableRequest {
            key: self.result_key(head, &user_key),
            settings: self,
            control_point: control_point(),
            invalidations,
            caches,
            sequence,
            slot,
            looks_up,
            started_at: SystemTime::now(),
            is_head: *method == Method::HEAD,
            authorized,
            answer: None,
        }))
    }
}

impl CacheSettings {
    /// Returns the invalidation that a request makes, `None` for a request with a safe method.
    pub(super) fn invalidation(
        self: &Arc<Self>,
        head: RequestHead<'_>,
        caches: impl FnOnce() -> Option<Arc<dyn Caches>>,
    ) -> Option<InvalidatingRequest> {
        if head.method().is_safe() {
            return None;
        }
        let caches = caches()?;
        let invalidations = self.invalidations_of(&*caches);
        Some(InvalidatingRequest::new(self, head, caches, invalidations))
    }

    fn invalidations_of(&self, caches: &dyn Caches) -> Invalidations {
        let own = caches.invalidations();
        own.unwrap_or(&self.invalidations).clone()
    }

    /// Returns the key of the result cache for a request and the user's part of the key.
    pub(super) fn result_key(&self, head: RequestHead<'_>, user_key: &str) -> String {
        key::build(head.method(), user_key, &self.vary, head.headers())
    }

    /// Returns the cache directives of a GET or HEAD request, and whether it has `authorization`.
    /// `None` if the request passes the cache by.
    fn admit(&self, headers: &HeaderMap) -> Option<(Directives, bool)> {
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
