//! One HTTP/2 connection and the streams that are taken on it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Notify;

use super::Purpose;
use super::wire::Wire;

/// The most streams that checks leave free on a connection.
///
/// The worker keeps at most so many calls under way: ends, changes to caches and spans. Probes
/// come on top, one at a time.
const MOST_RESERVED: usize = 16;

/// An open connection. It closes once nothing holds it any more: neither the pool, nor a call, nor
/// a flow whose end must go out on it.
pub(in crate::remote) struct Connection {
    sender: SendRequest<Bytes>,
    pub(super) state: Arc<State>,
}

/// What a connection, its driver and its leases share.
pub(super) struct State {
    /// How many streams the peer allows at once.
    limit: AtomicUsize,
    in_use: AtomicUsize,
    /// Those of them that are in use for the background.
    background: AtomicUsize,
    /// No more calls begin on it.
    closed: AtomicBool,
    /// Counts the streams that were ever taken.
    taken: AtomicUsize,
    pub(super) wire: Arc<Wire>,
    waiters: Arc<Waiters>,
}

/// The calls that wait for a stream or a connection.
#[derive(Default)]
pub(super) struct Waiters {
    flows: Queue,
    background: Queue,
    /// The pool is gone.
    gone: AtomicBool,
    leaving: Notify,
}

#[derive(Default)]
struct Queue {
    len: AtomicUsize,
    wake: Notify,
}

// === impl Connection ===

impl Connection {
    pub(super) const fn new(sender: SendRequest<Bytes>, state: Arc<State>) -> Self {
        Self { sender, state }
    }

    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Tells whether new calls would fail: the connection is lost, the peer is closing it, or its
    /// stream identifiers are used up.
    pub(super) fn refuses_calls(&self) -> bool {
        // A fresh sender waits for nothing; this only asks for the connection's error.
        let cx = &mut Context::from_waker(Waker::noop());
        matches!(self.sender().poll_ready(cx), Poll::Ready(Err(_)))
    }

    /// Takes a stream, if one is free for this purpose.
    pub(super) fn take(self: &Arc<Self>, purpose: Purpose) -> Option<Lease> {
        self.state.take(purpose).then(|| Lease {
            connection: Arc::clone(self),
            purpose,
        })
    }
}

// === impl State ===

impl State {
    pub(super) fn new(limit: usize, wire: Arc<Wire>, waiters: Arc<Waiters>) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            in_use: AtomicUsize::new(0),
            background: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            taken: AtomicUsize::new(0),
            wire,
            waiters,
        })
    }

    /// How many streams may be in use for another call of this purpose to begin.
    pub(super) fn room(&self, purpose: Purpose) -> usize {
        let limit = self.limit.load(SeqCst);
        match purpose {
            Purpose::Flow => limit - reserved(limit),
            Purpose::Background => limit,
        }
    }

    fn take(&self, purpose: Purpose) -> bool {
        if self.closed.load(SeqCst) {
            return false;
        }
        let room = self.room(purpose);
        let free = |in_use| (in_use < room).then_some(in_use + 1);
        let taken = self.in_use.fetch_update(SeqCst, SeqCst, free).is_ok();
        if taken {
            self.taken.fetch_add(1, Relaxed);
            if purpose == Purpose::Background {
                self.background.fetch_add(1, SeqCst);
            }
        }
        taken
    }

    fn give_back(&self, purpose: Purpose) {
        if purpose == Purpose::Background {
            self.background.fetch_sub(1, SeqCst);
        }
        let in_use = self.in_use.fetch_sub(1, SeqCst) - 1;
        self.waiters.background.wake_all();
        if in_use < self.room(Purpose::Flow) {
            self.waiters.flows.wake(1);
        }
    }

    /// Tells whether another call of the background has a stream, so that one comes back without
    /// waiting for a check.
    pub(super) fn frees_soon(&self) -> bool {
        let within_limit = self.in_use.load(SeqCst) <= self.limit.load(SeqCst);
        within_limit && self.background.load(SeqCst) > 0 && !self.closed.load(SeqCst)
    }

    /// The driver's news about the peer's limit.
    pub(super) fn set_limit(&self, limit: usize) {
        if self.limit.load(SeqCst) != limit && self.limit.swap(limit, SeqCst) < limit {
            self.wake_for_room();
        }
    }

    /// Wakes as many calls as may find a stream.
    pub(super) fn wake_for_room(&self) {
        self.waiters.background.wake_all();
        self.waiters.flows.wake(self.free_for_flows());
    }

    /// How many calls for flows may begin.
    pub(super) fn free_for_flows(&self) -> usize {
        let in_use = self.in_use.load(SeqCst);
        self.room(Purpose::Flow).saturating_sub(in_use)
    }

    pub(super) fn has_streams(&self) -> bool {
        self.in_use.load(SeqCst) > 0
    }

    /// How many streams were ever taken; it may wrap around.
    pub(super) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
    }
}

