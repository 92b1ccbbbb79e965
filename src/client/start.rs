//! Starts flows without a layer.

use std::future::Future;

use super::backend::{AnyBackend, ReportingBackend};
use super::flow::Flow;
use super::shared::ApertureClient;
use super::ticket::{ClientTicket, TicketKind, empty_control_point, wrap};
use crate::flow::{Check, Decider, FlowParams, FlowStatus, LabelSource, Rejection, Verdict};

impl ApertureClient {
    /// Starts a flow. Always returns a [`Flow`], even if no decision was reached.
    ///
    /// Takes no longer than the check timeout, plus the grace with an Agent. Dropping the future
    /// abandons the flow: slots that an Agent grants meanwhile are returned in the background.
    pub async fn start_flow(&self, control_point: &str, params: FlowParams<'_>) -> Flow {
        let verdict = match &self.inner.backend {
            AnyBackend::Embedded(backend) => {
                self.check_with_report(backend, control_point, &params, TicketKind::Reported)
                    .await
            }
            _ => match self.decide(control_point, &params) {
                Check::Ready(verdict) => verdict,
                Check::Pending(pending) => pending.await,
            },
        };
        Flow::new(self.clone(), control_point, &params, verdict)
    }

    /// Runs `work` as a flow, then ends the flow with status `OK`, or with `Error` if `work` panics
    /// or is dropped. The end is delivered in the background.
    ///
    /// ```
    /// use tower_aperture::{ApertureClient, FlowParams};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let client = ApertureClient::disabled();
    /// let sum = client.guard("add", FlowParams::new(), async { 1 + 1 }).await;
    /// assert_eq!(sum, Ok(2));
    /// # });
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the rejection if the flow must not run. `work` is then dropped without being polled.
    pub async fn guard<T>(
        &self,
        control_point: &str,
        params: FlowParams<'_>,
        work: impl Future<Output = T>,
    ) -> Result<T, Rejection> {
        let flow = self.start_flow(control_point, params).await;
        if let Some(rejection) = flow.rejection() {
            return Err(rejection);
        }
        let done = work.await;
        flow.finish(FlowStatus::Ok);
        Ok(done)
    }

    /// Runs `work` like [`guard`](Self::guard), and ends the flow with status `Error` if `work`
    /// returns an error.
    ///
    /// ```
    /// use tower_aperture::{ApertureClient, FlowParams};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let client = ApertureClient::disabled();
    /// let out = client.try_guard("add", FlowParams::new(), async { "x".parse::<u8>() }).await;
    /// assert!(out.is_ok_and(|parsed| parsed.is_err()));
    /// # });
    /// ```
    ///
    /// # Errors
    ///
    /// Returns the rejection if the flow must not run. `work` is then dropped without being polled.
    pub async fn try_guard<T, E>(
        &self,
        control_point: &str,
        params: FlowParams<'_>,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<Result<T, E>, Rejection> {
        let flow = self.start_flow(control_point, params).await;
        if let Some(rejection) = flow.rejection() {
            return Err(rejection);
        }
        let done = work.await;
        flow.finish(if done.is_ok() {
            FlowStatus::Ok
        } else {
            FlowStatus::Error
        });
        Ok(done)
    }

    /// Checks a flow without a layer, whose ticket keeps the engine's report.
    async fn check_with_report<B: ReportingBackend>(
        &self,
        backend: &B,
        control_point: &str,
        params: &FlowParams<'_>,
        kind: impl FnOnce(B::ReportedTicket) -> TicketKind,
    ) -> Verdict<ClientTicket> {
        self.count_losses(params.labels.losses());
        let mut timer = self.start_check(control_point);
        let (mut verdict, undecided) = if control_point.is_empty() {
            (empty_control_point(), false)
        } else {
            let meter = &self.inner.meter;
            let (verdict, undecided) = backend
                .decide_with_report(control_point, params, &mut timer, meter)
                .await;
            (wrap(verdict, kind), undecided)
        };
        self.record_verdict(
            &mut timer,
            params.shadow,
            Some(control_point),
            undecided,
            &mut verdict,
        );
        verdict
    }
}
