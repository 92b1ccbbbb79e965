//! GET and HEAD: answered from the cache, or stored there.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderMap, HeaderValue};
use http_body::Body;

use super::entry::{self, Entry};
use super::rules::Rules;
use super::storable::{self, Asked};
use super::tape::{Place, Tape};
use crate::flow::{CacheEvent, CachePlace, Caches, Invalidations, Slot};
use crate::layer::request_extras::Hit;

/// A request that may be answered from the cache, and whose response may be stored.
pub(crate) struct Read {
    pub(super) rules: Arc<Rules>,
    pub(super) caches: Arc<dyn Caches>,
    pub(super) invalidations: Invalidations,
    pub(super) control_point: Arc<str>,
    pub(super) key: String,
    pub(super) slot: Slot,
    /// The invalidations before the request began.
    pub(super) sequence: u64,
    pub(super) at: SystemTime,
    pub(super) head: bool,
    pub(super) authorized: bool,
    /// A stored response would do.
    pub(super) looks_up: bool,
}

impl Read {
    /// Returns the key to look up.
    pub(super) fn key(&self) -> Option<&str> {
        self.looks_up.then_some(&*self.key)
    }

    /// Judges the value that the cache had under the key. After one that is of no use the cache is
    /// not asked again.
    pub(super) fn judge(&mut self, found: &Bytes) -> Option<Hit> {
        if !self.looks_up {
            return None;
        }
        let answer = self.answer(found);
        self.looks_up = false;
        Some(answer.map_or(Hit::Unusable, Hit::Answer))
    }

    fn answer(&self, found: &Bytes) -> Option<Response<Bytes>> {
        let Some(entry) = entry::decode(found).filter(|entry| is_whole(entry, self.head)) else {
            self.caches.note(CacheEvent::Unreadable);
            return None;
        };
        if !self.invalidations.may_use_since(self.slot, self.sequence) {
            return None;
        }
        if !self.invalidations.is_newer(self.slot, entry.stamp) {
            // Its deletion came too early, or never: a slow write, or another key of its target.
            self.delete();
            return None;
        }
        let age = millis(SystemTime::now()).saturating_sub(entry.born);
        if age >= entry.lifetime {
            return None;
        }
        self.caches.note(CacheEvent::Answered);
        let mut response = Response::new(entry.body);
        *response.status_mut() = entry.status;
        *response.headers_mut() = entry.headers;
        let age = HeaderValue::from(age / 1000);
        response.headers_mut().insert(header::AGE, age);
        Some(response)
    }

    fn delete(&self) {
        let place = CachePlace::Result {
            control_point: &self.control_point,
            key: &self.key,
        };
        let pending = self.invalidations.begin_deletion(self.slot);
        self.caches.invalidate_later(place, pending);
    }

    /// Looks at the head of the inner service's response. Returns a tape when its body is to be
    /// stored. `empty` says that it has no body.
    pub(super) fn record<B: Body>(self, response: &Response<B>, empty: bool) -> Option<Box<Tape>> {
        let status = response.status();
        let asked = Asked {
            at: self.at,
            authorized: self.authorized,
            vary: &self.rules.vary,
            ttl: self.rules.ttl,
        };
        let now = SystemTime::now();
        let headers = response.headers();
        let fresh = storable::fresh(asked, status, headers, now)?;
        let length = if self.head || empty {
            Some(0)
        } else {
            response.body().size_hint().exact()
        };
        let length = match declared_length(headers)? {
            Some(declared) if !self.head => {
                if length.is_some_and(|length| length != declared) {
                    return None;
                }
                Some(declared)
            }
            _ => length,
        };
        let most = self.rules.max_body as u64;
        if length.unwrap_or(response.body().size_hint().lower()) > most {
            return None;
        }
        let stamp = self.invalidations.stamp(self.sequence, self.at);
        let born = millis(now).saturating_sub(whole_millis(fresh.age));
        let lifetime = whole_millis(fresh.age.saturating_add(fresh.left));
        let value = entry::begin(stamp, born, lifetime, status, headers, now)?;
        let place = Place {
            caches: self.caches,
            control_point: self.control_point,
            key: self.key,
            invalidations: self.invalidations,
            slot: self.slot,
            sequence: self.sequence,
        };
        let mut tape = Tape::new(place, value, fresh.left, self.rules.max_body, length);
        if self.head || empty {
            tape.finish();
            return None;
        }
        Some(Box::new(tape))
    }
}

/// Reads the length that the head announces. Returns `None` when it contradicts itself.
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

/// Whether the body is as long as the head says. The response to a HEAD has none.
fn is_whole(entry: &Entry, head: bool) -> bool {
    if head {
        return entry.body.is_empty();
    }
    let declared = entry.headers.get_all(header::CONTENT_LENGTH);
    let len = entry.body.len().to_string();
    declared.iter().all(|declared| *declared == *len)
}

fn millis(time: SystemTime) -> u64 {
    whole_millis(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
