//! Flows without a layer that are checked by the attributes of an HTTP request.

use super::flow::Flow;
use super::shared::ApertureClient;
use crate::flow::{Check, Decider, FlowParams, HttpAttributes, HttpExtras, Ticket};

impl ApertureClient {
    /// Starts a flow by the attributes of an HTTP request (an Agent's `CheckHTTP`), like a layer
    /// with [`http`](crate::ApertureLayer::http).
    ///
    /// Otherwise the method works like [`start_flow`](Self::start_flow), except that it looks up no
    /// cache keys, and that a flow of an embedded engine has no `check_response`.
    ///
    /// ```
    /// use tower_aperture::{ApertureClient, FlowParams, HttpAttributes};
    ///
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
    /// # let client = ApertureClient::disabled();
    /// let request = HttpAttributes::new("GET", "/cart?id=1").header("x-kind", "mobile");
    /// let params = FlowParams::new().label("user_id", "42");
    /// let mut flow = client.start_http_flow("ingress", params, &request).await;
    /// if flow.should_run() {
    ///     if let Some(extras) = flow.take_http_extras() {
    ///         // Set these headers on the request before sending it on.
    ///         println!("{:?}", extras.headers());
    ///     }
    /// }
    /// flow.end().await;
    /// # });
    /// ```
    pub async fn start_http_flow(
        &self,
        control_point: &str,
        params: FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Flow {
        let verdict = match self.decide_http(control_point, &params, request) {
            Check::Ready(verdict) => verdict,
            Check::Pending(pending) => pending.await,
        };
        Flow::new(self.clone(), control_point, &params, verdict)
    }
}

impl Flow {
    /// Takes the extras that came with the decision of
    /// [`start_http_flow`](ApertureClient::start_http_flow): the headers for an accepted request, or
    /// the headers and the body of the response to a rejected one. Returns `None` after the first
    /// call.
    pub fn take_http_extras(&mut self) -> Option<HttpExtras> {
        let extras = self.ticket_mut()?.take_http_extras()?;
        Some(*extras)
    }
}
