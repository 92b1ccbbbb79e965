//! [`ResultCacheLayer`]: an [`ApertureLayer`] with a [`ResponseCache`] inside, and its options.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::service::ResponseCache;
use super::settings::CacheSettings;
use crate::flow::Invalidations;
use crate::layer::error::unwrap_or_panic;
use crate::layer::extract::allowed_header;
use crate::layer::response_lookup::ResponseLookup;
use crate::layer::{Aperture, ApertureLayer, LayerError, RequestHead};

/// The default of [`max_body`](ResultCacheLayer::max_body), in bytes.
const DEFAULT_MAX_BODY: usize = 64 * 1024;
/// The upper bound of [`max_body`](ResultCacheLayer::max_body), in bytes. An Agent accepts values
/// below 1 MiB; the remaining 16 KiB are for the head.
const LARGEST_BODY: usize = (1 << 20) - (16 << 10);

/// An [`ApertureLayer`] around a [`ResponseCache`], which answers from Aperture's result cache; made
/// by [`result_cache`](ApertureLayer::result_cache), which describes it.
///
/// All options of the [`ApertureLayer`] must be set before. Services need response bodies whose data
/// can be made from [`Bytes`](bytes::Bytes), such as those of axum, tonic and hyper.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use std::time::Duration;
///
/// use axum::{Router, routing::get};
/// use tower_aperture::ApertureLayer;
///
/// let layer = ApertureLayer::new(client, "catalogue")
///     .label_from_header("user_id", "x-user-id")
///     .result_cache(|head| head.uri().to_string().into(), Duration::from_secs(60))
///     .vary(["accept-language"])
///     .max_body(256 * 1024);
/// let app: Router = Router::new()
///     .route("/catalogue", get(|| async { "a long list" }))
///     .route_layer(layer);
/// ```
pub struct ResultCacheLayer<D, R> {
    layer: ApertureLayer<D, R>,
    settings: Arc<CacheSettings>,
}

