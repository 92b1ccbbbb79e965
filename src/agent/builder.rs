//! Settings of an agent.

use std::sync::Arc;
use std::time::Duration;

use super::auth::{ApiKey, ApiKeys};
use super::budget::Budget;
use super::drain::Drain;
use super::log_throttle::LogThrottle;
use super::metrics::Metrics;
use super::{Agent, Inner, LIMITS, Prometheus};
use crate::{Engine, LabelLimits};

/// Settings of an [`Agent`]: who may ask, and what a caller may cost.
///
/// The defaults bound what callers can do to the node, and are far beyond what SDKs do.
///
/// ```
/// use std::time::Duration;
///
/// use tower_aperture::agent::{Agent, ApiKey};
/// use tower_aperture::{Engine, LabelLimits};
///
/// let agent = Agent::builder(Engine::builder().build()?)
///     .api_keys(["k-42", "k-43"].map(ApiKey::from))
///     .max_message_size(1 << 20)
///     .max_labels(LabelLimits { count: 100, bytes: 8192 })
///     .max_concurrent_streams(256)
///     .max_connections(1000)
///     .max_waiting(10_000)
///     .max_buffered(16 << 20)
///     .idle_timeout(Duration::from_secs(30))
///     .answer_timeout(Duration::from_secs(10))
///     .build();
/// assert!(!format!("{agent:?}").contains("k-42"));
/// # Ok::<(), tower_aperture::PolicyError>(())
/// ```
#[derive(Debug)]
pub struct AgentBuilder {
    engine: Engine,
    keys: Option<Vec<ApiKey>>,
    prometheus: Option<Prometheus>,
    limits: Limits,
}

/// What one caller may cost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) message_size: usize,
    pub(super) labels: LabelLimits,
    pub(super) streams: u32,
    pub(super) connections: usize,
    pub(super) waiting: usize,
    pub(super) buffered: usize,
    pub(super) idle: Duration,
    pub(super) answer: Duration,
}

impl AgentBuilder {
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            engine,
            keys: None,
            prometheus: None,
            limits: LIMITS,
        }
    }

    /// Lets in only who sends one of these keys as `x-api-key`, on every call but health and
    /// metrics. Without this call everybody is let in; with no key, nobody.
    #[must_use]
    pub fn api_keys(mut self, keys: impl IntoIterator<Item = ApiKey>) -> Self {
        self.keys.get_or_insert_default().extend(keys);
        self
    }

    /// How many bytes a message may have that comes in, also after it was decompressed; 4 MiB by
    /// default. A larger one is `RESOURCE_EXHAUSTED`, or 429 for JSON.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.limits.message_size = bytes;
        self
    }

    /// How many labels a flow may bring, and how many bytes they may take: 1024 and 64 KiB by
    /// default. More is `RESOURCE_EXHAUSTED`. For HTTP requests the headers count.
    #[must_use]
    pub fn max_labels(mut self, limits: LabelLimits) -> Self {
        self.limits.labels = limits;
        self
    }

    /// How many calls may be under way on one connection, 1024 by default; a client keeps others
    /// back. Flows that wait count.
    #[must_use]
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.limits.streams = streams;
        self
    }

    /// How many connections there may be, 4096 by default; one beyond is closed at once. Only for
    /// [`serve`](Agent::serve) and [`serve_tls`](Agent::serve_tls).
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.limits.connections = connections;
        self
    }

    /// How many flows may wait in queues, all together, 65 536 by default; one beyond is rejected
    /// with `REJECT_REASON_NO_TOKENS`. A connection may have as many of them as are left for all
    /// others, so that no caller takes all.
    #[must_use]
    pub fn max_waiting(mut self, flows: usize) -> Self {
        self.limits.waiting = flows;
        self
    }

    /// How many bytes of calls that have not yet come in as a whole may be held, all together,
    /// 64 MiB by default and at least one message. A call beyond that is `RESOURCE_EXHAUSTED`.
    #[must_use]
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.limits.buffered = bytes;
        self
    }

    /// Closes a connection on which nothing was asked for this time, one minute by default, over
    /// HTTP/1 and HTTP/2, whatever pings it answers. A call under way counts as asked; a health
    /// `Watch` does not. Only for [`serve`](Agent::serve) and [`serve_tls`](Agent::serve_tls).
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle = timeout;
        self
    }

    /// Closes a connection that does not take an answer within this time, 30 s by default and up
    /// to half as much again. Only for [`serve`](Agent::serve) and
    /// [`serve_tls`](Agent::serve_tls).
    #[must_use]
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.limits.answer = timeout;
        self
    }

    /// Shows at `/metrics` what a Prometheus answers that the engine's policies ask:
    /// [`stats`](Prometheus::stats) of it.
    #[must_use]
    pub fn prometheus(mut self, prometheus: &Prometheus) -> Self {
        self.prometheus = Some(prometheus.clone());
        self
    }

    /// The node. Nothing is started.
    #[must_use]
    pub fn build(self) -> Agent {
        let limits = self.limits;
        let metrics = Metrics::new(&self.engine, self.prometheus);
        let incoming = limits.buffered.max(limits.message_size);
        Agent {
            inner: Arc::new(Inner {
                budget: Arc::new(Budget::new(incoming, metrics.node.over_budget.clone())),
                metrics,
                engine: self.engine,
                keys: ApiKeys::new(self.keys),
                limits,
                drain: Drain::new(),
                refused: LogThrottle::default(),
                crowded: LogThrottle::default(),
                full: LogThrottle::default(),
                untaken: LogThrottle::default(),
                lacking: LogThrottle::new(Duration::from_secs(60)),
            }),
        }
    }
}
