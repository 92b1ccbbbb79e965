//! Sets up and executes a run: agents, their links, one client, its callers, and injected failures.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tower_aperture::ApertureClient;

use crate::account::Account;
use crate::agents::{Agent, EXPIRY, Limits};
use crate::faults::{Fault, Injector};
use crate::load::{FlowMix, Load};
use crate::machine::PauseMonitor;
use crate::random::Random;
use crate::report::Report;

/// Threads of the client's runtime.
const THREADS: usize = 2;

/// Timeout for the last flows and their ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Allows one run at a time, because concurrent runs would slow each other and seem to fail.
static RUN_LOCK: Mutex<()> = Mutex::new(());

pub(crate) struct Plan {
    /// How many flows start before the last round.
    pub(crate) flows: u64,
    pub(crate) callers: usize,
    pub(crate) seed: u64,
}

/// Agents, and a client that reaches them over links with a delay of 20 ms in each direction.
///
/// The client has its own runtime, so that it can stall while agents and links continue.
pub(crate) struct Setup {
    pub(crate) agents: Vec<Agent>,
    pub(crate) client: ApertureClient,
    pub(crate) account: Account,
    pub(crate) runtime: Runtime,
    links: Runtime,
    _run_lock: MutexGuard<'static, ()>,
}

fn runtime(name: &str, threads: usize) -> Runtime {
    let mut builder = Builder::new_multi_thread();
    let builder = builder
        .worker_threads(threads)
        .thread_name(name)
        .enable_all();
    builder.build().expect("a runtime")
}

impl Setup {
    pub(crate) fn new(agents: usize, limits: Limits) -> Self {
        let run_lock = RUN_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let links = runtime("links", 1);
        let account = Account::new(limits);
        let letters = ('a'..).take(agents);
        let agents: Vec<Agent> = letters
            .map(|letter| Agent::start(letter, limits, links.handle(), &account))
            .collect();
        let addresses = agents.iter().map(|agent| agent.link.address().to_string());
        let client = ApertureClient::builder()
            .addresses(addresses)
            .insecure(true)
            .build()
            .expect("a client");
        Self {
            agents,
            client,
            account,
            runtime: runtime("client", THREADS),
            links,
            _run_lock: run_lock,
        }
    }

    pub(crate) fn load(&self, callers: usize, mix: FlowMix, seed: u64) -> Load {
        let handle = self.runtime.handle();
        let load = Load::start(handle, callers, mix, seed, &self.client, &self.account);
        // The first answers show that the connections work.
        for agent in &self.agents {
            assert!(
                agent.incarnation().wait_for_answer(0, DRAIN_TIMEOUT),
                "the agent answers"
            );
        }
        load
    }

    pub(crate) fn injector(&mut self, seed: u64) -> Injector<'_> {
        Injector {
            agents: &mut self.agents,
            client: &self.client,
            account: &self.account,
            runtime: self.runtime.handle(),
            threads: THREADS,
            random: Random::new(seed),
            episodes: Vec::new(),
        }
    }

    /// Stops the callers; returns `false` if a flow does not end in time.
    pub(crate) fn stop(&self, load: Load) -> bool {
        self.links.block_on(load.stop(DRAIN_TIMEOUT))
    }

    /// Returns how many slots flows hold at all agents.
    pub(crate) fn held_slots(&self) -> f64 {
        let agents = self.agents.iter();
        agents
            .map(|agent| self.links.block_on(agent.held_slots()))
            .sum()
    }

    pub(crate) fn shut_down(&self) -> bool {
        self.runtime.block_on(self.client.shutdown(DRAIN_TIMEOUT))
    }
}

/// Runs callers while failures are injected one after the other, until the planned flows have
/// started.
///
/// The last round injects only failures after which the client knows every slot. It lasts longer
/// than a slot takes to expire, so any slot that is held at its end was lost by the client.
pub(crate) fn run(plan: &Plan) -> Report {
    let callers = plan.callers;
    let limits = Limits {
        slots: callers / 8,
        queue: callers / 16,
        capacity: callers,
        fill: callers,
    };
    let mut seeds = Random::new(plan.seed);
    let mut setup = Setup::new(2, limits);
    let began = Instant::now();
    let monitor = PauseMonitor::start(&setup.account);
    let load = setup.load(callers, FlowMix::MIXED, seeds.next());

    let account = setup.account.clone();
    let started = || account.started.load(std::sync::atomic::Ordering::SeqCst);
    let mut injector = setup.injector(seeds.next());
    injector.round(&Fault::LOSES_ANSWERS);
    while started() < plan.flows {
        injector.round(&[Fault::LOSES_ANSWERS, Fault::LOSES_NO_ANSWER].concat());
    }
    let last_round = Instant::now();
    injector.round(&Fault::LOSES_NO_ANSWER);
    let episodes = injector.episodes;
    thread::sleep((EXPIRY + Duration::from_secs(1)).saturating_sub(last_round.elapsed()));

    let callers_ended = setup.stop(load);
    let took = began.elapsed();
    thread::sleep(Duration::from_secs(1));
    let held = setup.held_slots();
    let shut_down = setup.shut_down();
    let pauses = monitor.stop();
    Report {
        seed: plan.seed,
        callers,
        limits,
        took,
        stats: setup.client.stats(),
        account,
        episodes,
        pauses,
        callers_ended,
        held,
        shut_down,
    }
}
