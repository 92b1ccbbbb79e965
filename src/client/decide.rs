//! The client as the decider of a layer.

use std::sync::Arc;

use super::backend::{AnyBackend, Backend, EmbeddedBackend, HttpBackend};
use super::pending::{ClientPending, PendingKind};
use super::shared::ApertureClient;
use super::ticket::{ClientTicket, TicketKind, convert_check, empty_control_point};
use crate::flow::encode::{EncodedLabels, encode_baggage};
use crate::flow::http::fit::FittedAttributes;
use crate::flow::{
    Caches, Check, ControlPoint, Decider, FlowError, FlowErrorKind, FlowParams, HttpAttributes,
    LabelSource, Ticket, Verdict,
};
use crate::meter::{CheckTimer, ClientCheckTimer, ClientMeter, Meter};

impl Decider for ApertureClient {
    type Ticket = ClientTicket;
    type Pending = ClientPending;

    fn decide(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
    ) -> Check<Self::Ticket, Self::Pending> {
        let mut timer = self.start_check(control_point);
        if control_point.is_empty() {
            self.count_losses(params.labels.losses());
            return self.ready(&mut timer, control_point, params, empty_control_point());
        }
        let at = ControlPoint::new(control_point);
        match &self.inner.backend {
            AnyBackend::Disabled => {
                self.count_losses(params.labels.losses());
                let error = FlowError::new(FlowErrorKind::Disabled, "");
                self.ready(
                    &mut timer,
                    control_point,
                    params,
                    Verdict::Unreachable(error),
                )
            }
            AnyBackend::Embedded(backend) => {
                let kinds = (TicketKind::Embedded, PendingKind::Embedded);
                self.decide_by(backend, timer, at, params, &params.labels, kinds)
            }
            AnyBackend::Remote(backend) => {
                let kinds = (TicketKind::Remote, PendingKind::Remote);
                self.decide_by(backend, timer, at, params, &params.labels, kinds)
            }
            AnyBackend::Scripted(backend) => {
                let kinds = (TicketKind::Scripted, PendingKind::Scripted);
                self.decide_by(backend, timer, at, params, &params.labels, kinds)
            }
        }
    }

    /// Reads the labels that an embedded engine asks for. With an Agent and with a script, reads all.
    #[inline]
    fn decide_from(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
    ) -> Check<Self::Ticket, Self::Pending> {
        let name = control_point.name();
        if let AnyBackend::Embedded(backend) = &self.inner.backend
            && !name.is_empty()
        {
            let timer = self.start_check(name);
            let kinds = (TicketKind::Embedded, PendingKind::Embedded);
            return self.decide_by(backend, timer, control_point, params, labels, kinds);
        }
        // A disabled client makes no decision, so it reads no labels.
        match self.inner.backend {
            AnyBackend::Disabled => self.decide(name, params),
            _ => self.decide(name, &params.with_labels_from(labels)),
        }
    }

    #[inline(never)]
    fn admit(
        &self,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
    ) -> Option<Check<Self::Ticket, Self::Pending>> {
        if let AnyBackend::Embedded(backend) = &self.inner.backend
            && !ClientMeter::RECORDS
            && !control_point.name().is_empty()
        {
            return self.admit_by(backend, control_point, params, labels);
        }
        match self.decide_from(control_point, params, labels) {
            Check::Ready(Verdict::Accepted(ticket)) if !ticket.needs_end() => None,
            check => Some(check),
        }
    }

    #[inline(always)]
    fn passes(&self, control_point: ControlPoint<'_>, params: &FlowParams<'_>) -> bool {
        let passes = match &self.inner.backend {
            AnyBackend::Embedded(backend) if !ClientMeter::RECORDS => {
                backend.passes(control_point, params)
            }
            _ => false,
        };
        if passes {
            self.inner.counters.count_accepted(true);
        }
        passes
    }

    fn knows_control_point(&self, name: &str) -> Option<bool> {
        match &self.inner.backend {
            AnyBackend::Disabled => None,
            AnyBackend::Embedded(backend) => backend.knows_control_point(name),
            AnyBackend::Remote(backend) => backend.knows_control_point(name),
            AnyBackend::Scripted(backend) => backend.knows_control_point(name),
        }
    }

    fn compares_label_value(&self, value: &str) -> Option<bool> {
        match &self.inner.backend {
            AnyBackend::Disabled => None,
            AnyBackend::Embedded(backend) => backend.compares_label_value(value),
            AnyBackend::Remote(backend) => backend.compares_label_value(value),
            AnyBackend::Scripted(backend) => backend.compares_label_value(value),
        }
    }

