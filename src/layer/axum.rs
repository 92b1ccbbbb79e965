//! What axum needs to know of this crate.

use axum_core::extract::{FromRequestParts, OptionalFromRequestParts};
use axum_core::response::{IntoResponse, Response};
use http::StatusCode;
use http::request::Parts;

use super::handle::FlowHandle;

impl<S: Sync> FromRequestParts<S> for FlowHandle {
    type Rejection = MissingFlow;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, MissingFlow> {
        let flow = parts.extensions.get::<Self>();
        flow.cloned().ok_or(MissingFlow { _private: () })
    }
}

/// `None` for requests that the layer skipped, and where there is no layer.
impl<S: Sync> OptionalFromRequestParts<S> for FlowHandle {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Self::Rejection> {
        Ok(parts.extensions.get::<Self>().cloned())
    }
}

/// A handler wants its flow, and no layer left one: a status of 500 that says what is missing.
///
/// ```
/// use axum::body::Body;
/// use axum::{Router, routing::get};
/// use tower::ServiceExt;
/// use tower_aperture::layer::FlowHandle;
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let app: Router = Router::new().route("/", get(|_: FlowHandle| async { "never" }));
/// let request = http::Request::get("/").body(Body::empty()).unwrap();
/// assert_eq!(app.oneshot(request).await.unwrap().status(), 500);
/// # });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingFlow {
    _private: (),
}

impl std::fmt::Display for MissingFlow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(
            "the request carries no flow: put an `ApertureLayer` with `.expose_flow()` around \
             this handler, and do not skip its requests",
        )
    }
}

impl std::error::Error for MissingFlow {}

impl IntoResponse for MissingFlow {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, self.to_string()).into_response()
    }
}
