//! The response cache: answers requests from Aperture's result cache and stores responses there,
//! with the semantics of a shared cache (RFC 9111).
//!
//! [`ApertureLayer::result_cache`](crate::ApertureLayer::result_cache) describes it and makes a
//! [`ResultCacheLayer`]. That is a stack of two services: an [`Aperture`](crate::Aperture) outside,
//! whose check looks the request up, and a [`ResponseCache`] inside, which answers the request or
//! calls the inner service. A request that the cache answers is therefore a flow like any other.
//!
//! ```
//! # let client = tower_aperture::ApertureClient::disabled();
//! use std::time::Duration;
//!
//! use axum::{Router, routing::get};
//! use tower_aperture::ApertureLayer;
//!
//! let layer = ApertureLayer::new(client, "catalogue")
//!     .result_cache(|head| head.uri().to_string().into(), Duration::from_secs(60));
//! let app: Router = Router::new()
//!     .route("/catalogue", get(|| async { "a long list" }))
//!     .route_layer(layer);
//! ```

mod body;
mod body_recorder;
mod cacheable_request;
mod directives;
mod invalidating_request;
mod key;
mod layer;
mod location;
mod service;
mod settings;
mod storable;
mod stored_response;

pub use self::body::CachedBody;
pub use self::layer::ResultCacheLayer;
pub use self::service::{ResponseCache, ResponseCacheFuture};
