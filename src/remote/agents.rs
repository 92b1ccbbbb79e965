//! The Agents of a client, their state across runtimes, and the choice among them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use http::Uri;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::breaker::{Breaker, FailureKind, Permit};
use super::config::{ConnectConfig, RemoteConfig};
use super::connection_tracker::ConnectionTracker;
use super::failure::CallFailure;
use super::recent_failures::RecentFailures;
use super::runtime_state::RuntimeState;
use super::transport::{Connector, Pool};
use crate::flow::{AgentStatus, ConnectionState};

/// The longest time between two looks for an available Agent while background work waits for one.
const MAX_RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The Agents of a client. They share their limits, so that each may decide any flow.
pub(super) struct Agents {
    all: Box<[RemoteAgent]>,
    /// The number of random draws so far, from which the next draw is computed.
    draws: AtomicU64,
    /// Notified when an Agent returns and when the client shuts down.
    changed: Notify,
}

/// One Agent, for all runtimes.
pub(super) struct RemoteAgent {
    /// `None` for a channel of the user's.
    uri: Option<Uri>,
    tracker: Arc<ConnectionTracker>,
    pub(super) breaker: Breaker,
    #[cfg(feature = "metrics")]
    pub(super) given_up_gauge: super::meter::GivenUpGauge,
    in_flight: AtomicUsize,
    /// The number of checks that the Agent has answered.
    answers: AtomicU64,
    /// The number of times that its connections were replaced. Connections of an earlier generation
    /// may be broken without any sign of it.
    generation: AtomicU64,
    failures: RecentFailures,
}

