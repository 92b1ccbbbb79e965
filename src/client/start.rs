//! Starts flows without a layer.

use std::future::Future;
#[cfg(feature = "embedded")]
use std::future::poll_fn;
#[cfg(feature = "embedded")]
use std::pin::pin;

use super::flow::Flow;
#[cfg(feature = "embedded")]
use super::reporting_engine::ReportingEngine;
use super::shared::ApertureClient;
#[cfg(feature = "embedded")]
use super::shared::Backend;
#[cfg(feature = "embedded")]
use super::ticket::{ClientTicket, TicketKind, empty_control_point, wrap};
#[cfg(feature = "embedded")]
use crate::flow::Verdict;
#[cfg(feature = "embedded")]
use crate::flow::WaitSpan;
use crate::flow::{Check, Decider, FlowParams, FlowStatus, Rejection};

impl ApertureClient {
    /// Starts a flow. Always returns a [`Flow`], even if no decision was reached.
    ///
    /// Takes no longer than the check timeout, plus the grace with an Agent. Dropping the future
    /// abandons the flow: slots that an Agent grants meanwhile are returned in the background.
    pub async fn start_flow(&self, control_point: &str, params: FlowParams<'_>) -> Flow {
        let verdict = match &self.inner.backend {
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => {
                self.check_with_report(engine, control_point, &params).await
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
    #[cfg(feature = "embedded")]
    async fn check_with_report(
        &self,
        engine: &crate::Engine,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Verdict<ClientTicket> {
        let labels = &params.labels;
        let mut timer = self.start_check(control_point, labels.dropped(), labels.shortened());
        let mut undecided = false;
        let mut verdict = if control_point.is_empty() {
            empty_control_point()
        } else {
            let decider = ReportingEngine {
                engine,
                check_timeout: Some(self.inner.check_timeout),
            };
            let verdict = match decider.decide(control_point, params) {
                Check::Ready(verdict) => verdict,
                Check::Pending(pending) => {
                    let span = WaitSpan::new(control_point);
                    let mut pending = pin!(pending);
                    poll_fn(|cx| {
                        let polled = span.in_scope(|| pending.as_mut().poll(cx));
                        if polled.is_pending() {
                            timer.mark_queued();
                        }
                        polled
                    })
                    .await
                }
            };
            if let Verdict::Accepted(ticket) | Verdict::Rejected(_, ticket) = &verdict {
                let report = ticket.report();
                undecided = report.undecided;
                if let Some(lookup) = &report.cache_lookup {
                    self.inner.meter.count_lookup(lookup);
                }
            }
            wrap(verdict, TicketKind::Reported)
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
