//! Flux meters: histograms of how long the work of flows takes.
//!
//! Ends of flows add to counters that only grow; who wants a mean or a quantile keeps a [`Window`]
//! and so the counts of earlier. Nothing is locked and no history is kept where nobody reads.

mod histogram;
mod window;

use std::collections::HashMap;
use std::sync::Arc;

use ahash::RandomState;

use super::Engine;
use super::clock::{Nanos, nanos};
use super::control::WorkloadLatency;
use super::index::Places;
use super::stages::Flow;
use crate::flow::{FlowOutcome, FlowStatus};
use crate::policy::{self, Selector};

pub(crate) use self::histogram::FluxMeter;
pub(crate) use self::window::Window;

/// The flux meters of all policies.
#[derive(Debug, Default)]
pub(crate) struct FluxMeters {
    all: Vec<Arc<FluxMeter>>,
    by_name: HashMap<Arc<str>, usize, RandomState>,
    places: Places,
}

impl FluxMeters {
    /// Adds a meter with those of its selectors that apply here, and says whether it will ever
    /// show anything.
    ///
    /// A meter that was there before under this name, of the same form, goes on counting.
    pub(crate) fn add(
        &mut self,
        policy_name: &Arc<str>,
        meter: &policy::FluxMeter,
        here: &[&Selector],
        before: Option<&Self>,
    ) -> Result<bool, String> {
        if self.get(&meter.name).is_some() {
            let flaw = "there is another of this name, and all policies share the names";
            return Err(flaw.to_owned());
        }
        let Ok(at) = u32::try_from(self.all.len()) else {
            return Err("there are too many".to_owned());
        };
        let mut meter = Arc::new(FluxMeter::new(policy_name, meter)?);
        let known = before.and_then(|before| before.get(&meter.name));
        if let Some(known) = known.filter(|known| known.same_form(&meter)) {
            meter = Arc::clone(known);
        }
        let measured = meter.measured;
        self.by_name
            .insert(Arc::clone(meter.name()), self.all.len());
        self.all.push(meter);
        self.places.add(at, here);
        Ok(measured)
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Arc<FluxMeter>> {
        self.all.get(*self.by_name.get(name)?)
    }

    /// The meters that a flow meets.
    #[inline]
    pub(crate) fn matching(&self, flow: &Flow<'_, '_>) -> Matched {
        let mut matched = Matched::default();
        if !self.is_empty() {
            for at in self.places.matching(flow).iter() {
                matched.push(&self.all[*at as usize]);
            }
        }
        matched
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Some selector names the control point.
    pub(crate) fn selects(&self, control_point: &str) -> bool {
        self.places.selects(control_point)
    }
}

/// The meters that a flow meets.
// Small where they are few: it travels with the flow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Matched {
    few: [Option<Arc<FluxMeter>>; 2],
    more: Option<Box<More>>,
}

#[derive(Clone, Debug, Default)]
struct More {
    meters: Vec<Arc<FluxMeter>>,
    /// Where load schedulers measure their workloads, too.
    workloads: Vec<Workload>,
}

/// The workload that a flow is to a load scheduler whose tokens follow latency.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) latency: Arc<WorkloadLatency>,
    pub(crate) name: Box<str>,
}

impl Matched {
    pub(crate) fn with_workloads(mut self, workloads: Vec<Workload>) -> Self {
        if !workloads.is_empty() {
            self.more.get_or_insert_default().workloads = workloads;
        }
        self
    }

    fn push(&mut self, meter: &Arc<FluxMeter>) {
        let meter = Arc::clone(meter);
        match self.few.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = Some(meter),
            None => self.more.get_or_insert_default().meters.push(meter),
        }
    }

    fn is_empty(&self) -> bool {
        self.few[0].is_none() && self.more.is_none()
    }

    pub(crate) fn meters(&self) -> impl Iterator<Item = &Arc<FluxMeter>> {
        let more = self.more.iter().flat_map(|more| &more.meters);
        self.few.iter().flatten().chain(more)
    }
}

/// The meters of a flow that has been answered, until it ends.
#[derive(Debug)]
pub(crate) struct Metered {
    engine: Engine,
    meters: Matched,
    begun: Nanos,
}

impl Metered {
    /// From now on the flow works. `None` where no meter cares.
    #[inline]
    pub(crate) fn begin(engine: &Engine, meters: Matched) -> Option<Self> {
        if meters.is_empty() {
            return None;
        }
        Some(Self {
            begun: nanos(engine.shared.clock.now()),
            engine: engine.clone(),
            meters,
        })
    }

    /// The work is over.
    pub(crate) fn end(self, outcome: FlowOutcome) {
        let now = nanos(self.engine.shared.clock.now());
        let took = now.saturating_sub(self.begun);
        // Circuits first: what ends now was not seen by the ticks before.
        self.engine.shared.live.load().control.catch_up(now);
        for meter in self.meters.meters() {
            meter.record(took, ok(outcome));
        }
        // Flows that were turned away did no work.
        if outcome.status != FlowStatus::Unset {
            for workload in self.meters.more.iter().flat_map(|more| &more.workloads) {
                let millis = took as f64 / 1_000_000.0;
                workload.latency.record(&workload.name, millis, now);
            }
        }
    }
}

/// As an Agent tells it: by the HTTP status where that is no error, else as it was said.
fn ok(outcome: FlowOutcome) -> bool {
    let fine = outcome
        .http_status
        .is_some_and(|status| (100..400).contains(&status.as_u16()));
    fine || outcome.status == FlowStatus::Ok
}

#[cfg(test)]
mod tests;
