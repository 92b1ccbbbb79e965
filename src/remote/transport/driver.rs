//! The task that makes a connection and then runs it.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::connect::{Connector, NewConnection};
use super::connection::{ConnectionShared, PooledConnection, StreamWaiters};
use super::counted_stream::PlainOrTlsStream;
use super::error::ConnectError;
use super::pool::Pool;
use crate::remote::config::KeepAlive;
use crate::remote::connection_tracker::TrackedConnection;

/// How long a connection beyond the base number may be unused before it is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// How late a timer may fire before the process counts as stalled.
const STALL_THRESHOLD: Duration = Duration::from_millis(20);

/// Makes a connection for a pool and runs it until it ends.
///
/// It does not keep the pool alive: when the pool is dropped and its calls have ended, the
/// connection closes.
pub(super) async fn run(
    attempt: PoolAttempt,
    connector: Arc<Connector>,
    waiters: Arc<StreamWaiters>,
    beyond_base: bool,
) {
    let connected = match waiters.unless_pool_drops(connector.connect()).await {
        None => return,
        Some(Ok(connected)) => connected,
        Some(Err(error)) => return attempt.failed(error),
    };
    let NewConnection {
        sender,
        mut h2,
        wire_stats,
        tracked_connection,
    } = connected;
    let state = ConnectionShared::new(h2.max_concurrent_send_streams(), wire_stats, waiters);
    let keep_alive = connector
        .keep_alive()
        .and_then(|config| Some(KeepAliveTimer::new(config, h2.ping_pong()?)));
    let connection = Arc::new(PooledConnection::new(sender, Arc::clone(&state)));
    drop(connector);
    let driver = Driver {
        h2,
        pool: attempt.pool.clone(),
        connection: Arc::downgrade(&connection),
        state,
        keep_alive,
        idle: beyond_base.then(|| Box::pin(sleep(IDLE_TIMEOUT))),
        total_taken: 0,
        removed: false,
        _tracked_connection: tracked_connection,
    };
    attempt.succeeded(&connection);
    drop(connection);
    driver.await;
}

/// An attempt to connect that the pool has counted. If it is dropped without a result, it counts as
/// failed.
pub(super) struct PoolAttempt {
    pool: Weak<Pool>,
    reported: bool,
}

impl PoolAttempt {
    pub(super) const fn new(pool: Weak<Pool>) -> Self {
        Self {
            pool,
            reported: false,
        }
    }

    fn failed(mut self, error: ConnectError) {
        self.reported = true;
        if let Some(pool) = self.pool.upgrade() {
            pool.attempt_failed(error);
        }
    }

    fn succeeded(mut self, connection: &Arc<PooledConnection>) {
        self.reported = true;
        if let Some(pool) = self.pool.upgrade() {
            pool.add(connection);
        }
    }
}

impl Drop for PoolAttempt {
    fn drop(&mut self) {
        if !self.reported
            && let Some(pool) = self.pool.upgrade()
        {
            pool.attempt_failed(ConnectError::new("the runtime of the connection ended"));
        }
    }
}

/// Runs one connection. It is dropped when the connection or the runtime ends.
struct Driver {
    h2: h2::client::Connection<PlainOrTlsStream, Bytes>,
    pool: Weak<Pool>,
    connection: Weak<PooledConnection>,
    state: Arc<ConnectionShared>,
    keep_alive: Option<KeepAliveTimer>,
    /// The timer of the next check for idleness. `None` for the base connections.
    idle: Option<Pin<Box<Sleep>>>,
    /// How many streams had been taken at the last check for idleness.
    total_taken: usize,
    /// The connection was removed from the pool.
    removed: bool,
    _tracked_connection: TrackedConnection,
}

impl Driver {
    /// Removes the connection from the pool once it refuses calls. Calls in flight go on.
    fn check_errors(&mut self) {
        if !self.removed
            && let Some(connection) = self.connection.upgrade()
            && connection.refuses_calls()
        {
            self.remove_from_pool();
        }
    }

    fn remove_from_pool(&mut self) {
        self.removed = true;
        self.state.close();
        if let Some(pool) = self.pool.upgrade() {
            pool.remove_ended(&self.connection, &self.state);
        }
    }

    /// Retires the connection if no call has used it since the last check.
    fn check_idle(&mut self, cx: &mut Context<'_>) {
        while let Some(idle) = &mut self.idle
            && idle.as_mut().poll(cx).is_ready()
        {
            idle.as_mut().reset(Instant::now() + IDLE_TIMEOUT);
            let total_taken = self.state.total_taken();
            let used = std::mem::replace(&mut self.total_taken, total_taken) != total_taken;
            if !used
                && let (Some(pool), Some(connection)) =
                    (self.pool.upgrade(), self.connection.upgrade())
            {
                pool.retire(&connection);
            }
        }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if Pin::new(&mut this.h2).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        this.check_errors();
        this.state.set_limit(this.h2.max_concurrent_send_streams());
        if let Some(keep_alive) = &mut this.keep_alive
            && keep_alive.poll(&this.state, cx).is_ready()
        {
            return Poll::Ready(());
        }
        this.check_idle(cx);
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.removed {
            self.remove_from_pool();
        }
    }
}

/// Pings the peer while calls are in flight and nothing else arrives from it.
struct KeepAliveTimer {
    config: KeepAlive,
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    due: Instant,
    /// A ping is in flight, and the timer is its timeout.
    pinged: bool,
    /// The timeout of this ping was extended after a stall. This happens once.
    extended: bool,
    /// The number of bytes read when the timer was set.
    read: u64,
}

impl KeepAliveTimer {
    fn new(config: KeepAlive, pings: PingPong) -> Self {
        let due = deadline_after(config.interval);
        Self {
            config,
            pings,
            timer: Box::pin(sleep_until(due)),
            due,
            pinged: false,
            extended: false,
            read: 0,
        }
    }

    fn set(&mut self, after: Duration) {
        self.due = deadline_after(after);
        self.timer.as_mut().reset(self.due);
    }

    /// Completes when the peer has not answered a ping in time. A stall of this process extends
    /// that time once, to twice the timeout. A process that is always late therefore closes the
    /// connection as well.
    fn poll(&mut self, state: &ConnectionShared, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.pinged {
                match self.pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.pinged = false;
                        self.set(self.config.interval);
                    }
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let read = state.wire_stats.read();
            let silent = std::mem::replace(&mut self.read, read) == read;
            if self.pinged {
                // After a stall of this process the answer may be unread in the socket.
                let stalled = Instant::now().saturating_duration_since(self.due) > STALL_THRESHOLD;
                if silent && (self.extended || !stalled) {
                    return Poll::Ready(());
                }
                self.extended |= silent;
                self.set(self.config.timeout);
            } else if silent && state.has_streams() && self.pings.send_ping(Ping::opaque()).is_ok()
            {
                self.pinged = true;
                self.extended = false;
                self.set(self.config.timeout);
            } else {
                self.set(self.config.interval);
            }
        }
    }
}

/// Returns the time `after` from now, at most [`MAX_TIMEOUT`](crate::remote::config::MAX_TIMEOUT)
/// ahead.
fn deadline_after(after: Duration) -> Instant {
    Instant::now() + after.min(crate::remote::config::MAX_TIMEOUT)
}
