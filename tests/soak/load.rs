//! The callers: each asks, runs its flow, ends it, and asks again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_aperture::{ApertureClient, Flow, FlowParams, FlowStatus};

use crate::account::{Account, Point};
use crate::random::Random;

/// What callers do.
#[derive(Clone, Copy)]
pub(crate) struct Habits {
    /// How many of a hundred flows ask at [`Point::Queue`] and at [`Point::Rate`]; the others ask
    /// at [`Point::Slots`].
    pub(crate) at_queue: u64,
    pub(crate) at_rate: u64,
    /// How many of a hundred leave while they are asked about.
    pub(crate) leave: u64,
}

impl Habits {
    pub(crate) const MIXED: Self = Self {
        at_queue: 25,
        at_rate: 25,
        leave: 5,
    };
}

/// Callers that run until they are stopped.
pub(crate) struct Load {
    callers: JoinSet<()>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Starts the callers in the client's runtime.
    pub(crate) fn start(
        handle: &Handle,
        callers: usize,
        habits: Habits,
        seed: u64,
        client: &ApertureClient,
        account: &Account,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut seeds = Random::new(seed);
        let mut started = JoinSet::new();
        for _ in 0..callers {
            let mut caller = Caller {
                client: client.clone(),
                account: account.clone(),
                habits,
                random: Random::new(seeds.next()),
            };
            let stop = Arc::clone(&stop);
            let run = async move {
                // Not all at once.
                sleep(caller.random.millis(0, 50)).await;
                while !stop.load(SeqCst) {
                    caller.flow().await;
                }
            };
            started.spawn_on(run, handle);
        }
        Self {
            callers: started,
            stop,
        }
    }

    /// Lets every caller finish its flow; `false` when one takes longer than `most`.
    pub(crate) async fn stop(mut self, most: Duration) -> bool {
        self.stop.store(true, SeqCst);
        let all = async { while self.callers.join_next().await.is_some() {} };
        timeout(most, all).await.is_ok()
    }
}

struct Caller {
    client: ApertureClient,
    account: Account,
    habits: Habits,
    random: Random,
}

impl Caller {
    async fn flow(&mut self) {
        let Habits {
            at_queue,
            at_rate,
            leave,
        } = self.habits;
        let point = match self.random.below(100) {
            draw if draw < at_queue => Point::Queue,
            draw if draw < at_queue + at_rate => Point::Rate,
            _ => Point::Slots,
        };
        // From before the check is sent until long after its answer.
        let patience = self.random.percent(leave);
        let patience = patience.then(|| self.random.millis(0, 120));
        let asking = self.account.ask(point);
        let check = self.client.start_flow(point.name(), FlowParams::new());
        let flow = match patience {
            None => check.await,
            Some(patience) => match timeout(patience, check).await {
                Ok(flow) => flow,
                Err(_) => return,
            },
        };
        let runs = asking.answered(&flow);
        if flow.should_run() {
            let longest = if self.random.percent(2) { 100 } else { 20 };
            sleep(self.random.millis(0, longest)).await;
        }
        let holds = runs.is_some();
        drop(runs);
        self.end(flow, holds);
    }

    /// Ends a flow in one of the ways there are.
    fn end(&mut self, flow: Flow, holds: bool) {
        match self.random.below(4) {
            0 => drop(flow),
            1 => flow.finish(FlowStatus::Ok),
            _ if !holds => flow.finish(FlowStatus::Error),
            // The answer may take long while an agent is away; the caller goes on.
            _ => {
                let account = self.account.clone();
                account.ends.awaited.fetch_add(1, SeqCst);
                tokio::spawn(async move {
                    let response = flow.end().await;
                    account.end_answered(&response);
                });
            }
        }
    }
}
