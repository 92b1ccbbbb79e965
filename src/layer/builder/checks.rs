//! Builder methods for checks: which requests are checked, how long a check may take, and what its
//! decision means.

use std::sync::Arc;
use std::time::Duration;

use crate::flow::FlowError;
use crate::layer::head::RequestHead;
use crate::layer::layer::ApertureLayer;
use crate::layer::unreachable::{FailureMode, OnUnreachable};

impl<D, R> ApertureLayer<D, R> {
    /// Skips the requests for which the closure returns true: they have no labels, no check and no
    /// flow. May be called several times; one closure that returns true is enough.
    ///
    /// The closure runs first, for every request, so keep it cheap.
    #[must_use]
    pub fn skip<F>(self, skip: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.set(|settings| settings.skip.push(Arc::new(skip)))
    }

    /// Sets the longest time that a check may take. It also bounds the time that a scheduler may
    /// keep the request in its queue, whatever its `queue_timeout`. Zero is no limit.
    ///
    /// The default is that of the decider: 200 ms for an [`ApertureClient`](crate::ApertureClient).
    /// A client of an Agent waits for the response longer by a grace, 800 ms by default
    /// (`ApertureClientBuilder::check_grace`).
    #[must_use]
    pub fn check_timeout(self, timeout: Duration) -> Self {
        self.set(|settings| settings.check_timeout = Some(timeout))
    }

    /// Sets whether requests run only if a *load ramp* accepts them; off by default. Unreachable
    /// requests are then rejected, unless [`on_unreachable`](Self::on_unreachable) is set.
    #[must_use]
    pub fn ramp_mode(self, ramp_mode: bool) -> Self {
        self.set(|settings| settings.ramp_mode = ramp_mode)
    }

    /// Sets whether unreachable requests, which got no decision, run or are rejected. By default
    /// they run, except in [ramp mode](Self::ramp_mode).
    #[must_use]
    pub fn on_unreachable(self, mode: FailureMode) -> Self {
        self.set(|settings| settings.on_unreachable = Some(OnUnreachable::Always(mode)))
    }

    /// Sets a hook that decides for each unreachable request whether it runs or is rejected.
    ///
    /// For a custom response, return [`FailureMode::Closed`] and handle
    /// [`RejectReason::Unreachable`](crate::RejectReason::Unreachable) in the
    /// [reject hook](Self::on_reject).
    #[must_use]
    pub fn on_unreachable_with<F>(self, mode: F) -> Self
    where
        F: Fn(&FlowError, RequestHead<'_>) -> FailureMode + Send + Sync + 'static,
    {
        self.set(|settings| settings.on_unreachable = Some(OnUnreachable::Hook(Arc::new(mode))))
    }

    /// Sets whether all requests run, whatever the decision; off by default. Use it to observe the
    /// effect of policies before enforcing them.
    ///
    /// A rejected request runs as if it had been accepted. Its flow ends with its response, and
    /// telemetry reports the original decision. The request is counted in
    /// [`ClientStats::shadowed`](crate::ClientStats::shadowed) and logged at level debug. With
    /// [`insert_decision`](Self::insert_decision) it carries
    /// [`FlowDecision::Rejected`](crate::FlowDecision::Rejected) and the
    /// [`Rejection`](crate::Rejection) as extensions. An unreachable request runs too, also in
    /// [ramp mode](Self::ramp_mode) and if the layer fails closed. Only a request whose
    /// [deadline has passed](crate::layer#deadlines-of-callers) does not run.
    ///
    /// In an embedded engine, schedulers do not queue a request in shadow mode: a request that
    /// would have to wait counts as rejected, although it might have been accepted a little later.
    /// The protocol of an Agent has no shadow mode: a request waits for the Agent's decision as
    /// usual, up to the [check timeout](Self::check_timeout). The flow takes its tokens and slots,
    /// so it affects other flows that share them.
    #[cfg_attr(
        feature = "embedded",
        doc = "To observe single policies instead of an entire layer, use the
[dry runs](crate::engine::EngineBuilder::dry_run) of an embedded engine."
    )]
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// let layer = tower_aperture::ApertureLayer::new(client, "checkout").shadow_mode(true);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn shadow_mode(self, shadow: bool) -> Self {
        self.set(|settings| settings.shadow = shadow)
    }
}