/// Returns how many of a connection's streams checks leave free: one in eight, at least two and at
/// most [`MOST_RESERVED`]. With two, an export of spans that hangs does not hold up ends.
///
/// A connection of two or three streams keeps one free. A connection of a single stream keeps
/// none, and ends go to another connection while a check has it.
fn reserved(limit: usize) -> usize {
    match limit {
        0 | 1 => 0,
        2 | 3 => 1,
        _ => (limit / 8).clamp(2, MOST_RESERVED),
    }
}

/// A stream of a connection; its drop gives the stream back.
pub(in crate::remote) struct Lease {
    connection: Arc<Connection>,
    purpose: Purpose,
}

impl Lease {
    pub(in crate::remote) const fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.state.give_back(self.purpose);
    }
}

// === impl Waiters ===

impl Waiters {
    const fn queue(&self, purpose: Purpose) -> &Queue {
        match purpose {
            Purpose::Flow => &self.flows,
            Purpose::Background => &self.background,
        }
    }

    /// How many calls for flows wait.
    pub(super) fn flows(&self) -> usize {
        self.flows.len.load(SeqCst)
    }

    /// Counts the caller in until the guard drops.
    pub(super) fn join(&self, purpose: Purpose) -> Waiting<'_> {
        let queue = self.queue(purpose);
        queue.len.fetch_add(1, SeqCst);
        Waiting(queue)
    }

    /// Wakes everything that waits, to look at the pool anew.
    pub(super) fn wake_all(&self) {
        self.flows.wake_all();
        self.background.wake_all();
    }

    /// Ends the attempts to connect: the pool that wanted them is gone.
    pub(super) fn leave(&self) {
        self.gone.store(true, SeqCst);
        self.leaving.notify_waiters();
    }

    /// Runs `attempt`, unless the pool goes first.
    pub(super) async fn while_wanted<F: Future>(&self, attempt: F) -> Option<F::Output> {
        let mut leaving = pin!(self.leaving.notified());
        leaving.as_mut().enable();
        let mut attempt = pin!(attempt);
        poll_fn(|cx| {
            if self.gone.load(SeqCst) || leaving.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            attempt.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

impl Queue {
    /// Each may wait for another connection, and they are few.
    fn wake_all(&self) {
        if self.len.load(SeqCst) > 0 {
            self.wake.notify_waiters();
        }
    }

    fn wake(&self, most: usize) {
        // A call that begins to wait counts itself in before it looks for a stream, so it finds
        // the stream that is not announced to it.
        for _ in 0..self.len.load(SeqCst).min(most) {
            self.wake.notify_one();
        }
    }
}

/// A call that waits. A wake-up that it no longer needs goes to the next one.
pub(super) struct Waiting<'a>(&'a Queue);

impl Waiting<'_> {
    pub(super) fn woken(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.wake.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.len.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(limit: usize) -> Arc<State> {
        State::new(limit, Arc::default(), Arc::default())
    }

    fn most(state: &State, purpose: Purpose) -> usize {
        let mut taken = 0;
        while taken < 10_000 && state.take(purpose) {
            taken += 1;
        }
        taken
    }

    #[test]
    fn checks_leave_streams_free_for_ends() {
        for (limit, checks) in [
            (0, 0),
            (1, 1),
            (2, 1),
            (3, 2),
            (4, 2),
            (8, 6),
            (100, 88),
            (256, 240),
            (1024, 1008),
        ] {
            let state = state(limit);
            assert_eq!(most(&state, Purpose::Flow), checks, "of {limit}");
            assert!(!state.frees_soon());
            assert_eq!(most(&state, Purpose::Background), limit - checks);
            assert_eq!(state.frees_soon(), limit > checks);
        }
        assert_eq!(most(&state(usize::MAX), Purpose::Flow), 10_000);
    }

    #[test]
    fn a_lower_limit_waits_for_streams_to_come_back() {
        let state = state(10);
        assert_eq!(most(&state, Purpose::Flow), 8);
        state.set_limit(4);
        assert!(!state.take(Purpose::Background));
        for _ in 0..7 {
            state.give_back(Purpose::Flow);
        }
        assert_eq!(most(&state, Purpose::Flow), 1, "two of four");
        state.set_limit(10);
        assert_eq!(most(&state, Purpose::Flow), 6, "eight of ten");
    }
}
