//! What callers take of the node's memory, counted by connection and by process.
//!
//! The figures are in the [module docs](crate::agent#the-budget).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::log_throttle::LogThrottle;
use super::{ALLOWANCE, ANSWER_BYTES, DECODED_BYTES, WAITING_BYTES};

/// One line of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Bytes of calls that come in, their headers included.
    Incoming,
    /// Decoded calls, until their answers are sent or their flows wait.
    Decoded,
    /// Flows in queues.
    Waiting,
    /// Encoded answers, until the caller takes them.
    Answers,
}

const LINES: [Line; 4] = [Line::Incoming, Line::Decoded, Line::Waiting, Line::Answers];

/// What the connections of the process share.
#[derive(Debug)]
pub(super) struct Budget {
    used: [AtomicUsize; LINES.len()],
    most: [usize; LINES.len()],
    refused: Counter,
    log: LogThrottle,
}

impl Budget {
    pub(super) fn new(incoming: usize, refused: Counter) -> Self {
        Self {
            used: Default::default(),
            most: [incoming, DECODED_BYTES, WAITING_BYTES, ANSWER_BYTES],
            refused,
            log: LogThrottle::default(),
        }
    }

    /// Takes bytes for a connection that has taken `own` of this line, these included.
    ///
    /// Of answers, waiting flows and decoded calls a connection may have as much as is left for
    /// all others: one of them takes half, two of them a third each, and a newcomer always finds
    /// some. A call that is coming in may take all that is left.
    fn take(&self, line: Line, own: usize, bytes: usize) -> bool {
        let most = self.most[line as usize];
        let before = self.used[line as usize].fetch_add(bytes, Relaxed);
        let Some(left) = most.checked_sub(before.saturating_add(bytes)) else {
            return false;
        };
        line == Line::Incoming || own <= left
    }
}

/// What one connection has taken.
#[derive(Debug)]
pub(super) struct Account {
    budget: Arc<Budget>,
    used: [AtomicUsize; LINES.len()],
    /// Flows that wait.
    pub(super) waiting: AtomicUsize,
    /// Calls that were neither answered nor cancelled.
    calls: AtomicUsize,
    begun: Instant,
    /// Milliseconds from `begun` to the last time that a call began or ended.
    asked: AtomicU64,
    ticks: AtomicUsize,
    /// Answers that were not taken yet, by the tick in which they were made.
    untaken: [AtomicUsize; RING],
}

/// An answer is late when it was made more than so many ticks ago.
const TICKS: usize = 4;
/// More than the ticks of answers that are not late, so that no two of them share a place.
const RING: usize = 8;

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Nothing was asked for too long.
    Idle,
    /// An answer was not taken in time.
    Untaken,
}

