//! The response cache of a layer: answers requests from Aperture's result cache and stores
//! responses there, with the semantics of a shared cache (RFC 9111).

mod body;
mod body_recorder;
mod cacheable_request;
mod directives;
mod invalidating_request;
mod key;
mod layer;
mod location;
mod settings;
mod storable;
mod stored_response;

pub use self::body::{Cached, CachedBody};
pub use self::layer::ResultCacheLayer;

pub(super) use self::body_recorder::BodyRecorder;
pub(super) use self::settings::{CacheSettings, CacheUse};
