//! What the result cache and the global cache were asked, and what they had.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::flow::{CacheChange, CacheLookup, CacheRefusal, CacheValue};

/// All labels are among a few texts of this file.
#[derive(Debug, Default)]
pub(in crate::agent) struct CacheSeries {
    hits: Family<Cache, Counter>,
    misses: Family<Cache, Counter>,
    operations: Family<Operation, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Cache {
    cache_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    cache_type: &'static str,
    operation: &'static str,
    status: &'static str,
}

const RESULT: &str = "result";
const GLOBAL: &str = "global";

impl CacheSeries {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let own = Self::default();
        registry.register(
            "cache_lookup_hits",
            "Keys that were looked up and found",
            own.hits.clone(),
        );
        registry.register(
            "cache_lookup_misses",
            "Keys that were looked up and not found",
            own.misses.clone(),
        );
        registry.register(
            "cache_operation_results",
            "Look-ups, writes and removals of keys, by their outcome",
            own.operations.clone(),
        );
        own
    }

    pub(in crate::agent) fn looked_up(&self, found: &CacheLookup) {
        if let Some(value) = &found.result {
            self.value(RESULT, value);
        }
        for (_, value) in &found.global {
            self.value(GLOBAL, value);
        }
    }

    /// The keys of an `upsert` or a `delete`.
    pub(in crate::agent) fn changed(&self, operation: &'static str, change: &CacheChange) {
        if let Some(done) = &change.result {
            self.operation(RESULT, operation, done);
        }
        for (_, done) in &change.global {
            self.operation(GLOBAL, operation, done);
        }
    }

    fn value(&self, cache_type: &'static str, value: &CacheValue) {
        match value {
            Ok(Some(_)) => self.hits.get_or_create(&Cache { cache_type }).inc(),
            Ok(None) => self.misses.get_or_create(&Cache { cache_type }).inc(),
            Err(_) => 0,
        };
        self.operation(cache_type, "lookup", value);
    }

    fn operation<T>(
        &self,
        cache_type: &'static str,
        operation: &'static str,
        done: &Result<T, CacheRefusal>,
    ) {
        let labels = Operation {
            cache_type,
            operation,
            status: if done.is_ok() { "success" } else { "error" },
        };
        self.operations.get_or_create(&labels).inc();
    }
}
