//! The circuit of a loop and the time of its next tick, which loops share across a reload.

use std::sync::PoisonError;
use std::sync::atomic::AtomicI64;
use std::thread;
use std::time::Duration;

use super::circuit::Circuit;
use crate::engine::sync::{Mutex, MutexGuard};

/// The state of a loop.
#[derive(Debug)]
pub(super) struct Core {
    /// Taken out by the thread that ticks, so that nothing is locked meanwhile.
    pub(super) circuit: Mutex<Option<Box<Circuit>>>,
    /// When it ticks next.
    pub(super) next: AtomicI64,
}

/// How often a reload looks for a circuit that another thread has taken out to tick it.
const LOOKS: u32 = 1000;

impl Core {
    /// Runs `see` on the circuit between two ticks. Returns `None` when the circuit ticks all the
    /// time.
    pub(super) fn look<R>(&self, see: impl FnOnce(&Circuit) -> R) -> Option<R> {
        for _ in 0..LOOKS {
            if let Some(circuit) = &*lock(&self.circuit) {
                return Some(see(circuit));
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }
}

/// The circuit of a loop, taken out of it until this guard drops.
pub(super) struct Turn<'a> {
    place: &'a Mutex<Option<Box<Circuit>>>,
    pub(super) circuit: Option<Box<Circuit>>,
}

impl<'a> Turn<'a> {
    pub(super) fn take(place: &'a Mutex<Option<Box<Circuit>>>) -> Option<Self> {
        let circuit = lock(place).take()?;
        Some(Self {
            place,
            circuit: Some(circuit),
        })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *lock(self.place) = self.circuit.take();
    }
}

pub(super) fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}
