//! The connections to one Agent in one runtime.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::connect::Connector;
use super::connection::{Connection, Lease, State as ConnectionState, Waiters};
use super::driver::{self, Opening};
use super::{ConnectError, Purpose};

/// The most connections to one Agent that flows open in one runtime. Beyond it their calls wait
/// for a stream, within their budget.
pub(in crate::remote) const MAX_CONNECTIONS: usize = 64;

/// Connections beyond [`MAX_CONNECTIONS`] that the background may open when none of them has a
/// stream for it.
const FOR_BACKGROUND: usize = 1;

/// After a failed attempt, how long a pool that has another connection waits before the next.
const BACKOFF: Duration = Duration::from_secs(1);

/// Opens connections when calls need them, and hands out their streams.
pub(in crate::remote) struct Pool {
    connector: Arc<Connector>,
    runtime: Handle,
    this: Weak<Self>,
    waiters: Arc<Waiters>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Vec<Arc<Connection>>,
    /// Attempts to connect that are under way.
    opening: usize,
    /// Counts failed attempts.
    failures: u64,
    /// Why the last attempt failed; none after one that succeeded.
    error: Option<ConnectError>,
    /// No attempt before, while there is another connection.
    not_before: Option<Instant>,
    /// The usual connection that is tried first next time.
    turn: usize,
}

/// Where a call's stream may come from.
enum Find {
    Taken(Lease),
    /// A stream of the preferred connection comes back soon.
    Wait,
    /// No connection has a stream for the call.
    Full,
}

/// The outcome of one look at the pool.
enum Look {
    Taken(Lease),
    Wait,
    Failed(ConnectError),
}

