//! The number of holds of a flow, and its end once they are gone.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::classifier::EndTicket;
use crate::flow::FlowStatus;

/// The end of a flow whose response is over while holds keep the flow open.
pub(super) struct HeldEnd {
    pub(super) ticket: EndTicket,
    pub(super) status: FlowStatus,
    /// The response failed, or a panic dropped a hold.
    pub(super) failed: bool,
}

/// The number of holds of one flow, and its end once the response is over. The lock is released
/// before the ticket is ended.
pub(super) struct Holds(Mutex<State>);

struct State {
    holds: usize,
    /// A panic dropped a hold.
    failed: bool,
    end: Option<HeldEnd>,
    is_over: bool,
}

impl Holds {
    /// Creates the state of a flow without holds. With `is_over` the flow cannot be held.
    pub(super) const fn new(is_over: bool) -> Self {
        Self(Mutex::new(State {
            holds: 0,
            failed: false,
            end: None,
            is_over,
        }))
    }

    /// Adds a hold, unless the flow is over. Returns true if it was added.
    pub(super) fn acquire(&self) -> bool {
        let mut state = self.lock();
        if !state.is_over {
            state.holds += 1;
        }
        !state.is_over
    }

    /// Removes a hold. Returns the pending end, if this was the last hold.
    pub(super) fn release(&self, failed: bool) -> Option<HeldEnd> {
        let mut state = self.lock();
        state.holds -= 1;
        state.failed |= failed;
        if state.holds > 0 {
            return None;
        }
        let mut end = state.end.take()?;
        state.is_over = true;
        end.failed |= state.failed;
        Some(end)
    }

    /// Records that the response is over. Returns whether a hold failed, or `None` if a hold keeps
    /// the flow open.
    pub(super) fn close(&self) -> Option<bool> {
        let mut state = self.lock();
        if state.holds > 0 {
            return None;
        }
        state.is_over = true;
        Some(state.failed)
    }

    /// Stores the end for the last hold. Returns it if no hold is left.
    pub(super) fn defer(&self, mut end: HeldEnd) -> Option<HeldEnd> {
        let mut state = self.lock();
        if state.holds > 0 {
            state.end = Some(end);
            return None;
        }
        state.is_over = true;
        end.failed |= state.failed;
        Some(end)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
