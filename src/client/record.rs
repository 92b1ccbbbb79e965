//! Counts and logs each flow and its verdict.

use super::ApertureClient;
use super::decide::ClientTicket;
#[cfg(any(feature = "metrics", feature = "remote"))]
use super::decide::TicketKind;
use crate::flow::Verdict;
use crate::meter::Asked;
#[cfg(feature = "metrics")]
use crate::meter::Meter;

impl ApertureClient {
    /// Starts the record of a flow, and counts its labels that were dropped or shortened.
    #[inline]
    pub(super) fn ask(&self, control_point: &str, dropped: u32, shortened: u32) -> Asked {
        if dropped > 0 {
            self.inner.counters.count_dropped_labels(dropped);
            self.inner.meter.labels_dropped(dropped);
        }
        if shortened > 0 {
            self.inner.counters.count_shortened_labels(shortened);
            self.inner.meter.labels_shortened(shortened);
        }
        self.inner.meter.ask(control_point)
    }

    /// Counts a verdict in place. `undecided` means that the engine accepted the flow and no component
    /// decided about it. Logs the control point where no span carries it.
    #[inline]
    #[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
    pub(super) fn record_verdict(
        &self,
        asked: &mut Asked,
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
        let held = asked.answered(verdict, shadow, undecided);
        match verdict {
            Verdict::Accepted(ticket) => {
                ticket.held = held;
                #[cfg(feature = "metrics")]
                ticket.kind.count_lookup(&self.inner.meter);
            }
            Verdict::Rejected(denial, ticket) => {
                ticket.held = held;
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

    /// Looks for limits that an Agent's answer does not mention, and warns once of each.
    #[cfg(feature = "remote")]
    #[inline]
    fn is_undecided_by_agent(&self, verdict: &Verdict<ClientTicket>) -> bool {
        match verdict {
            Verdict::Accepted(ticket) => match &ticket.kind {
                TicketKind::Remote(flow) => self
                    .inner
                    .unlimited
                    .look(flow.control_point(), flow.response()),
                #[cfg(any(feature = "embedded", feature = "test-util"))]
                _ => false,
            },
            _ => false,
        }
    }
}

#[cfg(feature = "metrics")]
impl TicketKind {
    /// Counts what the caches had, when the flow asked them.
    fn count_lookup(&self, meter: &Meter) {
        match *self {
            #[cfg(feature = "embedded")]
            Self::Embedded(ref ticket) => {
                if let Some(lookup) = ticket.cache_lookup() {
                    meter.looked_up(lookup);
                }
            }
            #[cfg(feature = "remote")]
            Self::Remote(ref flow) => {
                if let Some(lookup) = &flow.response().cache_lookup_response {
                    super::cache::wire::count(lookup, meter);
                }
            }
            #[cfg(feature = "test-util")]
            Self::Scripted(_) => {}
        }
    }
}
