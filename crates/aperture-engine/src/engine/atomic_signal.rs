//! A signal value that is written by a control loop while flows read it.

use std::fmt;
use std::sync::atomic::Ordering;

use super::sync::AtomicU64;
use crate::policy::Port;

/// The value of a signal as an input of a component.
pub(crate) struct AtomicSignal(AtomicU64);

impl AtomicSignal {
    pub(crate) fn new(value: f64) -> Self {
        Self(AtomicU64::new(value.to_bits()))
    }

    // Relaxed suffices: no other memory depends on the value.
    #[inline]
    pub(crate) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Takes over the constant of a changed policy; a value that a circuit drives stays as it is.
    pub(crate) fn set_if_constant(&self, port: Port) {
        if let Port::Constant(value) = port {
            self.set(value);
        }
    }

    pub(crate) fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl fmt::Debug for AtomicSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
