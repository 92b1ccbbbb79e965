//! Responses from the result cache, by the rules of a shared cache of RFC 9111.

mod body;
mod change;
mod directives;
mod entry;
mod key;
mod layer;
mod location;
mod read;
mod rules;
mod storable;
mod tape;

pub use self::body::{Cached, CachedBody};
pub use self::layer::ResultCacheLayer;

pub(super) use self::rules::{Ask, Rules};
pub(super) use self::tape::Tape;