impl<D, R> ApertureLayer<D, R> {
    /// Answers requests with the response that the control point's result cache has for `key`,
    /// without calling the inner service. Responses that RFC 9111 allows a shared cache to store
    /// are stored there, for `ttl` at most.
    ///
    /// The key is sent with the check. A request that is answered from the cache is therefore a
    /// flow like any other: rate limiters, concurrency limiters and samplers have accepted it. Only
    /// quota and load schedulers are skipped. If a stored response turns out to be unusable (stale,
    /// invalidated, or written by another program), the flow ends and the request is checked again
    /// without the key, so that schedulers decide as well. Rate limiters count such a request
    /// twice. The flow ends with the response body.
    ///
    /// **The key must contain everything that the response depends on**: the path, the query and
    /// the host. Clients are only told apart by the key: a response to a request with a cookie or
    /// an API key is served to all clients, unless the key contains it or the response is marked
    /// `private`. An empty key keeps a request out of the cache. The method is part of the stored
    /// key as well, and so are the fields named with [`vary`](ResultCacheLayer::vary). A stored key
    /// of more than 128 bytes is replaced by its SHA-256; an Agent accepts keys of about 220 bytes,
    /// the name of the control point included.
    ///
    /// A layer that checks with the [attributes of requests](Self::http) neither stores nor
    /// invalidates responses, because such checks cannot carry a key.
    ///
    /// Call this method last: it ends the options of the [`ApertureLayer`]. It replaces
    /// [`result_cache_key`](Self::result_cache_key).
    ///
    /// # Lookup
    ///
    /// GET and HEAD requests are looked up, each under its own key. These requests pass the cache
    /// by, and go to the inner service unchanged:
    ///
    /// - with `range` or a condition, such as `if-none-match`,
    /// - with a body,
    /// - with `upgrade`,
    /// - with `cache-control: no-store`,
    /// - with `authorization`, unless [allowed](ResultCacheLayer::allow_authorized).
    ///
    /// A request that could rule out a stored response, with `no-cache`, `pragma: no-cache`,
    /// `max-age` or `min-fresh` (RFC 9111, section 5.2.1), is not looked up. It runs as without a
    /// cache, schedulers included, and its response is stored. `only-if-cached` is ignored, because
    /// the inner service is as close as the cache. Responses from the cache have an `age` header.
    ///
    /// # Storage
    ///
    /// A response is stored if all of this is true:
    ///
    /// | condition | RFC 9111 |
    /// |---|---|
    /// | it answers GET or HEAD | 3 |
    /// | its status is 200; or 203, 204, 300, 301, 308, 404 or 410 with explicit freshness | 3, 4.2.2 |
    /// | it has no `no-store`, `private` or `no-cache`, with or without arguments | 5.2.2 |
    /// | if the request has `authorization` (and that is allowed): it has `public`, `s-maxage` or `must-revalidate` | 3.5 |
    /// | its `vary` names only fields of the key; never `vary: *` | 4.1 |
    /// | it is fresh: by `s-maxage`, else `max-age`, else `expires`, less its age; else by `ttl` | 4.2 |
    /// | it has no `set-cookie`, `content-range` or trailers | 3, 3.3 |
    /// | its body is complete, has the announced length, and at most [`max_body`](ResultCacheLayer::max_body) bytes | 3.3 |
    ///
    /// The body is copied while it streams to the client, and stored in the background after its
    /// end. Responses that could not be stored are counted in [`ClientStats`](crate::ClientStats),
    /// and so are stored values that cannot be read. Fields of one connection or proxy (RFC 9111,
    /// section 3.1), `set-cookie`, `age` and `ratelimit` fields are never stored.
    ///
    /// # Invalidation
    ///
    /// A request with an unsafe method invalidates the stored responses to GET and HEAD of its key,
    /// unless its response is an error (RFC 9111, section 4.4). It also invalidates the targets of
    /// the same origin that `location` and `content-location` of its response name. A request
    /// invalidates as well if it is skipped, if no decision was made about it, and if its response
    /// is lost because the inner service failed or panicked or the client disconnected.
    ///
    /// Within one process invalidation is ordered, with an engine and with an Agent: once the
    /// response to an unsafe request has begun, no response to a request that began earlier is
    /// served or stored. Once its body has ended, neither is a response to a request that began in
    /// between. The stored response is deleted in the background, with two calls to an Agent for
    /// each target. Until the deletion has succeeded, the cache is not used for the key; after a
    /// failed deletion it is not used for the longest `ttl` of a layer over these caches.
    /// [`Invalidations`] documents which deciders share that, and its cost. Other processes see the
    /// invalidation once the Agent has deleted the response; of responses that vary, only those
    /// that match the fields of the unsafe request are deleted.
    ///
    /// ```
    /// # #[cfg(feature = "embedded")] {
    /// use std::sync::atomic::{AtomicU32, Ordering};
    /// use std::time::Duration;
    ///
    /// use axum::body::Body;
    /// use axum::{Router, routing::get};
    /// use http::Request;
    /// use http_body_util::BodyExt;
    /// use tower::ServiceExt;
    /// use tower_aperture::{ApertureClient, ApertureLayer, Engine};
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// static RUNS: AtomicU32 = AtomicU32::new(0);
    /// let handler = || async {
    ///     RUNS.fetch_add(1, Ordering::Relaxed);
    ///     "a long list"
    /// };
    /// let client = ApertureClient::embedded(Engine::builder().build().unwrap());
    /// let layer = ApertureLayer::new(client, "catalogue")
    ///     .result_cache(|head| head.uri().path().into(), Duration::from_secs(60));
    /// let app: Router = Router::new().route("/catalogue", get(handler)).route_layer(layer);
    ///
    /// for _ in 0..2 {
    ///     let request = Request::get("/catalogue").body(Body::empty()).unwrap();
    ///     let response = app.clone().oneshot(request).await.unwrap();
    ///     assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "a long list");
    /// }
    /// assert_eq!(RUNS.load(Ordering::Relaxed), 1);
    /// # });
    /// # }
    /// ```
    #[must_use]
    pub fn result_cache<F>(self, key: F, ttl: Duration) -> ResultCacheLayer<D, R>
    where
        F: for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static,
    {
        let settings = CacheSettings {
            key: Arc::new(key),
            control_point: self.config.settings.control_point.clone(),
            ttl,
            vary: Vec::new(),
            allow_authorized: false,
            max_body: DEFAULT_MAX_BODY,
            invalidations: Invalidations::default(),
        };
        let layer = ResultCacheLayer {
            settings: Arc::new(settings),
            layer: self.set(|settings| settings.result_cache_key = None),
        };
        layer.set(|_| ())
    }
}

