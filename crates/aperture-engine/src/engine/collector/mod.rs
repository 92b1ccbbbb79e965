//! Collectors: what a caller wants to know about a decision, from nothing to the full report.

mod details;
mod report;
mod verdict;

pub(super) use self::report::ReportCollector;
pub(super) use self::verdict::{CheckCollector, NoReport, QuotaCollector, VerdictCollector};

use super::component_entry::ComponentEntry;
use super::decision::{ComponentDecision, EngineDenial};
use super::engine_flow::EngineFlow;
use super::ticket::EngineTicket;
use aperture_core::CacheLookup;

/// Gathers what a caller wants to know while components decide.
pub(super) trait Collector {
    /// False if [`on_decision`](Self::on_decision) does nothing.
    const READS_DECISIONS: bool = true;

    /// Records the decision of one component.
    fn on_decision(
        &mut self,
        flow: &EngineFlow<'_, '_>,
        component: &ComponentEntry,
        decision: &ComponentDecision,
    );

    /// Records what the cache lookup found; called at most once.
    fn on_lookup(&mut self, found: CacheLookup);
}

/// A collector that makes an output of what it gathered, also for a flow that had to wait.
pub(super) trait OutputCollector: Collector {
    /// What the caller gets.
    type Output;

    /// Makes the output.
    fn finish(self, end: DecisionEnd<'_, '_>) -> Self::Output;

    /// Returns the bytes of the texts and values that were collected so far.
    fn held_bytes(&self) -> usize;
}

/// The end of a decision, whether the flow had to wait or not.
#[derive(Debug)]
pub(super) struct DecisionEnd<'a, 'l> {
    pub(super) flow: &'a EngineFlow<'a, 'l>,
    pub(super) result: Result<(), EngineDenial>,
    /// True if the flow was accepted at once and no component decided about it.
    pub(super) undecided: bool,
    /// The ticket, with the flux meters that measure the flow.
    pub(super) ticket: EngineTicket,
}

/// Returns the bytes of the texts and values of a lookup.
fn lookup_bytes(found: Option<&CacheLookup>) -> usize {
    use super::owned_flow::TEXT_OVERHEAD_BYTES;
    use aperture_core::CacheValue;

    let value = |value: &CacheValue| match value {
        Ok(Some(value)) => value.len(),
        _ => 0,
    };
    found.map_or(0, |found| {
        let global = found.global.iter();
        let global = global.map(|(key, found)| key.len() + value(found) + TEXT_OVERHEAD_BYTES);
        global.sum::<usize>() + found.result.as_ref().map_or(0, value)
    })
}
