//! The Agents of a client, the choice among them, and what is known about each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use http::Uri;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::breaker::{Breaker, Evidence, Pass};
use super::config::{Connect, RemoteConfig};
use super::failure::Failure;
use super::link::Link;
use super::live::Live;
use super::recent_failures::RecentFailures;
use super::transport::{Connector, Pool};
use crate::flow::{AgentStatus, ConnectionState};

/// Between two looks at Agents that are away, while work in the background waits for one.
const LONGEST_LOOK: Duration = Duration::from_secs(1);

/// The Agents, which share their limits: any may decide about any flow.
pub(super) struct Agents {
    all: Box<[Agent]>,
    /// Drawn from to choose.
    turn: AtomicU64,
    /// An Agent is back, or the client shuts down.
    changed: Notify,
}

/// One Agent, for all runtimes.
pub(super) struct Agent {
    /// None for a channel that somebody else looks after.
    uri: Option<Uri>,
    link: Arc<Link>,
    pub(super) breaker: Breaker,
    #[cfg(feature = "metrics")]
    pub(super) away: super::meter::Away,
    in_flight: AtomicUsize,
    /// Checks it has answered.
    answers: AtomicU64,
    /// Counts its returns: connections made before the last one may lead nowhere.
    generation: AtomicU64,
    failures: RecentFailures,
}

// === impl Agents ===

impl Agents {
    pub(super) fn new(config: &RemoteConfig) -> Self {
        let agent = |uri| Agent {
            uri,
            link: Arc::default(),
            breaker: Breaker::new(config.breaker),
            #[cfg(feature = "metrics")]
            away: super::meter::Away::default(),
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
            turn: AtomicU64::new(0),
            changed: Notify::new(),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn get(&self, at: usize) -> &Agent {
        &self.all[at]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Agent> {
        self.all.iter()
    }

    /// The best that any of them is in, as in gRPC.
    pub(super) fn state(&self) -> ConnectionState {
        let rank = |state: &ConnectionState| match state {
            ConnectionState::Ready => 0,
            ConnectionState::Connecting => 1,
            ConnectionState::Idle => 2,
            ConnectionState::TransientFailure => 3,
            ConnectionState::Shutdown => 4,
        };
        let best = self.all.iter().map(Agent::state).min_by_key(rank);
        best.unwrap_or(ConnectionState::Idle)
    }

    /// Returns the less busy of two that are drawn from those that fit and do not fail, or from
    /// those that fit when all of them fail.
    ///
    /// An Agent that is slow gets little that way. One that fails fast, or that is suspected and
    /// not given up yet, gets nothing but a try now and then.
    fn choose(&self, fits: impl Fn(usize, &Agent) -> bool) -> Option<usize> {
        if self.all.len() > 1 {
            let well = |at, agent: &Agent| !agent.failures.is_failing() && fits(at, agent);
            if let Some(at) = self.draw(well) {
                return Some(at);
            }
        }
        self.draw(fits)
    }

    fn draw(&self, fits: impl Fn(usize, &Agent) -> bool) -> Option<usize> {
        let len = self.all.len();
        let from = |start: usize| {
            (0..len)
                .map(|step| (start + step) % len)
                .find(|at| fits(*at, &self.all[*at]))
        };
        if len == 1 {
            return from(0);
        }
        let draw = spread(self.turn.fetch_add(1, Relaxed));
        let first = from(draw as usize % len)?;
        let second = from((first + 1 + (draw >> 32) as usize % (len - 1)) % len)?;
        let load = |at: usize| self.all[at].in_flight.load(Relaxed);
        Some(if load(second) < load(first) {
            second
        } else {
            first
        })
    }

    /// Returns an Agent that fails and whose next try is due, if that is not the only one.
    fn due_for_a_try(&self, fits: impl Fn(usize, &Agent) -> bool) -> Option<usize> {
        if self.all.len() == 1 {
            return None;
        }
        let mut all = self.all.iter().enumerate();
        all.find_map(|(at, agent)| (fits(at, agent) && agent.failures.may_try()).then_some(at))
    }

    /// Wakes what waits in the background.
    pub(super) fn notify(&self) {
        self.changed.notify_waiters();
    }
}

/// Even over all its bits for numbers in a row (the finish of SplitMix64).
const fn spread(n: u64) -> u64 {
    let n = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

// === impl Agent ===

impl Agent {
    pub(super) fn link(&self) -> &Link {
        &self.link
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation.load(SeqCst)
    }

    pub(super) fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, SeqCst) + 1
    }

    /// It is back: flows go to it as to any other.
    pub(super) fn returned(&self) {
        self.failures.clear();
    }

    /// How many checks it has answered.
    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Relaxed)
    }

