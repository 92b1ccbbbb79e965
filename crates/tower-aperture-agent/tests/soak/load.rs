//! Runs callers, each of which repeatedly starts a flow and ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tower_aperture::{ApertureClient, Flow, FlowParams, FlowStatus};

use crate::account::{Account, Point};
use crate::random::Random;

/// The kinds of flows that callers start, in percent.
#[derive(Clone, Copy)]
pub(crate) struct FlowMix {
    /// Flows at [`Point::Queue`]. The flows that belong neither there nor to [`Point::Rate`] are at
    /// [`Point::Slots`].
    pub(crate) at_queue: u64,
    /// Flows at [`Point::Rate`].
    pub(crate) at_rate: u64,
    /// Flows whose caller may cancel the check.
    pub(crate) cancelled: u64,
}

impl FlowMix {
    pub(crate) const MIXED: Self = Self {
        at_queue: 25,
        at_rate: 25,
        cancelled: 5,
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
        mix: FlowMix,
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
                mix,
                random: Random::new(seeds.next()),
            };
            let stop = Arc::clone(&stop);
            let run = async move {
                // Spread the start of the callers.
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

    /// Waits until every caller has ended its last flow; returns `false` at the timeout.
    pub(crate) async fn stop(mut self, limit: Duration) -> bool {
        self.stop.store(true, SeqCst);
        let all = async { while self.callers.join_next().await.is_some() {} };
        timeout(limit, all).await.is_ok()
    }
}

struct Caller {
    client: ApertureClient,
    account: Account,
    mix: FlowMix,
    random: Random,
}

impl Caller {
    async fn flow(&mut self) {
        let FlowMix {
            at_queue,
            at_rate,
            cancelled,
        } = self.mix;
        let point = match self.random.below(100) {
            draw if draw < at_queue => Point::Queue,
            draw if draw < at_queue + at_rate => Point::Rate,
            _ => Point::Slots,
        };
        // The caller may cancel before the check is sent, or as late as long after its answer.
        let may_cancel = self.random.percent(cancelled);
        let cancel_after = may_cancel.then(|| self.random.millis(0, 120));
        let ongoing = self.account.start_check(point);
        let check = self.client.start_flow(point.name(), FlowParams::new());
        let flow = match cancel_after {
            None => check.await,
            Some(limit) => match timeout(limit, check).await {
                Ok(flow) => flow,
                Err(_) => return,
            },
        };
        let slot = ongoing.record_answer(&flow);
        if flow.should_run() {
            let longest = if self.random.percent(2) { 100 } else { 20 };
            sleep(self.random.millis(0, longest)).await;
        }
        let holds_slot = slot.is_some();
        drop(slot);
        self.end(flow, holds_slot);
    }

    /// Ends a flow in a random way.
    fn end(&mut self, flow: Flow, holds_slot: bool) {
        match self.random.below(4) {
            0 => drop(flow),
            1 => flow.finish(FlowStatus::Ok),
            _ if !holds_slot => flow.finish(FlowStatus::Error),
            // The response may take long while an agent is down, so the caller does not wait.
            _ => {
                let account = self.account.clone();
                account.ends.awaited.fetch_add(1, SeqCst);
                tokio::spawn(async move {
                    let response = flow.end().await;
                    account.record_end(&response);
                });
            }
        }
    }
}
