use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::body::Cached;
use super::rules::Rules;
use crate::flow::Invalidations;
use crate::layer::extract::allowed_header;
use crate::layer::{Aperture, ApertureLayer, LayerError, RequestHead};

/// Of a body, unless the user says otherwise.
const MAX_BODY: usize = 64 * 1024;
/// An Agent takes entries below 1 MiB; the rest is for the head.
const LARGEST_BODY: usize = (1 << 20) - (16 << 10);

/// An [`ApertureLayer`] that answers from Aperture's result cache; made by
/// [`result_cache`](ApertureLayer::result_cache), which tells what it does.
///
/// What it inherits from the layer has to be said before.
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
    layer: ApertureLayer<D, Cached<R>>,
    rules: Rules,
}

impl<D, R> ApertureLayer<D, R> {
    /// Answers requests with what the control point's result cache has under `key`, without the
    /// inner service, and stores there what RFC 9111 lets a shared cache store, for `ttl` at most.
    ///
    /// The key comes with the check, so a request that is answered is a flow like any other: it
    /// was let in by rate limiters, concurrency limiters and samplers. Quota and load schedulers
    /// are not asked about it. Only requests that are answered from the cache skip them: when a
    /// stored response turns out to be of no use (stale, invalidated, or written by another
    /// program), the flow ends and the decider is asked again without the key, so that rate
    /// limiters count such a request twice. The flow ends when the body is over.
    ///
    /// **Name everything in the key that the response depends on**, of the path, the query and
    /// the host, and let nobody be told apart by what is not in the key: a response to a cookie
    /// or an API key that is not marked `private` goes to everybody. An empty text keeps a request
    /// out of the cache. The method is in the key as well, and so are the fields named with
    /// [`vary`](ResultCacheLayer::vary); a key beyond 128 bytes is replaced by its SHA-256. An
    /// Agent keeps keys of about 220 bytes, the name of the control point included.
    ///
    /// A layer that asks with the [attributes of requests](Self::http) keeps and invalidates
    /// nothing: such checks have no room for a key.
    ///
    /// This layer is the last thing to be said about an [`ApertureLayer`]. It takes the place of
    /// [`result_cache_key`](Self::result_cache_key).
    ///
    /// # What is looked up
    ///
    /// GET and HEAD, each for itself, but none with `range` or a condition (`if-none-match` and
    /// its kin go to the inner service untouched), with a body, with `upgrade`, with
    /// `cache-control: no-store`, or with `authorization` unless
    /// [allowed](ResultCacheLayer::allow_authorized). Nothing is looked up either for a request
    /// that could refuse what is stored: with `no-cache`, `pragma: no-cache`, `max-age` or
    /// `min-fresh` (RFC 9111, section 5.2.1). It runs as without a cache, through schedulers as
    /// well, and its response is stored. `only-if-cached` is not honoured: what is behind this
    /// cache is as good as the cache. What comes from the cache has an `age`.
    ///
    /// # What is stored
    ///
    /// | of a response | RFC 9111 |
    /// |---|---|
    /// | to GET or HEAD; of no other method | 3 |
    /// | 200; 203, 204, 300, 301, 308, 404 and 410 that say how long they are fresh | 3, 4.2.2 |
    /// | without `no-store`, `private` or `no-cache`, with arguments or without | 5.2.2 |
    /// | to `authorization`, where allowed: only `public`, `s-maxage` or `must-revalidate` | 3.5 |
    /// | whose `vary` names nothing that is not in the key; `vary: *` never | 4.1 |
    /// | that is fresh: `s-maxage`, else `max-age`, else `expires`, else `ttl`; less its age | 4.2 |
    /// | without `set-cookie`, `content-range`, trailers | 3, 3.3 |
    /// | whose body was complete, of the length it announced, up to [`max_body`](ResultCacheLayer::max_body) | 3.3 |
    ///
    /// The body streams to the client while it is copied, and is stored when it was over, in the
    /// background: nobody waits for that. What cannot be stored is counted in
    /// [`ClientStats`](crate::ClientStats), and so is what lies in the cache and cannot be read.
    /// Fields of one connection or proxy (RFC 9111, section 3.1), `set-cookie`, `age` and
    /// `ratelimit` fields are never stored.
    ///
    /// # What is invalidated
    ///
    /// A request with a method that is not safe invalidates what its key has for GET and HEAD,
    /// unless its response is an error (RFC 9111, section 4.4). It invalidates the targets of the
    /// same origin that `location` and `content-location` of the response name as well. A request
    /// invalidates also when it was skipped, when nothing was decided about it,
    /// and when its response was lost: the inner service failed or panicked, or the client left.
    ///
    /// Within one process the order holds, with an engine and with an Agent. After the response to
    /// a change has begun, no response to a request that began earlier is served or stored, and
    /// after its body is over, neither is one from the time between. The stored response is deleted
    /// in the background, with two calls to an Agent for each target. Until the deletion has succeeded, the cache is
    /// not used for the key; after one that failed, not for the longest `ttl` of a layer over these
    /// caches. [`Invalidations`] says which deciders share that, and what it costs. Other processes
    /// see a change once the Agent has deleted the response, and of responses that vary only for
    /// those that match the fields of the changing request.
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
        ResultCacheLayer {
            rules: Rules {
                key: Arc::new(key),
                control_point: self.control_point().clone(),
                ttl,
                vary: Vec::new(),
                allow_authorized: false,
                max_body: MAX_BODY,
                invalidations: Invalidations::default(),
            },
            layer: self.map_reject(Cached),
        }
        .ready()
    }
}

