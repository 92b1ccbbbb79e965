//! The settings of a layer's response cache, which decide how a request uses it: lookup and
//! storage, invalidation, or not at all.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{Method, Response};
use http_body::Body;

use super::body_recorder::BodyRecorder;
use super::cacheable_request::CacheableRequest;
use super::directives::Directives;
use super::invalidating_request::InvalidatingRequest;
use super::key;
use crate::flow::{Caches, Invalidations};
use crate::layer::config::ControlPoint;
use crate::layer::extract::TextHook;
use crate::layer::head::RequestHead;
use crate::layer::request_extras::Hit;

/// The settings of a layer's cache.
#[derive(Clone)]
pub(crate) struct CacheSettings {
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

/// How a request uses the cache.
pub(crate) enum CacheUse {
    Cacheable(CacheableRequest),
    Invalidating(InvalidatingRequest),
}

impl CacheSettings {
    /// Returns how a request uses the cache, `None` if it does not.
    pub(crate) fn cache_use(
        self: &Arc<Self>,
        head: RequestHead<'_>,
        control_point: impl FnOnce() -> Arc<str>,
        caches: impl FnOnce() -> Option<Arc<dyn Caches>>,
    ) -> Option<CacheUse> {
        let method = head.method();
        if *method != Method::GET && *method != Method::HEAD {
            return self.invalidation(head, caches);
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
        Some(CacheUse::Cacheable(CacheableRequest {
            key: self.result_key(head, &user_key),
            settings: Arc::clone(self),
            control_point: control_point(),
            invalidations,
            caches,
            sequence,
            slot,
            looks_up,
            started_at: SystemTime::now(),
            is_head: *method == Method::HEAD,
            authorized,
        }))
    }

    /// Like [`cache_use`](Self::cache_use), but for requests that may only invalidate.
    pub(crate) fn invalidation(
        self: &Arc<Self>,
        head: RequestHead<'_>,
        caches: impl FnOnce() -> Option<Arc<dyn Caches>>,
    ) -> Option<CacheUse> {
        if head.method().is_safe() {
            return None;
        }
        let caches = caches()?;
        let invalidations = self.invalidations_of(&*caches);
        Some(CacheUse::Invalidating(InvalidatingRequest::new(
            self,
            head,
            caches,
            invalidations,
        )))
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

impl CacheUse {
    /// Returns the key to look up with the check.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Self::Cacheable(request) => request.key(),
            Self::Invalidating(_) => None,
        }
    }

    /// Answers the request from the value that the result cache returned. `None` if nothing was
    /// looked up.
    pub(crate) fn answer_from(&mut self, found: &Bytes) -> Option<Hit> {
        match self {
            Self::Cacheable(request) => request.answer_from(found),
            Self::Invalidating(_) => None,
        }
    }

    /// Returns true for a request that may invalidate stored responses. Its response is observed
    /// even without a flow.
    pub(crate) const fn is_invalidating(&self) -> bool {
        matches!(self, Self::Invalidating(_))
    }

    /// Records that the inner service is about to be called.
    pub(crate) fn start(&mut self) {
        if let Self::Invalidating(request) = self {
            request.start();
        }
    }

    /// Handles the head of the inner service's response. Returns a recorder if its body has to be
    /// observed. `empty` is true for a response without a body.
    pub(crate) fn record<B: Body>(
        self,
        response: &Response<B>,
        empty: bool,
    ) -> Option<Box<BodyRecorder>> {
        match self {
            Self::Cacheable(request) => request.record(response, empty),
            Self::Invalidating(request) => request.record(response, empty),
        }
    }
}
