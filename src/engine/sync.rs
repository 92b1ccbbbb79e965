//! Locks and shared numbers: the standard library's; under `--cfg shuttle`, which is for the tests
//! in `interleavings`, ones at each use of which any other thread may come first.

#[cfg(all(test, shuttle))]
pub(crate) use shuttle::sync::{Mutex, MutexGuard, atomic::AtomicU64};
#[cfg(not(all(test, shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard, atomic::AtomicU64};
