//! One server, its connection, and the requests that wait for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::AbortHandle;
use redis::aio::MultiplexedConnection;

use super::request::Request;
use super::work::LinkId;
use crate::address::Address;

/// The wait after the first connection that failed.
const FIRST_RETRY: Duration = Duration::from_millis(20);
/// The longest wait, before jitter.
const LAST_RETRY: Duration = Duration::from_secs(1);

/// One server.
pub(super) struct Node {
    pub(super) address: Address,
    pub(super) link: Link,
    /// Requests that are to be sent next.
    pub(super) outgoing: Vec<Request>,
    /// Connections that failed in a row.
    failures: u32,
}

pub(super) enum Link {
    Closed {
        /// No connection is tried before.
        retry_at: Option<Instant>,
    },
    Connecting,
    Open(OpenLink),
}

pub(super) struct OpenLink {
    pub(super) id: LinkId,
    pub(super) connection: MultiplexedConnection,
    pub(super) hashes: Arc<[String]>,
    pub(super) serving: AbortHandle,
}

impl Drop for OpenLink {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Node {
    pub(super) const fn new(address: Address) -> Self {
        Self {
            address,
            link: Link::Closed { retry_at: None },
            outgoing: Vec::new(),
            failures: 0,
        }
    }

    pub(super) const fn open_link(&self) -> Option<&OpenLink> {
        match &self.link {
            Link::Open(link) => Some(link),
            _ => None,
        }
    }

    /// Returns true if the node's connection is this one.
    pub(super) fn has(&self, id: LinkId) -> bool {
        self.open_link().is_some_and(|link| link.id == id)
    }

    pub(super) fn opened(&mut self, link: OpenLink) {
        self.failures = 0;
        self.link = Link::Open(link);
    }

    /// Closes the connection. The next one waits longer after each failure. `random` is from 0 to 1.
    pub(super) fn close(&mut self, random: f64) {
        let wait = FIRST_RETRY
            .saturating_mul(1 << self.failures.min(8))
            .min(LAST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.link = Link::Closed {
            retry_at: Some(Instant::now() + wait.mul_f64(1.0 + random / 2.0)),
        };
    }

    /// Returns true if a connection may be tried now.
    pub(super) fn may_connect(&self) -> bool {
        match self.link {
            Link::Closed { retry_at } => retry_at.is_none_or(|at| at <= Instant::now()),
            _ => false,
        }
    }
}
