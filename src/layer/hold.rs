//! Flows that stay open beyond their responses.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use super::handle::FlowHandle;
use crate::flow::FlowStatus;

/// Keeps a flow open for work that outlives its response: a WebSocket, a CONNECT tunnel, a
/// background job. Made by [`FlowHandle::hold`].
///
/// The flow ends, and gives back its concurrency slots, when the response is over and the last
/// hold of it is dropped, whichever comes last. A clone is one more hold. Move the hold into the
/// task that does the work: it is then dropped when the task returns, panics, or is aborted, and
/// when its runtime shuts down.
///
/// The flow ends with the status that the response had, unless
/// [`set_status`](FlowHandle::set_status) says otherwise meanwhile. A hold that is dropped by a
/// panic ends it as [`FlowStatus::Error`]. The time of the flow, as telemetry has it, includes the
/// time it was held.
///
/// A policy's `max_inflight_duration` takes a slot back however long a hold is kept. Set it longer
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
        let is_open = flow.holds().begin();
        Self { flow, is_open }
    }

    /// Returns true when this keeps a flow open: false when the flow was over before, or when
    /// nobody decided about it, so that there is no slot to keep.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// The flow.
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

/// Ends a flow's ticket.
pub(crate) type EndTicket = Box<dyn FnOnce(FlowStatus) + Send>;

/// The end of a flow whose response is over.
pub(super) struct HeldEnd {
    pub(super) ticket: EndTicket,
    pub(super) status: FlowStatus,
    /// The response, or the work of a hold, failed.
    pub(super) failed: bool,
}

/// The holds of one flow, and its end once they keep it waiting. Nothing of the flow's own runs
/// under the lock.
pub(super) struct Holds(Mutex<State>);

struct State {
    holds: usize,
    /// A hold was dropped by a panic.
    failed: bool,
    end: Option<HeldEnd>,
    is_over: bool,
}

impl Holds {
    /// `is_over`: there is no flow to hold.
    pub(super) const fn new(is_over: bool) -> Self {
        Self(Mutex::new(State {
            holds: 0,
            failed: false,
            end: None,
            is_over,
        }))
    }

    /// Adds a hold, unless the flow is over.
    fn begin(&self) -> bool {
        let mut state = self.lock();
        if !state.is_over {
            state.holds += 1;
        }
        !state.is_over
    }

    /// Takes a hold away. Returns the end that waited for it, if it was the last.
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

    /// The response is over. Returns whether a hold has failed, `None` while one keeps the flow
    /// open.
    pub(super) fn close(&self) -> Option<bool> {
        let mut state = self.lock();
        if state.holds > 0 {
            return None;
        }
        state.is_over = true;
        Some(state.failed)
    }

    /// Keeps the end for the last hold. Returns it when there is none any more.
    pub(super) fn keep(&self, mut end: HeldEnd) -> Option<HeldEnd> {
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
