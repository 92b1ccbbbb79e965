//! The state of a loop, which is shared with its successor across a reload.

use std::sync::PoisonError;
use std::sync::atomic::AtomicI64;
use std::thread;
use std::time::Duration;

use super::circuit::RunningCircuit;
use crate::engine::sync::{Mutex, MutexGuard};

/// The circuit of a loop and the time of its next tick.
#[derive(Debug)]
pub(super) struct LoopState {
    /// Taken out by the thread that evaluates a tick, so that no lock is held meanwhile.
    pub(super) circuit: Mutex<Option<Box<RunningCircuit>>>,
    /// The time of the next tick.
    pub(super) next_tick: AtomicI64,
}

/// The number of attempts of a reload to get a circuit that another thread has taken out.
const MAX_ATTEMPTS: u32 = 1000;

impl LoopState {
    /// Runs `read` on the circuit between two ticks. Returns `None` if other threads keep the
    /// circuit taken out.
    pub(super) fn with_circuit<R>(&self, read: impl FnOnce(&RunningCircuit) -> R) -> Option<R> {
        for _ in 0..MAX_ATTEMPTS {
            if let Some(circuit) = &*lock(&self.circuit) {
                return Some(read(circuit));
            }
            thread::sleep(Duration::from_millis(1));
        }
        None
    }
}

/// A circuit that is taken out of its loop until this guard drops.
pub(super) struct TakenCircuit<'a> {
    slot: &'a Mutex<Option<Box<RunningCircuit>>>,
    pub(super) circuit: Option<Box<RunningCircuit>>,
}

impl<'a> TakenCircuit<'a> {
    pub(super) fn take(slot: &'a Mutex<Option<Box<RunningCircuit>>>) -> Option<Self> {
        let circuit = lock(slot).take()?;
        Some(Self {
            slot,
            circuit: Some(circuit),
        })
    }
}

impl Drop for TakenCircuit<'_> {
    fn drop(&mut self) {
        *lock(self.slot) = self.circuit.take();
    }
}

pub(super) fn lock<T>(slot: &Mutex<T>) -> MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}
