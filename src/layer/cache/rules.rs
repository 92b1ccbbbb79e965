//! Which requests have to do with the cache, and what for.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response};
use http_body::Body;

use super::directives::{Directives, Seconds};
use super::entry::{self, Entry};
use super::key;
use super::storable::{self, Asked};
use super::tape::{Place, Tape};
use crate::flow::{CacheEvent, CachePlace, Caches};
use crate::layer::extract::TextHook;
use crate::layer::head::RequestHead;

/// What a layer was told about its cache.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(super) key: TextHook,
    pub(super) ttl: Duration,
    pub(super) vary: Vec<HeaderName>,
    pub(super) allow_authorized: bool,
    pub(super) max_body: usize,
}

/// One request's business with the cache.
pub(crate) struct Ask {
    rules: Arc<Rules>,
    caches: Arc<dyn Caches>,
    control_point: Arc<str>,
    kind: Kind,
}

enum Kind {
    Read {
        key: String,
        at: SystemTime,
        head: bool,
        authorized: bool,
        /// `None`: a stored response will not do.
        wants: Option<Wants>,
    },
    /// It may change what GET and HEAD answer.
    Change { keys: [String; 2] },
}

/// What the client says about stored responses (RFC 9111, section 5.2.1).
#[derive(Clone, Copy)]
struct Wants {
    max_age: u64,
    min_fresh: u64,
}

impl Wants {
    fn of(said: &Directives, headers: &HeaderMap) -> Option<Self> {
        // `Pragma` counts where there is nothing newer (section 5.4).
        let pragma = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"no-cache");
        let old = || headers.get(header::PRAGMA).is_some_and(pragma);
        if said.no_cache || (!headers.contains_key(header::CACHE_CONTROL) && old()) {
            return None;
        }
        let seconds = |seconds, absent| match seconds {
            Seconds::Absent => Some(absent),
            Seconds::Given(seconds) => Some(seconds),
            Seconds::Invalid => None,
        };
        Some(Self {
            max_age: seconds(said.max_age, u64::MAX)?,
            min_fresh: seconds(said.min_fresh, 0)?,
        })
    }
}

impl Rules {
    /// `None` for a request that passes the cache by.
    pub(crate) fn ask(
        self: &Arc<Self>,
        head: RequestHead<'_>,
        control_point: impl FnOnce() -> Arc<str>,
        caches: impl FnOnce() -> Option<Arc<dyn Caches>>,
    ) -> Option<Ask> {
        let headers = head.headers();
        let method = head.method();
        let reads = *method == Method::GET || *method == Method::HEAD;
        if !reads && method.is_safe() {
            return None;
        }
        let (said, authorized) = if reads {
            self.admit(headers)?
        } else {
            (Directives::default(), false)
        };
        let named = (self.key)(head);
        if named.is_empty() {
            return None;
        }
        let key = |method: &Method| key::of(method, &named, &self.vary, headers);
        let kind = if reads {
            Kind::Read {
                key: key(method),
                at: SystemTime::now(),
                head: *method == Method::HEAD,
                authorized,
                wants: Wants::of(&said, headers),
            }
        } else {
            let keys = [key(&Method::GET), key(&Method::HEAD)];
            Kind::Change { keys }
        };
        Some(Ask {
            rules: Arc::clone(self),
            caches: caches()?,
            control_point: control_point(),
            kind,
        })
    }

    /// Whether a GET or HEAD may be answered from the cache, and its answer stored.
    fn admit(&self, headers: &HeaderMap) -> Option<(Directives, bool)> {
        // Parts, conditions and other protocols are between the client and the inner service.
        const PASSED: [HeaderName; 8] = [
            header::RANGE,
            header::IF_RANGE,
            header::IF_MATCH,
            header::IF_NONE_MATCH,
            header::IF_MODIFIED_SINCE,
            header::IF_UNMODIFIED_SINCE,
            header::UPGRADE,
            // A body: what it means is not in the key.
            header::TRANSFER_ENCODING,
        ];
        if PASSED.iter().any(|name| headers.contains_key(name)) {
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
        let said = Directives::of(headers);
        (!said.no_store && !said.malformed).then_some((said, authorized))
    }
}

impl Ask {
    /// What to look up with the check.
    pub(crate) fn key(&self) -> Option<&str> {
        match &self.kind {
            Kind::Read {
                key,
                wants: Some(_),
                ..
            } => Some(key),
            _ => None,
        }
    }

    /// The response that lies in the cache, when it will do.
    pub(crate) fn answer(&self, found: &Bytes) -> Option<Response<Bytes>> {
        let Kind::Read {
            head,
            wants: Some(wants),
            ..
        } = &self.kind
        else {
            return None;
        };
        let Some(entry) = entry::decode(found).filter(|entry| is_whole(entry, *head)) else {
            self.caches.note(CacheEvent::Unreadable);
            return None;
        };
        let age = millis(SystemTime::now()).saturating_sub(entry.born);
        let left = entry.lifetime.checked_sub(age).filter(|left| *left > 0)?;
        let min_fresh = wants.min_fresh.saturating_mul(1000);
        if age > wants.max_age.saturating_mul(1000) || left < min_fresh {
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

    /// Looks at the head of the inner service's response; a tape for one whose body is to be
    /// stored. `empty` says that no body will come.
    pub(crate) fn record<B: Body>(self, response: &Response<B>, empty: bool) -> Option<Box<Tape>> {
        let status = response.status();
        let (key, at, head, authorized) = match self.kind {
            Kind::Read {
                key,
                at,
                head,
                authorized,
                ..
            } => (key, at, head, authorized),
            Kind::Change { keys } => {
                // Section 4.4. A change that failed changed nothing.
                if status.is_success() || status.is_redirection() {
                    for key in &keys {
                        let control_point = &self.control_point;
                        self.caches
                            .delete_later(CachePlace::Result { control_point, key });
                    }
                }
                return None;
            }
        };
        let asked = Asked {
            at,
            authorized,
            vary: &self.rules.vary,
            ttl: self.rules.ttl,
        };
        let now = SystemTime::now();
        let headers = response.headers();
        let fresh = storable::fresh(asked, status, headers, now)?;
        let length = if head || empty {
            Some(0)
        } else {
            response.body().size_hint().exact()
        };
        let length = match declared_length(headers)? {
            Some(declared) if !head => {
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
        let born = millis(now).saturating_sub(whole_millis(fresh.age));
        let lifetime = whole_millis(fresh.age.saturating_add(fresh.left));
        let value = entry::begin(born, lifetime, status, headers, now)?;
        let place = Place {
            caches: self.caches,
            control_point: self.control_point,
            key,
        };
        let mut tape = Tape::new(place, value, fresh.left, self.rules.max_body, length);
        if head || empty {
            tape.finish();
            return None;
        }
        Some(Box::new(tape))
    }
}

/// What the head says about the length of the body; `None` when that makes no sense.
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

/// The body is as long as the head says; only the answer to a HEAD has none.
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
