//! Builder methods for responses: those to rejected requests, and how others are classified.

use std::sync::Arc;

use http::Response;

use crate::flow::{FlowStatus, Rejection};
use crate::layer::head::{RequestHead, ResponseHead};
use crate::layer::layer::ApertureLayer;
use crate::layer::outgoing::ApertureClientLayer;
use crate::layer::problem::ProblemDetails;
use crate::layer::settings::Config;

impl<D, R> ApertureLayer<D, R> {
    /// Sets a hook that builds the responses to rejected requests. Without a hook, the layer uses
    /// [`DefaultReject`](crate::layer::DefaultReject).
    ///
    /// The layer sends the response unchanged, except that it adds `cache-control: no-store` if the
    /// response has no `cache-control`.
    #[must_use]
    pub fn on_reject<F, C>(self, reject: F) -> ApertureLayer<D, F>
    where
        F: Fn(&Rejection, RequestHead<'_>) -> Response<C>,
    {
        self.reject_with(reject)
    }

    /// Sets an [`OnReject`](crate::layer::OnReject) type as the hook for rejected requests, instead
    /// of a closure.
    #[must_use]
    pub fn reject_with<H>(self, reject: H) -> ApertureLayer<D, H> {
        let settings = match Arc::try_unwrap(self.config) {
            Ok(config) => config.settings,
            Err(shared) => shared.settings.clone(),
        };
        ApertureLayer {
            decider: self.decider,
            config: Arc::new(Config {
                settings,
                reject: Arc::new(reject),
            }),
        }
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

    /// Converts the layer for client services: a rejection becomes an error. Call it last.
    ///
    /// Flows end as with the original layer: when the body of the response ends. The reject hook is
    /// dropped, because a rejection has no response.
    #[must_use]
    pub fn into_client(self) -> ApertureClientLayer<D> {
        ApertureClientLayer::new(self)
    }

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

    /// Sets a hook that classifies the responses to accepted requests, instead of
    /// [`ResponseHead::is_error`].
    ///
    /// The hook gets the head of each response, and also the trailers if the body has them,
    /// including the trailers in the last frame of a gRPC-Web body. A flow is an error if the hook
    /// returns [`FlowStatus::Error`] for one of them.
    #[must_use]
    pub fn classify<F>(self, classify: F) -> Self
    where
        F: Fn(ResponseHead<'_>) -> FlowStatus + Send + Sync + 'static,
    {
        self.set(|settings| settings.classify = Some(Arc::new(classify)))
    }
}
