//! What is counted and said about each flow.

use super::ApertureClient;
use super::decide::ClientTicket;
#[cfg(feature = "metrics")]
use super::decide::TicketKind;
use crate::flow::Verdict;
use crate::meter::Asked;
#[cfg(feature = "metrics")]
use crate::meter::Meter;

impl ApertureClient {
    /// Begins to count a flow, some of whose labels were dropped.
    #[inline]
    pub(super) fn ask(&self, control_point: &str, dropped: u32) -> Asked {
        if dropped > 0 {
            self.inner.counters.count_dropped_labels(dropped);
            self.inner.meter.labels_dropped(dropped);
        }
        self.inner.meter.ask(control_point)
    }

    /// Counts an answer, where it stays. The control point is told where no span has it.
    #[inline]
    #[cfg_attr(not(feature = "tracing"), allow(unused_variables))]
    pub(super) fn told(
        &self,
        asked: &mut Asked,
        shadow: bool,
        control_point: Option<&str>,
        verdict: &mut Verdict<ClientTicket>,
    ) {
        self.inner.counters.count(verdict, shadow);
        let held = asked.answered(verdict, shadow);
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
