//! A shared store: what it grants is used by its flow or returned, exactly once, whichever of reply
//! and flow comes first.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Weak;
use std::task::{Context, Waker};

use super::*;
use crate::engine::Shared;
use crate::engine::shared::{
    SharedStore, SlotListener, SlotsOutcome, StoreAbsence, StoreKey, StoreOperation, StoreOutcome,
    StoreReply, TokensOutcome,
};
use crate::engine::sync::{Mutex, lock};

/// A store with one bucket and one set of slots, whose replies come from another thread.
#[derive(Clone, Debug)]
struct Store(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    held: VecDeque<(StoreOperation, StoreReply)>,
    tokens: f64,
    slots: Vec<crate::engine::RequestId>,
}

impl Store {
    fn new(tokens: f64) -> Self {
        Self(Arc::new(Mutex::new(State {
            held: VecDeque::new(),
            tokens,
            slots: Vec::new(),
        })))
    }

    /// Carries out the oldest operation. Returns false if there is none.
    fn deliver(&self) -> bool {
        let mut state = lock(&self.0);
        let Some((operation, reply)) = state.held.pop_front() else {
            return false;
        };
        let outcome = state.carry_out(&operation);
        drop(state);
        reply.complete(Ok(outcome));
        true
    }

    fn deliver_all(&self) {
        while self.deliver() {}
    }

    fn balance(&self) -> (f64, usize) {
        let state = lock(&self.0);
        (state.tokens, state.slots.len())
    }
}

impl State {
    fn carry_out(&mut self, operation: &StoreOperation) -> StoreOutcome {
        match operation {
            StoreOperation::Take(take) => {
                let granted = take.tokens <= self.tokens;
                if granted {
                    self.tokens -= take.tokens;
                }
                StoreOutcome::Tokens(TokensOutcome {
                    granted,
                    wait: Duration::ZERO,
                    unsatisfiable: false,
                    remaining: self.tokens,
                    current: 0.0,
                })
            }
            StoreOperation::Enter(enter) => {
                let current = self.slots.len() as f64;
                let granted = current < enter.capacity;
                if granted {
                    self.slots.push(enter.id);
                }
                StoreOutcome::Slots(SlotsOutcome {
                    granted,
                    current,
                    next_expiry: None,
                })
            }
            StoreOperation::Leave(leave) => {
                let before = self.slots.len();
                self.slots.retain(|id| *id != leave.id);
                StoreOutcome::Left(self.slots.len() < before)
            }
        }
    }
}

impl SharedStore for Store {
    fn submit(&self, operation: StoreOperation, reply: StoreReply) {
        lock(&self.0).held.push_back((operation, reply));
    }

    fn deadline(&self) -> Duration {
        Duration::from_millis(20)
    }

    fn is_available(&self) -> bool {
        true
    }

    fn nodes(&self) -> u32 {
        1
    }

    fn absence(&self) -> StoreAbsence {
        StoreAbsence::Closed
    }

    fn decided_without(&self) {}

    fn listen(&self, _: StoreKey, _: Weak<dyn SlotListener>) {}
}

fn engine_with(store: &Store, components: &[String]) -> (Engine<Shared>, ManualClock) {
    let clock = ManualClock::new();
    let engine = Engine::builder()
        .policy_text("test.yaml", policy_of(components))
        .clock(clock.clone())
        .max_keys(64)
        .shared(store.clone())
        .build();
    (engine.expect("the policy is right"), clock)
}

#[test]
fn a_flow_that_leaves_while_its_reply_comes_returns_what_it_was_granted() {
    for component in [rate_limiter(4.0), limiter(4.0), quota(4.0, 1.0), slots(4.0)] {
        explore(move || {
            let store = Store::new(4.0);
            let (engine, _) = engine_with(&store, std::slice::from_ref(&component));
            let mut flow = start(&engine, 1);
            let replying = store.clone();
            let replying = thread::spawn(move || replying.deliver());
            let mut context = Context::from_waker(Waker::noop());
            let decided = Pin::new(&mut flow)
                .poll(&mut context)
                .map(|decided| decided.1);
            drop((flow, decided));
            assert!(replying.join().expect("it does not panic"));
            store.deliver_all();
            let (tokens, held) = store.balance();
            assert_eq!(held, 0);
            // A flow that was decided first has spent its token.
            assert!(tokens == 4.0 || tokens == 3.0, "{tokens}");
        });
    }
}

#[test]
fn a_flow_is_decided_once_by_its_reply_or_its_deadline_and_a_late_grant_is_returned() {
    for component in [rate_limiter(4.0), limiter(4.0), quota(4.0, 1.0), slots(4.0)] {
        explore(move || {
            let store = Store::new(4.0);
            let (engine, clock) = engine_with(&store, std::slice::from_ref(&component));
            let flow = start(&engine, 1);
            let replying = store.clone();
            let replying = thread::spawn(move || replying.deliver());
            let advancing = thread::spawn(move || clock.advance(Duration::from_millis(20)));
            let (report, ticket) = block_on(flow);
            replying.join().expect("it does not panic");
            advancing.join().expect("it does not panic");
            store.deliver_all();
            let taken = 4.0 - store.balance().0 + store.balance().1 as f64;
            assert_eq!(taken, f64::from(u8::from(report.accepted())));
            drop(ticket);
            store.deliver_all();
            assert_eq!(store.balance().1, 0);
        });
    }
}

#[test]
fn each_slot_that_is_returned_reaches_a_waiting_flow() {
    explore(|| {
        let store = Store::new(0.0);
        let (engine, _) = engine_with(&store, &[slots(1.0)]);
        let over = Arc::new(AtomicI64::new(0));
        let (replying, stop) = (store.clone(), Arc::clone(&over));
        let replying = thread::spawn(move || {
            while stop.load(SeqCst) == 0 {
                replying.deliver_all();
                thread::yield_now();
            }
        });
        let inside = InFlightGauge::default();
        run_threads(3, move |at| {
            let (report, ticket) = block_on(start(&engine, 1 + at));
            assert!(report.accepted(), "it has a minute");
            inside.enter(1);
            inside.leave();
            drop(ticket);
        });
        over.store(1, SeqCst);
        replying.join().expect("it does not panic");
        store.deliver_all();
        assert_eq!(store.balance().1, 0);
    });
}
