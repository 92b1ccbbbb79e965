//! What fails during a run: one thing after the other, and all is well in between.

use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tower_aperture::ApertureClient;

use crate::account::Account;
use crate::agents::Agent;
use crate::random::Random;

const STALL: Duration = Duration::from_millis(300);

/// Most that an agent which is well may take until it is asked again.
const RETURN: Duration = Duration::from_secs(20);

/// Longer than a check takes at most, so that those of a failure are over.
const SETTLE: Duration = Duration::from_millis(1200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// All threads of the client stand still for 300 ms.
    ClientStall,
    /// The agent's process is stopped for 300 ms.
    AgentStall,
    /// SIGKILL; another process follows.
    Kill,
    /// SIGTERM; another process follows.
    Restart,
    /// The agent's process is stopped for seconds.
    Stop,
    /// Connections are accepted, and nothing comes through until the end.
    Hang,
    /// Connections are accepted, and all bytes are lost.
    BlackHole,
    /// All connections break.
    Cut,
}

impl Fault {
    /// Those after which the agent may hold a slot that the client does not know of: the answer
    /// was lost on its way, or crossed the client's cancellation. Such slots expire.
    pub(crate) const LOSES_ANSWERS: [Self; 4] =
        [Self::Stop, Self::Hang, Self::BlackHole, Self::Cut];

    /// Those after which every slot is known.
    pub(crate) const LOSES_NO_ANSWER: [Self; 4] = [
        Self::ClientStall,
        Self::AgentStall,
        Self::Kill,
        Self::Restart,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ClientStall => "client stalled for 300 ms",
            Self::AgentStall => "agent stalled for 300 ms",
            Self::Kill => "agent killed",
            Self::Restart => "agent restarted gracefully",
            Self::Stop => "agent stopped for seconds",
            Self::Hang => "link hangs for seconds",
            Self::BlackHole => "link loses all bytes for seconds",
            Self::Cut => "connections cut",
        }
    }
}

/// A failure that was caused.
#[derive(Debug)]
pub(crate) struct Episode {
    pub(crate) fault: Fault,
    pub(crate) began: Duration,
    /// When all is as before and no check of that time is under way any more.
    pub(crate) over: Duration,
    /// The most checks that were under way at once meanwhile.
    pub(crate) under_way: usize,
    /// Whether both agents were asked again.
    pub(crate) recovered: bool,
}

/// Causes failures.
pub(crate) struct Injector<'a> {
    pub(crate) agents: &'a mut [Agent],
    pub(crate) client: &'a ApertureClient,
    pub(crate) account: &'a Account,
    /// Where the client runs, and with how many threads.
    pub(crate) runtime: &'a Handle,
    pub(crate) threads: usize,
    pub(crate) random: Random,
    pub(crate) episodes: Vec<Episode>,
}

impl Injector<'_> {
    /// Causes each of these failures in an order of its own.
    pub(crate) fn round(&mut self, faults: &[Fault]) {
        let mut faults = faults.to_vec();
        self.random.shuffle(&mut faults);
        for fault in faults {
            thread::sleep(self.random.millis(200, 800));
            self.cause(fault);
        }
    }

    pub(crate) fn cause(&mut self, fault: Fault) {
        let Self {
            agents,
            account,
            random,
            ..
        } = self;
        let at = usize::try_from(random.below(agents.len() as u64)).expect("an index");
        let agent = &mut agents[at];
        account.under_way.restart();
        let began = account.now();
        match fault {
            Fault::ClientStall => self.stall_client(),
            Fault::AgentStall => {
                agent.signal("STOP");
                thread::sleep(STALL);
                agent.signal("CONT");
            }
            Fault::Kill => {
                agent.kill();
                thread::sleep(random.millis(50, 800));
                agent.start_next(account);
            }
            Fault::Restart => {
                agent.terminate();
                thread::sleep(random.millis(50, 800));
                agent.start_next(account);
            }
            Fault::Stop => {
                agent.signal("STOP");
                thread::sleep(random.millis(1000, 2500));
                agent.signal("CONT");
            }
            Fault::Hang => {
                agent.link.hang();
                thread::sleep(random.millis(1000, 2500));
                agent.link.pass();
            }
            Fault::BlackHole => {
                agent.link.black_hole();
                thread::sleep(random.millis(1000, 2500));
                agent.link.pass();
            }
            Fault::Cut => agent.link.cut(),
        }
        let recovered = self.recovered();
        thread::sleep(SETTLE);
        self.episodes.push(Episode {
            fault,
            began,
            over: self.account.now(),
            under_way: self.account.under_way.peak(),
            recovered,
        });
    }

    /// Waits until every agent answers checks again.
    fn recovered(&self) -> bool {
        let answered: Vec<u64> = self
            .agents
            .iter()
            .map(|agent| agent.incarnation().answers())
            .collect();
        let healed = Instant::now();
        let left = || RETURN.saturating_sub(healed.elapsed());
        while self.client.agents().iter().any(|agent| agent.given_up) {
            if left().is_zero() {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let mut agents = self.agents.iter().zip(answered);
        agents.all(|(agent, answers)| agent.incarnation().answers_again(answers, left()))
    }

    /// Holds up every thread of the client's runtime at once.
    fn stall_client(&self) {
        let until = Instant::now() + STALL;
        for _ in 0..self.threads {
            self.runtime.spawn(async move {
                thread::sleep(until.saturating_duration_since(Instant::now()));
            });
        }
        thread::sleep(STALL);
    }
}
