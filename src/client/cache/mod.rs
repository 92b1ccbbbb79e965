//! The result cache and the global cache: lookups with a check, and separate calls.

mod client_cache;
mod flow_cache;
#[cfg(feature = "remote")]
pub(super) mod messages;
mod write;

use bytes::Bytes;

pub use self::client_cache::ClientCache;
pub use self::flow_cache::FlowCache;
pub(super) use self::flow_cache::FlowLookup;

use crate::flow::{CacheError, CacheValue};

fn into_result(value: CacheValue) -> Result<Option<Bytes>, CacheError> {
    value.map_err(|refusal| CacheError::Refused(refusal.into_text()))
}

const fn check_key(key: &str) -> Result<(), CacheError> {
    if key.is_empty() {
        return Err(CacheError::NoKey);
    }
    Ok(())
}
