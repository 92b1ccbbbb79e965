//! One HTTP/2 connection and the streams in use on it.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::sync::Notify;

use super::counted_stream::WireStats;

/// The most streams that checks leave free on a connection.
///
/// The worker keeps at most this many calls in flight: ends, cache writes and spans. Probes come on
/// top, one at a time.
const MAX_RESERVED: usize = 16;

/// The purpose of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::remote) enum Purpose {
    /// Checks and cache calls. Only the callers bound their number.
    Flow,
    /// Ends, spans and probes. They must not wait behind checks.
    Background,
}

/// An open connection. It closes once neither the pool, nor a call, nor a flow whose end must be
/// sent on it holds it.
pub(in crate::remote) struct PooledConnection {
    sender: SendRequest<Bytes>,
    pub(super) state: Arc<ConnectionShared>,
}

/// The state that a connection, its driver and its leases share.
pub(super) struct ConnectionShared {
    /// How many streams the peer allows at a time.
    limit: AtomicUsize,
    in_use: AtomicUsize,
    /// The number of those streams that background calls use.
    background: AtomicUsize,
    /// No more calls may start on the connection.
    closed: AtomicBool,
    /// The number of streams that were ever taken.
    total_taken: AtomicUsize,
    pub(super) wire_stats: Arc<WireStats>,
    waiters: Arc<StreamWaiters>,
}

/// The calls that wait for a stream or a connection.
#[derive(Default)]
pub(super) struct StreamWaiters {
    flows: StreamQueue,
    background: StreamQueue,
    /// The pool was dropped.
    pool_dropped: AtomicBool,
    pool_drop_notify: Notify,
}

#[derive(Default)]
struct StreamQueue {
    len: AtomicUsize,
    wake: Notify,
}

impl PooledConnection {
    pub(super) const fn new(sender: SendRequest<Bytes>, state: Arc<ConnectionShared>) -> Self {
        Self { sender, state }
    }

    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.sender.clone()
    }

    /// Returns `true` if new calls would fail: the connection is lost, the peer is closing it, or
    /// its stream identifiers are used up.
    pub(super) fn refuses_calls(&self) -> bool {
        // A fresh sender never waits, so that this only returns the connection's error.
        let cx = &mut Context::from_waker(Waker::noop());
        matches!(self.sender().poll_ready(cx), Poll::Ready(Err(_)))
    }

    /// Takes a stream if one is free for this purpose.
    pub(super) fn try_take(self: &Arc<Self>, purpose: Purpose) -> Option<Lease> {
        self.state.try_take(purpose).then(|| Lease {
            connection: Arc::clone(self),
            purpose,
        })
    }
}

impl ConnectionShared {
    pub(super) fn new(
        limit: usize,
        wire_stats: Arc<WireStats>,
        waiters: Arc<StreamWaiters>,
    ) -> Arc<Self> {
        Arc::new(Self {
            limit: AtomicUsize::new(limit),
            in_use: AtomicUsize::new(0),
            background: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            total_taken: AtomicUsize::new(0),
            wire_stats,
            waiters,
        })
    }

    /// Returns the most streams that may be in use, a new call of this purpose included.
    pub(super) fn max_in_use(&self, purpose: Purpose) -> usize {
        let limit = self.limit.load(SeqCst);
        match purpose {
            Purpose::Flow => limit - reserved(limit),
            Purpose::Background => limit,
        }
    }

    fn try_take(&self, purpose: Purpose) -> bool {
        if self.closed.load(SeqCst) {
            return false;
        }
        let max_in_use = self.max_in_use(purpose);
        let free = |in_use| (in_use < max_in_use).then_some(in_use + 1);
        let taken = self.in_use.fetch_update(SeqCst, SeqCst, free).is_ok();
        if taken {
            self.total_taken.fetch_add(1, Relaxed);
            if purpose == Purpose::Background {
                self.background.fetch_add(1, SeqCst);
            }
        }
        taken
    }

    fn return_stream(&self, purpose: Purpose) {
        if purpose == Purpose::Background {
            self.background.fetch_sub(1, SeqCst);
        }
        let in_use = self.in_use.fetch_sub(1, SeqCst) - 1;
        self.waiters.background.wake_all();
        if in_use < self.max_in_use(Purpose::Flow) {
            self.waiters.flows.wake(1);
        }
    }

    /// Returns `true` if another background call has a stream, so that a stream is freed without
    /// waiting for a check.
    pub(super) fn frees_soon(&self) -> bool {
        let within_limit = self.in_use.load(SeqCst) <= self.limit.load(SeqCst);
        within_limit && self.background.load(SeqCst) > 0 && !self.closed.load(SeqCst)
    }

    /// Sets the peer's limit, as the driver reads it.
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

    /// Returns how many calls for flows may start.
    pub(super) fn free_for_flows(&self) -> usize {
        let in_use = self.in_use.load(SeqCst);
        self.max_in_use(Purpose::Flow).saturating_sub(in_use)
    }

