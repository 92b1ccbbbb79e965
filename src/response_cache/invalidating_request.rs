//! Requests with unsafe methods, which invalidate stored responses (RFC 9111, section 4.4).

use std::sync::Arc;

use http::header::{self, HeaderMap};
use http::{Method, Request, Response};
use http_body::Body;

use super::body_recorder::{BodyRecorder, InvalidateOnBodyEnd};
use super::location;
use super::settings::CacheSettings;
use crate::flow::{CacheKey, Caches, Invalidations, KeyHash, PendingInvalidation};
use crate::layer::RequestHead;

/// The most values that are read of `location` and of `content-location`. Both fields have one
/// value at most (RFC 9110, sections 8.7 and 10.2.2).
const MAX_VALUES: usize = 4;

/// A request with an unsafe method, which may change the responses to GET and HEAD.
///
/// It invalidates the keys of its target if its response is not an error. It also does so if the
/// response is lost, because the inner service may have made the change: if the future was dropped,
/// or the inner service failed or panicked.
pub(super) struct InvalidatingRequest {
    settings: Arc<CacheSettings>,
    caches: Arc<dyn Caches>,
    invalidations: Invalidations,
    /// A copy of the request's head with the method GET or HEAD, for the hooks that return keys and
    /// control points.
    request: Box<Request<()>>,
    /// The stored responses of the request's own target.
    own_targets: Vec<CachedTarget>,
    /// The response was received.
    is_answered: bool,
}

/// The cache key of a response that may be stored.
struct CachedTarget {
    slot: KeyHash,
    control_point: Arc<str>,
    key: String,
}

impl InvalidatingRequest {
    /// Reads the request, just before the inner service is called. Returns `None` for a request
    /// with a safe method.
    pub(super) fn begin(
        settings: &Arc<CacheSettings>,
        head: RequestHead<'_>,
        caches: impl FnOnce() -> Option<Arc<dyn Caches>>,
    ) -> Option<Self> {
        if head.method().is_safe() {
            return None;
        }
        let caches = caches()?;
        let invalidations = settings.invalidations_of(&*caches);
        invalidations.record_ttl(settings.ttl);
        let mut request = Request::new(());
        *request.uri_mut() = head.uri().clone();
        *request.version_mut() = head.version();
        *request.headers_mut() = head.headers().clone();
        *request.extensions_mut() = head.extensions().clone();
        let mut this = Self {
            settings: Arc::clone(settings),
            caches,
            invalidations,
            request: Box::new(request),
            own_targets: Vec::new(),
            is_answered: false,
        };
        if !(settings.key)(head).is_empty() {
            this.own_targets = this.targets();
        }
        Some(this)
    }

    /// Returns the stored responses that GET and HEAD of the request's target may have.
    fn targets(&mut self) -> Vec<CachedTarget> {
        let mut targets = Vec::with_capacity(2);
        for method in [Method::GET, Method::HEAD] {
            *self.request.method_mut() = method;
            let head = RequestHead::new(&self.request);
            let user_key = (self.settings.key)(head);
            // Used without bounding the name: responses are only stored under known names.
            let control_point = self.settings.control_point.name(head).unwrap_or_default();
            // Responses are stored only if both are present.
            if user_key.is_empty() || control_point.is_empty() {
                continue;
            }
            targets.push(CachedTarget {
                slot: self.invalidations.hash_key(&user_key),
                key: self.settings.result_key(head, &user_key),
                control_point: self.settings.control_point.to_shared(&control_point),
            });
        }
        targets
    }

    /// Invalidates targets according to the head of the response. Returns a recorder if they have
    /// to be invalidated again at the end of the body. `empty` is true for a response without a
    /// body.
    pub(super) fn record<B: Body>(
        mut self,
        response: &Response<B>,
        empty: bool,
    ) -> Option<Box<BodyRecorder>> {
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            self.is_answered = true;
            return None;
        }
        // This runs hooks. The field is set afterwards, so that `drop` still invalidates the
        // target of the request if one of them panics.
        let linked = self.linked_targets(response.headers());
        self.is_answered = true;
        let mut targets = std::mem::take(&mut self.own_targets);
        let is_new = |target: &CachedTarget| !targets.iter().any(|known| known.is_same(target));
        let linked: Vec<CachedTarget> = linked.into_iter().filter(is_new).collect();
        targets.extend(linked);
        let slots = invalidate(&self.invalidations, &*self.caches, &targets);
        (!empty && !slots.is_empty()).then(|| {
            Box::new(BodyRecorder::without_copy(InvalidateOnBodyEnd {
                invalidations: self.invalidations.clone(),
                slots,
            }))
        })
    }

    /// Returns the stored responses of targets of the same origin that `location` and
    /// `content-location` of the response name.
    fn linked_targets(&mut self, headers: &HeaderMap) -> Vec<CachedTarget> {
        let mut targets = Vec::new();
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            for reference in headers.get_all(name).iter().take(MAX_VALUES) {
                let Some(target) = location::target(&self.request, reference.as_bytes()) else {
                    continue;
                };
                let own_uri = std::mem::replace(self.request.uri_mut(), target);
                targets.append(&mut self.targets());
                *self.request.uri_mut() = own_uri;
            }
        }
        targets
    }
}

impl CachedTarget {
    fn is_same(&self, other: &Self) -> bool {
        self.key == other.key && self.control_point == other.control_point
    }
}

/// Invalidates stored responses and starts their deletion in the background. Returns their slots,
/// without duplicates.
fn invalidate(
    invalidations: &Invalidations,
    caches: &dyn Caches,
    targets: &[CachedTarget],
) -> Vec<KeyHash> {
    // All deletions are registered before the first one starts, because it may succeed at once.
    let pending: Vec<PendingInvalidation> = targets
        .iter()
        .map(|target| invalidations.begin_deletion(target.slot))
        .collect();
    let mut slots = Vec::with_capacity(1);
    for target in targets {
        if !slots.contains(&target.slot) {
            invalidations.invalidate(target.slot);
            slots.push(target.slot);
        }
    }
    for (target, pending) in targets.iter().zip(pending) {
        let place = CacheKey::Result {
            control_point: &target.control_point,
            key: &target.key,
        };
        caches.invalidate_later(place, pending);
    }
    slots
}

impl Drop for InvalidatingRequest {
    fn drop(&mut self) {
        if !self.is_answered {
            invalidate(&self.invalidations, &*self.caches, &self.own_targets);
        }
    }
}