    fn state(&self) -> ConnectionState {
        if self.breaker.is_open() {
            ConnectionState::TransientFailure
        } else {
            self.link.state()
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

    /// Returns a new pool of connections in this runtime; none for a channel of the user's. It
    /// connects when it is first used.
    pub(super) fn pool(&self, connect: &Connect, runtime: &Handle) -> Option<Arc<Pool>> {
        let connector = Connector::new(self.uri.clone()?, connect, Arc::clone(&self.link));
        Some(Pool::new(connector, runtime.clone()))
    }
}

/// A check under way at an Agent.
pub(super) struct Asking {
    live: Arc<Live>,
    at: usize,
    pass: Pass,
    /// How many checks the Agent had answered.
    answers: u64,
}

impl Asking {
    /// Gives permission to ask an Agent that is not given up; `None` costs next to nothing. Probes
    /// that are due start.
    pub(super) fn start(live: &Arc<Live>) -> Option<Self> {
        let agents = &live.shared.agents;
        if agents.iter().any(|agent| !agent.breaker.is_closed()) {
            live.probe_where_due();
        }
        Self::among(live, 0)
    }

    /// Leave to ask an Agent other than those `tried`, a bit for each.
    pub(super) fn among(live: &Arc<Live>, mut tried: u64) -> Option<Self> {
        let agents = &live.shared.agents;
        loop {
            let fits =
                |at: usize, agent: &Agent| tried & (1 << at) == 0 && agent.breaker.is_closed();
            let due = agents.due_for_a_try(fits);
            let at = due.or_else(|| agents.choose(fits))?;
            if let Some(pass) = agents.get(at).breaker.pass() {
                return Some(Self::new(live, at, pass));
            }
            // Given up just now.
            tried |= 1 << at;
        }
    }

    /// Leave to ask this Agent once more.
    pub(super) fn again(live: &Arc<Live>, at: usize) -> Option<Self> {
        let pass = live.shared.agents.get(at).breaker.pass()?;
        Some(Self::new(live, at, pass))
    }

    fn new(live: &Arc<Live>, at: usize, pass: Pass) -> Self {
        let agent = live.shared.agents.get(at);
        agent.in_flight.fetch_add(1, Relaxed);
        Self {
            live: Arc::clone(live),
            at,
            pass,
            answers: agent.answers(),
        }
    }

    pub(super) const fn live(&self) -> &Arc<Live> {
        &self.live
    }

    pub(super) const fn at(&self) -> usize {
        self.at
    }

    fn agent(&self) -> &Agent {
        self.live.shared.agents.get(self.at)
    }

    /// The Agent decided.
    pub(super) fn decided(&mut self) {
        self.agent().failures.clear();
        self.answered();
    }

    /// The Agent said something, be it a refusal.
    pub(super) fn answered(&mut self) {
        let agent = self.agent();
        agent.answers.fetch_add(1, Relaxed);
        agent.breaker.answered();
    }

    /// Counts the lack of a decision against the Agent, which is examined after enough of them.
    pub(super) fn failed(&mut self, failure: &Failure) {
        let agent = self.agent();
        let first = failure.repels() && agent.failures.count();
        if first && failure.is_refusal() && self.live.shared.agents.len() > 1 {
            log_event!(
                warn,
                agent = agent.address(),
                reason = %failure.message,
                "the Aperture agent refuses checks: it is asked less while other agents decide"
            );
        }
        if failure.is_full() {
            return;
        }
        let evidence = match failure.evidence() {
            None => return self.answered(),
            // Others were answered meanwhile: this check took long, the Agent is not away.
            Some(Evidence::Silence) if self.agent().answers() != self.answers => return,
            Some(evidence) => evidence,
        };
        let agent = self.agent();
        if let Some(suspicion) = agent.breaker.failed(self.pass, evidence) {
            self.live.examine(self.at, suspicion, &failure.message);
        }
        if agent.breaker.is_suspected() {
            // Flows go to the other Agents until this one decides again, or has been examined.
            agent.failures.count();
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.agent().in_flight.fetch_sub(1, Relaxed);
    }
}

impl Live {
    /// Tells whether an Agent other than those `tried` can be asked about a flow.
    pub(super) fn could_ask_another(&self, tried: u64) -> bool {
        let mut agents = self.shared.agents.iter().enumerate();
        agents.any(|(at, agent)| tried & (1 << at) == 0 && agent.breaker.is_closed())
    }

    /// An Agent for what is no check: `first` if it is not given up, another if there is one,
    /// but one of `tried` only for lack of any other.
    pub(super) fn route(&self, first: Option<usize>, tried: u64) -> Option<usize> {
        let agents = &self.shared.agents;
        let there = |at: usize| !agents.get(at).breaker.is_open();
        let fresh = |at: usize| there(at) && tried & (1 << at) == 0;
        first
            .filter(|at| fresh(*at))
            .or_else(|| agents.choose(|at, _| fresh(at)))
            .or_else(|| first.filter(|at| there(*at)))
            .or_else(|| agents.choose(|at, _| there(at)))
    }

    /// Like [`route`](Self::route), but waits while all are given up; `None` when `until` comes
    /// first. A client that shuts down waits no more: then it is `first`, in the state it is in.
    pub(super) async fn wait_for_route(
        self: &Arc<Self>,
        first: Option<usize>,
        tried: u64,
        until: Instant,
    ) -> Option<usize> {
        let agents = &self.shared.agents;
        loop {
            let mut changed = std::pin::pin!(agents.changed.notified());
            changed.as_mut().enable();
            if let Some(at) = self.route(first, tried) {
                return Some(at);
            }
            if self.shared.health.is_shut_down() {
                return Some(first.unwrap_or(0));
            }
            let now = Instant::now();
            if now >= until {
                return None;
            }
            self.probe_where_due();
            let look = agents.all[0].breaker.probe_interval().min(LONGEST_LOOK);
            let _ = tokio::time::timeout(look.min(until - now), changed).await;
        }
    }
}
