//! Checks that go on without a caller, for as long as a grant may still arrive.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::flow::RemoteFlow;
use super::live::Live;
use super::probe::Sign;
use super::queue::{Phase, Queue};
use crate::flow::FlowError;

/// Checks without a caller that may run at once in one runtime; each Agent has an equal share.
const MAX_HANDED_OVER: usize = 1024;

/// The least that an Agent's share is.
const LEAST_SHARE: usize = 128;

/// The least time that a check has for its answer once its caller is gone, whatever the grace of
/// callers is.
const SHORTEST_GRACE: Duration = Duration::from_millis(100);

/// How long a check may wait for an Agent that says nothing at all.
const LONGEST_HOLD: Duration = Duration::from_secs(10);

/// The same, once the client shuts down.
const LAST_HOLD: Duration = Duration::from_secs(2);

/// An Agent that takes longer than this for a sign of life has stood still.
const SIGN_AT_ONCE: Duration = Duration::from_millis(50);

/// Between two attempts to get a sign of life.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// How long one attempt may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// Signs of life of one Agent, for checks without a caller.
pub(super) struct Life {
    /// Counts the signs. It is also sent, unchanged, when the client shuts down.
    signs: watch::Sender<u64>,
    /// The Agent is being asked for one.
    asking: AtomicBool,
}

impl Life {
    pub(super) fn new() -> Self {
        Self {
            signs: watch::Sender::new(0),
            asking: AtomicBool::new(false),
        }
    }

    /// Shortens all waits for a sign.
    pub(super) fn give_up(&self) {
        self.signs.send_modify(|_| ());
    }
}

impl Live {
    /// Takes over a running check whose caller left, or whose time is up. A grant that arrives
    /// within one grace is given back; then the check is cancelled, so that the Agent does not keep
    /// a place in a queue for it.
    ///
    /// An Agent that says nothing at all, such as a stopped process, would read the check and its
    /// cancellation together, and might grant a slot that nobody gives back. A check therefore
    /// stays until the Agent has answered a probe that was sent after it, for [`LONGEST_HOLD`] at
    /// most: an Agent that answers the probe and not the check holds the check in a queue.
    pub(super) fn hand_over<F>(self: &Arc<Self>, at: usize, call: F)
    where
        F: Future<Output = Result<RemoteFlow, FlowError>> + Send + 'static,
    {
        let counters = &self.shared.counters;
        let share = (MAX_HANDED_OVER / self.shared.agents.len()).max(LEAST_SHARE);
        let mut queue = self.queue();
        if queue.phase == Phase::Closed || queue.handed_over[at] >= share {
            drop(queue);
            counters.checks_cancelled.add(1);
            counters.checks_unsettled.add(1);
            return;
        }
        queue.handed_over[at] += 1;
        drop(queue);
        counters.checks_handed_over.add(1);
        let check = HandedOver {
            live: Arc::clone(self),
            at,
            fate: Fate::Unsettled,
        };
        // In the runtime of its own timers: should that be gone, so is the call.
        self.handle().spawn(check.run(call));
    }

    /// Waits for the answer to a probe that started later than now: no longer than
    /// [`LONGEST_HOLD`], and [`LAST_HOLD`] once the client shuts down. Returns `true` when there was
    /// one.
    async fn until_alive(self: &Arc<Self>, at: usize) -> bool {
        let life = self.life(at);
        let mut signs = life.signs.subscribe();
        // The answer to a probe that is under way may be older than the check.
        let under_way = u64::from(life.asking.load(SeqCst));
        let enough = *signs.borrow_and_update() + under_way + 1;
        let mut until = Instant::now() + LONGEST_HOLD;
        while *signs.borrow_and_update() < enough {
            if self.shared.health.is_shut_down() {
                until = until.min(Instant::now() + LAST_HOLD);
            }
            self.ask_for_life(at);
            if timeout_at(until, signs.changed()).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Probes an Agent until it answers or no check waits for that any more.
    fn ask_for_life(self: &Arc<Self>, at: usize) {
        if self.life(at).asking.swap(true, SeqCst) {
            return;
        }
        let asking = AskingForLife(Arc::clone(self), at);
        self.spawn_probe(at, async move {
            let live = Arc::clone(&asking.0);
            let life = live.life(at);
            while life.signs.receiver_count() > 0 {
                if live.sign(live.channel(at), at, LOOK_PATIENCE).await == Sign::There {
                    // Before the sign: the next probe may start with it.
                    drop(asking);
                    life.signs.send_modify(|signs| *signs += 1);
                    return;
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        });
    }
}

/// Resets the mark that an Agent is being asked.
struct AskingForLife(Arc<Live>, usize);

impl Drop for AskingForLife {
    fn drop(&mut self) {
        self.0.life(self.1).asking.store(false, SeqCst);
    }
}

/// A check that runs without its caller.
struct HandedOver {
    live: Arc<Live>,
    at: usize,
    fate: Fate,
}

/// What is known about the slots of a check.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The check was answered, or failed by itself.
    Settled,
    /// It was cancelled while the Agent was there to take note.
    Cancelled,
    /// It is over, and the Agent may have granted a slot.
    Unsettled,
}

impl HandedOver {
    async fn run<F>(mut self, call: F)
    where
        F: Future<Output = Result<RemoteFlow, FlowError>>,
    {
        let live = Arc::clone(&self.live);
        let grace = live.shared.config.check_grace;
        let grace = grace.clamp(SHORTEST_GRACE, LONGEST_HOLD);
        let mut call = pin!(call);
        if let Ok(answer) = timeout(grace, call.as_mut()).await {
            return self.settle(answer);
        }
        let begun = Instant::now();
        let alive = pin!(live.until_alive(self.at));
        let alive = match first_of(call.as_mut(), alive).await {
            First::Answer(answer) => return self.settle(answer),
            First::Alive(alive) => alive,
        };
        // An Agent that stood still answers what it finds, the sign of life and then the check.
        if begun.elapsed() > SIGN_AT_ONCE
            && let Ok(answer) = timeout(grace, call.as_mut()).await
        {
            return self.settle(answer);
        }
        if alive {
            self.fate = Fate::Cancelled;
        }
    }

    fn settle(&mut self, answer: Result<RemoteFlow, FlowError>) {
        self.fate = Fate::Settled;
        if let Ok(flow) = answer {
            flow.give_back();
        }
    }
}

impl Drop for HandedOver {
    fn drop(&mut self) {
        let counters = &self.live.shared.counters;
        if self.fate != Fate::Settled {
            counters.checks_cancelled.add(1);
        }
        if self.fate == Fate::Unsettled {
            counters.checks_unsettled.add(1);
        }
        let mut queue = self.live.queue();
        queue.handed_over[self.at] -= 1;
        if queue.phase != Phase::Open {
            Queue::wake(queue);
        }
    }
}

enum First<T> {
    Answer(T),
    Alive(bool),
}

/// Waits for either; an answer wins.
async fn first_of<A: Future>(
    mut call: Pin<&mut A>,
    mut alive: Pin<&mut impl Future<Output = bool>>,
) -> First<A::Output> {
    poll_fn(|cx| match call.as_mut().poll(cx) {
        Poll::Ready(answer) => Poll::Ready(First::Answer(answer)),
        Poll::Pending => alive.as_mut().poll(cx).map(First::Alive),
    })
    .await
}
