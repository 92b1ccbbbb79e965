//! The caches of a shared store in memory, whose replies a test completes, delays or refuses.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tower_aperture::engine::shared::{SharedCaches, StoreError, StoreKey, StoreReply};
use tower_aperture::engine::{Clock, ManualClock};

use super::store::{DEADLINE, Replies};

/// The caches of all engines with one store.
#[derive(Debug)]
pub(super) struct FakeCaches {
    clock: ManualClock,
    state: Mutex<CacheState>,
}

pub(super) struct CacheState {
    pub(super) replies: Replies,
    pub(super) available: bool,
    /// The values and when they expire.
    pub(super) values: HashMap<StoreKey, (Bytes, Duration)>,
    pub(super) submitted: usize,
    held: VecDeque<HeldCall>,
}

/// An operation without a reply.
enum HeldCall {
    Get(StoreKey, StoreReply<Option<Bytes>>),
    Change(StoreKey, Option<(Bytes, Duration)>, StoreReply<()>),
}

impl FakeCaches {
    pub(super) fn new(clock: &ManualClock, replies: Replies) -> Self {
        Self {
            clock: clock.clone(),
            state: Mutex::new(CacheState {
                replies,
                available: true,
                values: HashMap::new(),
                submitted: 0,
                held: VecDeque::new(),
            }),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, CacheState> {
        self.state.lock().expect("no test panics meanwhile")
    }

    /// Returns the number of operations without a reply.
    pub(super) fn held(&self) -> usize {
        self.state().held.len()
    }

    /// Carries out all operations and replies.
    pub(super) fn deliver_all(&self) {
        loop {
            let Some(call) = self.state().held.pop_front() else {
                return;
            };
            self.carry_out(call);
        }
    }

    /// Takes the first operation away without carrying it out. Replies with an error, or not at all.
    pub(super) fn refuse(&self, drops: bool) {
        let call = self.state().held.pop_front().expect("an operation waits");
        let refused = || StoreError::Refused("test".to_owned());
        match call {
            _ if drops => {}
            HeldCall::Get(_, reply) => reply.complete(Err(refused())),
            HeldCall::Change(_, _, reply) => reply.complete(Err(refused())),
        }
    }

    fn submit(&self, call: HeldCall) {
        let mut state = self.state();
        state.submitted += 1;
        if state.replies == Replies::Held {
            state.held.push_back(call);
        } else {
            drop(state);
            self.carry_out(call);
        }
    }

    fn carry_out(&self, call: HeldCall) {
        let now = self.clock.now();
        let mut state = self.state();
        match call {
            HeldCall::Get(key, reply) => {
                let found = state.values.get(&key).filter(|(_, until)| *until > now);
                let found = found.map(|(value, _)| value.clone());
                drop(state);
                reply.complete(Ok(found));
            }
            HeldCall::Change(key, value, reply) => {
                match value {
                    Some((value, ttl)) => state.values.insert(key, (value, now + ttl)),
                    None => state.values.remove(&key),
                };
                drop(state);
                reply.complete(Ok(()));
            }
        }
    }
}

impl SharedCaches for FakeCaches {
    fn get(&self, key: StoreKey, reply: StoreReply<Option<Bytes>>) {
        self.submit(HeldCall::Get(key, reply));
    }

    fn set(&self, key: StoreKey, value: Bytes, ttl: Duration, reply: StoreReply<()>) {
        self.submit(HeldCall::Change(key, Some((value, ttl)), reply));
    }

    fn delete(&self, key: StoreKey, reply: StoreReply<()>) {
        self.submit(HeldCall::Change(key, None, reply));
    }

    fn deadline(&self) -> Duration {
        DEADLINE
    }

    fn is_available(&self) -> bool {
        self.state().available
    }
}

impl fmt::Debug for CacheState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheState").finish_non_exhaustive()
    }
}
