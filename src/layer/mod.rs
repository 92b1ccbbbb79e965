//! (story below)

mod answer;
mod body;
mod config;
mod error;
mod extract;
mod future;
mod grpc;
mod guard;
mod head;
#[allow(clippy::module_inception)]
mod layer;
mod reject;
mod service;
mod unreachable;

pub use self::answer::{NoBody, RejectBody};
pub use self::body::ResponseBody;
pub use self::error::LayerError;
pub use self::extract::{extension, extension_str};
pub use self::future::ResponseFuture;
pub use self::head::{RequestHead, ResponseHead};
pub use self::layer::ApertureLayer;
pub use self::reject::{DefaultReject, OnReject};
pub use self::service::Aperture;
pub use self::unreachable::FailureMode;
