//! A run: two agents, their links, one client, its callers, and what fails meanwhile.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tower_aperture::ApertureClient;

use crate::account::Account;
use crate::agents::{Agent, EXPIRY, Limits};
use crate::faults::{Fault, Injector};
use crate::load::{Habits, Load};
use crate::machine::Watch;
use crate::random::Random;
use crate::report::Report;

/// Threads of the client's runtime.
const THREADS: usize = 2;

/// Longer than the last flows and their ends take.
const LAST: Duration = Duration::from_secs(30);

/// One run at a time: they would count each other's load as failures.
static ALONE: Mutex<()> = Mutex::new(());

pub(crate) struct Plan {
    /// How many flows start before the last round.
    pub(crate) flows: u64,
    pub(crate) callers: usize,
    pub(crate) seed: u64,
}

/// Agents, and a client that reaches them over links of 20 ms each way.
///
/// The client has a runtime of its own, which can be held up while agents and links go on.
pub(crate) struct Setup {
    pub(crate) agents: Vec<Agent>,
    pub(crate) client: ApertureClient,
    pub(crate) account: Account,
    pub(crate) runtime: Runtime,
    links: Runtime,
    _alone: MutexGuard<'static, ()>,
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
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
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
            _alone: alone,
        }
    }

    pub(crate) fn load(&self, callers: usize, habits: Habits, seed: u64) -> Load {
        let handle = self.runtime.handle();
        let load = Load::start(handle, callers, habits, seed, &self.client, &self.account);
        // The first answers make sure of the connections.
        for agent in &self.agents {
            assert!(
                agent.incarnation().answers_again(0, LAST),
                "an agent answers"
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

    /// Stops the callers; `false` when a flow does not come to its end.
    pub(crate) fn stop(&self, load: Load) -> bool {
        self.links.block_on(load.stop(LAST))
    }

    /// Returns how many slots flows hold at all agents.
    pub(crate) fn held(&self) -> f64 {
        let agents = self.agents.iter();
        agents.map(|agent| self.links.block_on(agent.held())).sum()
    }

    pub(crate) fn shut_down(&self) -> bool {
        self.runtime.block_on(self.client.shutdown(LAST))
    }
}

/// Runs callers until the flows have started, while one thing after the other fails.
///
/// The last round has only failures after which the agents hold no slot that the client does not
/// know of. It takes longer than slots last, so that what is held at its end was lost by the client.
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
    let watch = Watch::start(&setup.account);
    let load = setup.load(callers, Habits::MIXED, seeds.next());

    let account = setup.account.clone();
    let started = || account.started.load(std::sync::atomic::Ordering::SeqCst);
    let mut injector = setup.injector(seeds.next());
    injector.round(&Fault::LOSES_ANSWERS);
    while started() < plan.flows {
        injector.round(&[Fault::LOSES_ANSWERS, Fault::LOSES_NO_ANSWER].concat());
    }
    let last = Instant::now();
    injector.round(&Fault::LOSES_NO_ANSWER);
    let episodes = injector.episodes;
    thread::sleep((EXPIRY + Duration::from_secs(1)).saturating_sub(last.elapsed()));

    let callers_ended = setup.stop(load);
    let took = began.elapsed();
    thread::sleep(Duration::from_secs(1));
    let held = setup.held();
    let shut_down = setup.shut_down();
    let pauses = watch.stop();
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
