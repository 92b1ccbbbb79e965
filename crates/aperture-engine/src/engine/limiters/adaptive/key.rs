//! One key of an adaptive limiter: its flows in flight, and the limit that it has learned.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::learned::Learned;
use super::tuning::Tuning;
use super::window::{Observation, Window};
use crate::engine::clock::{Clock, Nanos, nanos};
use crate::engine::held_slots::SlotOwner;
use crate::engine::limiters::in_flight_slots::{Admission, InFlightSlots};
use crate::engine::request_id::RequestId;
use crate::engine::store::{EvictionLoss, StoredState};
use crate::engine::sync::{Mutex, lock};
use aperture_core::{FlowOutcome, FlowStatus};

/// Marks a flow that was measured already.
const MEASURED: Nanos = Nanos::MIN;

/// A key of an adaptive limiter in its store.
#[derive(Debug)]
pub(super) struct StoredKey {
    pub(super) slots: Option<Arc<KeySlots>>,
    pub(super) last_used: Nanos,
    /// By this time the last slot of the key has expired.
    pub(super) held_until: Nanos,
}

/// The flows in flight of a key with its limit, shared with the tickets of those flows.
#[derive(Debug)]
pub(super) struct KeySlots {
    state: Mutex<KeyState>,
    tuning: Arc<ArcSwap<Tuning>>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct KeyState {
    slots: InFlightSlots,
    /// When the flow of each entry of the slots began, or [`MEASURED`].
    begun: Vec<Nanos>,
    window: Window,
    learned: Learned,
}

impl StoredState for StoredKey {
    /// The idle time after which keys expire.
    type Rules = Nanos;

    fn new() -> Self {
        Self {
            slots: None,
            last_used: Nanos::MIN,
            held_until: Nanos::MIN,
        }
    }

    fn expires_at(&self, max_idle: Nanos) -> Nanos {
        self.last_used.saturating_add(max_idle).max(self.held_until)
    }

    /// A key with flows in flight loses most. Else it loses what it has learned, so that made-up
    /// keys, which have learned nothing, are evicted first.
    fn eviction_loss(&self, max_idle: &Nanos, now: Nanos) -> EvictionLoss {
        let Some(slots) = &self.slots else {
            return EvictionLoss::none(self.last_used);
        };
        let tuning = **slots.tuning.load();
        let mut state = lock(&slots.state);
        match state.slots.tokens_in_flight(now) {
            Some(tokens) => EvictionLoss {
                restored_at: Nanos::MAX,
                tokens,
                last_used: self.last_used,
            },
            // A flow that is being decided is about to take a slot.
            None if Arc::strong_count(slots) > 1 => EvictionLoss::all(self.last_used),
            None if state.learned.windows == 0 => EvictionLoss::none(self.last_used),
            None => EvictionLoss {
                restored_at: self.last_used.saturating_add(*max_idle),
                tokens: (state.learned.limit - tuning.initial).abs(),
                last_used: self.last_used,
            },
        }
    }
}

impl KeySlots {
    pub(super) fn new(tuning: &Arc<ArcSwap<Tuning>>, clock: &Arc<dyn Clock>) -> Self {
        Self {
            state: Mutex::new(KeyState {
                slots: InFlightSlots::new(),
                begun: Vec::new(),
                window: Window::new(),
                learned: Learned::new(&tuning.load()),
            }),
            tuning: Arc::clone(tuning),
            clock: Arc::clone(clock),
        }
    }

    /// Accepts a flow while less than the limit is in flight.
    pub(super) fn enter(&self, tokens: f64, now: Nanos, lifetime: Nanos) -> Admission {
        let tuning = **self.tuning.load();
        let mut state = lock(&self.state);
        let limit = state.learned.in_force(&tuning);
        let admission = state.slots.enter(tokens, limit, now, lifetime);
        if let Some(id) = admission.slot {
            let at = id.slot_index() as usize;
            if state.begun.len() <= at {
                state.begun.resize(at + 1, MEASURED);
            }
            state.begun[at] = now;
        }
        admission
    }

    /// Returns the limit in force.
    pub(super) fn limit(&self) -> f64 {
        let tuning = **self.tuning.load();
        lock(&self.state).learned.in_force(&tuning)
    }

