/// What a client has counted since it was built; read it for your metrics.
///
/// Every flow is in exactly one of `accepted`, `rejected` and `unreachable`. What is lost is
/// counted: nothing is dropped in silence.
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
    /// Flows that were let in.
    pub accepted: u64,
    /// Flows that were turned away.
    pub rejected: u64,
    /// Of those, the ones that ran all the same, in
    /// [shadow mode](crate::ApertureLayer::shadow_mode).
    pub shadowed: u64,
    /// Accepted flows that no component of a policy decided about: no policy selects their control
    /// point and labels, or each limiter that does was skipped because its label is missing. They
    /// run without any limit.
    ///
    /// Each control point is named once in a warning. An Agent's answer does not tell a limiter that
    /// lacks its label from one that lets everything pass: with an Agent, only flows count whose
    /// answer names no decision at all.
    pub undecided: u64,
    /// Flows that nobody answered for; the next four say why, others are in none of them.
    pub unreachable: u64,
    /// Unreachable: no answer in time.
    pub timeouts: u64,
    /// Unreachable, and counted in `timeouts`: the check was sent, and its answer did not come
    /// within the check timeout and its grace. The Agent may have decided otherwise. The rest of
    /// `timeouts` found no connection or no stream in time, so that no Agent was asked.
    ///
    /// A warning names their number, at most once a minute.
    pub late: u64,
    /// Unreachable: no connection.
    pub unavailable: u64,
    /// Unreachable: the API key was refused.
    pub unauthenticated: u64,
    /// Unreachable: the request was refused as it was.
    pub invalid: u64,
    /// Labels that did not fit [`LabelLimits`](crate::LabelLimits), and headers of
    /// [`HttpAttributes`](crate::HttpAttributes) that did not fit a check.
    pub labels_dropped: u64,
    /// Values of labels, and attributes of requests, that were
    /// [too long](crate::Labels#long-values) and shortened.
    pub labels_shortened: u64,
    /// Checks whose caller left or whose time was up, and that the background waited for a little
    /// longer: a grant that arrived was given back.
    pub checks_handed_over: u64,
    /// Checks without a caller that were cancelled, because they were not answered within one grace
    /// or because too many waited. A grant that crosses the cancellation on its way holds its slot
    /// until the policy's `max_inflight_duration`.
    pub checks_cancelled: u64,
    /// Checks that may well have left a slot taken until the policy's `max_inflight_duration`: the
    /// connection broke before the answer, or the check was cancelled while the Agent gave no sign
    /// of life.
    pub checks_unsettled: u64,
    /// Checks asked of another Agent, because the first had certainly decided nothing: there was
    /// no connection to it, it refused the stream or was closing the connection, or it refused the
    /// client (`UNAUTHENTICATED`, `PERMISSION_DENIED`, `UNIMPLEMENTED`).
    pub checks_moved: u64,
    /// Unreachable, and counted in `unavailable`: nobody was asked, because no Agent had answered
    /// for a while.
    pub checks_spared: u64,
    /// How often an Agent was given up because it did not answer; see
    /// [`ApertureClient::agents`](crate::ApertureClient::agents) for those that are so now.
    pub agents_given_up: u64,
    /// Calls that only asked whether an Agent answers.
    pub probes: u64,
    /// Requests that were answered with a response from the result cache.
    pub cache_answers: u64,
    /// What lay in the result cache and was no response of this version of the layer.
    pub cache_unreadable: u64,
    /// Changes to the caches, made in the background, that were done.
    pub cache_writes: u64,
    /// Changes in the background that the Agent or the engine refused, or nobody answered.
    pub cache_writes_failed: u64,
    /// Changes in the background that found the queue full, or the client shut down.
    pub cache_writes_dropped: u64,
    /// Ends of flows that the Agent took.
    pub ends_delivered: u64,
    /// Ends that were tried a second time.
    pub ends_retried: u64,
    /// Ends that another Agent took than the one that had let the flow in.
    pub ends_moved: u64,
    /// Ends that the Agent did not take.
    pub ends_failed: u64,
    /// Ends that found the queue full, or the client shut down.
    pub ends_dropped: u64,
    /// Spans that the Agent took.
    pub spans_exported: u64,
    /// Spans that the Agent did not take.
    pub spans_failed: u64,
    /// Spans that found the queue full, or the client shut down.
    pub spans_dropped: u64,
}
