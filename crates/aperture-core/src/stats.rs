//! The counters of a client.

/// The counters of a client since it was built, for example for your metrics.
///
/// Every flow is in exactly one of `accepted`, `rejected` and `unreachable`. All losses are
/// counted.
///
/// ```
/// use tower_aperture::{ApertureClient, FlowParams};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let client = ApertureClient::disabled();
/// let flow = client.start_flow("checkout", FlowParams::new()).await;
/// assert_eq!(client.stats().unreachable, 1);
/// # });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Accepted flows.
    pub accepted: u64,
    /// Rejected flows.
    pub rejected: u64,
    /// Rejected flows that ran nevertheless, in
    /// shadow mode (`ApertureLayer::shadow_mode`). They are counted in `rejected` as well.
    pub shadowed: u64,
    /// Accepted flows that no component of a policy decided about: no policy selects their control
    /// point and labels, or each limiter that does was skipped because its label is missing. They
    /// run without any limit.
    ///
    /// A warning names each control point once. An Agent's response does not distinguish a limiter
    /// that lacks its label from one that accepts all flows, so with an Agent only flows whose
    /// response has no decision at all are counted.
    pub undecided: u64,
    /// Unreachable flows. `timeouts`, `unavailable`, `unauthenticated` and `invalid` count those
    /// with these reasons; flows with other reasons are in none of them.
    pub unreachable: u64,
    /// Unreachable flows whose check timed out.
    pub timeouts: u64,
    /// Unreachable flows whose check was sent and not answered within the check timeout and its
    /// grace. They are counted in `timeouts` as well. The Agent may have decided otherwise. The
    /// other `timeouts` got no connection or no stream in time, so their check was not sent.
    ///
    /// A warning gives their number, at most once a minute.
    pub late: u64,
    /// Unreachable flows without a connection to an Agent.
    pub unavailable: u64,
    /// Unreachable flows whose API key the Agent refused.
    pub unauthenticated: u64,
    /// Unreachable flows that were refused as invalid.
    pub invalid: u64,
    /// Labels that did not fit [`LabelLimits`](crate::LabelLimits), and headers of
    /// [`HttpAttributes`](crate::HttpAttributes) that did not fit a check.
    pub labels_dropped: u64,
    /// Values of labels, and attributes of requests, that were
    /// [too long](crate::Labels#long-values) and shortened.
    pub labels_shortened: u64,
    /// Checks whose caller left or whose time was up, and whose response a background task awaited
    /// a little longer, to return a slot that the Agent granted.
    pub checks_handed_over: u64,
    /// Checks without a caller that were cancelled, because they were not answered within one grace
    /// or because too many waited. A grant that crosses the cancellation on its way holds its slot
    /// until the policy's `max_inflight_duration`.
    pub checks_cancelled: u64,
    /// Checks that may have left a slot taken until the policy's `max_inflight_duration`: the
    /// connection broke before the response, or the check was cancelled while the Agent sent
    /// nothing.
    pub checks_unsettled: u64,
    /// Checks that were sent to another Agent, because the first had certainly made no decision:
    /// the client had no connection to it, it refused the stream or was closing the connection, or
    /// it refused the client (`UNAUTHENTICATED`, `PERMISSION_DENIED`, `UNIMPLEMENTED`).
    pub checks_moved: u64,
    /// Unreachable flows whose check was not sent, because all Agents were given up. They are
    /// counted in `unavailable` as well.
    pub checks_not_sent: u64,
    /// How often an Agent was given up because it did not answer; see
    /// `ApertureClient::agents` for the current status.
    pub agents_given_up: u64,
    /// Probes: calls that only test whether an Agent answers.
    pub probes: u64,
    /// Requests that were answered with a response from the result cache.
    pub cache_answers: u64,
    /// Values in the result cache that were not responses of this version of the layer.
    pub cache_unreadable: u64,
    /// Changes to the caches, made in the background, that succeeded.
    pub cache_writes: u64,
    /// Changes in the background that the Agent or the engine refused, or that got no response.
    pub cache_writes_failed: u64,
    /// Changes in the background that were dropped, because the queue was full or the client shut
    /// down.
    pub cache_writes_dropped: u64,
    /// Ends of flows that an Agent accepted.
    pub ends_delivered: u64,
    /// Ends that were retried.
    pub ends_retried: u64,
    /// Ends that went to another Agent than the one that accepted the flow.
    pub ends_moved: u64,
    /// Ends that the Agent did not accept.
    pub ends_failed: u64,
    /// Ends that were dropped, because the queue was full or the client shut down.
    pub ends_dropped: u64,
    /// Spans that the Agent accepted.
    pub spans_exported: u64,
    /// Spans that the Agent did not accept.
    pub spans_failed: u64,
    /// Spans that were dropped, because the queue was full or the client shut down.
    pub spans_dropped: u64,
}
