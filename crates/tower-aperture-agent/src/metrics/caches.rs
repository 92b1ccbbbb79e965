//! Counts operations on the result cache and the global cache.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use aperture_core::{CacheChange, CacheLookup, CacheRefusal, CacheValue};

/// Cache metrics. Their labels are constants of this file, so the number of series needs no limit.
#[derive(Debug, Default)]
pub(crate) struct CacheSeries {
    hits: Family<CacheLabels, Counter>,
    misses: Family<CacheLabels, Counter>,
    operations: Family<CacheOperationLabels, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabels {
    cache_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheOperationLabels {
    cache_type: &'static str,
    operation: &'static str,
    status: &'static str,
}

const RESULT: &str = "result";
const GLOBAL: &str = "global";

impl CacheSeries {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "cache_lookup_hits",
            "Keys that were looked up and found",
            metrics.hits.clone(),
        );
        registry.register(
            "cache_lookup_misses",
            "Keys that were looked up and not found",
            metrics.misses.clone(),
        );
        registry.register(
            "cache_operation_results",
            "Lookups, writes and removals of keys, by their result",
            metrics.operations.clone(),
        );
        metrics
    }

    /// Counts the keys of a lookup.
    pub(crate) fn looked_up(&self, found: &CacheLookup) {
        if let Some(value) = &found.result {
            self.value(RESULT, value);
        }
        for (_, value) in &found.global {
            self.value(GLOBAL, value);
        }
    }

    /// Counts the keys of an `upsert` or a `delete`.
    pub(crate) fn changed(&self, operation: &'static str, change: &CacheChange) {
        if let Some(result) = &change.result {
            self.operation(RESULT, operation, result);
        }
        for (_, result) in &change.global {
            self.operation(GLOBAL, operation, result);
        }
    }

    fn value(&self, cache_type: &'static str, value: &CacheValue) {
        match value {
            Ok(Some(_)) => self.hits.get_or_create(&CacheLabels { cache_type }).inc(),
            Ok(None) => self.misses.get_or_create(&CacheLabels { cache_type }).inc(),
            Err(_) => 0,
        };
        self.operation(cache_type, "lookup", value);
    }

    fn operation<T>(
        &self,
        cache_type: &'static str,
        operation: &'static str,
        result: &Result<T, CacheRefusal>,
    ) {
        let labels = CacheOperationLabels {
            cache_type,
            operation,
            status: if result.is_ok() { "success" } else { "error" },
        };
        self.operations.get_or_create(&labels).inc();
    }
}
