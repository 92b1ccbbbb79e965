//! Counts the memory that callers make the agent hold, per connection and per process.
//!
//! The figures are in the [module docs](crate#the-budget).

use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::limits::{ALLOWANCE_BYTES, MAX_DECODED_BYTES, MAX_RESPONSE_BYTES, MAX_WAITING_BYTES};
use super::log_throttle::LogThrottle;

/// A kind of memory that callers take, each with a limit of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoryKind {
    /// Bytes of incoming calls, headers included.
    Incoming,
    /// Bytes of decoded calls, until their responses are sent or their flows wait.
    Decoded,
    /// Bytes of flows in queues.
    Waiting,
    /// Bytes of encoded responses, until the caller has read them.
    Responses,
}

const MEMORY_KINDS: [MemoryKind; 4] = [
    MemoryKind::Incoming,
    MemoryKind::Decoded,
    MemoryKind::Waiting,
    MemoryKind::Responses,
];

/// The limits that all connections of the process share.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    /// Below zero for a moment when bytes are returned by one thread before another, which took them
    /// from the connection's account, has counted them here.
    used: [AtomicIsize; MEMORY_KINDS.len()],
    limits: [usize; MEMORY_KINDS.len()],
    refused: Counter,
    log: LogThrottle,
}

impl MemoryBudget {
    pub(super) fn new(incoming: usize, refused: Counter) -> Self {
        Self {
            used: Default::default(),
            limits: [
                incoming,
                MAX_DECODED_BYTES,
                MAX_WAITING_BYTES,
                MAX_RESPONSE_BYTES,
            ],
            refused,
            log: LogThrottle::default(),
        }
    }

    /// Takes `bytes` for a connection that then holds `own` bytes of this kind beyond its
    /// allowance.
    ///
    /// A connection may hold as many bytes of responses, waiting flows and decoded calls as are
    /// left for all other connections: one of them gets half of the limit, two a third each, and a
    /// new connection always finds some left. Incoming calls may take all that is left.
    fn take(&self, kind: MemoryKind, own: usize, bytes: usize) -> bool {
        let limit = self.limits[kind as usize];
        let bytes = signed(bytes);
        let before = self.used[kind as usize].fetch_add(bytes, Relaxed);
        let used = usize::try_from(before.saturating_add(bytes)).unwrap_or(0);
        let Some(left) = limit.checked_sub(used) else {
            return false;
        };
        kind == MemoryKind::Incoming || own <= left
    }

    fn give_back(&self, kind: MemoryKind, bytes: usize) {
        self.used[kind as usize].fetch_sub(signed(bytes), Relaxed);
    }
}

/// Returns a number of bytes, which is far below the limit of the type.
fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

/// The memory that one connection holds, and the calls and responses that decide when to close it.
#[derive(Debug)]
pub(super) struct ConnectionAccount {
    budget: Arc<MemoryBudget>,
    used: [AtomicUsize; MEMORY_KINDS.len()],
    /// Waiting flows.
    pub(super) waiting: AtomicUsize,
    /// Calls that were neither answered nor cancelled.
    calls: AtomicUsize,
    opened: Instant,
    /// Milliseconds from `opened` to the last start or end of a call.
    last_call_millis: AtomicU64,
    ticks: AtomicUsize,
    /// Unread responses, by the tick in which they were created.
    unread: [AtomicUsize; TICK_RING],
}

/// A response is late when it was created more than this many ticks ago.
const TICKS_PER_TIMEOUT: usize = 4;
/// More than the number of ticks that an unread response may span, so that late and current
/// responses never share an entry of the ring.
const TICK_RING: usize = 8;

/// Why the agent closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CloseReason {
    /// No call ran for too long.
    Idle,
    /// The caller did not read a response in time.
    UnreadResponse,
}

impl ConnectionAccount {
    pub(super) fn new(budget: &Arc<MemoryBudget>) -> Arc<Self> {
        Arc::new(Self {
            budget: Arc::clone(budget),
            used: Default::default(),
            waiting: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            opened: Instant::now(),
            last_call_millis: AtomicU64::new(0),
            ticks: AtomicUsize::new(0),
            unread: Default::default(),
        })
    }

    fn take(&self, kind: MemoryKind, bytes: usize) -> Result<(), Status> {
        let before = self.used[kind as usize].fetch_add(bytes, Relaxed);
        let own = before.saturating_add(bytes).saturating_sub(ALLOWANCE_BYTES);
        let shared = own - before.saturating_sub(ALLOWANCE_BYTES);
        if shared == 0 || self.budget.take(kind, own, shared) {
            return Ok(());
        }
        self.give_back(kind, bytes);
        self.budget.refused.inc();
        if let Some(_calls) = self.budget.log.due() {
            log_event!(
                warn,
                "{_calls} calls were refused as RESOURCE_EXHAUSTED: callers hold too much memory \
                 ({kind:?})"
            );
        }
        Err(Status::resource_exhausted(match kind {
            MemoryKind::Incoming => "too many bytes of calls are incoming: try again later",
            MemoryKind::Decoded => "too many large calls are running: try again later",
            MemoryKind::Waiting => "too many bytes of flows are waiting: try again later",
            MemoryKind::Responses => {
                "too many bytes of responses are unread: read them, or send fewer calls"
            }
        }))
    }