impl Agents {
    pub(super) fn new(config: &RemoteConfig) -> Self {
        let agent = |uri| RemoteAgent {
            uri,
            tracker: Arc::default(),
            breaker: Breaker::new(config.breaker),
            #[cfg(feature = "metrics")]
            given_up_gauge: super::meter::GivenUpGauge::default(),
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
    fn choose(&self, fits: impl Fn(usize, &RemoteAgent) -> bool) -> Option<usize> {
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
    fn due_for_retry(&self, fits: impl Fn(usize, &RemoteAgent) -> bool) -> Option<usize> {
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
        AgentStatus {
            address: self.address().map(str::to_owned),
            state: self.state(),
            given_up: self.breaker.is_open(),
            in_flight: self.in_flight.load(Relaxed),
        }
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

/// A check in flight at an Agent.
pub(super) struct InFlightCheck {
    runtime: Arc<RuntimeState>,
    agent_index: usize,
    permit: Permit,
    /// The number of checks that the Agent had answered when this one began.
    answers_before: u64,
}

impl InFlightCheck {
    /// Returns permission to check a flow with an Agent that is not given up. Returning `None`
    /// costs next to nothing. Starts the probes that are due.
    pub(super) fn start(runtime: &Arc<RuntimeState>) -> Option<Self> {
        let agents = &runtime.shared.agents;
        if agents.iter().any(|agent| !agent.breaker.is_closed()) {
            runtime.start_due_probes();
        }
        Self::start_except(runtime, 0)
    }

    /// Returns permission to check a flow with an Agent other than those in `tried`, which has one
    /// bit for each Agent.
    pub(super) fn start_except(runtime: &Arc<RuntimeState>, mut tried: u64) -> Option<Self> {
        let agents = &runtime.shared.agents;
        loop {
            let fits = |agent_index: usize, agent: &RemoteAgent| {
                tried & (1 << agent_index) == 0 && agent.breaker.is_closed()
            };
            let due = agents.due_for_retry(fits);
            let agent_index = due.or_else(|| agents.choose(fits))?;
            if let Some(permit) = agents.get(agent_index).breaker.permit() {
                return Some(Self::new(runtime, agent_index, permit));
            }
            // The Agent was given up since it was chosen.
            tried |= 1 << agent_index;
        }
    }

    /// Returns permission to send one more check to this Agent.
    pub(super) fn start_at(runtime: &Arc<RuntimeState>, agent_index: usize) -> Option<Self> {
        let permit = runtime.shared.agents.get(agent_index).breaker.permit()?;
        Some(Self::new(runtime, agent_index, permit))
    }

    fn new(runtime: &Arc<RuntimeState>, agent_index: usize, permit: Permit) -> Self {
        let agent = runtime.shared.agents.get(agent_index);
        agent.in_flight.fetch_add(1, Relaxed);
        Self {
            runtime: Arc::clone(runtime),
            agent_index,
            permit,
            answers_before: agent.answers(),
        }
    }

    pub(super) const fn runtime(&self) -> &Arc<RuntimeState> {
        &self.runtime
    }

    pub(super) const fn agent_index(&self) -> usize {
        self.agent_index
    }

    fn agent(&self) -> &RemoteAgent {
        self.runtime.shared.agents.get(self.agent_index)
    }

    /// Records that the Agent decided.
    pub(super) fn record_decision(&mut self) {
        self.agent().failures.clear();
        self.record_answer();
    }

    /// Records that the Agent answered, even if with an error.
    pub(super) fn record_answer(&mut self) {
        let agent = self.agent();
        agent.answers.fetch_add(1, Relaxed);
        agent.breaker.record_answer();
    }

    /// Counts a missing decision against the Agent. After enough of them in a row, a confirmation
    /// probe starts.
    pub(super) fn record_failure(&mut self, failure: &CallFailure) {
        let agent = self.agent();
        let first_failure = failure.lowers_preference() && agent.failures.record();
        if first_failure && failure.refuses_client() && self.runtime.shared.agents.len() > 1 {
            log_event!(
                warn,
                agent = agent.address(),
                reason = %failure.message,
                "the Aperture agent refuses checks: it gets fewer checks while other agents decide"
            );
        }
        if failure.is_full() {
            return;
        }
        let failure_kind = match failure.failure_kind() {
            None => return self.record_answer(),
            // Other checks were answered meanwhile: this check took long, but the Agent answers.
            Some(FailureKind::NoAnswer) if self.agent().answers() != self.answers_before => return,
            Some(failure_kind) => failure_kind,
        };
        let agent = self.agent();
        if let Some(suspicion) = agent.breaker.record_failure(self.permit, failure_kind) {
            self.runtime
                .start_confirmation_probe(self.agent_index, suspicion, &failure.message);
        }
        if agent.breaker.is_suspected() {
            // Flows go to the other Agents until this one decides again or the confirmation probe
            // has ended.
            agent.failures.record();
        }
    }
}

impl Drop for InFlightCheck {
    fn drop(&mut self) {
        self.agent().in_flight.fetch_sub(1, Relaxed);
    }
}

impl RuntimeState {
    /// Returns `true` if an Agent other than those in `tried` can be asked about a flow.
    pub(super) fn has_untried_agent(&self, tried: u64) -> bool {
        let mut agents = self.shared.agents.iter().enumerate();
        agents.any(|(agent_index, agent)| {
            tried & (1 << agent_index) == 0 && agent.breaker.is_closed()
        })
    }

    /// Returns an Agent for a call that is no check: `preferred` if it is available and not in
    /// `tried`, else any other such Agent. An Agent in `tried` is returned only if no other is
    /// available.
    pub(super) fn route(&self, preferred: Option<usize>, tried: u64) -> Option<usize> {
        let agents = &self.shared.agents;
        let is_available = |agent_index: usize| !agents.get(agent_index).breaker.is_open();
        let is_untried =
            |agent_index: usize| is_available(agent_index) && tried & (1 << agent_index) == 0;
        preferred
            .filter(|agent_index| is_untried(*agent_index))
            .or_else(|| agents.choose(|agent_index, _| is_untried(agent_index)))
            .or_else(|| preferred.filter(|agent_index| is_available(*agent_index)))
            .or_else(|| agents.choose(|agent_index, _| is_available(agent_index)))
    }

    /// Like [`route`](Self::route), but waits while all Agents are given up. Returns `None` when
    /// `until` passes first. Once the client shuts down it does not wait, and returns `preferred`
    /// even if that Agent is given up.
    pub(super) async fn wait_for_route(
        self: &Arc<Self>,
        preferred: Option<usize>,
        tried: u64,
        until: Instant,
    ) -> Option<usize> {
        let agents = &self.shared.agents;
        loop {
            let mut changed = std::pin::pin!(agents.changed.notified());
            changed.as_mut().enable();
            if let Some(agent_index) = self.route(preferred, tried) {
                return Some(agent_index);
            }
            if self.shared.availability.is_shut_down() {
                return Some(preferred.unwrap_or(0));
            }
            let now = Instant::now();
            if now >= until {
                return None;
            }
            self.start_due_probes();
            let recheck = agents.all[0]
                .breaker
                .probe_interval()
                .min(MAX_RECHECK_INTERVAL);
            let _ = tokio::time::timeout(recheck.min(until - now), changed).await;
        }
    }
}
