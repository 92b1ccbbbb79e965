use std::sync::Arc;

use super::auth::{ApiKey, ApiKeys};
use super::body::Budget;
use super::drain::Drain;
use super::metrics::Metrics;
use super::seldom::Seldom;
use super::{Agent, Inner, Prometheus};
use crate::{Engine, LabelLimits};

/// Settings of an [`Agent`]: who may ask, and what a caller may cost.
///
/// The defaults bound what callers can do to the node, and are far beyond what SDKs do.
///
/// ```
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
}

impl AgentBuilder {
    pub(super) fn new(engine: Engine) -> Self {
        Self {
            engine,
            keys: None,
            prometheus: None,
            limits: Limits {
                message_size: 4 << 20,
                labels: LabelLimits {
                    count: 1024,
                    bytes: 64 << 10,
                },
                streams: 1024,
                connections: 4096,
                waiting: 65_536,
                buffered: 64 << 20,
            },
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
    /// with `REJECT_REASON_NO_TOKENS`.
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
        Agent {
            inner: Arc::new(Inner {
                metrics: Metrics::new(&self.engine, self.prometheus),
                engine: self.engine,
                keys: ApiKeys::new(self.keys),
                budget: Arc::new(Budget::new(limits.buffered.max(limits.message_size))),
                limits,
                drain: Drain::new(),
                refused: Seldom::default(),
                crowded: Seldom::default(),
                full: Seldom::default(),
            }),
        }
    }
}