    fn give_back(&self, kind: MemoryKind, bytes: usize) {
        let before = self.used[kind as usize].fetch_sub(bytes, Relaxed);
        let after = before.saturating_sub(bytes).saturating_sub(ALLOWANCE_BYTES);
        let shared = before.saturating_sub(ALLOWANCE_BYTES) - after;
        self.budget.give_back(kind, shared);
    }

    fn record_call_time(&self) {
        let millis = self.opened.elapsed().as_millis();
        self.last_call_millis
            .store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
    }

    /// Returns the number of running calls.
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Relaxed)
    }

    /// Waits until the connection has to be closed: no call ran for `idle`, or a response is unread
    /// for longer than `answer`, detected at most half of `answer` too late.
    pub(super) async fn wait_for_close(&self, idle: Duration, answer: Duration) -> CloseReason {
        let period = (answer / TICKS_PER_TIMEOUT as u32).max(Duration::from_millis(1));
        let mut tick = Instant::now() + period;
        loop {
            let last_call =
                self.opened + Duration::from_millis(self.last_call_millis.load(Relaxed));
            let now = Instant::now();
            let idle_at = match self.calls() {
                0 => last_call + idle,
                // The connection is not idle; each tick looks again whether the calls have ended.
                _ => tick,
            };
            if self.calls() == 0 && idle_at <= now {
                return CloseReason::Idle;
            }
            if tick <= now {
                tick = now + period;
                if self.has_late_response() {
                    return CloseReason::UnreadResponse;
                }
            }
            sleep_until(tick.min(idle_at)).await;
        }
    }

    fn has_late_response(&self) -> bool {
        let tick = self.ticks.fetch_add(1, Relaxed) + 1;
        let late = tick.wrapping_sub(TICKS_PER_TIMEOUT + 1) % TICK_RING;
        self.unread[late].load(Relaxed) > 0
    }
}

/// Counts a response as unread, until it is dropped.
#[derive(Debug)]
pub(super) struct UnreadResponse {
    account: Arc<ConnectionAccount>,
    at: usize,
}

impl Drop for UnreadResponse {
    fn drop(&mut self) {
        self.account.unread[self.at].fetch_sub(1, Relaxed);
    }
}

/// The memory that one call holds. The last clone to be dropped returns all of it: the body of the
/// response has one, and so has each of its frames that is not written yet.
#[derive(Clone, Debug)]
pub(super) struct Charge(Arc<ChargedCall>);

#[derive(Debug)]
struct ChargedCall {
    account: Arc<ConnectionAccount>,
    held: [AtomicUsize; MEMORY_KINDS.len()],
    /// The call counts as activity of its connection.
    busy: bool,
}

impl Charge {
    /// Creates the charge of a call on a connection. A call that is not `busy` does not keep an
    /// idle connection open.
    pub(super) fn new(account: &Arc<ConnectionAccount>, busy: bool) -> Self {
        if busy {
            account.calls.fetch_add(1, Relaxed);
        }
        account.record_call_time();
        Self(Arc::new(ChargedCall {
            account: Arc::clone(account),
            held: Default::default(),
            busy,
        }))
    }

    /// Returns the charge in the extensions of a call.
    ///
    /// # Panics
    ///
    /// Panics if the service has not set it.
    pub(super) fn of(extensions: &http::Extensions) -> Self {
        let charge = extensions.get::<Self>();
        charge.expect("the service charges each call").clone()
    }

    pub(super) fn account(&self) -> &ConnectionAccount {
        &self.0.account
    }

    /// Takes `bytes` more of a kind of memory.
    ///
    /// # Errors
    ///
    /// `RESOURCE_EXHAUSTED`, with nothing taken, when the connection or the process holds too much.
    pub(super) fn take(&self, kind: MemoryKind, bytes: usize) -> Result<(), Status> {
        self.0.account.take(kind, bytes)?;
        self.0.held[kind as usize].fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Takes or returns bytes of a kind of memory until the call holds `bytes` of it.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub(super) fn set(&self, kind: MemoryKind, bytes: usize) -> Result<(), Status> {
        let held = self.0.held[kind as usize].load(Relaxed);
        if bytes > held {
            return self.take(kind, bytes - held);
        }
        self.0.held[kind as usize].fetch_sub(held - bytes, Relaxed);
        self.0.account.give_back(kind, held - bytes);
        Ok(())
    }

    /// Returns all memory of a kind that the call holds.
    pub(super) fn release(&self, kind: MemoryKind) {
        let held = self.0.held[kind as usize].swap(0, Relaxed);
        self.0.account.give_back(kind, held);
    }

    /// Starts the time within which the caller has to read a response.
    pub(super) fn count_unread(&self) -> UnreadResponse {
        let account = Arc::clone(&self.0.account);
        let at = account.ticks.load(Relaxed) % TICK_RING;
        account.unread[at].fetch_add(1, Relaxed);
        UnreadResponse { account, at }
    }
}

impl Drop for ChargedCall {
    fn drop(&mut self) {
        for kind in MEMORY_KINDS {
            let held = self.held[kind as usize].load(Relaxed);
            self.account.give_back(kind, held);
        }
        if self.busy {
            self.account.record_call_time();
            self.account.calls.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget::new(1 << 20, Counter::default()))
    }