impl<D, R> ResultCacheLayer<D, R> {
    /// Hands the rules over to the layer.
    fn ready(mut self) -> Self {
        self.layer = self.layer.cache_by(Arc::new(self.rules.clone()));
        self
    }

    /// Puts these request fields into the key: responses whose `vary` names no others may be
    /// stored then. Name those that a response may vary by, such as `accept-encoding`.
    ///
    /// # Panics
    ///
    /// If one of these is not the name of a header, or that of a secret: `authorization`,
    /// `proxy-authorization`, `cookie`, `set-cookie`, because keys travel to the Agent;
    /// [`try_vary`](Self::try_vary) returns that as an error.
    #[must_use]
    #[track_caller]
    pub fn vary<I>(self, headers: I) -> Self
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        match self.try_vary(headers) {
            Ok(layer) => layer,
            Err(error) => panic!("{error}"),
        }
    }

    /// Like [`vary`](Self::vary) for names from a configuration.
    ///
    /// # Errors
    ///
    /// If one of these is not the name of a header, or that of a secret.
    pub fn try_vary<I>(mut self, headers: I) -> Result<Self, LayerError>
    where
        I: IntoIterator<Item: AsRef<str>>,
    {
        for name in headers {
            let name = allowed_header(name.as_ref())?;
            if !self.rules.vary.contains(&name) {
                self.rules.vary.push(name);
            }
        }
        // One set of fields has one key, however it was said.
        self.rules.vary.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        Ok(self.ready())
    }

    /// Whether requests with `authorization` are answered from the cache as well, and their
    /// responses stored when these are `public`, or have `s-maxage` or `must-revalidate`
    /// (RFC 9111, section 3.5); they pass the cache by unless this is said.
    #[must_use]
    pub fn allow_authorized(mut self, allow: bool) -> Self {
        self.rules.allow_authorized = allow;
        self.ready()
    }

    /// The most bytes of a body that are stored, 64 KiB by default and 1 MiB less 16 KiB at most.
    /// As much is held in memory for each response on its way that may be stored.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.rules.max_body = bytes.min(LARGEST_BODY);
        self.ready()
    }
}

impl<S, D: Clone, R> Layer<S> for ResultCacheLayer<D, R> {
    type Service = Aperture<S, D, Cached<R>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.layer.layer(inner)
    }
}

/// By hand: no bound on the hook.
impl<D: Clone, R> Clone for ResultCacheLayer<D, R> {
    fn clone(&self) -> Self {
        Self {
            layer: self.layer.clone(),
            rules: self.rules.clone(),
        }
    }
}

impl<D, R> fmt::Debug for ResultCacheLayer<D, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResultCacheLayer")
            .field("layer", &self.layer)
            .field("ttl", &self.rules.ttl)
            .field("vary", &self.rules.vary)
            .field("allow_authorized", &self.rules.allow_authorized)
            .field("max_body", &self.rules.max_body)
            .finish_non_exhaustive()
    }
}
