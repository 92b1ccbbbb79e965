//! API keys: who may ask.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use subtle::{Choice, ConstantTimeEq};

/// The header of keys, on every call.
const HEADER: &str = "x-api-key";

/// A key that callers send as `x-api-key`. What it is appears nowhere, not in `Debug` either.
///
/// ```
/// use tower_aperture::agent::ApiKey;
///
/// let key = ApiKey::new("k-42");
/// assert_eq!(format!("{key:?}"), "ApiKey(..)");
/// ```
#[derive(Clone)]
pub struct ApiKey(Box<[u8]>);

impl ApiKey {
    /// A key as callers send it. An empty one lets nobody in.
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

/// The keys that are good; `None` lets everybody in.
#[derive(Debug)]
pub(super) struct ApiKeys(ArcSwapOption<Vec<ApiKey>>);

impl ApiKeys {
    pub(super) fn new(good: Option<Vec<ApiKey>>) -> Self {
        Self(ArcSwapOption::from_pointee(good))
    }

    pub(super) fn replace(&self, good: Vec<ApiKey>) {
        self.0.store(Some(Arc::new(good)));
    }

    /// Callers have to show a key.
    pub(super) fn are_required(&self) -> bool {
        self.0.load().is_some()
    }

    /// How long it takes tells the lengths at most.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let keys = self.0.load();
        let Some(keys) = &*keys else {
            return Ok(());
        };
        let Some(sent) = headers.get(HEADER) else {
            return Err("the call has no x-api-key");
        };
        let sent = sent.as_bytes();
        let good = keys.iter().fold(Choice::from(0), |good, key| {
            good | (key.0.ct_eq(sent) & Choice::from(u8::from(!key.0.is_empty())))
        });
        if bool::from(good) {
            Ok(())
        } else {
            Err("the x-api-key is not known here")
        }
    }
}
