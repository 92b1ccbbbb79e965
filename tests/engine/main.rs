//! Laws of the embedded engine, over its public API.

mod deviations;
mod limits;
mod loading;
mod memory;
mod properties;
mod reload;
mod selectors;
mod support;
mod threads;
