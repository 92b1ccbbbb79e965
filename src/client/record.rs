//! Counts and logs each flow and its verdict.

use super::shared::ApertureClient;
use super::ticket::ClientTicket;
#[cfg(any(feature = "metrics", feature = "remote"))]
use super::ticket::TicketKind;
use crate::flow::Verdict;
use crate::meter::CheckTimer;
#[cfg(feature = "metrics")]
use crate::meter::Meter;

impl ApertureClient {
    /// Starts the record of a flow, and counts its labels that were dropped or shortened.
    #[inline]
    pub(super) fn start_check(
        &self,
        control_point: &str,
        dropped: u32,
        shortened: u32,
    ) -> CheckTimer {
        if dropped > 0 {
            self.inner.counters.count_dropped_labels(dropped);
            self.inner.meter.count_labels_dropped(dropped);
        }
        if shortened > 0 {
            self.inner.counters.count_shortened_labels(shortened);
            self.inner.meter.count_labels_shortened(shortened);
        }
        self.inner.meter.start_check(control_point)
    }

    /// Counts and logs a verdict. `undecided` means that the engine accepted the flow and no
    /// component decided about it. `control_point` is `None` if the current span has it.
    #[inline]
    #[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
    pub(super) fn record_verdict(
        &self,
        timer: &mut CheckTimer,
        shadow: bool,
        control_point: Option<&str>,
        undecided: bool,
        verdict: &mut Verdict<ClientTicket>,
    ) {
        self.inner.counters.count(verdict, shadow);
        let undecided = undecided || self.is_undecided_by_agent(verdict);
        if undecided {
            self.inner.counters.count_undecided();
        }
        let end_counter = timer.stop(verdict, shadow, undecided);
        match verdict {
            Verdict::Accepted(ticket) => {
                ticket.end_counter = end_counter;
                #[cfg(feature = "metrics")]
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

impl ApertureClient {
    #[cfg(not(feature = "remote"))]
    const fn is_undecided_by_agent(&self, _: &Verdict<ClientTicket>) -> bool {
        false
    }

    /// Returns whether no component decided about a flow, as far as the Agent's response shows, and
    /// warns once for each control point and limiter.
    #[cfg(feature = "remote")]
    #[inline]
    fn is_undecided_by_agent(&self, verdict: &Verdict<ClientTicket>) -> bool {
        match verdict {
            Verdict::Accepted(ticket) => match &ticket.kind {
                TicketKind::Remote(flow) => self
                    .inner
                    .unlimited
                    .inspect(flow.control_point(), flow.response()),
                #[cfg(any(feature = "embedded", feature = "test-util"))]
                _ => false,
            },
            _ => false,
        }
    }
}

#[cfg(feature = "metrics")]
impl TicketKind {
    /// Counts the results of the flow's cache lookup, if it had cache keys.
    fn count_lookup(&self, meter: &Meter) {
        match *self {
            #[cfg(feature = "embedded")]
            Self::Embedded(ref ticket) => {
                if let Some(lookup) = ticket.cache_lookup() {
                    meter.count_lookup(lookup);
                }
            }
            // Counted with the report, for rejected flows as well.
            #[cfg(feature = "embedded")]
            Self::Reported(_) => {}
            #[cfg(feature = "remote")]
            Self::Remote(ref flow) => {
                if let Some(lookup) = &flow.response().cache_lookup_response {
                    super::cache::messages::count_lookup(lookup, meter);
                }
            }
            #[cfg(feature = "test-util")]
            Self::Scripted(_) => {}
        }
    }
}
