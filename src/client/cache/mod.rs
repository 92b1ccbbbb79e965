//! The result cache and the global cache: lookups with a check, and separate calls.

mod client_cache;
mod flow_cache;
mod lookup;
mod write;
mod writes;

pub use self::client_cache::ClientCache;
pub use self::flow_cache::FlowCache;
pub(super) use self::lookup::ReadLookup;
#[cfg(feature = "embedded")]
pub(super) use self::write::only_result;
pub(super) use self::writes::CacheWrites;