    /// Returns a slot of a flow that ended with this outcome. Returns false if the slot is not held
    /// any more.
    pub(super) fn end(&self, id: RequestId, outcome: FlowOutcome, now: Nanos) -> bool {
        let tuning = **self.tuning.load();
        let mut state = lock(&self.state);
        // The flow is measured first, so that it counts as in flight.
        state.measure(id, outcome, now, &tuning);
        state.slots.leave(id, now)
    }
}

impl KeyState {
    /// Measures a flow that holds a slot, unless it was measured before.
    fn measure(&mut self, id: RequestId, outcome: FlowOutcome, now: Nanos, tuning: &Tuning) {
        let Some(in_flight) = self.slots.tokens_in_flight(now) else {
            return;
        };
        if !self.slots.is_held(id) {
            return;
        }
        let Some(begun) = self.begun.get_mut(id.slot_index() as usize) else {
            return;
        };
        let begun = match std::mem::replace(begun, MEASURED) {
            MEASURED => return,
            begun => begun,
        };
        let latency = now.saturating_sub(begun);
        let slow_from = self.learned.slow_from(tuning);
        if let Some(observation) = observation_of(outcome, latency, slow_from)
            && let Some(sample) = self.window.add(observation, in_flight, now, tuning)
        {
            self.learned = self.learned.next(&sample, tuning);
        }
    }
}

/// Returns what the outcome of a flow shows, or `None` if it shows nothing about the load.
///
/// A failed flow may have failed early, so its time is no latency. It counts as overload if its
/// response says overload (503, or UNAVAILABLE) or timeout (504, or DEADLINE_EXCEEDED), or if it
/// has already taken longer than flows should: a timeout, or a caller who left. Other failures, and flows that did not run, are ignored.
fn observation_of(outcome: FlowOutcome, latency: Nanos, slow_from: f64) -> Option<Observation> {
    const DEADLINE_EXCEEDED: u8 = 4;
    const UNAVAILABLE: u8 = 14;
    match (outcome.status, outcome.http_status(), outcome.grpc_status()) {
        (FlowStatus::Ok, ..) => Some(Observation::Latency(latency)),
        (FlowStatus::Unset, ..) => None,
        (FlowStatus::Error, Some(503 | 504), _)
        | (FlowStatus::Error, _, Some(DEADLINE_EXCEEDED | UNAVAILABLE)) => {
            Some(Observation::Overload)
        }
        (FlowStatus::Error, ..) => (latency as f64 > slow_from).then_some(Observation::Overload),
    }
}

impl SlotOwner for KeySlots {
    fn return_slot(&self, id: RequestId) -> bool {
        let now = nanos(self.clock.now());
        lock(&self.state).slots.leave(id, now)
    }

    /// A flow without an outcome, as one that another component rejected, is not measured.
    fn release_slot(&self, id: RequestId) {
        lock(&self.state).slots.remove(id);
    }

    fn response_started(&self, id: RequestId, outcome: FlowOutcome) {
        let tuning = **self.tuning.load();
        if tuning.until_end {
            return;
        }
        let now = nanos(self.clock.now());
        lock(&self.state).measure(id, outcome, now, &tuning);
    }

    fn return_ended(&self, id: RequestId, outcome: FlowOutcome) -> bool {
        self.end(id, outcome, nanos(self.clock.now()))
    }

    fn release_ended(&self, id: RequestId, outcome: FlowOutcome) {
        self.end(id, outcome, nanos(self.clock.now()));
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn a_failure_counts_only_if_it_says_overload_or_took_too_long() {
        let failed = FlowOutcome::new(FlowStatus::Error);
        let observe = |outcome, latency| observation_of(outcome, latency, 100.0);
        assert_eq!(observe(failed, 100), None);
        assert_eq!(observe(failed, 101), Some(Observation::Overload));
        let with = |code: StatusCode| observe(failed.with_http_status(code), 1);
        assert_eq!(with(StatusCode::INTERNAL_SERVER_ERROR), None);
        assert_eq!(
            with(StatusCode::SERVICE_UNAVAILABLE),
            Some(Observation::Overload)
        );
        assert_eq!(
            with(StatusCode::GATEWAY_TIMEOUT),
            Some(Observation::Overload)
        );
        let grpc = |code| observe(failed.with_grpc_status(code), 1);
        assert_eq!(grpc(13), None, "INTERNAL");
        for overload in [4, 14] {
            assert_eq!(grpc(overload), Some(Observation::Overload));
        }
        assert_eq!(observe(FlowOutcome::new(FlowStatus::Unset), 1000), None);
        let ok = FlowOutcome::new(FlowStatus::Ok);
        assert_eq!(observe(ok, 1000), Some(Observation::Latency(1000)));
    }

    #[test]
    fn while_nothing_is_known_no_failure_is_slow() {
        let failed = FlowOutcome::new(FlowStatus::Error);
        assert_eq!(observation_of(failed, Nanos::MAX, f64::INFINITY), None);
    }
}
