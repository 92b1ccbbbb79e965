//! The client as the decider of a layer.

use std::sync::Arc;

use super::pending::{ClientPending, PendingKind};
use super::shared::{ApertureClient, Backend};
#[cfg(any(feature = "embedded", feature = "test-util"))]
use super::ticket::wrap;
use super::ticket::{ClientTicket, TicketKind, empty_control_point};
#[cfg(any(feature = "embedded", feature = "remote"))]
use crate::flow::encode::{EncodedLabels, encode_baggage};
#[cfg(any(feature = "embedded", feature = "remote"))]
use crate::flow::http::fit::FittedAttributes;
use crate::flow::{
    Caches, Check, Decider, FlowError, FlowErrorKind, FlowParams, HttpAttributes, Verdict,
};
use crate::meter::CheckTimer;

impl Decider for ApertureClient {
    type Ticket = ClientTicket;
    type Pending = ClientPending;

    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<Self::Ticket, Self::Pending> {
        let labels = &params.labels;
        let mut timer = self.start_check(control_point, labels.dropped(), labels.shortened());
        if control_point.is_empty() {
            return self.ready(&mut timer, control_point, params, empty_control_point());
        }
        match &self.inner.backend {
            Backend::Disabled => {
                let error = FlowError::new(FlowErrorKind::Disabled, "");
                self.ready(
                    &mut timer,
                    control_point,
                    params,
                    Verdict::Unreachable(error),
                )
            }
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => {
                let mut engine_check = self.engine_check(params);
                let mut check = engine.decide_as(
                    control_point,
                    params,
                    &mut engine_check,
                    |ticket| TicketKind::Embedded(ticket).into(),
                    |pending| {
                        let kind = PendingKind::Embedded(pending);
                        self.pending(timer.take(), control_point, params, kind)
                    },
                );
                if let Check::Ready(verdict) = &mut check {
                    self.record_verdict(
                        &mut timer,
                        params.shadow,
                        Some(control_point),
                        engine_check.undecided,
                        verdict,
                    );
                }
                check
            }
            #[cfg(feature = "remote")]
            Backend::Remote(remote) => {
                let check = remote.check(control_point, params);
                self.pending_remote(timer, control_point, params, check)
            }
            #[cfg(feature = "test-util")]
            Backend::Scripted(script) => match script.decide(control_point, params) {
                Check::Ready(verdict) => {
                    let verdict = wrap(verdict, TicketKind::Scripted);
                    self.ready(&mut timer, control_point, params, verdict)
                }
                Check::Pending(pending) => {
                    let kind = PendingKind::Scripted(pending);
                    Check::Pending(self.pending(timer, control_point, params, kind))
                }
            },
        }
    }

    fn knows_control_point(&self, name: &str) -> Option<bool> {
        match &self.inner.backend {
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => engine.knows_control_point(name),
            // Only an engine has the policies.
            _ => {
                let _ = name;
                None
            }
        }
    }

