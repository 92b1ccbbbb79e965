//! Holds, which keep flows open beyond their responses.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::handle::FlowHandle;
use crate::flow::FlowStatus;

/// Keeps a flow open for work that outlives its response: a WebSocket, a CONNECT tunnel, a
/// background job. Returned by [`FlowHandle::hold`].
///
/// The flow ends, and returns its concurrency slots, once its response is over and its last hold is
/// dropped. A clone is an additional hold. Move the hold into the task that does the work: it is
/// then dropped when the task returns, panics or is aborted, and when its runtime shuts down.
///
/// The flow ends with the status of the response, unless
/// [`set_status`](FlowHandle::set_status) sets another one meanwhile. If a panic drops a hold, the
/// flow ends as [`FlowStatus::Error`]. The duration of the flow in telemetry includes the time for
/// which it was held.
///
/// A policy's `max_inflight_duration` takes a slot back even while a hold exists. Set it longer
/// than the work may take.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use axum::{Router, extract::Extension, routing::post};
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::FlowHandle;
///
/// async fn export(Extension(flow): Extension<FlowHandle>) -> &'static str {
///     let hold = flow.hold();
///     tokio::spawn(async move {
///         // The work.
///         drop(hold);
///     });
///     "begun"
/// }
///
/// let layer = ApertureLayer::new(client, "export").expose_flow();
/// let app: Router = Router::new().route("/export", post(export)).route_layer(layer);
/// ```
///
#[cfg_attr(
    all(feature = "axum", feature = "embedded"),
    doc = "The example `websocket` limits the open WebSockets of a server."
)]
#[must_use = "a flow is held until this is dropped"]
pub struct FlowHold {
    flow: FlowHandle,
    is_open: bool,
}

impl FlowHold {
    pub(super) fn new(flow: FlowHandle) -> Self {
        let is_open = flow.holds().acquire();
        Self { flow, is_open }
    }

    /// Returns true if this hold keeps a flow open. Returns false if the flow had already ended, or
    /// was unreachable and has no slot.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Returns the handle of the flow.
    #[must_use]
    pub const fn flow(&self) -> &FlowHandle {
        &self.flow
    }
}

impl Clone for FlowHold {
    fn clone(&self) -> Self {
        Self::new(self.flow.clone())
    }
}

impl Drop for FlowHold {
    fn drop(&mut self) {
        if self.is_open
            && let Some(end) = self.flow.holds().release(thread::panicking())
        {
            self.flow.end(end);
        }
    }
}

impl fmt::Debug for FlowHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlowHold")
            .field("flow", &self.flow)
            .field("is_open", &self.is_open)
            .finish()
    }
}

/// Ends the ticket of a flow with a status.
pub(crate) type EndTicket = Box<dyn FnOnce(FlowStatus) + Send>;

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
    fn acquire(&self) -> bool {
        let mut state = self.lock();
        if !state.is_over {
            state.holds += 1;
        }
        !state.is_over
    }

    /// Removes a hold. Returns the pending end, if this was the last hold.
    fn release(&self, failed: bool) -> Option<HeldEnd> {
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
