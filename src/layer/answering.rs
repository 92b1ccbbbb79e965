//! What a layer adds to answers, when it is told to.

use super::layer::ApertureLayer;
use super::problem::ProblemDetails;

impl<D, R> ApertureLayer<D, R> {
    /// Whether responses, also to rejected requests, say what is left of quotas, in the fields
    /// `RateLimit-Policy` and `RateLimit` of draft-ietf-httpapi-ratelimit-headers-11; off by
    /// default, because that costs allocations.
    ///
    /// There is one item for each rate limiter and quota scheduler that has looked at its tokens,
    /// named `policy/component`: its capacity (`q`), the seconds until an empty bucket is full
    /// (`w`), the tokens left (`r`), and the seconds until the bucket is full again, or after a
    /// rejection until a new try makes sense (`t`). Values of labels are not told. A remote Agent
    /// does not tell how buckets are filled: there is no `w` then, and `t` only after a rejection.
    /// Fields that are there already stay. Requests in [shadow mode](Self::shadow_mode) go without.
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
    pub fn rate_limit_headers(self, tell: bool) -> Self {
        self.set(|settings| settings.rate_limit_headers = tell)
    }

    /// Whether all requests run, whatever is decided about them; off by default. For trying what
    /// policies would do.
    ///
    /// A request that is rejected runs as if it had been accepted. Its flow ends with its response,
    /// and telemetry has the decision as it was made; it is counted in
    /// [`ClientStats::shadowed`](crate::ClientStats::shadowed), is an event of level debug, and
    /// with [`insert_decision`](Self::insert_decision) carries
    /// [`FlowDecision::Rejected`](crate::FlowDecision::Rejected) and the
    /// [`Rejection`](crate::Rejection) as extensions. A request that nobody decides about runs too,
    /// also in [ramp mode](Self::ramp_mode) and where the layer is to fail closed. Only a call whose
    /// [caller no longer waits](crate::layer#deadlines-of-callers) does not run.
    ///
    /// No scheduler of an embedded engine makes a request wait: it is rejected where it would have
    /// to, though it might have been let in a bit later. An Agent knows no shadow mode: for its
    /// answer a request waits as ever, up to the [check timeout](Self::check_timeout). What the
    /// flow takes of quotas and slots is taken, so that others who share them see it.
    #[cfg_attr(
        feature = "embedded",
        doc = "To try single policies, and not all of a layer, an embedded engine has
[dry runs](crate::engine::EngineBuilder::dry_run)."
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

    /// Gives answers to rejected requests a body of problem details (RFC 9457); see
    /// [`ProblemDetails`]. For services with bodies of [`Bytes`](bytes::Bytes).
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