impl Account {
    pub(super) fn new(budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self {
            budget: Arc::clone(budget),
            used: Default::default(),
            waiting: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            begun: Instant::now(),
            asked: AtomicU64::new(0),
            ticks: AtomicUsize::new(0),
            untaken: Default::default(),
        })
    }

    fn take(&self, line: Line, bytes: usize) -> Result<(), Status> {
        let before = self.used[line as usize].fetch_add(bytes, Relaxed);
        let own = before.saturating_add(bytes).saturating_sub(ALLOWANCE);
        let shared = own - before.saturating_sub(ALLOWANCE);
        if shared == 0 || self.budget.take(line, own, shared) {
            return Ok(());
        }
        self.give(line, bytes);
        self.budget.refused.inc();
        if let Some(_calls) = self.budget.log.due() {
            log_event!(
                warn,
                "{_calls} calls were refused as RESOURCE_EXHAUSTED: callers hold too much memory \
                 ({line:?})"
            );
        }
        Err(Status::resource_exhausted(match line {
            Line::Incoming => "too many bytes of calls are on their way in: try again later",
            Line::Decoded => "too many large calls are being answered: try again later",
            Line::Waiting => "too many bytes of flows wait: try again later",
            Line::Answers => "too many bytes of answers were not taken: take them, or ask for less",
        }))
    }

    fn give(&self, line: Line, bytes: usize) {
        let before = self.used[line as usize].fetch_sub(bytes, Relaxed);
        let after = before.saturating_sub(bytes).saturating_sub(ALLOWANCE);
        let shared = before.saturating_sub(ALLOWANCE) - after;
        self.budget.used[line as usize].fetch_sub(shared, Relaxed);
    }

    fn note_call(&self) {
        let millis = self.begun.elapsed().as_millis();
        self.asked
            .store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
    }

    /// Calls that are under way.
    pub(super) fn calls(&self) -> usize {
        self.calls.load(Relaxed)
    }

    /// Ready when the connection is to be closed: its caller asked nothing for as long as `idle`, or
    /// left an answer for longer than `answer`, by half of it at most.
    pub(super) async fn overdue(&self, idle: Duration, answer: Duration) -> Overdue {
        let period = (answer / TICKS as u32).max(Duration::from_millis(1));
        let mut tick = Instant::now() + period;
        loop {
            let asked = self.begun + Duration::from_millis(self.asked.load(Relaxed));
            let now = Instant::now();
            let idle_at = match self.calls() {
                0 => asked + idle,
                // It is not idle, and the end of a call is looked for at each tick.
                _ => tick,
            };
            if self.calls() == 0 && idle_at <= now {
                return Overdue::Idle;
            }
            if tick <= now {
                tick = now + period;
                if self.has_late_answer() {
                    return Overdue::Untaken;
                }
            }
            sleep_until(tick.min(idle_at)).await;
        }
    }

    fn has_late_answer(&self) -> bool {
        let tick = self.ticks.fetch_add(1, Relaxed) + 1;
        let late = tick.wrapping_sub(TICKS + 1) % RING;
        self.untaken[late].load(Relaxed) > 0
    }
}

/// Counts an answer that was not taken yet, until it is dropped.
#[derive(Debug)]
pub(super) struct Untaken {
    account: Arc<Account>,
    at: usize,
}

impl Drop for Untaken {
    fn drop(&mut self) {
        self.account.untaken[self.at].fetch_sub(1, Relaxed);
    }
}

/// What one call takes of the budget. The last clone gives it all back when it is dropped: the
/// body of the answer has one, and so has each frame of it that was not written yet.
#[derive(Clone, Debug)]
pub(super) struct Charge(Arc<Call>);

#[derive(Debug)]
struct Call {
    account: Arc<Account>,
    held: [AtomicUsize; LINES.len()],
    /// It keeps its connection from being idle.
    busy: bool,
}

impl Charge {
    /// A call on a connection. One that is not `busy` does not keep an idle connection open.
    pub(super) fn new(account: &Arc<Account>, busy: bool) -> Self {
        if busy {
            account.calls.fetch_add(1, Relaxed);
        }
        account.note_call();
        Self(Arc::new(Call {
            account: Arc::clone(account),
            held: Default::default(),
            busy,
        }))
    }

    /// The charge of the call that has these extensions.
    pub(super) fn of(extensions: &http::Extensions) -> Option<Self> {
        extensions.get::<Self>().cloned()
    }

    pub(super) fn account(&self) -> &Account {
        &self.0.account
    }

    /// Takes more of a line.
    ///
    /// # Errors
    ///
    /// `RESOURCE_EXHAUSTED`, with nothing taken, when the connection or the process has too much.
    pub(super) fn take(&self, line: Line, bytes: usize) -> Result<(), Status> {
        self.0.account.take(line, bytes)?;
        self.0.held[line as usize].fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Takes what a line lacks to these bytes, or gives back what it has more.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take).
    pub(super) fn set(&self, line: Line, bytes: usize) -> Result<(), Status> {
        let held = self.0.held[line as usize].load(Relaxed);
        if bytes > held {
            return self.take(line, bytes - held);
        }
        self.0.held[line as usize].fetch_sub(held - bytes, Relaxed);
        self.0.account.give(line, held - bytes);
        Ok(())
    }

    pub(super) fn release(&self, line: Line) {
        let held = self.0.held[line as usize].swap(0, Relaxed);
        self.0.account.give(line, held);
    }

