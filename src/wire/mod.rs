//! Converts the engine's reports and cache results to the Agent's messages.

mod cache;
mod report;
