//! Holds, which keep flows open beyond their responses.

use std::fmt;
use std::thread;

use super::handle::FlowHandle;

/// Keeps a flow open for work that outlives its response: a WebSocket, a CONNECT tunnel, a
/// background job. Returned by [`FlowHandle::hold`].
///
/// The flow ends, and returns its concurrency slots, once its response is over and its last hold is
/// dropped. A clone is an additional hold. Move the hold into the task that does the work: it is
/// then dropped when the task returns, panics or is aborted, and when its runtime shuts down.
///
/// The flow ends with the status of the response, unless
/// [`set_status`](FlowHandle::set_status) sets another one meanwhile. If a panic drops a hold, the
/// flow ends as [`FlowStatus::Error`](crate::FlowStatus::Error). The duration of the flow in
/// telemetry includes the time for which it was held.
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
/// The example `websocket` limits the open WebSockets of a server.
#[must_use = "a flow is held until this is dropped"]
pub struct FlowHold {
    flow: FlowHandle,
    is_open: bool,
}

impl FlowHold {
    fn new(flow: FlowHandle) -> Self {
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

// Here and not beside the other methods, so that only holds know handles.
impl FlowHandle {
    /// Returns a hold, which keeps the flow open until it is dropped, beyond the end of the
    /// response.
    ///
    /// For a WebSocket, a CONNECT tunnel or a background job that must keep its concurrency slot.
    /// See [`FlowHold`].
    ///
    /// Take the hold before the response is returned. If the flow [has ended](Self::is_ended) or
    /// was unreachable, the hold has no effect and [`FlowHold::is_open`] returns false.
    pub fn hold(&self) -> FlowHold {
        FlowHold::new(self.clone())
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
