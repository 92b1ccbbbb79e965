//! Flux meters: histograms of how long the work of flows takes.
//!
//! The end of a flow adds to counters that only grow. A reader of a mean or a quantile keeps a
//! [`MeterWindow`] with earlier counts. So recording takes no lock, and no history is kept without
//! a reader.

mod histogram;
mod window;

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

use super::clock::Nanos;
use super::engine_flow::EngineFlow;
use super::selector_index::SelectorIndex;
use super::workload_latency::MeasuredWorkload;
use crate::policy::{self, Selector};
use aperture_core::{FlowOutcome, FlowStatus};

pub use self::histogram::FluxMeter;
pub(crate) use self::window::MeterWindow;

/// The flux meters of all policies.
#[derive(Debug, Default)]
pub(crate) struct FluxMeters {
    all: Vec<Arc<FluxMeter>>,
    by_name: HashMap<Arc<str>, usize, RandomState>,
    selectors: SelectorIndex,
}

impl FluxMeters {
    /// Adds a meter with those of its selectors that apply here. Returns false if the engine does
    /// not measure its attribute.
    ///
    /// If `before` has a meter of this name and form, its counters continue.
    ///
    /// # Errors
    ///
    /// Returns what is wrong if the name is taken, or the meter has too many buckets.
    pub(crate) fn add(
        &mut self,
        policy_name: &Arc<str>,
        meter: &policy::FluxMeter,
        here: &[&Selector],
        before: Option<&Self>,
    ) -> Result<bool, String> {
        if self.get(&meter.name).is_some() {
            let flaw = "the name is taken by another flux meter; all policies share their names";
            return Err(flaw.to_owned());
        }
        let Ok(at) = u32::try_from(self.all.len()) else {
            return Err("there are too many flux meters".to_owned());
        };
        let mut meter = Arc::new(FluxMeter::new(policy_name, meter)?);
        let known = before.and_then(|before| before.get(&meter.name));
        if let Some(known) = known.filter(|known| known.has_same_form(&meter)) {
            meter = Arc::clone(known);
        }
        let measured_here = meter.measured_here;
        self.by_name
            .insert(Arc::clone(meter.name()), self.all.len());
        self.all.push(meter);
        self.selectors.add(at, here);
        Ok(measured_here)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<FluxMeter>> {
        self.all.get(*self.by_name.get(name)?)
    }

    /// Returns the meters that select a flow.
    #[inline]
    pub(crate) fn matching(&self, flow: &EngineFlow<'_, '_>) -> MatchedMeters {
        let mut matched = MatchedMeters::default();
        if !self.is_empty() {
            for at in self.selectors.matching(flow).iter() {
                matched.push(&self.all[*at as usize]);
            }
        }
        matched
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Returns true if a selector names the control point.
    pub(crate) fn selects(&self, control_point: &str) -> bool {
        self.selectors.selects(control_point)
    }
}

/// The meters that select a flow.
// Small for few meters, because it moves with the flow.
#[derive(Clone, Debug, Default)]
pub(crate) struct MatchedMeters {
    few: [Option<Arc<FluxMeter>>; 2],
    more: Option<Box<MatchedOverflow>>,
}

#[derive(Clone, Debug, Default)]
struct MatchedOverflow {
    meters: Vec<Arc<FluxMeter>>,
    /// The workloads that load schedulers measure the flow as.
    workloads: Vec<MeasuredWorkload>,
}

impl MatchedMeters {
    pub(crate) fn with_workloads(mut self, workloads: Vec<MeasuredWorkload>) -> Self {
        if !workloads.is_empty() {
            self.more.get_or_insert_default().workloads = workloads;
        }
        self
    }

    fn push(&mut self, meter: &Arc<FluxMeter>) {
        let meter = Arc::clone(meter);
        match self.few.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => *slot = Some(meter),
            None => self.more.get_or_insert_default().meters.push(meter),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.few[0].is_none() && self.more.is_none()
    }

    /// Records the end of a flow that took `duration` until `now`.
    pub(crate) fn record(&self, duration: Nanos, outcome: FlowOutcome, now: Nanos) {
        for meter in self.meters() {
            meter.record(duration, ended_well(outcome));
        }
        // Rejected flows did no work.
        if outcome.status != FlowStatus::Unset {
            for workload in self.more.iter().flat_map(|more| &more.workloads) {
                let millis = duration as f64 / 1_000_000.0;
                workload.latency.record(&workload.name, millis, now);
            }
        }
    }

    pub(crate) fn meters(&self) -> impl Iterator<Item = &Arc<FluxMeter>> {
        let more = self.more.iter().flat_map(|more| &more.meters);
        self.few.iter().flatten().chain(more)
    }
}

/// Returns true if a flow ended well, as an Agent decides it: by an HTTP status below 400, else by
/// the status of the flow.
fn ended_well(outcome: FlowOutcome) -> bool {
    let fine = outcome
        .http_status
        .is_some_and(|status| (100..400).contains(&status.as_u16()));
    fine || outcome.status == FlowStatus::Ok
}

#[cfg(test)]
mod tests;
