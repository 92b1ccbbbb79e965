//! The task that makes a connection and then runs it.

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::ConnectError;
use super::connect::{Connected, Connector};
use super::connection::{Connection, State, Waiters};
use super::pool::Pool;
use super::wire::Io;
use crate::remote::config::KeepAlive;
use crate::remote::link::Open;

/// How long a connection beyond the usual number may be without a call before it is closed.
const IDLE: Duration = Duration::from_secs(30);

/// How late a timer may fire before the process counts as stalled.
const STALLED: Duration = Duration::from_millis(20);

/// Makes a connection for a pool and runs it until it ends.
///
/// It does not keep the pool: when the pool is gone and its calls are over, the connection closes.
pub(super) async fn run(
    opening: Opening,
    connector: Arc<Connector>,
    waiters: Arc<Waiters>,
    spare: bool,
) {
    let connected = match waiters.while_wanted(connector.connect()).await {
        None => return,
        Some(Ok(connected)) => connected,
        Some(Err(error)) => return opening.failed(error),
    };
    let Connected {
        sender,
        mut h2,
        wire,
        open,
    } = connected;
    let state = State::new(h2.max_concurrent_send_streams(), wire, waiters);
    let keep_alive = connector
        .keep_alive()
        .and_then(|config| Some(KeepAliveTimer::new(config, h2.ping_pong()?)));
    let connection = Arc::new(Connection::new(sender, Arc::clone(&state)));
    drop(connector);
    let driver = Driver {
        h2,
        pool: opening.pool.clone(),
        connection: Arc::downgrade(&connection),
        state,
        keep_alive,
        idle: spare.then(|| Box::pin(sleep(IDLE))),
        taken: 0,
        left: false,
        _open: open,
    };
    opening.succeeded(&connection);
    drop(connection);
    driver.await;
}

/// An attempt to connect that the pool has counted; one that is given up counts as failed.
pub(super) struct Opening {
    pool: Weak<Pool>,
    told: bool,
}

impl Opening {
    pub(super) const fn new(pool: Weak<Pool>) -> Self {
        Self { pool, told: false }
    }

    fn failed(mut self, error: ConnectError) {
        self.told = true;
        if let Some(pool) = self.pool.upgrade() {
            pool.attempt_failed(error);
        }
    }

    fn succeeded(mut self, connection: &Arc<Connection>) {
        self.told = true;
        if let Some(pool) = self.pool.upgrade() {
            pool.add(connection);
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.told
            && let Some(pool) = self.pool.upgrade()
        {
            pool.attempt_failed(ConnectError::new("the runtime of the connection ended"));
        }
    }
}

/// Runs one connection. Its drop is the end of the connection, or of the runtime.
struct Driver {
    h2: h2::client::Connection<Io, Bytes>,
    pool: Weak<Pool>,
    connection: Weak<Connection>,
    state: Arc<State>,
    keep_alive: Option<KeepAliveTimer>,
    /// When to look whether the connection is idle; only beyond the usual number.
    idle: Option<Pin<Box<Sleep>>>,
    /// How many streams had been taken when it looked last.
    taken: usize,
    /// The pool does not have it any more.
    left: bool,
    _open: Open,
}

impl Driver {
    /// Takes the connection out of the pool once it refuses calls. Those under way go on.
    fn look_for_errors(&mut self) {
        if !self.left
            && let Some(connection) = self.connection.upgrade()
            && connection.refuses_calls()
        {
            self.leave();
        }
    }

    fn leave(&mut self) {
        self.left = true;
        self.state.close();
        if let Some(pool) = self.pool.upgrade() {
            pool.lost(&self.connection, &self.state);
        }
    }

    /// Leaves the pool if no call has used the connection since the last look.
    fn look_for_idleness(&mut self, cx: &mut Context<'_>) {
        while let Some(idle) = &mut self.idle
            && idle.as_mut().poll(cx).is_ready()
        {
            idle.as_mut().reset(Instant::now() + IDLE);
            let taken = self.state.taken();
            let used = std::mem::replace(&mut self.taken, taken) != taken;
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
        this.look_for_errors();
        this.state.set_limit(this.h2.max_concurrent_send_streams());
        if let Some(keep_alive) = &mut this.keep_alive
            && keep_alive.poll(&this.state, cx).is_ready()
        {
            return Poll::Ready(());
        }
        this.look_for_idleness(cx);
        Poll::Pending
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if !self.left {
            self.leave();
        }
    }
}

/// Pings the peer while calls are under way and nothing else comes from it.
struct KeepAliveTimer {
    config: KeepAlive,
    pings: PingPong,
    timer: Pin<Box<Sleep>>,
    due: Instant,
    /// A ping is under way; the timer is its timeout.
    pinged: bool,
    /// The timeout of this ping was extended after a stall; that happens once.
    extended: bool,
    /// The bytes that had been read when the timer was set.
    read: u64,
}

impl KeepAliveTimer {
    fn new(config: KeepAlive, pings: PingPong) -> Self {
        let due = far(config.interval);
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
        self.due = far(after);
        self.timer.as_mut().reset(self.due);
    }

    /// Is ready when the peer has not answered a ping in time. A stall of this process extends that
    /// time once, to twice the timeout: a process that is always late closes the connection as well.
    fn poll(&mut self, state: &State, cx: &mut Context<'_>) -> Poll<()> {
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
            let read = state.wire.read();
            let silent = std::mem::replace(&mut self.read, read) == read;
            if self.pinged {
                // After a stall of this process the answer may lie unread in the socket.
                let stalled = Instant::now().saturating_duration_since(self.due) > STALLED;
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

/// The moment `after` from now, as far as the clock reaches.
fn far(after: Duration) -> Instant {
    Instant::now() + after.min(crate::remote::call::LONGEST)
}
