//! Builder methods for what requests carry to the inner service: the decision, the handle of the
//! flow, and values of caches.

use std::borrow::Cow;
use std::sync::Arc;

use crate::layer::head::RequestHead;
use crate::layer::layer::ApertureLayer;

impl<D, R> ApertureLayer<D, R> {
    /// Sets whether accepted and unreachable requests carry their
    /// [`FlowDecision`](crate::FlowDecision) as an extension for the inner service; off by default,
    /// because extensions cost allocations.
    #[must_use]
    pub fn insert_decision(self, insert: bool) -> Self {
        self.set(|settings| settings.insert_decision = insert)
    }

    /// Inserts a [`FlowHandle`](crate::layer::FlowHandle) as an extension into requests that run,
    /// for the inner service. Off by default, because it costs allocations.
    #[must_use]
    pub fn expose_flow(self) -> Self {
        self.set(|settings| settings.expose_flow = true)
    }

    /// Looks up a key of the control point's result cache with each check; an empty text is no key.
    /// On a hit, the flow runs without a decision of quota and load schedulers.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum::extract::{Extension, Path};
    /// use axum::{Router, routing::get};
    /// use tower_aperture::cache::CacheLookup;
    /// use tower_aperture::{ApertureClient, ApertureLayer};
    ///
    /// # fn profile_of(id: &str) -> String { id.to_owned() }
    /// # let client = ApertureClient::disabled();
    /// let layer = ApertureLayer::new(client.clone(), "profile")
    ///     .result_cache_key(|head| head.uri().path().into())
    ///     .insert_cache_lookup(true);
    /// let show = async move |Path(id): Path<String>, found: Option<Extension<CacheLookup>>| {
    ///     let found = found.map(|Extension(found)| found).unwrap_or_default();
    ///     if let Some(profile) = found.result_value() {
    ///         return String::from_utf8_lossy(profile).into_owned();
    ///     }
    ///     let profile = profile_of(&id);
    ///     let (key, ttl) = (format!("/profile/{id}"), Duration::from_secs(60));
    ///     // Best effort: without a cache, the profile is computed again next time.
    ///     let _ = client.result_cache("profile", &key).set(profile.clone(), ttl).await;
    ///     profile
    /// };
    /// let app: Router = Router::new().route("/profile/{id}", get(show)).route_layer(layer);
    /// ```
    #[must_use]
    pub fn result_cache_key<F>(self, key: F) -> Self
    where
        F: for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static,
    {
        self.set(|settings| settings.result_cache_key = Some(Arc::new(key)))
    }

    /// Looks up a key of the global cache with each check; an empty text is no key. May be called
    /// several times, for several keys.
    #[must_use]
    pub fn global_cache_key<F>(self, key: F) -> Self
    where
        F: for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static,
    {
        self.set(|settings| settings.global_cache_keys.push(Arc::new(key)))
    }

    /// Sets whether accepted requests carry the values from the caches, a
    /// [`CacheLookup`](crate::cache::CacheLookup), as an extension for the inner service; off by
    /// default. Requests without a cache key do not get the extension.
    #[must_use]
    pub fn insert_cache_lookup(self, insert: bool) -> Self {
        self.set(|settings| settings.insert_cache_lookup = insert)
    }
}
