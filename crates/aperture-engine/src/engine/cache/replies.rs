//! The replies of a shared store to operations that were submitted together.

use std::fmt;
use std::sync::Arc;
use std::task::Waker;

use crate::engine::shared::{StoreError, StoreReply};
use crate::engine::sync::{Mutex, lock};

/// The replies to operations that were submitted together.
pub(super) struct Replies<T>(Mutex<State<T>>);

struct State<T> {
    /// `None` where the reply is missing. Empty once the replies were taken.
    results: Vec<Option<Result<T, StoreError>>>,
    missing: usize,
    observer: Observer,
}

/// Learns that all replies are there.
enum Observer {
    None,
    Waker(Waker),
    Callback(Box<dyn FnOnce() + Send>),
}

impl<T: Send + 'static> Replies<T> {
    pub(super) fn new(count: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            results: (0..count).map(|_| None).collect(),
            missing: count,
            observer: Observer::None,
        })))
    }

    /// Returns the reply to the operation at this place.
    pub(super) fn reply(self: &Arc<Self>, at: usize) -> StoreReply<T> {
        let replies = Arc::clone(self);
        StoreReply::new(move |result| replies.complete(at, result))
    }

    fn complete(&self, at: usize, result: Result<T, StoreError>) {
        let mut state = lock(&self.0);
        // A reply that comes after the others were taken is dropped.
        let Some(missing @ None) = state.results.get_mut(at) else {
            return;
        };
        *missing = Some(result);
        state.missing -= 1;
        if state.missing > 0 {
            return;
        }
        let observer = std::mem::replace(&mut state.observer, Observer::None);
        drop(state);
        observer.notify();
    }

    /// Returns true if all replies are there. Otherwise the waker is woken when they are.
    pub(super) fn are_there(&self, waker: Option<&Waker>) -> bool {
        // Dropped after the lock: dropping the last waker may drop a task that waits for replies.
        let mut _replaced = Observer::None;
        let mut state = lock(&self.0);
        if state.missing == 0 {
            return true;
        }
        if let Some(waker) = waker {
            let same = matches!(&state.observer, Observer::Waker(known) if known.will_wake(waker));
            if !same {
                let observer = Observer::Waker(waker.clone());
                _replaced = std::mem::replace(&mut state.observer, observer);
            }
        }
        drop(state);
        false
    }

    /// Calls `callback` once all replies are there, at once if they are.
    pub(super) fn call(&self, callback: impl FnOnce() + Send + 'static) {
        let mut state = lock(&self.0);
        if state.missing == 0 {
            drop(state);
            return callback();
        }
        state.observer = Observer::Callback(Box::new(callback));
    }

    /// Takes the replies, in the order of the operations; `None` for those that are missing.
    pub(super) fn take(&self) -> Vec<Option<Result<T, StoreError>>> {
        let mut state = lock(&self.0);
        state.missing = 0;
        std::mem::take(&mut state.results)
    }
}

impl Observer {
    fn notify(self) {
        match self {
            Self::None => {}
            Self::Waker(waker) => waker.wake(),
            Self::Callback(callback) => callback(),
        }
    }
}

/// Omits values, which may identify people.
impl<T> fmt::Debug for Replies<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").finish_non_exhaustive()
    }
}
