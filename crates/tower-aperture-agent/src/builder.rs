//! The builder of an agent: its settings and their defaults.

use std::sync::Arc;
use std::time::Duration;

use super::agent::{Agent, Inner};
use super::auth::{ApiKey, ApiKeys};
use super::drain::Drain;
use super::limits::{AgentLimits, DEFAULT_LIMITS};
use super::log_throttle::LogThrottle;
use super::memory_budget::MemoryBudget;
use super::metrics::Metrics;
use super::prometheus::Prometheus;
use aperture_redis::Redis;
use tower_aperture::LabelLimits;
use tower_aperture::engine::{Engine, Shared};

/// Settings of an [`Agent`]: the API keys, and the limits on what callers may use.
///
/// The defaults bound the resources that callers can take, and are far above what SDKs need.
///
/// ```
/// use std::time::Duration;
///
/// use tower_aperture_agent::{Agent, ApiKey};
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
    engine: Engine<Shared>,
    keys: Option<Vec<ApiKey>>,
    prometheus: Option<Prometheus>,
    shared_store: Option<Redis>,
    limits: AgentLimits,
}

impl Agent {
    /// Returns a builder for an agent that decides by the policies of `engine`, which may be of
    /// either [mode](tower_aperture::engine::EngineMode).
    #[must_use]
    pub fn builder(engine: impl Into<Engine<Shared>>) -> AgentBuilder {
        AgentBuilder::new(engine.into())
    }
}

impl AgentBuilder {
    fn new(engine: Engine<Shared>) -> Self {
        Self {
            engine,
            keys: None,
            prometheus: None,
            shared_store: None,
            limits: DEFAULT_LIMITS,
        }
    }

    /// Accepts only calls that carry one of these keys as `x-api-key`, apart from health,
    /// `/livez`, `/readyz` and metrics. Without this setting all calls are accepted; with an empty list, none. Further
    /// calls add keys.
    #[must_use]
    pub fn api_keys(mut self, keys: impl IntoIterator<Item = ApiKey>) -> Self {
        self.keys.get_or_insert_default().extend(keys);
        self
    }

    /// Sets the largest incoming message in bytes, after decompression too; 4 MiB by default. A
    /// larger one fails with `RESOURCE_EXHAUSTED`, or 429 for JSON.
    #[must_use]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.limits.message_size = bytes;
        self
    }

    /// Sets how many labels a flow may carry, and how many bytes they may take: 1024 and 64 KiB by
    /// default. A flow with more fails with `RESOURCE_EXHAUSTED`. For HTTP requests this limits the
    /// headers.
    #[must_use]
    pub fn max_labels(mut self, limits: LabelLimits) -> Self {
        self.limits.labels = limits;
        self
    }

    /// Sets how many calls may run concurrently on one connection, 1024 by default; the client
    /// holds back further ones. Waiting flows count.
    #[must_use]
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.limits.streams = streams;
        self
    }

    /// Sets how many connections may be open, 4096 by default; a further one is closed immediately.
    /// Applies only to [`serve`](Agent::serve) and [`serve_tls`](Agent::serve_tls).
    #[must_use]
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.limits.connections = connections;
        self
    }

    /// Sets how many flows may wait in queues, in total, 65 536 by default; a further one is
    /// rejected with `REJECT_REASON_NO_TOKENS`. A connection may have as many of them as are left
    /// for all other connections, so that no caller takes all.
    #[must_use]
    pub fn max_waiting(mut self, flows: usize) -> Self {
        self.limits.waiting = flows;
        self
    }

    /// Sets how many bytes of incompletely received calls may be held, in total; 64 MiB by default,
    /// and at least one message. A call beyond that fails with `RESOURCE_EXHAUSTED`.
    #[must_use]
    pub fn max_buffered(mut self, bytes: usize) -> Self {
        self.limits.buffered = bytes;
        self
    }

    /// Closes a connection without a call for this time, one minute by default, over HTTP/1 and
    /// HTTP/2, even if it answers pings. A running call keeps the connection open; a health `Watch`
    /// does not. Applies only to [`serve`](Agent::serve) and [`serve_tls`](Agent::serve_tls).
    #[must_use]
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.limits.idle = timeout;
        self
    }

    /// Closes a connection whose caller does not read a response within this time, 30 s by default,
    /// and up to half as much again. Applies only to [`serve`](Agent::serve) and
    /// [`serve_tls`](Agent::serve_tls).
    #[must_use]
    pub fn answer_timeout(mut self, timeout: Duration) -> Self {
        self.limits.answer = timeout;
        self
    }

    /// Adds the [`stats`](Prometheus::stats) of this Prometheus, which answers the queries of the
    /// engine's policies, to `/metrics`.
    #[must_use]
    pub fn prometheus(mut self, prometheus: &Prometheus) -> Self {
        self.prometheus = Some(prometheus.clone());
        self
    }

    /// Adds the [`stats`](Redis::stats) of this store, in which the engine shares its limits, to
    /// `/metrics`.
    ///
    /// ```
    /// use aperture_redis::Redis;
    /// use tower_aperture::Engine;
    /// use tower_aperture_agent::Agent;
    ///
    /// let store = Redis::new("redis://cache.internal:6379")?;
    /// let engine = Engine::builder().shared(store.clone()).build()?;
    /// let agent = Agent::builder(engine).shared_store(&store).build();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn shared_store(mut self, store: &Redis) -> Self {
        self.shared_store = Some(store.clone());
        self
    }

    /// Returns the agent. Starts no task and opens no socket.
    #[must_use]
    pub fn build(self) -> Agent {
        let limits = self.limits;
        let metrics = Metrics::new(&self.engine, self.prometheus, self.shared_store);
        let incoming = limits.buffered.max(limits.message_size);
        Agent {
            inner: Arc::new(Inner {
                budget: Arc::new(MemoryBudget::new(
                    incoming,
                    metrics.process.over_budget.clone(),
                )),
                metrics,
                engine: self.engine,
                keys: ApiKeys::new(self.keys),
                limits,
                drain: Drain::new(),
                unauthenticated_log: LogThrottle::default(),
                crowded_out_log: LogThrottle::default(),
                turned_away_log: LogThrottle::default(),
                unread_log: LogThrottle::default(),
                accept_log: LogThrottle::new(Duration::from_secs(60)),
            }),
        }
    }
}
