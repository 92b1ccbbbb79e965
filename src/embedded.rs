//! A layer from a policy in code: with an engine and a client of its own.

use std::time::Duration;

use crate::policy::Policy;
use crate::{ApertureClient, ApertureLayer, Engine, PolicyError};

/// How much longer than its queue timeout a flow may be checked: a scheduler keeps 10 ms of the
/// check timeout for the response.
const MARGIN: Duration = Duration::from_millis(20);

impl ApertureLayer<ApertureClient> {
    /// Creates a layer that limits requests in process by a policy in code, at the control point of
    /// the policy.
    ///
    /// The layer has an engine and a client of its own, which live as long as a clone of the layer
    /// or of a service that it made. If the policy has a [queue
    /// timeout](Policy::longest_queue_timeout), a check may take that time and 20 ms, so that
    /// requests can wait for so long; otherwise it may take 200 ms. For several policies, or layers
    /// that share limits, build an [`Engine`] and use [`ApertureClient::embedded`] and
    /// [`new`](Self::new).
    ///
    /// Labels are read from requests by the methods of the layer. A limit `by` a label does not
    /// apply to requests without it, unless the layer [requires](Self::require_label) it.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`EngineBuilder::build`](crate::engine::EngineBuilder::build) about
    /// the policy, and an error if its parts have several control points.
    ///
    /// ```
    /// use axum::{Router, body::Body, routing::get};
    /// use http::Request;
    /// use tower::ServiceExt;
    /// use tower_aperture::ApertureLayer;
    /// use tower_aperture::policy::{Policy, RateLimit};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limit = RateLimit::per_minute(2).by("user_id");
    /// let policy = Policy::new("per-user").at("api").limit(limit);
    /// let layer = ApertureLayer::embedded(policy)?.label_from_header("user_id", "x-user-id");
    /// let app: Router = Router::new().route("/", get(|| async { "welcome" })).layer(layer);
    ///
    /// for status in [200, 200, 429] {
    ///     let request = Request::get("/").header("x-user-id", "ann").body(Body::empty())?;
    ///     assert_eq!(app.clone().oneshot(request).await?.status(), status);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn embedded(policy: Policy) -> Result<Self, PolicyError> {
        // Not empty, because `build` refuses a policy with an empty control point.
        let control_point = policy.control_point()?.to_owned();
        let queue_timeout = policy.longest_queue_timeout();
        let engine = Engine::builder().policy(policy).build()?;
        let client = match queue_timeout {
            Some(timeout) => {
                let check_timeout = timeout.saturating_add(MARGIN);
                ApertureClient::embedded_with_check_timeout(engine, check_timeout)
            }
            None => ApertureClient::embedded(engine),
        };
        Ok(Self::new(client, control_point))
    }
}
