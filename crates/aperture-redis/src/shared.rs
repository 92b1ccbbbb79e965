//! The state that the handles of a store share with its driver.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aperture_engine::engine::Clock;
use aperture_engine::engine::shared::StoreKey;
use tokio::sync::Notify;

use crate::breaker::Breaker;
use crate::builder::Settings;
use crate::freed::FreedSlots;
use crate::leases::{LEASE, Leases};
#[cfg(feature = "tracing")]
use crate::stats::LogThrottle;
use crate::stats::{Counters, RedisStats, count};

/// The time for which the keys of slots are kept: longer than any lease, and longer than a slot
/// that another node returned is remembered.
const KEEP_SLOTS: Duration = Duration::from_secs(30);
/// The same for a clock that is passed in, which may be slower than the server's.
const KEEP_SLOTS_PASSED_IN: Duration = Duration::from_secs(3600);

/// Locks a mutex. What it guards is valid even if a thread panicked while it held the lock.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clock that decides.
#[derive(Clone, Debug)]
pub(crate) enum StoreClock {
    Server,
    PassedIn(Arc<dyn Clock>),
}

/// A part of a store. Each has a driver, connections and a breaker of its own, so that large values
/// delay no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Limits,
    Caches,
}

impl Part {
    /// Returns the most requests of one pipeline.
    pub(crate) const fn pipeline(self) -> usize {
        match self {
            Self::Limits => 256,
            // Each reply may be a value of 1 MiB.
            Self::Caches => 16,
        }
    }

    /// Returns the most pipelines without a reply. Further operations stay in the queue.
    pub(crate) const fn pipelines(self) -> usize {
        match self {
            Self::Limits => 64,
            Self::Caches => 16,
        }
    }
}

/// The state that the handles of a part of a store share with its driver.
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) part: Part,
    /// Identifies this node, by chance.
    pub(crate) node: [u8; 8],
    pub(crate) freed: Arc<FreedSlots>,
    pub(crate) leases: Mutex<Leases>,
    pub(crate) breaker: Breaker,
    pub(crate) counters: Counters,
    /// Wakes the driver, for the first listener.
    pub(crate) wake: Notify,
    origin: Instant,
    random: AtomicU64,
    /// The flows decided without the store before this outage.
    decided_before: AtomicU64,
    #[cfg(feature = "tracing")]
    decided_log: LogThrottle,
    #[cfg(feature = "tracing")]
    refused_log: LogThrottle,
}

impl Shared {
    pub(crate) fn new(settings: Arc<Settings>, part: Part) -> Self {
        #[cfg(feature = "tracing")]
        const MINUTE: Duration = Duration::from_secs(60);
        let mut seed = [0; 16];
        if getrandom::fill(&mut seed).is_err() {
            // Hashes under fresh keys stay distinct.
            let halves = [
                RandomState::new().hash_one(0),
                RandomState::new().hash_one(1),
            ];
            for (bytes, half) in seed.chunks_mut(8).zip(halves) {
                bytes.copy_from_slice(&half.to_le_bytes());
            }
        }
        let seed = u128::from_le_bytes(seed);
        Self {
            node: (seed as u64).to_le_bytes(),
            freed: Arc::new(FreedSlots::new(&settings.prefix)),
            leases: Mutex::default(),
            breaker: Breaker::new(settings.deadline),
            counters: Counters::default(),
            wake: Notify::new(),
            origin: Instant::now(),
            random: AtomicU64::new((seed >> 64) as u64),
            decided_before: AtomicU64::new(0),
            #[cfg(feature = "tracing")]
            decided_log: LogThrottle::new(MINUTE),
            #[cfg(feature = "tracing")]
            refused_log: LogThrottle::new(MINUTE),
            settings,
            part,
        }
    }

    /// Returns the key of a bucket.
    pub(crate) fn bucket_key(&self, key: StoreKey) -> String {
        format!("{}:t:{key}", self.settings.prefix)
    }

    /// Returns the key of a cached value.
    pub(crate) fn cache_key(&self, key: StoreKey) -> String {
        format!("{}:c:{key}", self.settings.prefix)
    }

    /// Returns the keys of a set of slots. A cluster keeps both on one node.
    pub(crate) fn slots_keys(&self, key: StoreKey) -> [String; 2] {
        let prefix = &self.settings.prefix;
        [
            format!("{prefix}:s:{{{key}}}"),
            format!("{prefix}:x:{{{key}}}"),
        ]
    }

    /// Returns the key of the nodes seen lately.
    pub(crate) fn nodes_key(&self) -> String {
        format!("{}:nodes", self.settings.prefix)
    }

    /// Returns the time of the clock that is passed in.
    pub(crate) fn passed_in(&self) -> Option<Duration> {
        match &self.settings.clock {
            StoreClock::Server => None,
            StoreClock::PassedIn(clock) => Some(clock.now()),
        }
    }

    /// Returns the time by which this node measures the lifetimes of its slots.
    pub(crate) fn now(&self) -> Duration {
        self.passed_in().unwrap_or_else(|| self.origin.elapsed())
    }

