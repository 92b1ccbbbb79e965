//! Locks and atomics: those of the standard library, or under `--cfg shuttle`, for the tests in
//! `interleavings`, those of Shuttle, which may switch threads at each use.

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic::AtomicU64};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic::AtomicU64};
