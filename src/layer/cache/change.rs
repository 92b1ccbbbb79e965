//! Requests with unsafe methods, which invalidate what the cache has (RFC 9111, section 4.4).

use std::sync::Arc;

use http::header::{self, HeaderMap};
use http::{Method, Request, Response};
use http_body::Body;

use super::location;
use super::rules::Rules;
use super::tape::Tape;
use crate::flow::{CachePlace, Caches, Invalidations, PendingInvalidation, Slot};
use crate::layer::head::RequestHead;

/// Values of each field that name targets. Both fields have one value at most (RFC 9110, sections
/// 8.7 and 10.2.2).
const MAX_NAMED: usize = 4;

/// A request that may change what GET and HEAD answer.
///
/// It invalidates the keys of its target when its response is no error, and also when there is no
/// response: the future was dropped, the inner service failed or panicked, and whether the change
/// was made is not known.
pub(crate) struct Change {
    rules: Arc<Rules>,
    caches: Arc<dyn Caches>,
    invalidations: Invalidations,
    /// A GET of the same target, for the hooks that read keys and control points.
    request: Box<Request<()>>,
    own: Vec<Target>,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The inner service was not called.
    Waiting,
    Running,
    Answered,
}

/// A response that may be in the cache.
struct Target {
    slot: Slot,
    control_point: Arc<str>,
    key: String,
}

/// Invalidates once more when the body of the response to a change is over: the change may have
/// gone on until then.
pub(super) struct BodyEnd {
    invalidations: Invalidations,
    slots: Vec<Slot>,
}

impl Change {
    pub(super) fn new(
        rules: &Arc<Rules>,
        head: RequestHead<'_>,
        caches: Arc<dyn Caches>,
        invalidations: Invalidations,
    ) -> Self {
        invalidations.note_ttl(rules.ttl);
        let mut request = Request::new(());
        *request.uri_mut() = head.uri().clone();
        *request.version_mut() = head.version();
        *request.headers_mut() = head.headers().clone();
        *request.extensions_mut() = head.extensions().clone();
        let mut change = Self {
            rules: Arc::clone(rules),
            caches,
            invalidations,
            request: Box::new(request),
            own: Vec::new(),
            phase: Phase::Waiting,
        };
        if !(rules.key)(head).is_empty() {
            change.own = change.targets();
        }
        change
    }

    /// Returns what the cache may have for GET and HEAD of the request's target.
    fn targets(&mut self) -> Vec<Target> {
        let mut targets = Vec::with_capacity(2);
        for method in [Method::GET, Method::HEAD] {
            *self.request.method_mut() = method;
            let head = RequestHead::new(&self.request);
            let named = (self.rules.key)(head);
            // As it is read: nothing is stored for a name that is not known.
            let control_point = self.rules.control_point.name(head).unwrap_or_default();
            // Nothing is stored without either.
            if named.is_empty() || control_point.is_empty() {
                continue;
            }
            targets.push(Target {
                slot: self.invalidations.slot(&named),
                key: self.rules.place_key(head, &named),
                control_point: self.rules.control_point.to_shared(&control_point),
            });
        }
        targets
    }

    /// The inner service is about to be called.
    pub(super) fn start(&mut self) {
        self.phase = Phase::Running;
    }

    /// Looks at the head of the response. `empty` says that it has no body.
    pub(super) fn record<B: Body>(
        mut self,
        response: &Response<B>,
        empty: bool,
    ) -> Option<Box<Tape>> {
        let status = response.status();
        if status.is_client_error() || status.is_server_error() {
            self.phase = Phase::Answered;
            return None;
        }
        // Hooks run here, and after a panic the target of the request is still to invalidate.
        let named = self.named_by(response.headers());
        self.phase = Phase::Answered;
        let mut targets = std::mem::take(&mut self.own);
        let is_new = |target: &Target| !targets.iter().any(|known| known.is_same(target));
        let named: Vec<Target> = named.into_iter().filter(is_new).collect();
        targets.extend(named);
        let slots = invalidate(&self.invalidations, &*self.caches, &targets);
        (!empty && !slots.is_empty()).then(|| {
            Box::new(Tape::of_change(BodyEnd {
                invalidations: self.invalidations.clone(),
                slots,
            }))
        })
    }

    /// Returns what the cache may have for targets of the same origin that the response names.
    fn named_by(&mut self, headers: &HeaderMap) -> Vec<Target> {
        let mut targets = Vec::new();
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            for reference in headers.get_all(name).iter().take(MAX_NAMED) {
                let Some(target) = location::target(&self.request, reference.as_bytes()) else {
                    continue;
                };
                let own = std::mem::replace(self.request.uri_mut(), target);
                targets.append(&mut self.targets());
                *self.request.uri_mut() = own;
            }
        }
        targets
    }
}

impl Target {
    fn is_same(&self, other: &Self) -> bool {
        self.key == other.key && self.control_point == other.control_point
    }
}

/// Invalidates responses and has them deleted. Returns their slots, each once.
fn invalidate(invalidations: &Invalidations, caches: &dyn Caches, targets: &[Target]) -> Vec<Slot> {
    // All of it is noted before the first deletion, which may succeed at once.
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
        let place = CachePlace::Result {
            control_point: &target.control_point,
            key: &target.key,
        };
        caches.invalidate_later(place, pending);
    }
    slots
}

impl Drop for Change {
    fn drop(&mut self) {
        if self.phase == Phase::Running {
            invalidate(&self.invalidations, &*self.caches, &self.own);
        }
    }
}

impl Drop for BodyEnd {
    fn drop(&mut self) {
        for slot in &self.slots {
            self.invalidations.invalidate(*slot);
        }
    }
}
