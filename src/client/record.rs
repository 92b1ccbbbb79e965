//! Counts and logs each flow and its verdict.

use super::backend::{AnyBackend, Backend, BackendTicket};
use super::shared::ApertureClient;
use super::ticket::{ClientTicket, TicketKind};
use crate::flow::{LabelLosses, Verdict};
use crate::meter::{CheckTimer, ClientCheckTimer, ClientMeter, Meter};

impl ApertureClient {
    /// Starts the record of a flow.
    #[inline]
    pub(super) fn start_check(&self, control_point: &str) -> ClientCheckTimer {
        self.inner.meter.start_check(control_point)
    }

    /// Counts the labels of a flow that were dropped or shortened.
    #[inline]
    pub(super) fn count_losses(&self, losses: LabelLosses) {
        let LabelLosses {
            dropped, shortened, ..
        } = losses;
        if dropped > 0 {
            self.inner.counters.count_dropped_labels(dropped);
            self.inner.meter.count_labels_dropped(dropped);
        }
        if shortened > 0 {
            self.inner.counters.count_shortened_labels(shortened);
            self.inner.meter.count_labels_shortened(shortened);
        }
    }

    /// Counts and logs a verdict. `undecided` means that the engine accepted the flow and no
    /// component decided about it. `control_point` is `None` if the current span has it.
    #[inline]
    pub(super) fn record_verdict(
        &self,
        timer: &mut ClientCheckTimer,
        shadow: bool,
        control_point: Option<&str>,
        undecided: bool,
        verdict: &mut Verdict<ClientTicket>,
    ) {
        let undecided = undecided || self.inner.backend.is_undecided(verdict);
        self.inner.counters.count(verdict, shadow, undecided);
        let end_counter = timer.stop(verdict, shadow, undecided);
        match verdict {
            Verdict::Accepted(ticket) => {
                ticket.end_counter = end_counter;
                ticket.kind.count_lookup(&self.inner.meter);
            }
            Verdict::Rejected(denial, ticket) => {
                ticket.end_counter = end_counter;
                log_event!(
                    target: "tower_aperture::client",
                    debug,
                    control_point,
                    reason = denial.reason.as_str(),
                    shadow,
                    wait = ?denial.wait,
                    "a flow was rejected"
                );
            }
            Verdict::Unreachable(_) => {}
        }
    }
}

impl AnyBackend {
    /// Returns whether no component decided about an accepted flow, as far as its ticket shows.
    #[inline]
    fn is_undecided(&self, verdict: &Verdict<ClientTicket>) -> bool {
        let Verdict::Accepted(ticket) = verdict else {
            return false;
        };
        match (self, &ticket.kind) {
            (Self::Embedded(backend), TicketKind::Embedded(ticket)) => backend.is_undecided(ticket),
            (Self::Remote(backend), TicketKind::Remote(ticket)) => backend.is_undecided(ticket),
            (Self::Scripted(backend), TicketKind::Scripted(ticket)) => backend.is_undecided(ticket),
            _ => false,
        }
    }
}

impl TicketKind {
    /// Counts the results of the flow's cache lookup, if it had cache keys.
    fn count_lookup(&self, meter: &ClientMeter) {
        let lookup = match self {
            Self::Embedded(ticket) => BackendTicket::cache_lookup(ticket),
            // Counted with the report, for rejected flows as well.
            Self::Reported(_) => None,
            Self::Remote(ticket) => ticket.cache_lookup(),
            Self::Scripted(ticket) => ticket.cache_lookup(),
        };
        if let Some(lookup) = lookup {
            lookup.count(meter);
        }
    }
}
