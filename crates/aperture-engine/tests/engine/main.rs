//! Tests the embedded engine through its public API.

mod adaptive;
mod caches;
mod clock;
mod code;
mod counting;
mod deviations;
mod dry_run;
mod dynamic;
mod fairness;
mod flux_meters;
mod holding;
mod http;
mod keeping;
mod leaving;
mod limits;
mod loading;
mod loops;
mod memory;
mod notes;
mod properties;
mod queues;
#[cfg(feature = "rego")]
mod rego;
mod reload;
mod scale;
mod scaling;
mod selectors;
mod settling;
mod shared;
mod sources;
mod support;
mod threads;
mod waiting;