    /// Returns a duration in the units of the scripts of slots: microseconds of the server's clock,
    /// rounded up, or nanoseconds of a clock that is passed in.
    pub(crate) fn units(&self, time: Duration) -> f64 {
        match self.settings.clock {
            StoreClock::Server => (time.as_nanos() as f64 / 1e3).ceil(),
            StoreClock::PassedIn(_) => time.as_nanos() as f64,
        }
    }

    /// Returns the duration of so many units of the scripts of slots.
    pub(crate) fn duration_of(&self, units: f64) -> Duration {
        let nanos = match self.settings.clock {
            StoreClock::Server => units * 1e3,
            StoreClock::PassedIn(_) => units,
        };
        // Saturates.
        Duration::from_nanos(nanos as u64)
    }

    /// Returns the lease of a slot, in units of the scripts. It never ends with a clock that is
    /// passed in, because renewals follow the real time.
    pub(crate) fn lease_units(&self) -> f64 {
        match self.settings.clock {
            StoreClock::Server => self.units(LEASE),
            StoreClock::PassedIn(_) => f64::INFINITY,
        }
    }

    /// Returns how long the server keeps the keys of slots, in milliseconds.
    pub(crate) fn keep_slots_ms(&self) -> f64 {
        let keep = match self.settings.clock {
            StoreClock::Server => KEEP_SLOTS,
            StoreClock::PassedIn(_) => KEEP_SLOTS_PASSED_IN,
        };
        keep.as_millis() as f64
    }

    /// Returns a number from 0 to 1, for jitter.
    pub(crate) fn random(&self) -> f64 {
        // SplitMix64.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.random.fetch_add(STEP, Ordering::Relaxed);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Returns the addresses of the settings as text, without credentials.
    pub(crate) fn address(&self) -> String {
        let addresses = self.settings.addresses.iter();
        let addresses: Vec<String> = addresses.map(ToString::to_string).collect();
        addresses.join(", ")
    }

    /// Records a failure. Logs it if the server is given up with it.
    pub(crate) fn record_failure(&self, reason: &str) {
        if !self.breaker.record_failure(Instant::now()) {
            return;
        }
        count(&self.counters.outages, 1);
        if self.part == Part::Caches {
            log_event!(
                warn,
                address = self.address(),
                reason,
                "the caches in the Redis store are given up: lookups are misses until it answers a \
                 probe"
            );
            return;
        }
        let decided = self.counters.decided_without.load(Ordering::Relaxed);
        self.decided_before.store(decided, Ordering::Relaxed);
        log_event!(
            warn,
            address = self.address(),
            reason,
            absence = ?self.settings.absence,
            "the Redis store is given up: flows are decided without it until it answers a probe"
        );
        // Without the feature `tracing`.
        let _ = reason;
    }

    /// Records that a probe was answered in time. Logs it if the server was given up.
    pub(crate) fn record_return(&self) {
        let Some(away) = self.breaker.record_return(Instant::now()) else {
            return;
        };
        if self.part == Part::Caches {
            log_event!(
                info,
                address = self.address(),
                away_seconds = away.as_secs_f64(),
                "the caches in the Redis store are used again"
            );
            return;
        }
        let decided = self.counters.decided_without.load(Ordering::Relaxed);
        let decided = decided.saturating_sub(self.decided_before.load(Ordering::Relaxed));
        log_event!(
            info,
            address = self.address(),
            away_seconds = away.as_secs_f64(),
            decided_without = decided,
            "the Redis store answers again: flows are decided by it"
        );
        // Without the feature `tracing`.
        let _ = (away, decided);
    }

    /// Counts a flow that was decided without the store. Logs it, at most once a minute.
    pub(crate) fn record_decided_without(&self) {
        count(&self.counters.decided_without, 1);
        #[cfg(feature = "tracing")]
        if self.decided_log.passes(Instant::now()) {
            log_event!(
                warn,
                address = self.address(),
                decided_without = self.counters.decided_without.load(Ordering::Relaxed),
                "flows are decided without the Redis store, which is slow or away"
            );
        }
    }

    /// Logs that the server refused an operation, at most once a minute.
    pub(crate) fn record_refusal(&self, reason: &str) {
        #[cfg(feature = "tracing")]
        if self.refused_log.passes(Instant::now()) {
            let address = self.address();
            log_event!(warn, address, reason, "the Redis store refuses operations");
        }
        let _ = reason;
    }

    /// Returns how many nodes were seen lately, including this one.
    pub(crate) fn nodes(&self) -> u32 {
        self.counters.nodes.load(Ordering::Relaxed).max(1)
    }

    pub(crate) fn stats(&self) -> RedisStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        RedisStats {
            operations: get(&counters.operations),
            errors: get(&counters.errors),
            late: get(&counters.late),
            decided_without: get(&counters.decided_without),
            outages: get(&counters.outages),
            available: self.breaker.is_available(),
            subscribed: counters.subscribed.load(Ordering::Relaxed),
            nodes: self.nodes(),
            held_slots: lock(&self.leases).held(),
            cache_operations: 0,
            cache_errors: 0,
            cache_late: 0,
            caches_available: None,
        }
    }
}
