//! The pool of connections to one Agent in one runtime.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::connect::Connector;
use super::connection::{ConnectionShared, Lease, PooledConnection, Purpose, StreamWaiters};
use super::driver::{self, PoolAttempt};
use super::error::ConnectError;

/// The most connections to one Agent that calls for flows open in one runtime. Beyond it these
/// calls wait for a stream, within their budget.
pub(in crate::remote) const MAX_CONNECTIONS: usize = 64;

/// The number of connections beyond [`MAX_CONNECTIONS`] that background calls may open when no
/// connection has a stream for them.
const EXTRA_FOR_BACKGROUND: usize = 1;

/// How long a pool that has another connection waits after a failed attempt to connect.
const BACKOFF: Duration = Duration::from_secs(1);

/// Opens connections when calls need them, and leases their streams.
pub(in crate::remote) struct Pool {
    connector: Arc<Connector>,
    runtime: Handle,
    this: Weak<Self>,
    waiters: Arc<StreamWaiters>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Vec<Arc<PooledConnection>>,
    /// The number of attempts to connect in progress.
    opening: usize,
    /// The number of failed attempts to connect.
    failures: u64,
    /// Why the last attempt failed. `None` after one that succeeded.
    error: Option<ConnectError>,
    /// While another connection is open, no attempt starts before this time.
    not_before: Option<Instant>,
    /// A counter that selects the base connection to try first.
    rotation: usize,
}

/// The result of a search for a stream.
enum StreamSearch {
    Taken(Lease),
    /// A stream of the preferred connection is freed soon.
    Wait,
    /// No connection has a free stream for the call.
    Full,
}

/// The result of one attempt to lease a stream.
enum LeaseAttempt {
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

    /// Takes a stream of `preferred` if the pool has that connection, else of any connection. Opens
    /// connections if needed. The returned `bool` is `true` if the call had to wait.
    ///
    /// Calls wait, in no particular order, while all connections are full and while the first one
    /// is being made.
    ///
    /// # Errors
    ///
    /// If an attempt to connect failed during the call and no connection is left.
    pub(in crate::remote) async fn lease(
        &self,
        purpose: Purpose,
        preferred: Option<&Arc<PooledConnection>>,
    ) -> Result<(Lease, bool), ConnectError> {
        let mut failures = None;
        match self.try_lease(purpose, preferred, &mut failures, 1) {
            LeaseAttempt::Taken(lease) => return Ok((lease, false)),
            LeaseAttempt::Failed(error) => return Err(error),
            LeaseAttempt::Wait => {}
        }
        let waiting = self.waiters.join(purpose);
        loop {
            let mut woken = pin!(waiting.notified());
            woken.as_mut().enable();
            match self.try_lease(purpose, preferred, &mut failures, 0) {
                LeaseAttempt::Taken(lease) => return Ok((lease, true)),
                LeaseAttempt::Failed(error) => return Err(error),
                LeaseAttempt::Wait => woken.await,
            }
        }
    }

    /// `newcomers` is the number of callers that are not counted as waiting yet.
    fn try_lease(
        &self,
        purpose: Purpose,
        preferred: Option<&Arc<PooledConnection>>,
        failures: &mut Option<u64>,
        newcomers: usize,
    ) -> LeaseAttempt {
        let mut state = self.state();
        let seen_failures = *failures.get_or_insert(state.failures);
        let found = state.find_stream(purpose, preferred, self.connector.base_connections());
        let more = match found {
            StreamSearch::Taken(_) => self.missing_base_connections(&state),
            StreamSearch::Wait => 0,
            StreamSearch::Full => {
                if state.open.is_empty()
                    && state.opening == 0
                    && state.failures != seen_failures
                    && let Some(error) = &state.error
                {
                    return LeaseAttempt::Failed(error.clone());
                }
                let waiting = self.waiters.waiting_flows() + newcomers;
                let wanted = self.connections_for_waiting(&state, purpose, waiting);
                self.missing_base_connections(&state).max(wanted)
            }
        };
        self.open(state, more);
        match found {
            StreamSearch::Taken(lease) => LeaseAttempt::Taken(lease),
            StreamSearch::Wait | StreamSearch::Full => LeaseAttempt::Wait,
        }
    }

    /// Returns how many of the base connections to open.
    fn missing_base_connections(&self, state: &State) -> usize {
        let existing = state.open.len() + state.opening;
        if existing >= self.connector.base_connections() || !may_connect(state) {
            return 0;
        }
        if state.error.is_some() {
            // A single attempt shows whether the peer has returned.
            return usize::from(state.opening == 0);
        }
        self.connector.base_connections() - existing
    }

