//! A flow that owns its data, so that it can wait after the call that started it.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::clock::{DecisionTime, Nanos};
use super::engine_flow::{EngineFlow, LATEST_DEADLINE, NO_DEADLINE};
use aperture_core::{FlowParams, Labels};

/// Overhead in bytes of one text, in addition to its length.
pub(super) const TEXT_OVERHEAD_BYTES: usize = 64;

/// A flow that owns its data, so that it can wait after the call that started it.
#[derive(Debug)]
pub(super) struct OwnedFlow {
    control_point: Box<str>,
    services: Box<[Box<str>]>,
    pub(super) params: FlowParams<'static>,
    deadline: Nanos,
}

impl OwnedFlow {
    pub(super) fn new(
        flow: &EngineFlow<'_, '_>,
        params: &FlowParams<'_>,
        time: &DecisionTime<'_>,
    ) -> Self {
        let owned = |key: &Cow<'_, str>| Cow::Owned(String::from(&**key));
        let mut kept = FlowParams::new();
        let mut labels = Labels::unlimited();
        flow.labels.fill(&mut labels);
        kept.labels = labels.into_owned();
        kept.ramp_mode = flow.ramp_mode;
        kept.result_cache_key = params.result_cache_key.as_ref().map(owned);
        kept.global_cache_keys = params.global_cache_keys.iter().map(owned).collect();
        Self {
            control_point: flow.control_point.into(),
            services: flow.services.iter().map(|one| Box::from(*one)).collect(),
            params: kept,
            deadline: match flow.time_left {
                NO_DEADLINE => NO_DEADLINE,
                left => time.now().saturating_add(left).min(LATEST_DEADLINE),
            },
        }
    }

    /// Returns the bytes of its texts.
    pub(super) fn held_bytes(&self) -> usize {
        let labels = self.params.labels.iter();
        let labels = labels.map(|(key, value)| key.len() + value.len() + TEXT_OVERHEAD_BYTES);
        let services = self
            .services
            .iter()
            .map(|service| service.len() + TEXT_OVERHEAD_BYTES);
        let keys = self.params.global_cache_keys.iter();
        let keys = keys.chain(&self.params.result_cache_key);
        let keys = keys.map(|key| key.len() + TEXT_OVERHEAD_BYTES);
        self.control_point.len() + labels.chain(services).chain(keys).sum::<usize>()
    }

    /// Calls `act` with the flow as components see it at `now`.
    pub(super) fn with<R>(&self, now: Nanos, act: impl FnOnce(&EngineFlow<'_, '_>) -> R) -> R {
        let services: SmallVec<[&str; 4]> = self.services.iter().map(|one| &**one).collect();
        act(&EngineFlow {
            control_point: &self.control_point,
            services: &services,
            labels: &self.params.labels,
            ramp_mode: self.params.ramp_mode,
            time_left: match self.deadline {
                NO_DEADLINE => NO_DEADLINE,
                deadline => deadline.saturating_sub(now).max(0),
            },
        })
    }
}