    fn caches(&self) -> Option<Arc<dyn Caches>> {
        match &self.inner.backend {
            AnyBackend::Embedded(_) | AnyBackend::Remote(_) => Some(Arc::clone(&self.inner) as _),
            AnyBackend::Disabled | AnyBackend::Scripted(_) => None,
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
        match &self.inner.backend {
            AnyBackend::Embedded(backend) if !control_point.is_empty() => {
                let kinds = (TicketKind::Embedded, PendingKind::Embedded);
                self.decide_http_by(backend, control_point, params, request, kinds)
            }
            AnyBackend::Remote(backend) if !control_point.is_empty() => {
                let kinds = (TicketKind::Remote, PendingKind::Remote);
                self.decide_http_by(backend, control_point, params, request, kinds)
            }
            // No backend makes labels of the request; a script records those of the flow.
            _ => self.decide(control_point, params),
        }
    }
}

impl ApertureClient {
    /// Decides with a backend. `kinds` make the client's ticket and future.
    #[inline(always)]
    fn decide_by<B: Backend>(
        &self,
        backend: &B,
        mut timer: ClientCheckTimer,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
        kinds: (
            impl Fn(B::Ticket) -> TicketKind,
            impl FnOnce(B::Pending) -> PendingKind,
        ),
    ) -> Check<ClientTicket, ClientPending> {
        let (ticket_kind, pending_kind) = kinds;
        let mut undecided = false;
        let mut check = backend.decide_as(
            control_point,
            params,
            labels,
            &mut undecided,
            |ticket| ticket_kind(ticket).into(),
            |pending| {
                self.pending(
                    timer.take(),
                    control_point.name(),
                    params,
                    pending_kind(pending),
                )
            },
        );
        self.count_losses(labels.losses());
        if let Check::Ready(verdict) = &mut check {
            self.record_verdict(
                &mut timer,
                params.shadow,
                Some(control_point.name()),
                undecided,
                verdict,
            );
        }
        check
    }

    /// Decides with an engine, without metrics.
    #[inline(always)]
    fn admit_by(
        &self,
        backend: &EmbeddedBackend,
        control_point: ControlPoint<'_>,
        params: &FlowParams<'_>,
        labels: &dyn LabelSource,
    ) -> Option<Check<ClientTicket, ClientPending>> {
        let mut undecided = false;
        let mut check = backend.admit(
            control_point,
            params,
            labels,
            &mut undecided,
            |ticket| TicketKind::Embedded(ticket).into(),
            |pending| {
                let name = control_point.name();
                let timer = self.start_check(name);
                self.pending(timer, name, params, PendingKind::Embedded(pending))
            },
        );
        self.count_losses(labels.losses());
        match &mut check {
            // Without metrics, no more of an accepted flow is recorded.
            None | Some(Check::Ready(Verdict::Accepted(_))) => {
                self.inner.counters.count_accepted(undecided);
            }
            Some(Check::Ready(verdict)) => {
                let name = control_point.name();
                let mut timer = self.start_check(name);
                self.record_verdict(&mut timer, params.shadow, Some(name), undecided, verdict);
            }
            Some(Check::Pending(_)) => {}
        }
        check
    }

    /// Decides with a backend by the attributes of a request.
    fn decide_http_by<B: HttpBackend>(
        &self,
        backend: &B,
        control_point: &str,
        params: &FlowParams<'_>,
        request: &HttpAttributes<'_>,
        kinds: (
            impl FnOnce(B::Ticket) -> TicketKind,
            impl FnOnce(B::Pending) -> PendingKind,
        ),
    ) -> Check<ClientTicket, ClientPending> {
        let (ticket_kind, pending_kind) = kinds;
        let fitted = request.fit(control_point);
        let fitted_request = fitted.as_ref().map(FittedAttributes::attributes);
        let request = fitted_request.as_ref().unwrap_or(request);
        let (baggage, mut timer) = self.start_http_check(control_point, params, fitted.as_ref());
        let mut undecided = false;
        let mut check = convert_check(
            backend.decide_http(control_point, params, &mut undecided, request, baggage),
            |ticket| ticket_kind(ticket).into(),
            |pending| self.pending(timer.take(), control_point, params, pending_kind(pending)),
        );
        if let Check::Ready(verdict) = &mut check {
            self.record_verdict(
                &mut timer,
                params.shadow,
                Some(control_point),
                undecided,
                verdict,
            );
        }
        check
    }

    /// Starts the record of a flow whose labels are sent in the `baggage` header, and makes the
    /// header.
    fn start_http_check(
        &self,
        control_point: &str,
        params: &FlowParams<'_>,
        fitted: Option<&FittedAttributes<'_>>,
    ) -> (Option<String>, ClientCheckTimer) {
        let labels = &params.labels;
        let EncodedLabels {
            header,
            dropped,
            shortened,
        } = encode_baggage(labels);
        let mut losses = labels.losses();
        losses.dropped = losses.dropped.saturating_add(dropped);
        losses.shortened = losses.shortened.saturating_add(shortened);
        if let Some(fitted) = fitted {
            losses.dropped = losses.dropped.saturating_add(fitted.dropped);
            losses.shortened = losses.shortened.saturating_add(fitted.shortened);
        }
        self.count_losses(losses);
        (header, self.start_check(control_point))
    }

    fn ready(
        &self,
        timer: &mut ClientCheckTimer,
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
}
