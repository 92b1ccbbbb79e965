//! API keys: who may ask.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use subtle::{Choice, ConstantTimeEq};

/// The header of keys, on every call.
const HEADER: &str = "x-api-key";
/// Refusals are told of this often at most.
const SILENCE: Duration = Duration::from_secs(10);

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

/// The keys that are good, and who came without one.
#[derive(Debug)]
pub(super) struct ApiKeys {
    /// `None` lets everybody in.
    good: ArcSwapOption<Vec<ApiKey>>,
    refused: Mutex<Refused>,
}

#[derive(Debug, Default)]
struct Refused {
    /// Since it was told last.
    calls: u64,
    told: Option<Instant>,
}

impl ApiKeys {
    pub(super) fn new(good: Option<Vec<ApiKey>>) -> Self {
        Self {
            good: ArcSwapOption::from_pointee(good),
            refused: Mutex::default(),
        }
    }

    pub(super) fn replace(&self, good: Vec<ApiKey>) {
        self.good.store(Some(Arc::new(good)));
    }

    /// How long it takes tells the lengths at most.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let keys = self.good.load();
        let Some(keys) = &*keys else {
            return Ok(());
        };
        let Some(sent) = headers.get(HEADER) else {
            return Err(self.refuse("the call has no x-api-key"));
        };
        let sent = sent.as_bytes();
        let good = keys.iter().fold(Choice::from(0), |good, key| {
            good | (key.0.ct_eq(sent) & Choice::from(u8::from(!key.0.is_empty())))
        });
        if bool::from(good) {
            Ok(())
        } else {
            Err(self.refuse("the x-api-key is not known here"))
        }
    }

    /// Tells of it now and then: whoever floods us is not to flood the logs, too.
    #[cold]
    fn refuse(&self, why: &'static str) -> &'static str {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.calls += 1;
        let now = Instant::now();
        if refused.told.is_none_or(|told| now - told >= SILENCE) {
            let calls = std::mem::take(&mut refused.calls);
            refused.told = Some(now);
            drop(refused);
            log_event!(warn, calls, "UNAUTHENTICATED: calls are refused, {why}");
            let _ = calls;
        }
        why
    }
}