    /// Begins the time in which the caller has to take an answer.
    pub(super) fn untaken(&self) -> Untaken {
        let account = Arc::clone(&self.0.account);
        let at = account.ticks.load(Relaxed) % RING;
        account.untaken[at].fetch_add(1, Relaxed);
        Untaken { account, at }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        for line in LINES {
            let held = self.held[line as usize].load(Relaxed);
            self.account.give(line, held);
        }
        if self.busy {
            self.account.note_call();
            self.account.calls.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget() -> Arc<Budget> {
        Arc::new(Budget::new(1 << 20, Counter::default()))
    }

    fn used(budget: &Budget) -> usize {
        let used = budget.used.iter().map(|used| used.load(Relaxed));
        used.sum()
    }

    #[test]
    fn a_call_gives_back_all_that_it_took() {
        let budget = budget();
        let account = Account::new(&budget);
        let charge = Charge::new(&account, true);
        for line in LINES {
            charge.take(line, ALLOWANCE / 2).expect("its own");
            charge.take(line, 100_000).expect("there is room");
            charge.set(line, 50_000).expect("less than before");
        }
        assert!(used(&budget) > 0);
        charge.release(Line::Waiting);
        assert_eq!(account.calls(), 1);
        let frame = charge.clone();
        drop(charge);
        assert!(used(&budget) > 0, "a frame is left");
        drop(frame);
        assert_eq!(used(&budget), 0);
        assert_eq!(account.calls(), 0);
        let own = account.used.iter().map(|used| used.load(Relaxed));
        assert_eq!(own.sum::<usize>(), 0);
    }

    #[test]
    fn callers_that_take_all_they_can_leave_room_for_another() {
        let budget = budget();
        let mut greedy = Vec::new();
        for callers in 1..10 {
            let charge = Charge::new(&Account::new(&budget), true);
            let mut taken = 0;
            while charge.take(Line::Answers, 64 << 10).is_ok() {
                taken += 64 << 10;
            }
            assert!(taken > 0, "caller {callers}");
            assert!(taken <= ANSWER_BYTES / 2 + ALLOWANCE);
            greedy.push(charge);
        }
        drop(greedy);
        assert_eq!(used(&budget), 0);
    }

    #[test]
    fn a_small_caller_is_served_when_all_that_is_shared_is_taken() {
        let budget = budget();
        let all = Charge::new(&Account::new(&budget), true);
        all.take(Line::Incoming, (1 << 20) + ALLOWANCE)
            .expect("all there is");
        let small = Charge::new(&Account::new(&budget), true);
        small.take(Line::Incoming, ALLOWANCE).expect("its own");
        assert!(small.take(Line::Incoming, 1).is_err());
        drop(all);
        small.take(Line::Incoming, 1).expect("there is room again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_call() {
        let account = Account::new(&budget());
        let (idle, answer) = (Duration::from_secs(60), Duration::from_secs(30));
        let begun = Instant::now();
        let call = Charge::new(&account, true);
        let watch = Charge::new(&account, false);
        let ends = async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(call);
        };
        let (overdue, ()) = tokio::join!(account.overdue(idle, answer), ends);
        assert_eq!(overdue, Overdue::Idle);
        let took = begun.elapsed().as_secs();
        assert!((160..170).contains(&took), "{took}");
        drop(watch);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_late_and_one_that_is_taken_is_not() {
        let account = Account::new(&budget());
        let (idle, answer) = (Duration::from_secs(60), Duration::from_secs(30));
        let call = Charge::new(&account, true);
        // One after the other, each taken in time.
        for _ in 0..20 {
            let taken = call.untaken();
            let overdue = account.overdue(idle, answer);
            let wait = tokio::time::timeout(Duration::from_secs(25), overdue).await;
            assert!(wait.is_err());
            drop(taken);
        }
        let begun = Instant::now();
        let _untaken = call.untaken();
        assert_eq!(account.overdue(idle, answer).await, Overdue::Untaken);
        let took = begun.elapsed().as_secs();
        assert!((30..=45).contains(&took), "{took}");
    }
}
