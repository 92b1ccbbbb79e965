//! The same calls as JSON over HTTP.

mod proto;
mod routes;

pub(super) use self::proto::{Named, POOL, decode};
pub(super) use self::routes::{Json, PATHS, refused, router};
