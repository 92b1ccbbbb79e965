//! Laws of the embedded engine, over its public API.

mod caches;
mod deviations;
mod dry_run;
mod flux_meters;
mod holding;
mod http;
mod limits;
mod loading;
mod loops;
mod memory;
mod properties;
mod queues;
mod reload;
mod selectors;
mod support;
mod threads;
mod waiting;