    fn used(budget: &MemoryBudget) -> isize {
        let used = budget.used.iter().map(|used| used.load(Relaxed));
        used.sum()
    }

    #[test]
    fn a_call_returns_all_memory_it_took() {
        let budget = budget();
        let account = ConnectionAccount::new(&budget);
        let charge = Charge::new(&account, true);
        for kind in MEMORY_KINDS {
            charge
                .take(kind, ALLOWANCE_BYTES / 2)
                .expect("within the allowance of the connection");
            charge.take(kind, 100_000).expect("within the shared limit");
            charge.set(kind, 50_000).expect("less than before");
        }
        assert!(used(&budget) > 0);
        charge.release(MemoryKind::Waiting);
        assert_eq!(account.calls(), 1);
        let frame = charge.clone();
        drop(charge);
        assert!(used(&budget) > 0, "a frame still holds memory");
        drop(frame);
        assert_eq!(used(&budget), 0);
        assert_eq!(account.calls(), 0);
        let own = account.used.iter().map(|used| used.load(Relaxed));
        assert_eq!(own.sum::<usize>(), 0);
    }

    #[test]
    fn greedy_callers_leave_room_for_a_new_one() {
        let budget = budget();
        let mut greedy = Vec::new();
        for callers in 1..10 {
            let charge = Charge::new(&ConnectionAccount::new(&budget), true);
            let mut taken = 0;
            while charge.take(MemoryKind::Responses, 64 << 10).is_ok() {
                taken += 64 << 10;
            }
            assert!(taken > 0, "caller {callers}");
            assert!(taken <= MAX_RESPONSE_BYTES / 2 + ALLOWANCE_BYTES);
            greedy.push(charge);
        }
        drop(greedy);
        assert_eq!(used(&budget), 0);
    }

    #[test]
    fn a_small_caller_is_served_when_all_shared_memory_is_taken() {
        let budget = budget();
        let all = Charge::new(&ConnectionAccount::new(&budget), true);
        all.take(MemoryKind::Incoming, (1 << 20) + ALLOWANCE_BYTES)
            .expect("exactly the shared limit");
        let small = Charge::new(&ConnectionAccount::new(&budget), true);
        small
            .take(MemoryKind::Incoming, ALLOWANCE_BYTES)
            .expect("within the allowance of the connection");
        assert!(small.take(MemoryKind::Incoming, 1).is_err());
        drop(all);
        small
            .take(MemoryKind::Incoming, 1)
            .expect("within the shared limit again");
    }

    /// The calls of one connection may end on other threads than those on which they began, around
    /// the allowance of the connection in particular.
    #[test]
    fn calls_on_several_threads_are_not_refused_while_little_is_held() {
        let budget = budget();
        let account = ConnectionAccount::new(&budget);
        std::thread::scope(|scope| {
            for bytes in [ALLOWANCE_BYTES - 100, 300, 400, 500] {
                let account = &account;
                scope.spawn(move || {
                    for _ in 0..50_000 {
                        let call = Charge::new(account, true);
                        let taken = call.take(MemoryKind::Responses, bytes);
                        taken.expect("much less than the shared limit");
                    }
                });
            }
        });
        assert_eq!(used(&budget), 0);
        assert_eq!(account.calls(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_call() {
        let account = ConnectionAccount::new(&budget());
        let (idle, answer) = (Duration::from_secs(60), Duration::from_secs(30));
        let started = Instant::now();
        let call = Charge::new(&account, true);
        let watch = Charge::new(&account, false);
        let ends = async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(call);
        };
        let (reason, ()) = tokio::join!(account.wait_for_close(idle, answer), ends);
        assert_eq!(reason, CloseReason::Idle);
        let took = started.elapsed().as_secs();
        assert!((160..170).contains(&took), "{took}");
        drop(watch);
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_response_that_stays_unread_is_late() {
        let account = ConnectionAccount::new(&budget());
        let (idle, answer) = (Duration::from_secs(60), Duration::from_secs(30));
        let call = Charge::new(&account, true);
        // One response after the other, each read in time.
        for _ in 0..20 {
            let response = call.count_unread();
            let close = account.wait_for_close(idle, answer);
            let wait = tokio::time::timeout(Duration::from_secs(25), close).await;
            assert!(wait.is_err());
            drop(response);
        }
        let started = Instant::now();
        let _unread = call.count_unread();
        assert_eq!(
            account.wait_for_close(idle, answer).await,
            CloseReason::UnreadResponse
        );
        let took = started.elapsed().as_secs();
        assert!((30..=45).contains(&took), "{took}");
    }
}
