//! The Agents of a client, their state across runtimes, and the choice among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};

use http::Uri;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::breaker::Breaker;
use super::config::{ConnectConfig, RemoteConfig};
use super::connection_tracker::ConnectionTracker;
use super::given_up_gauge::GivenUpGauge;
use super::recent_failures::RecentFailures;
use super::transport::{Connector, Pool};
use crate::flow::{AgentStatus, ConnectionState};

/// The Agents of a client. They share their limits, so that each may decide any flow.
pub(super) struct Agents {
    all: Box<[RemoteAgent]>,
    /// The number of random draws so far, from which the next draw is computed.
    draws: AtomicU64,
    /// Notified when an Agent returns and when the client shuts down.
    pub(super) changed: Notify,
}

/// One Agent, for all runtimes.
pub(super) struct RemoteAgent {
    /// `None` for a channel of the user's.
    uri: Option<Uri>,
    tracker: Arc<ConnectionTracker>,
    pub(super) breaker: Breaker,
    pub(super) given_up_gauge: GivenUpGauge,
    pub(super) in_flight: AtomicUsize,
    /// The number of checks that the Agent has answered.
    pub(super) answers: AtomicU64,
    /// The number of times that its connections were replaced. Connections of an earlier generation
    /// may be broken without any sign of it.
    generation: AtomicU64,
    pub(super) failures: RecentFailures,
}

impl Agents {
    pub(super) fn new(config: &RemoteConfig) -> Self {
        let agent = |uri| RemoteAgent {
            uri,
            tracker: Arc::default(),
            breaker: Breaker::new(config.breaker),
            given_up_gauge: GivenUpGauge::default(),
            in_flight: AtomicUsize::new(0),
            answers: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            failures: RecentFailures::default(),
        };
        Self {
            all: match config.connect() {
                Some(connect) => connect.uris.iter().cloned().map(Some).map(agent).collect(),
                None => Box::from([agent(None)]),
            },
            draws: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, agent_index: usize) -> &RemoteAgent {
        &self.all[agent_index]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &RemoteAgent> {
        self.all.iter()
    }

    /// Returns the best state of any Agent, as gRPC does for a set of subchannels.
    pub(super) fn state(&self) -> ConnectionState {
        let rank = |state: &ConnectionState| match state {
            ConnectionState::Ready => 0,
            ConnectionState::Connecting => 1,
            ConnectionState::Idle => 2,
            ConnectionState::TransientFailure => 3,
            _ => 4,
        };
        let best = self.all.iter().map(RemoteAgent::state).min_by_key(rank);
        best.unwrap_or(ConnectionState::Idle)
    }

    /// Returns the less loaded of two Agents that are drawn from those that fit and do not fail, or
    /// from those that fit if all of them fail.
    ///
    /// A slow Agent therefore gets few checks. An Agent that fails fast, or that is suspected and
    /// not given up yet, gets only an occasional retry.
    pub(super) fn choose(&self, fits: impl Fn(usize, &RemoteAgent) -> bool) -> Option<usize> {
        if self.all.len() > 1 {
            let healthy = |agent_index, agent: &RemoteAgent| {
                !agent.failures.is_failing() && fits(agent_index, agent)
            };
            if let Some(agent_index) = self.draw(healthy) {
                return Some(agent_index);
            }
        }
        self.draw(fits)
    }

    fn draw(&self, fits: impl Fn(usize, &RemoteAgent) -> bool) -> Option<usize> {
        let len = self.all.len();
        let first_from = |start: usize| {
            (0..len)
                .map(|step| (start + step) % len)
                .find(|agent_index| fits(*agent_index, &self.all[*agent_index]))
        };
        if len == 1 {
            return first_from(0);
        }
        let draw = mix_bits(self.draws.fetch_add(1, Relaxed));
        let first = first_from(draw as usize % len)?;
        let second = first_from((first + 1 + (draw >> 32) as usize % (len - 1)) % len)?;
        let load = |agent_index: usize| self.all[agent_index].in_flight.load(Relaxed);
        Some(if load(second) < load(first) {
            second
        } else {
            first
        })
    }

    /// Returns a failing Agent whose next retry is due. Returns `None` if there is only one Agent.
    pub(super) fn due_for_retry(
        &self,
        fits: impl Fn(usize, &RemoteAgent) -> bool,
    ) -> Option<usize> {
        if self.all.len() == 1 {
            return None;
        }
        let mut all = self.all.iter().enumerate();
        all.find_map(|(agent_index, agent)| {
            (fits(agent_index, agent) && agent.failures.take_retry()).then_some(agent_index)
        })
    }

    /// Wakes background work that waits for an Agent.
    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }
}

/// Returns a hash whose bits are all evenly distributed for consecutive numbers (the finalizer of
/// SplitMix64).
const fn mix_bits(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

impl RemoteAgent {
    pub(super) fn tracker(&self) -> &ConnectionTracker {
        &self.tracker
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    pub(super) fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, SeqCst) + 1
    }

    /// Clears the failures of an Agent that has returned, so that it gets its share of flows again.
    pub(super) fn mark_returned(&self) {
        self.failures.clear();
    }

    /// Returns the number of checks that the Agent has answered.
    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Relaxed)
    }

    fn state(&self) -> ConnectionState {
        if self.breaker.is_open() {
            ConnectionState::TransientFailure
        } else {
            self.tracker.state()
        }
    }

    pub(super) fn status(&self) -> AgentStatus {
        let mut status = AgentStatus::new(self.address().map(str::to_owned), self.state());
        status.given_up = self.breaker.is_open();
        status.in_flight = self.in_flight.load(Relaxed);
        status
    }

    pub(super) fn address(&self) -> Option<&str> {
        Some(self.uri.as_ref()?.authority()?.as_str())
    }

    /// Returns a new pool of connections in this runtime, which connects when it is first used.
    /// Returns `None` for a channel of the user's.
    pub(super) fn pool(&self, connect: &ConnectConfig, handle: &Handle) -> Option<Arc<Pool>> {
        let connector = Connector::new(self.uri.clone()?, connect, Arc::clone(&self.tracker));
        Some(Pool::new(connector, handle.clone()))
    }
}
