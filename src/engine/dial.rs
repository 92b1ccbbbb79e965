//! A number that is turned while others read it.

use std::fmt;
use std::sync::atomic::Ordering;

use super::sync::AtomicU64;
use crate::policy::Port;

/// A signal's value as a component sees it.
pub(crate) struct Dial(AtomicU64);

impl Dial {
    pub(crate) fn new(value: f64) -> Self {
        Self(AtomicU64::new(value.to_bits()))
    }

    // Relaxed: the number is all there is to see.
    #[inline]
    pub(crate) fn get(&self) -> f64 {
        f64::from_bits(self.0.load(Ordering::Relaxed))
    }

    /// Takes over a constant of a changed policy; what a circuit says stays as it is.
    pub(crate) fn fix(&self, port: Port) {
        if let Port::Constant(value) = port {
            self.set(value);
        }
    }

    pub(crate) fn set(&self, value: f64) {
        self.0.store(value.to_bits(), Ordering::Relaxed);
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
