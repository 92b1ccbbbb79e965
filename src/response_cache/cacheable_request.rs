//! GET and HEAD requests, which are answered from the cache or have their responses stored.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Extensions, Method, Response};
use http_body::Body;

use super::body_recorder::{BodyRecorder, CopyDestination};
use super::settings::CacheSettings;
use super::storable::{self, StorageContext};
use super::stored_response::{self, StoredResponse};
use crate::flow::{CacheEvent, CacheKey, Caches, Invalidations, KeyHash};
use crate::layer::RequestHead;
use crate::layer::response_lookup::{RequestLookup, ResponseLookup};

/// A GET or HEAD request that may be answered from the cache, and whose response may be stored.
#[derive(Clone)]
pub(super) struct CacheableRequest {
    settings: Arc<CacheSettings>,
    caches: Arc<dyn Caches>,
    invalidations: Invalidations,
    control_point: Arc<str>,
    key: String,
    slot: KeyHash,
    /// The number of invalidations before the request began.
    sequence: u64,
    started_at: SystemTime,
    is_head: bool,
    /// The request has an `authorization` header.
    authorized: bool,
    /// A stored response may answer the request.
    looks_up: bool,
    /// The stored response that answers the request.
    pub(super) answer: Option<Response<Bytes>>,
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

impl RequestLookup for CacheableRequest {
    fn key(&self) -> Option<&str> {
        self.looks_up.then_some(&*self.key)
    }

    /// If the value is unusable, the key is not looked up again.
    fn read(&mut self, value: &Bytes) -> bool {
        self.answer = self.usable_response(value);
        self.looks_up = false;
        self.answer.is_some()
    }

    fn attach(self: Box<Self>, extensions: &mut Extensions) {
        extensions.insert(*self);
    }
}

impl CacheableRequest {
    /// Returns the stored response with its `age`, unless it is unreadable, invalidated or stale.
    fn usable_response(&self, found: &Bytes) -> Option<Response<Bytes>> {
        let Some(stored) =
            stored_response::decode(found).filter(|stored| is_complete(stored, self.is_head))
        else {
            self.caches.note(CacheEvent::Unreadable);
            return None;
        };
        if !self.invalidations.may_use_since(self.slot, self.sequence) {
            return None;
        }
        if !self.invalidations.is_newer(self.slot, stored.stamp) {
            // The response was invalidated and is still in the cache: it was written after the
            // deletion, or it has another key of the same target, which was not deleted.
            self.delete();
            return None;
        }
        let age = millis(SystemTime::now()).saturating_sub(stored.born);
        if age >= stored.lifetime {
            return None;
        }
        self.caches.note(CacheEvent::Answered);
        let mut response = Response::new(stored.body);
        *response.status_mut() = stored.status;
        *response.headers_mut() = stored.headers;
        let age = HeaderValue::from(age / 1000);
        response.headers_mut().insert(header::AGE, age);
        Some(response)
    }

    fn delete(&self) {
        let place = CacheKey::Result {
            control_point: &self.control_point,
            key: &self.key,
        };
        let pending = self.invalidations.begin_deletion(self.slot);
        self.caches.invalidate_later(place, pending);
    }

    /// Decides from the head of the inner service's response whether it is stored. Returns a
    /// recorder if its body has to be copied; a response without a body is stored at once. `empty`
    /// is true for a response without a body.
    pub(super) fn record<B: Body>(
        self,
        response: &Response<B>,
        empty: bool,
    ) -> Option<Box<BodyRecorder>> {
        let status = response.status();
        let context = StorageContext {
            requested_at: self.started_at,
            authorized: self.authorized,
            vary: &self.settings.vary,
            ttl: self.settings.ttl,
        };
        let now = SystemTime::now();
        let headers = response.headers();
        let freshness = storable::freshness(context, status, headers, now)?;
        let length = if self.is_head || empty {
            Some(0)
        } else {
            response.body().size_hint().exact()
        };
        let length = match declared_length(headers)? {
            Some(declared) if !self.is_head => {
                if length.is_some_and(|length| length != declared) {
                    return None;
                }
                Some(declared)
            }
            _ => length,
        };
        let max_body = self.settings.max_body as u64;
        if length.unwrap_or(response.body().size_hint().lower()) > max_body {
            return None;
        }
        let stamp = self.invalidations.stamp(self.sequence, self.started_at);
        let born = millis(now).saturating_sub(whole_millis(freshness.age));
        let lifetime = whole_millis(freshness.age.saturating_add(freshness.remaining));
        let value = stored_response::encode_head(stamp, born, lifetime, status, headers, now)?;
        let destination = CopyDestination {
            caches: self.caches,
            control_point: self.control_point,
            key: self.key,
            invalidations: self.invalidations,
            slot: self.slot,
            sequence: self.sequence,
        };
        let mut recorder = BodyRecorder::new(
            destination,
            value,
            freshness.remaining,
            self.settings.max_body,
            length,
        );
        if self.is_head || empty {
            recorder.finish();
            return None;
        }
        Some(Box::new(recorder))
    }
}

/// Returns the value of `content-length`, if the head has one. `None` if the field is not a number
/// or has several values that differ.
fn declared_length(headers: &HeaderMap) -> Option<Option<u64>> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = values.next() else {
        return Some(None);
    };
    if values.any(|other| other != first) {
        return None;
    }
    first.to_str().ok()?.parse().ok().map(Some)
}

/// Returns true if the body has the length that the head declares. The response to HEAD has no
/// body.
fn is_complete(stored: &StoredResponse, is_head: bool) -> bool {
    if is_head {
        return stored.body.is_empty();
    }
    let declared = stored.headers.get_all(header::CONTENT_LENGTH);
    let len = stored.body.len().to_string();
    declared.iter().all(|declared| *declared == *len)
}

fn millis(time: SystemTime) -> u64 {
    whole_millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