    pub(super) fn has_streams(&self) -> bool {
        self.in_use.load(SeqCst) > 0
    }

    /// Returns how many streams were ever taken. The number may wrap around.
    pub(super) fn total_taken(&self) -> usize {
        self.total_taken.load(Relaxed)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
    }
}

/// Returns how many of a connection's streams checks leave free: one in eight, at least two and at
/// most [`MAX_RESERVED`]. With two, an export of spans that hangs does not delay ends.
///
/// A connection of two or three streams keeps one free. A connection of a single stream keeps none,
/// and ends go to another connection while a check uses it.
fn reserved(limit: usize) -> usize {
    match limit {
        0 | 1 => 0,
        2 | 3 => 1,
        _ => (limit / 8).clamp(2, MAX_RESERVED),
    }
}

/// A stream of a connection, which is returned when this is dropped.
pub(in crate::remote) struct Lease {
    connection: Arc<PooledConnection>,
    purpose: Purpose,
}

impl Lease {
    pub(in crate::remote) const fn connection(&self) -> &Arc<PooledConnection> {
        &self.connection
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.connection.state.return_stream(self.purpose);
    }
}

impl StreamWaiters {
    const fn queue(&self, purpose: Purpose) -> &StreamQueue {
        match purpose {
            Purpose::Flow => &self.flows,
            Purpose::Background => &self.background,
        }
    }

    /// Returns how many calls for flows wait.
    pub(super) fn waiting_flows(&self) -> usize {
        self.flows.len.load(SeqCst)
    }

    /// Counts the caller as waiting until the returned value is dropped.
    pub(super) fn join(&self, purpose: Purpose) -> StreamWaiter<'_> {
        let queue = self.queue(purpose);
        queue.len.fetch_add(1, SeqCst);
        StreamWaiter(queue)
    }

    /// Wakes all waiting calls, to try the pool again.
    pub(super) fn wake_all(&self) {
        self.flows.wake_all();
        self.background.wake_all();
    }

    /// Cancels the attempts to connect, because the pool was dropped.
    pub(super) fn notify_pool_dropped(&self) {
        self.pool_dropped.store(true, SeqCst);
        self.pool_drop_notify.notify_waiters();
    }

    /// Runs `attempt` unless the pool is dropped first.
    pub(super) async fn unless_pool_drops<F: Future>(&self, attempt: F) -> Option<F::Output> {
        let mut pool_drop_notify = pin!(self.pool_drop_notify.notified());
        pool_drop_notify.as_mut().enable();
        let mut attempt = pin!(attempt);
        poll_fn(|cx| {
            if self.pool_dropped.load(SeqCst) || pool_drop_notify.as_mut().poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            attempt.as_mut().poll(cx).map(Some)
        })
        .await
    }
}

impl StreamQueue {
    /// Wakes all: each may wait for another connection, and they are few.
    fn wake_all(&self) {
        if self.len.load(SeqCst) > 0 {
            self.wake.notify_waiters();
        }
    }

    fn wake(&self, most: usize) {
        // A call counts itself as waiting before it looks for a stream. A call that is not woken
        // here therefore finds the stream itself.
        for _ in 0..self.len.load(SeqCst).min(most) {
            self.wake.notify_one();
        }
    }
}

/// A call that waits. If it is dropped with an unused wake-up, the next waiting call gets that.
pub(super) struct StreamWaiter<'a>(&'a StreamQueue);

impl StreamWaiter<'_> {
    pub(super) fn notified(&self) -> tokio::sync::futures::Notified<'_> {
        self.0.wake.notified()
    }
}

impl Drop for StreamWaiter<'_> {
    fn drop(&mut self) {
        self.0.len.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(limit: usize) -> Arc<ConnectionShared> {
        ConnectionShared::new(limit, Arc::default(), Arc::default())
    }

    fn take_all(state: &ConnectionShared, purpose: Purpose) -> usize {
        let mut taken = 0;
        while taken < 10_000 && state.try_take(purpose) {
            taken += 1;
        }
        taken
    }

    #[test]
    fn checks_leave_streams_free_for_background_calls() {
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
            assert_eq!(take_all(&state, Purpose::Flow), checks, "of {limit}");
            assert!(!state.frees_soon());
            assert_eq!(take_all(&state, Purpose::Background), limit - checks);
            assert_eq!(state.frees_soon(), limit > checks);
        }
        assert_eq!(take_all(&state(usize::MAX), Purpose::Flow), 10_000);
    }

    #[test]
    fn a_lower_limit_applies_as_streams_are_returned() {
        let state = state(10);
        assert_eq!(take_all(&state, Purpose::Flow), 8);
        state.set_limit(4);
        assert!(!state.try_take(Purpose::Background));
        for _ in 0..7 {
            state.return_stream(Purpose::Flow);
        }
        assert_eq!(take_all(&state, Purpose::Flow), 1, "two of four");
        state.set_limit(10);
        assert_eq!(take_all(&state, Purpose::Flow), 6, "eight of ten");
    }
}