    fn compares_label_value(&self, value: &str) -> Option<bool> {
        match &self.inner.backend {
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) => engine.compares_label_value(value),
            // Only an engine has the policies.
            _ => {
                let _ = value;
                None
            }
        }
    }

    fn caches(&self) -> Option<Arc<dyn Caches>> {
        match &self.inner.backend {
            #[cfg(feature = "embedded")]
            Backend::Embedded(_) => Some(Arc::clone(&self.inner) as _),
            #[cfg(feature = "remote")]
            Backend::Remote(_) => Some(Arc::clone(&self.inner) as _),
            _ => None,
        }
    }

    /// Decides about a flow by the attributes of its HTTP request.
    ///
    /// An embedded engine and an Agent make labels of the request. The client sends the flow's own
    /// labels as members of `baggage`, encoded so that they arrive unchanged. If they exceed the
    /// limits of W3C Baggage, the largest values that clients can choose are sent as a hash and
    /// counted as [shortened](crate::ClientStats::labels_shortened). Labels whose key is not an HTTP
    /// token, or that still do not fit, are left out and counted as
    /// [dropped](crate::ClientStats::labels_dropped).
    fn decide_http(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
    ) -> Check<Self::Ticket, Self::Pending> {
        #[cfg(any(feature = "embedded", feature = "remote"))]
        let fitted = request.fit(control_point);
        #[cfg(any(feature = "embedded", feature = "remote"))]
        let fitted_request = fitted.as_ref().map(FittedAttributes::attributes);
        #[cfg(any(feature = "embedded", feature = "remote"))]
        let request = fitted_request.as_ref().unwrap_or(request);
        match &self.inner.backend {
            #[cfg(feature = "embedded")]
            Backend::Embedded(engine) if !control_point.is_empty() => {
                let (baggage, mut timer) =
                    self.start_http_check(control_point, params, fitted.as_ref());
                let mut engine_check = self.engine_check(params);
                let baggage = baggage.as_deref();
                match engine.check_http_attributes(
                    control_point,
                    params,
                    &mut engine_check,
                    request,
                    baggage,
                ) {
                    Check::Ready(verdict) => {
                        let mut verdict = wrap(verdict, TicketKind::Embedded);
                        self.record_verdict(
                            &mut timer,
                            params.shadow,
                            Some(control_point),
                            engine_check.undecided,
                            &mut verdict,
                        );
                        Check::Ready(verdict)
                    }
                    Check::Pending(pending) => {
                        let kind = PendingKind::Embedded(pending);
                        Check::Pending(self.pending(timer, control_point, params, kind))
                    }
                }
            }
            #[cfg(feature = "remote")]
            Backend::Remote(remote) if !control_point.is_empty() => {
                let (baggage, timer) =
                    self.start_http_check(control_point, params, fitted.as_ref());
                let check = remote.check_http(control_point, params, request, baggage);
                self.pending_remote(timer, control_point, params, check)
            }
            // No backend makes labels of the request; a script records those of the flow.
            _ => self.decide(control_point, params),
        }
    }
}

impl ApertureClient {
    /// Starts the record of a flow whose labels are sent in the `baggage` header, and makes the
    /// header.
    #[cfg(any(feature = "embedded", feature = "remote"))]
    fn start_http_check(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        fitted: Option<&FittedAttributes<'_>>,
    ) -> (Option<String>, CheckTimer) {
        let labels = &params.labels;
        let EncodedLabels {
            header,
            dropped,
            shortened,
        } = encode_baggage(labels);
        let mut dropped = labels.dropped().saturating_add(dropped);
        let mut shortened = labels.shortened().saturating_add(shortened);
        if let Some(fitted) = fitted {
            dropped = dropped.saturating_add(fitted.dropped);
            shortened = shortened.saturating_add(fitted.shortened);
        }
        (header, self.start_check(control_point, dropped, shortened))
    }

    fn ready(
        &self,
        timer: &mut CheckTimer,
        control_point: &str,
        params: &FlowParams<'_>,
        mut verdict: Verdict<ClientTicket>,
    ) -> Check<ClientTicket, ClientPending> {
        self.record_verdict(
            timer,
            params.shadow,
            Some(control_point),
            false,
            &mut verdict,
        );
        Check::Ready(verdict)
    }

    #[cfg(feature = "remote")]
    fn pending_remote(
        &self,
        mut timer: CheckTimer,
        control_point: &str,
        params: &FlowParams<'_>,
        check: Result<crate::remote::PendingCheck, FlowError>,
    ) -> Check<ClientTicket, ClientPending> {
        match check {
            Ok(pending) => {
                let kind = PendingKind::Remote(pending);
                Check::Pending(self.pending(timer, control_point, params, kind))
            }
            Err(error) => self.ready(
                &mut timer,
                control_point,
                params,
                Verdict::Unreachable(error),
            ),
        }
    }
}
