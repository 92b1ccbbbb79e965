//! The operations on the caches that engines share: their commands, and the outcomes that the
//! replies mean.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aperture_engine::engine::shared::{StoreError, StoreKey, StoreReply};
use bytes::Bytes;
use redis::{Cmd, Value};

use crate::shared::Shared;
use crate::stats::count;

/// The most bytes of values that wait for the server's answer. Further values are refused.
const MAX_QUEUED_BYTES: usize = 64 << 20;
/// The most bytes of a value, which has the form below.
const MAX_STORED_BYTES: usize = 1 << 20;
/// The first byte of each value in the server: the version of its form. The value follows. A value
/// without it is none, so that an empty range means that there is no value.
const FORM: u8 = 1;

/// An operation on one key of the caches.
#[derive(Debug)]
pub(crate) struct CacheOperation {
    key: StoreKey,
    kind: CacheKind,
    submitted: Instant,
}

pub(crate) enum CacheKind {
    Get(StoreReply<Option<Bytes>>),
    Set(QueuedValue, Duration, StoreReply<()>),
    Delete(StoreReply<()>),
}

/// A value that waits for the server's answer, in the form in which the server stores it.
pub(crate) struct QueuedValue {
    stored: Vec<u8>,
    queued: Arc<AtomicUsize>,
}

impl QueuedValue {
    /// Returns `None` if the bytes of too many values wait already.
    pub(crate) fn new(value: &[u8], queued: &Arc<AtomicUsize>) -> Option<Self> {
        let bytes = value.len() + 1;
        let before = queued.fetch_add(bytes, Ordering::Relaxed);
        if bytes > MAX_STORED_BYTES || before.saturating_add(bytes) > MAX_QUEUED_BYTES {
            queued.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        let mut stored = Vec::with_capacity(bytes);
        stored.push(FORM);
        stored.extend_from_slice(value);
        Some(Self {
            stored,
            queued: Arc::clone(queued),
        })
    }
}

impl Drop for QueuedValue {
    fn drop(&mut self) {
        self.queued.fetch_sub(self.stored.len(), Ordering::Relaxed);
    }
}

impl CacheOperation {
    pub(crate) fn new(key: StoreKey, kind: CacheKind) -> Self {
        Self {
            key,
            kind,
            submitted: Instant::now(),
        }
    }

    pub(super) const fn key(&self) -> StoreKey {
        self.key
    }

    /// Returns false if the engine has given the operation up. A value is always deleted.
    pub(super) fn is_worth_sending(&self, shared: &Shared) -> bool {
        matches!(self.kind, CacheKind::Delete(_))
            || self.submitted.elapsed() <= shared.settings.deadline
    }

    pub(super) fn command(&self, shared: &Shared) -> Cmd {
        let key = shared.cache_key(self.key);
        let mut command = Cmd::new();
        match &self.kind {
            // Not more of a value than an engine stores, because other programs may write the key.
            CacheKind::Get(_) => command
                .arg("GETRANGE")
                .arg(key)
                .arg(0)
                .arg(MAX_STORED_BYTES),
            CacheKind::Set(value, ttl, _) => {
                let millis = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
                command.arg("SET").arg(key).arg(&value.stored[..]);
                command.arg("PX").arg(millis)
            }
            CacheKind::Delete(_) => command.arg("UNLINK").arg(key),
        };
        command
    }

    pub(super) fn succeed(self, shared: &Shared, value: Value) {
        let unknown = || {
            count(&shared.counters.errors, 1);
            StoreError::Refused("the reply is of an unknown form".to_owned())
        };
        match (self.kind, value) {
            (CacheKind::Get(reply), Value::BulkString(stored)) => {
                reply.complete(Ok(value_of(stored)));
            }
            (CacheKind::Set(_, _, reply), Value::Okay)
            | (CacheKind::Delete(reply), Value::Int(_)) => reply.complete(Ok(())),
            (CacheKind::Get(reply), _) => reply.complete(Err(unknown())),
            (CacheKind::Set(_, _, reply) | CacheKind::Delete(reply), _) => {
                reply.complete(Err(unknown()));
            }
        }
    }

    pub(super) fn fail(self, shared: &Shared, error: StoreError) {
        count(&shared.counters.errors, 1);
        match self.kind {
            CacheKind::Get(reply) => reply.complete(Err(error)),
            CacheKind::Set(_, _, reply) | CacheKind::Delete(reply) => reply.complete(Err(error)),
        }
    }
}

/// Returns a value without its form; `None` if there is none, or none that an engine stored.
fn value_of(stored: Vec<u8>) -> Option<Bytes> {
    let is_value = stored.first() == Some(&FORM) && stored.len() <= MAX_STORED_BYTES;
    is_value.then(|| Bytes::from(stored).slice(1..))
}

/// Omits values, which may identify people.
impl fmt::Debug for CacheKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get(_) => "Get",
            Self::Set(..) => "Set",
            Self::Delete(_) => "Delete",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_survives_its_form_and_other_texts_are_none() {
        let queued = Arc::default();
        for value in [&b""[..], b"ann", &[0, 1, 255]] {
            let stored = QueuedValue::new(value, &queued).expect("it fits");
            assert_eq!(value_of(stored.stored.clone()).as_deref(), Some(value));
        }
        for other in [&b""[..], b"2ann", &vec![FORM; MAX_STORED_BYTES + 1]] {
            assert_eq!(value_of(other.to_vec()), None);
        }
    }

    #[test]
    fn the_bytes_of_values_that_wait_are_bounded_and_returned() {
        let queued = Arc::default();
        let value = vec![7; MAX_STORED_BYTES - 1];
        let mut waiting: Vec<_> = (0..64)
            .map(|_| QueuedValue::new(&value, &queued).expect("it fits"))
            .collect();
        assert!(QueuedValue::new(b"", &queued).is_none());
        waiting.pop();
        assert!(QueuedValue::new(b"", &queued).is_some());
        drop(waiting);
        assert_eq!(queued.load(Ordering::Relaxed), 0);
        assert!(QueuedValue::new(&[7; MAX_STORED_BYTES], &queued).is_none());
    }
}
