//! Injects failures during a run, one at a time, each followed by a recovery.

use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tower_aperture::ApertureClient;

use crate::account::Account;
use crate::agents::Agent;
use crate::random::Random;

const STALL: Duration = Duration::from_millis(300);

/// Maximum time until a working agent gets checks again.
const MAX_RECOVERY: Duration = Duration::from_secs(20);

/// Time after a recovery, longer than any check, so that all checks of the failure are over.
const SETTLE: Duration = Duration::from_millis(1200);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// All threads of the client stall for 300 ms.
    ClientStall,
    /// SIGSTOP stops the agent's process for 300 ms.
    AgentStall,
    /// SIGKILL kills the agent's process, and another process follows.
    Kill,
    /// SIGTERM shuts the agent down, and another process follows.
    Restart,
    /// SIGSTOP stops the agent's process for seconds.
    Stop,
    /// The link accepts connections and holds all bytes for seconds.
    Hang,
    /// The link accepts connections and loses all bytes for seconds.
    BlackHole,
    /// The link closes all connections.
    Cut,
}

impl Fault {
    /// Failures after which the agent may hold a slot that the client does not know, because the
    /// answer was lost or crossed the client's cancellation. Such slots expire.
    pub(crate) const LOSES_ANSWERS: [Self; 4] =
        [Self::Stop, Self::Hang, Self::BlackHole, Self::Cut];

    /// Failures after which the client knows every slot.
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

/// An injected failure.
#[derive(Debug)]
pub(crate) struct Episode {
    pub(crate) fault: Fault,
    pub(crate) began: Duration,
    /// When the failure was over and its last check had ended.
    pub(crate) over: Duration,
    /// The maximum number of checks under way at once during the failure.
    pub(crate) under_way: usize,
    /// Whether both agents got checks again.
    pub(crate) recovered: bool,
}

/// Injects failures.
pub(crate) struct Injector<'a> {
    pub(crate) agents: &'a mut [Agent],
    pub(crate) client: &'a ApertureClient,
    pub(crate) account: &'a Account,
    /// The runtime of the client.
    pub(crate) runtime: &'a Handle,
    /// The number of threads of that runtime.
    pub(crate) threads: usize,
    pub(crate) random: Random,
    pub(crate) episodes: Vec<Episode>,
}

impl Injector<'_> {
    /// Injects each of these failures once, in random order.
    pub(crate) fn round(&mut self, faults: &[Fault]) {
        let mut faults = faults.to_vec();
        self.random.shuffle(&mut faults);
        for fault in faults {
            thread::sleep(self.random.millis(200, 800));
            self.inject(fault);
        }
    }

    pub(crate) fn inject(&mut self, fault: Fault) {
        let Self {
            agents,
            account,
            random,
            ..
        } = self;
        let at = usize::try_from(random.below(agents.len() as u64)).expect("an index");
        let agent = &mut agents[at];
        account.under_way.reset_peak();
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
        let recovered = self.wait_for_recovery();
        thread::sleep(SETTLE);
        self.episodes.push(Episode {
            fault,
            began,
            over: self.account.now(),
            under_way: self.account.under_way.peak(),
            recovered,
        });
    }

    /// Waits until every agent answers checks again; returns `false` after [`MAX_RECOVERY`].
    fn wait_for_recovery(&self) -> bool {
        let answered: Vec<u64> = self
            .agents
            .iter()
            .map(|agent| agent.incarnation().answers())
            .collect();
        let healed = Instant::now();
        let remaining = || MAX_RECOVERY.saturating_sub(healed.elapsed());
        while self.client.agents().iter().any(|agent| agent.given_up) {
            if remaining().is_zero() {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let mut agents = self.agents.iter().zip(answered);
        agents.all(|(agent, answers)| agent.incarnation().wait_for_answer(answers, remaining()))
    }

    /// Blocks every thread of the client's runtime at the same time.
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
