//! Flows by hand that are asked for with the attributes of an HTTP request.

use super::{ApertureClient, Flow};
use crate::flow::{Check, Decider, FlowParams, HttpAttributes, HttpExtras, Ticket};

impl ApertureClient {
    /// Starts a flow with the attributes of an HTTP request (an Agent's `CheckHTTP`), as the layer
    /// does that [asks like that](crate::ApertureLayer::http). Otherwise like
    /// [`start_flow`](Self::start_flow), but that cache keys are not looked up, and that an
    /// embedded engine leaves no `check_response`.
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
    ///         // To be set on the request, when it is sent on.
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
    /// Takes what the answer to [`start_http_flow`](ApertureClient::start_http_flow) says beside
    /// yes and no: the headers for the request that runs, or headers and body of the response to
    /// one that does not. Given once.
    pub fn take_http_extras(&mut self) -> Option<HttpExtras> {
        let extras = self.ticket_mut()?.take_http_extras()?;
        Some(*extras)
    }
}
