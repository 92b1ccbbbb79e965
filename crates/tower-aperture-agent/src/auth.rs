//! API keys that calls must carry.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use subtle::{Choice, ConstantTimeEq};

/// The header that carries the API key.
const HEADER: &str = "x-api-key";

/// A key that callers send as `x-api-key`. `Debug` does not show it.
///
/// ```
/// use tower_aperture_agent::ApiKey;
///
/// let key = ApiKey::new("k-42");
/// assert_eq!(format!("{key:?}"), "ApiKey(..)");
/// ```
#[derive(Clone)]
pub struct ApiKey(Box<[u8]>);

impl ApiKey {
    /// Creates a key as callers send it. An empty key matches no call.
    #[must_use]
    pub fn new(key: impl AsRef<[u8]>) -> Self {
        Self(key.as_ref().into())
    }
}

impl From<&str> for ApiKey {
    fn from(key: &str) -> Self {
        Self::new(key)
    }
}

impl From<String> for ApiKey {
    fn from(key: String) -> Self {
        Self(key.into_bytes().into())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

/// The accepted keys; `None` accepts all calls.
#[derive(Debug)]
pub(super) struct ApiKeys(ArcSwapOption<Vec<ApiKey>>);

impl ApiKeys {
    pub(super) fn new(accepted: Option<Vec<ApiKey>>) -> Self {
        Self(ArcSwapOption::from_pointee(accepted))
    }

    /// Replaces the accepted keys.
    pub(super) fn replace(&self, accepted: Vec<ApiKey>) {
        self.0.store(Some(Arc::new(accepted)));
    }

    /// Returns true if calls must carry a key.
    pub(super) fn are_required(&self) -> bool {
        self.0.load().is_some()
    }

    /// Checks the key of a call. The time it takes reveals at most the lengths of the keys.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let keys = self.0.load();
        let Some(keys) = &*keys else {
            return Ok(());
        };
        let Some(sent) = headers.get(HEADER) else {
            return Err("the call has no x-api-key");
        };
        let sent = sent.as_bytes();
        let matches = keys.iter().fold(Choice::from(0), |matches, key| {
            matches | (key.0.ct_eq(sent) & Choice::from(u8::from(!key.0.is_empty())))
        });
        if bool::from(matches) {
            Ok(())
        } else {
            Err("the x-api-key is not accepted")
        }
    }
}
