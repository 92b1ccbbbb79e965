//! What happens to a request after its check: it runs, runs in shadow mode, or is rejected.

use std::sync::Arc;

use http::{Request, Response, header};
use http_body::Body;

use super::deadline::Deadline;
use super::guard::FlowGuard;
use super::head::RequestHead;
use super::reject::{NO_STORE, OnReject};
use super::settings::{Config, Settings};
use crate::flow::{CacheLookup, Denial, FlowDecision, RejectReason, Rejection, Ticket, Verdict};

/// The treatment of a request after its check. The guard is present if a decision came.
pub(crate) enum RequestAction<T: Ticket> {
    Run(Option<FlowGuard<T>>),
    /// Rejected, but runs because of shadow mode.
    Shadow(Rejection, FlowGuard<T>),
    Reject(Rejection, Option<FlowGuard<T>>),
}

impl Settings {
    /// Returns the treatment of a request after this verdict.
    #[inline]
    pub(crate) fn apply_verdict<T: Ticket>(
        &self,
        verdict: Verdict<T>,
        head: RequestHead<'_>,
        deadline: Option<Deadline>,
        control_point: impl FnOnce() -> Arc<str>,
    ) -> RequestAction<T> {
        if deadline.is_some_and(Deadline::has_passed) {
            return self.reject_late(verdict, control_point());
        }
        match verdict {
            Verdict::Accepted(ticket) => RequestAction::Run(Some(self.accept(ticket, head))),
            Verdict::Rejected(denial, mut ticket) => {
                let extras = ticket.take_http_extras();
                let rejection =
                    Rejection::new(control_point(), denial).with_optional_extras(extras);
                if self.shadow {
                    log_event!(
                        target: "tower_aperture::layer",
                        debug,
                        control_point = rejection.control_point(),
                        reason = rejection.reason().as_str(),
                        "{rejection}; the request runs because of shadow mode"
                    );
                    return RequestAction::Shadow(rejection, self.accept(ticket, head));
                }
                let guard = FlowGuard::rejected(ticket, self.reports_quotas());
                RequestAction::Reject(rejection, Some(guard))
            }
            Verdict::Unreachable(error) => {
                let is_open = match &self.on_unreachable {
                    _ if self.shadow => true,
                    Some(on_unreachable) => on_unreachable.is_open(&error, head),
                    None => !self.ramp_mode,
                };
                if is_open {
                    RequestAction::Run(None)
                } else {
                    let denial = Denial::new(RejectReason::Unreachable);
                    RequestAction::Reject(Rejection::new(control_point(), denial), None)
                }
            }
        }
    }

    /// Rejects a request whose deadline has passed, whatever the decision.
    #[cold]
    fn reject_late<T: Ticket>(
        &self,
        verdict: Verdict<T>,
        control_point: Arc<str>,
    ) -> RequestAction<T> {
        let guard = match verdict {
            Verdict::Accepted(ticket) | Verdict::Rejected(_, ticket) => {
                Some(FlowGuard::rejected(ticket, self.reports_quotas()))
            }
            Verdict::Unreachable(_) => None,
        };
        RequestAction::Reject(Self::deadline_exceeded(control_point), guard)
    }

    pub(crate) fn deadline_exceeded(control_point: Arc<str>) -> Rejection {
        Rejection::new(control_point, Denial::new(RejectReason::DeadlineExceeded))
    }

    /// Inserts the decision and the cache lookup as extensions for the inner service, if enabled,
    /// and sets the headers that came with the decision.
    pub(crate) fn annotate<B, T: Ticket>(
        &self,
        request: &mut Request<B>,
        decision: FlowDecision,
        guard: Option<&mut FlowGuard<T>>,
    ) {
        if self.annotates() {
            self.insert_extensions(request, decision, guard, None);
        }
    }

    /// Like [`annotate`](Self::annotate), for callers that may have taken the cache lookup from the
    /// guard already, as `lookup`.
    #[inline(never)]
    pub(crate) fn insert_extensions<B, T: Ticket>(
        &self,
        request: &mut Request<B>,
        decision: FlowDecision,
        mut guard: Option<&mut FlowGuard<T>>,
        lookup: Option<CacheLookup>,
    ) {
        if self.http.is_some()
            && let Some(extras) = guard.as_mut().and_then(|guard| guard.take_http_extras())
        {
            extras.set_on(request.headers_mut());
        }
        if self.insert_decision {
            request.extensions_mut().insert(decision);
        }
        if self.insert_cache_lookup
            && let Some(lookup) = lookup.or_else(|| guard?.take_cache_lookup())
        {
            request.extensions_mut().insert(lookup);
        }
    }
}

impl<R> Config<R> {
    /// Builds the response to a rejected request and ends its flow.
    pub(crate) fn reject<B, T>(
        &self,
        rejection: &Rejection,
        guard: Option<FlowGuard<T>>,
        head: RequestHead<'_>,
    ) -> Response<R::Body>
    where
        B: Body,
        R: OnReject<B>,
        T: Ticket,
    {
        let mut response = self.reject.on_reject(rejection, head);
        let headers = response.headers_mut();
        if !headers.contains_key(header::CACHE_CONTROL) {
            // The map is full at 32768 values; such a response goes out without the header.
            let _ = headers.try_insert(header::CACHE_CONTROL, NO_STORE);
        }
        log_event!(
            target: "tower_aperture::layer",
            debug,
            control_point = rejection.control_point(),
            reason = rejection.reason().as_str(),
            label = rejection.missing_label(),
            status = response.status().as_u16(),
            "the request was rejected"
        );
        if let Some(mut guard) = guard {
            guard.append_rate_limits(response.headers_mut());
            guard.http_status(response.status());
            guard.finish();
        }
        response
    }
}