    /// Returns how many connections to open for calls that found no stream.
    fn connections_for_waiting(&self, state: &State, purpose: Purpose, waiting: usize) -> usize {
        let most = match purpose {
            Purpose::Flow => MAX_CONNECTIONS,
            Purpose::Background => MAX_CONNECTIONS + EXTRA_FOR_BACKGROUND,
        };
        let left = most.saturating_sub(state.open.len() + state.opening);
        if left == 0 || !may_connect(state) {
            return 0;
        }
        let rooms = state.open.iter().map(|open| open.state.max_in_use(purpose));
        match (rooms.min(), purpose) {
            // The peer allows no stream on some connection. Another connection would provide none
            // either.
            (Some(0), _) => 0,
            // An attempt in progress provides the stream for this call.
            (None, _) | (_, Purpose::Background) => usize::from(state.opening == 0),
            (Some(room), Purpose::Flow) => waiting
                .div_ceil(room)
                .saturating_sub(state.opening)
                .min(left),
        }
    }

    /// Starts to open this many connections.
    fn open(&self, mut state: MutexGuard<'_, State>, more: usize) {
        let existing = state.open.len() + state.opening;
        state.opening += more;
        // Spawned without the lock: a runtime that is shutting down drops a new task at once.
        drop(state);
        for index in existing..existing + more {
            let beyond_base = index >= self.connector.base_connections();
            let attempt = PoolAttempt::new(self.this.clone());
            let connector = Arc::clone(&self.connector);
            let waiters = Arc::clone(&self.waiters);
            self.runtime
                .spawn(driver::run(attempt, connector, waiters, beyond_base));
        }
    }

    /// Adds a new connection. Opens further ones if the pool has too few streams for the waiting
    /// calls.
    pub(super) fn add(&self, connection: &Arc<PooledConnection>) {
        let mut state = self.state();
        state.opening -= 1;
        state.error = None;
        state.not_before = None;
        state.open.push(Arc::clone(connection));
        let free = state.open.iter().map(|open| open.state.free_for_flows());
        let free = free.fold(0, usize::saturating_add);
        let waiting = self.waiters.waiting_flows().saturating_sub(free);
        let more = self.connections_for_waiting(&state, Purpose::Flow, waiting);
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

    /// Removes a connection that accepts no more calls. A connection that was never used counts as
    /// a failed attempt, so that callers do not keep making such connections.
    pub(super) fn remove_ended(
        &self,
        connection: &Weak<PooledConnection>,
        ended: &ConnectionShared,
    ) {
        let mut state = self.state();
        let is_same =
            |open: &Arc<PooledConnection>| std::ptr::eq(Arc::as_ptr(open), connection.as_ptr());
        let index = state.open.iter().position(is_same);
        let removed = index.map(|index| state.open.remove(index));
        if ended.total_taken() == 0 && removed.is_some() {
            let why = "the agent closed the connection before it was used";
            state.failed(ConnectError::new(why));
        }
        drop(state);
        // Dropped without the lock: the last reference to a connection wakes its task.
        drop(removed);
        self.waiters.wake_all();
    }

    /// Removes a connection beyond the base number, unless a call or a flow holds it.
    pub(super) fn retire(&self, connection: &Arc<PooledConnection>) {
        let mut state = self.state();
        let index = state
            .open
            .iter()
            .position(|open| Arc::ptr_eq(open, connection));
        // The references of the pool and of the caller. Only the pool creates others, under this
        // lock.
        let unused = Arc::strong_count(connection) == 2;
        let retired = match index {
            Some(index) if unused && state.open.len() > self.connector.base_connections() => {
                Some(state.open.remove(index))
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
        self.waiters.notify_pool_dropped();
    }
}

impl State {
    fn find_stream(
        &mut self,
        purpose: Purpose,
        preferred: Option<&Arc<PooledConnection>>,
        base_connections: usize,
    ) -> StreamSearch {
        if let Some(preferred) = preferred
            && self.open.iter().any(|open| Arc::ptr_eq(open, preferred))
        {
            if let Some(lease) = preferred.try_take(purpose) {
                return StreamSearch::Taken(lease);
            }
            if preferred.state.frees_soon() {
                return StreamSearch::Wait;
            }
        }
        // The base connections in rotation, then the others in order, so that the last ones become
        // idle.
        let base_connections = self.open.len().min(base_connections);
        self.rotation = self.rotation.wrapping_add(1);
        let in_turn = (0..base_connections)
            .map(|index| (self.rotation.wrapping_add(index)) % base_connections);
        let mut order = in_turn.chain(base_connections..self.open.len());
        match order.find_map(|index| self.open[index].try_take(purpose)) {
            Some(lease) => StreamSearch::Taken(lease),
            None => StreamSearch::Full,
        }
    }

    fn failed(&mut self, error: ConnectError) {
        self.failures += 1;
        self.error = Some(error);
        self.not_before = Some(Instant::now() + BACKOFF);
    }
}

/// Returns `true` if an attempt to connect may start. Without a connection any call may try. With
/// one the pool waits after a failed attempt.
fn may_connect(state: &State) -> bool {
    state.open.is_empty()
        || state
            .not_before
            .is_none_or(|not_before| Instant::now() >= not_before)
}
