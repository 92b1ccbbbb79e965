//! The settings of checks and ends: how long they may take, and when an Agent is given up.

use std::time::Duration;

use super::ApertureClientBuilder;
use crate::remote::BreakerConfig;

impl ApertureClientBuilder {
    /// Sets the budget of a check, including the time to connect; 200 ms by default. A flow may set
    /// [its own](crate::FlowParams::check_timeout).
    ///
    /// The client sends the budget as `grpc-timeout`, and the Agent keeps a flow in a scheduler's
    /// queue no longer than that. The client waits for the response one [grace](Self::check_grace)
    /// longer, so that the response to a flow that waited for its entire budget still counts. A
    /// request therefore waits at most the budget plus the grace: 1 s by default. If the process
    /// itself stalled meanwhile, the client reads a response from the socket before the check times
    /// out, for as long as the stall took and at most 500 ms.
    ///
    /// Zero means no limit: a check then waits until the Agent answers or the connection breaks.
    pub fn check_timeout(mut self, timeout: Duration) -> Self {
        self.check_timeout = timeout;
        self
    }

    /// Sets how much longer than the [budget](Self::check_timeout) a check waits for its response;
    /// 800 ms by default.
    ///
    /// An Agent answers a queued check shortly before the budget ends. The grace covers the way back
    /// and a busy client: the default is enough for a link of 20 ms each way and a client whose two
    /// cores are saturated. A response within the grace counts like any other. A flow whose response
    /// arrives later is [unreachable](crate::FlowDecision::Unreachable) and
    /// [runs](crate::FailureMode), even if the Agent rejected it.
    ///
    /// Zero ends the wait with the budget. Choose it only if a late response is worth less than a
    /// flow that runs without a decision. A `channel` of your own gets no grace.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aperture::ApertureClient;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = ApertureClient::builder()
    ///     .address("agent.far.example:8089")
    ///     .insecure(true)
    ///     .check_timeout(Duration::from_millis(100))
    ///     .check_grace(Duration::from_secs(1)) // no check takes longer than 1.1 s
    ///     .build()?;
    /// # let _ = client;
    /// # Ok(()) }
    /// ```
    pub fn check_grace(mut self, grace: Duration) -> Self {
        self.check_grace = grace;
        self
    }

    /// Sets how long the end of a flow, an export of spans or a cache call may take; 5 s by default.
    /// Zero means no limit for cache calls and a minute for the others.
    pub fn end_timeout(mut self, timeout: Duration) -> Self {
        self.end_timeout = timeout;
        self
    }

    /// Sets when the client gives up an Agent: after `failures` unanswered checks in a row and a
    /// failed health probe. The default is 5; zero disables the breaker. While an Agent is given up,
    /// flows are unreachable at once, unless another Agent answers.
    ///
    /// A check is unanswered if its timeout passes, if no connection can be made, or if the Agent
    /// returns `DEADLINE_EXCEEDED`, `CANCELLED` or `UNAVAILABLE`. A broken connection counts once for
    /// all checks on it. Any other status is an answer, and so is a timeout if other checks were
    /// answered meanwhile. A check without a timeout counts only if it fails.
    ///
    /// Failed checks alone are no proof: they may wait in a scheduler's queue, have a short timeout,
    /// or belong to a process that stalled. After the last of them the client calls
    /// `grpc.health.v1.Health/Check` on the connection of the checks and on a new one, each for up to
    /// one second. Any answer keeps the Agent, including `UNIMPLEMENTED`; `UNAVAILABLE` and
    /// `DEADLINE_EXCEEDED` are not answers. If only the new connection gets an answer, it replaces
    /// the old one.
    ///
    /// While an Agent is given up, only probes decide about its return. A flow, an end or a change to
    /// a cache that needs an Agent starts one in the background every `probe_interval`, 1 s by
    /// default. The shortest interval is a millisecond and the longest a day;
    /// [`build`](Self::build) refuses zero.
    ///
    /// An Agent that answers probes but not checks is never given up. Each flow then waits for the
    /// [check timeout](Self::check_timeout) and its grace before it is unreachable.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_aperture::ApertureClient;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let client = ApertureClient::builder()
    ///     .address("localhost:8089")
    ///     .insecure(true)
    ///     .breaker(3, Duration::from_millis(500))
    ///     .build()?;
    /// # let _ = client;
    /// # Ok(()) }
    /// ```
    pub fn breaker(mut self, failures: u32, probe_interval: Duration) -> Self {
        self.breaker = BreakerConfig {
            failures,
            probe_interval,
        };
        self
    }
}
