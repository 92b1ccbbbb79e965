//! Counts the changes to the caches of an engine that are made in the background.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::flow::CacheError;
use crate::meter::{ClientMeter, Meter};

/// The counters of one client, which the callbacks of changes under way share.
#[derive(Default)]
pub(in crate::client) struct CacheWrites {
    made: AtomicU64,
    failed: AtomicU64,
    /// True if the last change failed.
    last_failed: AtomicBool,
    meter: ClientMeter,
}

impl fmt::Debug for CacheWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheWrites")
            .field("made", &self.made)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl CacheWrites {
    pub(in crate::client) fn count(&self, written: Result<(), CacheError>) {
        self.meter.count_cache_write(written.is_ok());
        match written {
            Ok(()) => {
                self.made.fetch_add(1, Relaxed);
                if self.last_failed.swap(false, Relaxed) {
                    log_event!(info, "cache writes succeed again");
                }
            }
            Err(error) => {
                self.failed.fetch_add(1, Relaxed);
                if !self.last_failed.swap(true, Relaxed) {
                    log_event!(
                        warn,
                        "cache writes fail: {}",
                        aperture_core::WithCauses(&error)
                    );
                }
            }
        }
    }

    /// Returns the numbers of changes that were made and that failed.
    pub(in crate::client) fn sums(&self) -> (u64, u64) {
        (self.made.load(Relaxed), self.failed.load(Relaxed))
    }
}