impl Pool {
    pub(in crate::remote) fn new(connector: Connector, runtime: Handle) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            connector: Arc::new(connector),
            runtime,
            this: this.clone(),
            waiters: Arc::default(),
            state: Mutex::default(),
        })
    }

    pub(in crate::remote) fn uri(&self) -> &http::Uri {
        self.connector.uri()
    }

    pub(in crate::remote) fn is_connected(&self) -> bool {
        !self.state().open.is_empty()
    }

    /// Takes a stream: on `preferred` if that belongs to the pool, else on any connection. Opens
    /// connections where that is needed. Tells as well whether it had to wait.
    ///
    /// It waits while all connections are full, in no particular order, and while the first one is
    /// being made. It fails when an attempt to connect that ended meanwhile has failed and no
    /// connection is left.
    pub(in crate::remote) async fn lease(
        &self,
        purpose: Purpose,
        preferred: Option<&Arc<Connection>>,
    ) -> Result<(Lease, bool), ConnectError> {
        let mut failures = None;
        match self.look(purpose, preferred, &mut failures, 1) {
            Look::Taken(lease) => return Ok((lease, false)),
            Look::Failed(error) => return Err(error),
            Look::Wait => {}
        }
        let waiting = self.waiters.join(purpose);
        loop {
            let mut woken = pin!(waiting.woken());
            woken.as_mut().enable();
            match self.look(purpose, preferred, &mut failures, 0) {
                Look::Taken(lease) => return Ok((lease, true)),
                Look::Failed(error) => return Err(error),
                Look::Wait => woken.await,
            }
        }
    }

    /// `newcomers` do not count among the waiters yet.
    fn look(
        &self,
        purpose: Purpose,
        preferred: Option<&Arc<Connection>>,
        failures: &mut Option<u64>,
        newcomers: usize,
    ) -> Look {
        let mut state = self.state();
        let seen = *failures.get_or_insert(state.failures);
        let found = state.find(purpose, preferred, self.connector.usual());
        let more = match found {
            Find::Taken(_) => self.missing(&state),
            Find::Wait => 0,
            Find::Full => {
                if state.open.is_empty()
                    && state.opening == 0
                    && state.failures != seen
                    && let Some(error) = &state.error
                {
                    return Look::Failed(error.clone());
                }
                let waiting = self.waiters.flows() + newcomers;
                let wanted = self.wanted(&state, purpose, waiting);
                self.missing(&state).max(wanted)
            }
        };
        self.open(state, more);
        match found {
            Find::Taken(lease) => Look::Taken(lease),
            Find::Wait | Find::Full => Look::Wait,
        }
    }

    /// How many of the usual connections to open.
    fn missing(&self, state: &State) -> usize {
        let there = state.open.len() + state.opening;
        if there >= self.connector.usual() || !may_try(state) {
            return 0;
        }
        if state.error.is_some() {
            // One will tell whether the peer is back.
            return usize::from(state.opening == 0);
        }
        self.connector.usual() - there
    }

    /// How many connections to open for calls that find no stream.
    fn wanted(&self, state: &State, purpose: Purpose, waiting: usize) -> usize {
        let most = match purpose {
            Purpose::Flow => MAX_CONNECTIONS,
            Purpose::Background => MAX_CONNECTIONS + FOR_BACKGROUND,
        };
        let left = most.saturating_sub(state.open.len() + state.opening);
        if left == 0 || !may_try(state) {
            return 0;
        }
        let rooms = state.open.iter().map(|open| open.state.room(purpose));
        match (rooms.min(), purpose) {
            // The peer allows no stream on some connection: another one would bring none either.
            (Some(0), _) => 0,
            // Attempts that are under way bring what it waits for.
            (None, _) | (_, Purpose::Background) => usize::from(state.opening == 0),
            (Some(room), Purpose::Flow) => waiting
                .div_ceil(room)
                .saturating_sub(state.opening)
                .min(left),
        }
    }

    /// Starts to open so many connections.
    fn open(&self, mut state: MutexGuard<'_, State>, more: usize) {
        let there = state.open.len() + state.opening;
        state.opening += more;
        // Without the lock: a runtime that ends drops a new task at once.
        drop(state);
        for at in there..there + more {
            let spare = at >= self.connector.usual();
            let opening = Opening::new(self.this.clone());
            let connector = Arc::clone(&self.connector);
            let waiters = Arc::clone(&self.waiters);
            self.runtime
                .spawn(driver::run(opening, connector, waiters, spare));
        }
    }

    /// Takes in a connection that was made, and opens further ones where it has too few streams
    /// for the calls that wait.
    pub(super) fn add(&self, connection: &Arc<Connection>) {
        let mut state = self.state();
        state.opening -= 1;
        state.error = None;
        state.not_before = None;
        state.open.push(Arc::clone(connection));
        let free = state.open.iter().map(|open| open.state.free_for_flows());
        let free = free.fold(0, usize::saturating_add);
        let waiting = self.waiters.flows().saturating_sub(free);
        let more = self.wanted(&state, Purpose::Flow, waiting);
        self.open(state, more);
        connection.state.wake_for_room();
    }

    pub(super) fn attempt_failed(&self, error: ConnectError) {
        let mut state = self.state();
        state.opening -= 1;
        state.failed(error);
        drop(state);
        self.waiters.wake_all();
    }

    /// Removes a connection that takes no more calls. One that was of no use counts as a failed
    /// attempt, so that callers do not go on making such connections.
    pub(super) fn lost(&self, connection: &Weak<Connection>, ended: &ConnectionState) {
        let mut state = self.state();
        let known = |open: &Arc<Connection>| std::ptr::eq(Arc::as_ptr(open), connection.as_ptr());
        let at = state.open.iter().position(known);
        let lost = at.map(|at| state.open.remove(at));
        if ended.taken() == 0 && lost.is_some() {
            let why = "the agent closed the connection before it was used";
            state.failed(ConnectError::new(why));
        }
        drop(state);
        // Without the lock: the last reference to a connection wakes its task.
        drop(lost);
        self.waiters.wake_all();
    }

    /// Lets go of a connection beyond the usual number, unless a call or a flow holds it.
    pub(super) fn retire(&self, connection: &Arc<Connection>) {
        let mut state = self.state();
        let at = state
            .open
            .iter()
            .position(|open| Arc::ptr_eq(open, connection));
        // The pool's and the caller's. Only the pool hands out others, under this lock.
        let unused = Arc::strong_count(connection) == 2;
        let retired = match at {
            Some(at) if unused && state.open.len() > self.connector.usual() => {
                Some(state.open.remove(at))
            }
            _ => None,
        };
        drop(state);
        drop(retired);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.waiters.leave();
    }
}

impl State {
    fn find(
        &mut self,
        purpose: Purpose,
        preferred: Option<&Arc<Connection>>,
        usual: usize,
    ) -> Find {
        if let Some(preferred) = preferred
            && self.open.iter().any(|open| Arc::ptr_eq(open, preferred))
        {
            if let Some(lease) = preferred.take(purpose) {
                return Find::Taken(lease);
            }
            if preferred.state.frees_soon() {
                return Find::Wait;
            }
        }
        // The usual connections in turn, then the others in order, so that the last fall idle.
        let usual = self.open.len().min(usual);
        self.turn = self.turn.wrapping_add(1);
        let in_turn = (0..usual).map(|at| (self.turn.wrapping_add(at)) % usual);
        let mut order = in_turn.chain(usual..self.open.len());
        match order.find_map(|at| self.open[at].take(purpose)) {
            Some(lease) => Find::Taken(lease),
            None => Find::Full,
        }
    }

    fn failed(&mut self, error: ConnectError) {
        self.failures += 1;
        self.error = Some(error);
        self.not_before = Some(Instant::now() + BACKOFF);
    }
}

/// Without a connection each call may try; with one the pool waits after a failed attempt.
fn may_try(state: &State) -> bool {
    state.open.is_empty() || state.not_before.is_none_or(|at| Instant::now() >= at)
}
