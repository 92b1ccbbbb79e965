//! The rules of a layer's cache: which requests read it, and which invalidate it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName};
use http::{Method, Response};
use http_body::Body;

use super::change::Change;
use super::directives::Directives;
use super::key;
use super::read::Read;
use super::tape::Tape;
use crate::flow::{Caches, Invalidations};
use crate::layer::config::ControlPoint;
use crate::layer::extract::TextHook;
use crate::layer::head::RequestHead;
use crate::layer::request_extras::Hit;

/// The settings of a layer's cache.
#[derive(Clone)]
pub(crate) struct Rules {
    pub(super) key: TextHook,
    /// The layer's own.
    pub(super) control_point: ControlPoint,
    pub(super) ttl: Duration,
    pub(super) vary: Vec<HeaderName>,
    pub(super) allow_authorized: bool,
    pub(super) max_body: usize,
    /// For caches that bring none of their own.
    pub(super) invalidations: Invalidations,
}

/// What a request does with the cache.
pub(crate) enum Ask {
    Read(Read),
    Change(Change),
}

impl Rules {
    /// Returns `None` for a request that has nothing to do with the cache.
    pub(crate) fn ask(
        self: &Arc<Self>,
        head: RequestHead<'_>,
        control_point: impl FnOnce() -> Arc<str>,
        caches: impl FnOnce() -> Option<Arc<dyn Caches>>,
    ) -> Option<Ask> {
        let method = head.method();
        if *method != Method::GET && *method != Method::HEAD {
            return self.change(head, caches);
        }
        let (said, authorized) = self.admit(head.headers())?;
        let named = (self.key)(head);
        if named.is_empty() {
            return None;
        }
        let caches = caches()?;
        let invalidations = self.invalidations_of(&*caches);
        invalidations.note_ttl(self.ttl);
        // Before the clock and the cache are read: what changes from now on counts as later.
        let sequence = invalidations.sequence();
        let slot = invalidations.slot(&named);
        let looks_up = !said.may_refuse(head.headers()) && invalidations.may_use(slot);
        Some(Ask::Read(Read {
            key: self.place_key(head, &named),
            rules: Arc::clone(self),
            control_point: control_point(),
            invalidations,
            caches,
            sequence,
            slot,
            looks_up,
            at: SystemTime::now(),
            head: *method == Method::HEAD,
            authorized,
        }))
    }

    /// Like [`ask`](Self::ask), for a request that may only invalidate.
    pub(crate) fn change(
        self: &Arc<Self>,
        head: RequestHead<'_>,
        caches: impl FnOnce() -> Option<Arc<dyn Caches>>,
    ) -> Option<Ask> {
        if head.method().is_safe() {
            return None;
        }
        let caches = caches()?;
        let invalidations = self.invalidations_of(&*caches);
        Some(Ask::Change(Change::new(self, head, caches, invalidations)))
    }

    fn invalidations_of(&self, caches: &dyn Caches) -> Invalidations {
        let own = caches.invalidations();
        own.unwrap_or(&self.invalidations).clone()
    }

    pub(super) fn place_key(&self, head: RequestHead<'_>, named: &str) -> String {
        key::of(head.method(), named, &self.vary, head.headers())
    }

    /// Reads what a GET or HEAD says of caches. Returns `None` when it passes the cache by.
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
            // A body, which is not in the key.
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
    /// Returns the key to look up with the check.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Self::Read(read) => read.key(),
            Self::Change(_) => None,
        }
    }

    /// Judges what the result cache had for the request. Returns `None` when it was not asked.
    pub(crate) fn judge(&mut self, found: &Bytes) -> Option<Hit> {
        match self {
            Self::Read(read) => read.judge(found),
            Self::Change(_) => None,
        }
    }

    /// Returns true for a request that may invalidate, which is followed even without a flow.
    pub(crate) const fn is_change(&self) -> bool {
        matches!(self, Self::Change(_))
    }

    /// The inner service is about to be called.
    pub(crate) fn start(&mut self) {
        if let Self::Change(change) = self {
            change.start();
        }
    }

    /// Looks at the head of the inner service's response. Returns a tape when its body has to be
    /// followed. `empty` says that it has no body.
    pub(crate) fn record<B: Body>(self, response: &Response<B>, empty: bool) -> Option<Box<Tape>> {
        match self {
            Self::Read(read) => read.record(response, empty),
            Self::Change(change) => change.record(response, empty),
        }
    }
}