impl<D, R> ResultCacheLayer<D, R> {
    /// Changes the settings, and passes them to the layer.
    fn set(mut self, set: impl FnOnce(&mut CacheSettings)) -> Self {
        set(Arc::make_mut(&mut self.settings));
        let cache = self.cache();
        self.layer = self.layer.set(|settings| {
            settings.response_lookup = cache.map(|cache| cache as Arc<dyn ResponseLookup>);
        });
        self
    }

    /// Returns the settings of the cache. `None` if the layer checks with the attributes of
    /// requests, because the message of such a check has no field for a cache key.
    fn cache(&self) -> Option<Arc<CacheSettings>> {
        let is_active = self.layer.config.settings.http.is_none();
        is_active.then(|| Arc::clone(&self.settings))
    }

    /// Adds request fields to the key, such as `accept-encoding`. Responses whose `vary` names only
    /// these fields may then be stored.
    ///
    /// # Panics
    ///
    /// If a name is not a valid header name, or if the header holds a secret: `authorization`,
    /// `proxy-authorization`, `cookie`, `set-cookie`. Keys are sent to the Agent.
    /// [`try_vary`](Self::try_vary) returns an error instead.
    #[must_use]
    #[track_caller]
    pub fn vary<I>(self, headers: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        unwrap_or_panic(self.try_vary(headers))
    }

    /// Like [`vary`](Self::vary), for names from a configuration.
    ///
    /// # Errors
    ///
    /// If a name is not a valid header name, or if the header holds a secret.
    pub fn try_vary<I>(self, headers: I) -> Result<Self, LayerError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        let mut vary = self.settings.vary.clone();
        for name in headers {
            let name = allowed_header(name.as_ref())?;
            if !vary.contains(&name) {
                vary.push(name);
            }
        }
        // Sorted, so that the key does not depend on the order in which fields were added.
        vary.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        Ok(self.set(|settings| settings.vary = vary))
    }

    /// Sets whether requests with `authorization` are answered from the cache, and their responses
    /// stored if they have `public`, `s-maxage` or `must-revalidate` (RFC 9111, section 3.5). By
    /// default such requests pass the cache by.
    #[must_use]
    pub fn allow_authorized(self, allow: bool) -> Self {
        self.set(|settings| settings.allow_authorized = allow)
    }

    /// Sets the largest body that is stored, in bytes: 64 KiB by default, and 1 MiB less 16 KiB at
    /// most. Up to this much memory is used for each response in transit that may be stored.
    #[must_use]
    pub fn max_body(self, bytes: usize) -> Self {
        self.set(|settings| settings.max_body = bytes.min(LARGEST_BODY))
    }
}

impl<S, D: Clone, R> Layer<S> for ResultCacheLayer<D, R> {
    type Service = Aperture<ResponseCache<S, D>, D, R>;

    fn layer(&self, inner: S) -> Self::Service {
        let decider = self.layer.decider.clone();
        self.layer
            .layer(ResponseCache::new(inner, decider, self.cache()))
    }
}

/// Implemented by hand to put no bound on the hook.
impl<D: Clone, R> Clone for ResultCacheLayer<D, R> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            settings: self.settings.clone(),
        }
    }
}

impl<D, R> fmt::Debug for ResultCacheLayer<D, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultCacheLayer")
            .field("layer", &self.layer)
            .field("ttl", &self.settings.ttl)
            .field("vary", &self.settings.vary)
            .field("allow_authorized", &self.settings.allow_authorized)
            .field("max_body", &self.settings.max_body)
            .finish_non_exhaustive()
    }
}
