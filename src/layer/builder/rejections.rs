//! Builder methods for the responses of a layer: rate limit headers, shadow mode and problem
//! details.

use super::layer::ApertureLayer;
use super::problem::ProblemDetails;

impl<D, R> ApertureLayer<D, R> {
    /// Sets whether responses report the remaining quotas, in the header fields
    /// `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-11. Off by
    /// default, because the headers cost allocations. Responses to rejected requests have them too.
    ///
    /// The fields have one item for each rate limiter and quota scheduler that read its bucket for
    /// the request. The item is named `policy/component`, and has these parameters:
    ///
    /// - `q`: the capacity of the bucket.
    /// - `w`: the seconds until an empty bucket is full.
    /// - `r`: the remaining tokens.
    /// - `t`: the seconds until the bucket is full again or, after a rejection, until a retry makes
    ///   sense.
    ///
    /// Label values are never sent. A remote Agent does not report the fill rate of its buckets:
    /// `w` is then omitted, and `t` appears only after a rejection. Existing fields are kept.
    /// Responses in [shadow mode](Self::shadow_mode) do not get these headers.
    ///
    /// ```text
    /// ratelimit-policy: "per-user/root.0";q=60;w=60
    /// ratelimit: "per-user/root.0";r=41;t=19
    /// ```
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// let layer = tower_aperture::ApertureLayer::new(client, "checkout").rate_limit_headers(true);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn rate_limit_headers(self, enabled: bool) -> Self {
        self.set(|settings| settings.rate_limit_headers = enabled)
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

    /// Adds a body of problem details (RFC 9457) to responses to rejected requests; see
    /// [`ProblemDetails`]. Requires a service whose body data converts from
    /// [`Bytes`](bytes::Bytes).
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// use axum::{Router, routing::get};
    /// use tower_aperture::ApertureLayer;
    ///
    /// let layer = ApertureLayer::new(client, "checkout").problem_details();
    /// let app: Router = Router::new().route("/", get(|| async { "done" })).route_layer(layer);
    /// ```
    #[must_use]
    pub fn problem_details(self) -> ApertureLayer<D, ProblemDetails> {
        self.reject_with(ProblemDetails::new())
    }
}
