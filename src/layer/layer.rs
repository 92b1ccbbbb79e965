//! The layer and its builder methods.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Response;
use tower_layer::Layer;

use super::config::{Config, ControlPoint, Settings};
use super::error::LayerError;
use super::extract::{LabelSource, allowed_header};
use super::head::{RequestHead, ResponseHead};
use super::reject::DefaultReject;
use super::service::Aperture;
use super::unreachable::{FailureMode, OnUnreachable};
use crate::flow::{FlowError, FlowStatus, LabelLimits, Labels, Rejection};

/// A Tower layer that puts services under flow control.
///
/// The layer checks every request with its decider `D`, usually an
/// [`ApertureClient`](crate::ApertureClient), at a *control point*. See the
/// [module documentation](crate::layer) for what happens to a request.
///
/// A clone of a layer, or of a service that it made, clones the decider and copies one pointer.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use std::time::Duration;
///
/// use axum::response::IntoResponse;
/// use axum::{Router, routing::post};
/// use tower_aperture::layer::RequestHead;
/// use tower_aperture::{ApertureLayer, Labels, Rejection};
///
/// fn tier_of(head: RequestHead<'_>) -> &str {
///     head.header("x-tier").unwrap_or("free")
/// }
///
/// let layer = ApertureLayer::new(client, "checkout")
///     .label("service", "shop")
///     .label_from_header("user_id", "x-user-id")
///     .labels(|head: RequestHead<'_>, labels: &mut Labels<'_>| {
///         labels.insert("tier", tier_of(head));
///     })
///     .check_timeout(Duration::from_millis(200))
///     .ramp_mode(false)
///     .skip(|head: RequestHead<'_>| head.uri().path() == "/health")
///     .on_reject(|rejection: &Rejection, _: RequestHead<'_>| {
///         (rejection.status(), "slow down").into_response()
///     });
/// let app: Router = Router::new()
///     .route("/checkout/{id}", post(|| async { "done" }))
///     .route_layer(layer);
/// ```
pub struct ApertureLayer<D, R = DefaultReject> {
    decider: D,
    config: Arc<Config<R>>,
}

impl<D> ApertureLayer<D> {
    /// Creates a layer with one control point for all requests.
    ///
    /// # Panics
    ///
    /// If the control point is empty; [`try_new`](Self::try_new) returns that as an error.
    #[must_use]
    #[track_caller]
    pub fn new(decider: D, control_point: impl Into<Arc<str>>) -> Self {
        unwrap_or_panic(Self::try_new(decider, control_point))
    }

    /// Like [`new`](Self::new), for a control point from a configuration.
    ///
    /// # Errors
    ///
    /// If the control point is empty.
    pub fn try_new(decider: D, control_point: impl Into<Arc<str>>) -> Result<Self, LayerError> {
        let control_point = control_point.into();
        if control_point.is_empty() {
            return Err(LayerError::empty_control_point());
        }
        Ok(Self::of(decider, ControlPoint::Fixed(control_point)))
    }

    /// Creates a layer that reads the control point from the request: a route, a gRPC service, a
    /// header.
    ///
    /// Keep the number of names small: policies select flows by them. An empty name, or one that is
    /// chosen by a client and not known, is replaced by [`other`](crate::layer::FALLBACK_NAME); see
    /// [names that clients choose](crate::layer#names-that-clients-choose).
    ///
    /// ```
    /// # let client = tower_aperture::ApertureClient::disabled();
    /// use tower_aperture::ApertureLayer;
    /// use tower_aperture::layer::grpc_service;
    ///
    /// // `shop.v1.Carts` of `/shop.v1.Carts/Add`.
    /// let layer = ApertureLayer::with_control_point(client.clone(), grpc_service)
    ///     .known_names(["shop.v1.Carts", "shop.v1.Orders"]);
    /// // Any closure works, here one that returns the entire path.
    /// let layer = ApertureLayer::with_control_point(client, |head| head.uri().path().into());
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn with_control_point<F>(decider: D, control_point: F) -> Self
    where
        F: for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static,
    {
        Self::of(decider, ControlPoint::Hook(Arc::new(control_point)))
    }

    pub(super) fn of(decider: D, control_point: ControlPoint) -> Self {
        Self {
            decider,
            config: Arc::new(Config {
                settings: Settings::new(control_point),
                reject: Arc::new(DefaultReject::new()),
            }),
        }
    }
}

/// Returns the result of a fallible builder method, or panics with the error as message.
#[track_caller]
pub(super) fn unwrap_or_panic<T>(built: Result<T, LayerError>) -> T {
    match built {
        Ok(built) => built,
        Err(error) => panic!("{error}"),
    }
}

impl<D, R> ApertureLayer<D, R> {
    pub(super) fn set(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        // In place, unless a clone of the layer shares the settings.
        set(&mut Arc::make_mut(&mut self.config).settings);
        self
    }

    /// Sets a label for all requests; a later call for the same key replaces the earlier one.
    ///
    /// A label of the same key that is read from the request replaces it. Members of `baggage`
    /// never set the key.
    #[must_use]
    pub fn label(
        self,
        key: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.set(|settings| settings.extract.add_constant(key.into(), value.into()))
    }

    /// Reads a label from a header, if the request has the header.
    ///
    /// Several values are joined by commas. A value that is empty, blank, or not visible ASCII
    /// counts as missing, see [`header`](crate::layer::header); a constant [label](Self::label) of
    /// the same key then serves as the default. Only headers that are named here are sent to the
    /// decider, and secrets are never sent. Do not rely on headers that clients can set: a client
    /// that chooses its label chooses its limit.
    ///
    /// # Panics
    ///
    /// If `header` is not a valid header name, or names a secret: `authorization`,
    /// `proxy-authorization`, `cookie`, `set-cookie`;
    /// [`try_label_from_header`](Self::try_label_from_header) returns that as an error.
    #[must_use]
    #[track_caller]
    pub fn label_from_header(
        self,
        key: impl Into<Cow<'static, str>>,
        header: impl AsRef<str>,
    ) -> Self {
        unwrap_or_panic(self.try_label_from_header(key, header))
    }

    /// Like [`label_from_header`](Self::label_from_header), for names from a configuration.
    ///
    /// # Errors
    ///
    /// If `header` is not a valid header name, or names a secret.
    pub fn try_label_from_header(
        self,
        key: impl Into<Cow<'static, str>>,
        header: impl AsRef<str>,
    ) -> Result<Self, LayerError> {
        let source = LabelSource::Header(key.into(), allowed_header(header.as_ref())?);
        Ok(self.set(|settings| settings.extract.add_source(source)))
    }

    /// Reads a label from the request with a closure or a reader; an empty text sets no label.
    ///
    /// [`extension_str`](crate::layer::extension_str) and [`extension`](crate::layer::extension)
    /// return such readers.
    #[must_use]
    pub fn label_from<F>(self, key: impl Into<Cow<'static, str>>, read: F) -> Self
    where
        F: for<'h> Fn(RequestHead<'h>) -> Cow<'h, str> + Send + Sync + 'static,
    {
        let source = LabelSource::Text(key.into(), Arc::new(read));
        self.set(|settings| settings.extract.add_source(source))
    }

    /// Reads any number of labels from the request.
    ///
    /// All readers run in the order in which they were added; a later value of the same key
    /// replaces an earlier one. The layer cannot tell which keys the closure sets: reserve them
    /// with [`reserve_label`](Self::reserve_label) if clients must not set them by `baggage`.
    #[must_use]
    pub fn labels<F>(self, read: F) -> Self
    where
        F: for<'h> Fn(RequestHead<'h>, &mut Labels<'h>) + Send + Sync + 'static,
    {
        let source = LabelSource::Labels(Arc::new(read));
        self.set(|settings| settings.extract.add_source(source))
    }

    /// Sets whether members of the `baggage` header (W3C Baggage) become labels; on by default.
    ///
    /// While this is on, a client can set any label that the layer does not name: a key, a tier or
    /// a priority that policies use and that has no other source. Members never replace a label
    /// from another source, and never set a key that the layer names, even if the reader of that
    /// key returns no value. Turn this off if untrusted clients reach the layer directly.
    ///
    /// Each header line and each member is parsed separately; a malformed member is skipped. The
    /// last 180 members of a line are used, and the last value of a repeated key. Members get the
    /// space that other labels leave. If it is too small, the lines share it, starting with the
    /// last line.
    #[must_use]
    pub fn baggage(self, baggage: bool) -> Self {
        self.set(|settings| settings.extract.baggage = baggage)
    }

    /// Sets the largest number of labels of a flow, and their largest size in bytes; see
    /// [`LabelLimits`] for the defaults.
    ///
    /// Beyond the limits, members of `baggage` are dropped first. Then values that clients can
    /// choose are shortened, the longest first, and then dropped. Constants are dropped last.
    #[must_use]
    pub fn label_limits(self, limits: LabelLimits) -> Self {
        self.set(|settings| settings.extract.limits = limits)
    }

    /// Sets the longest time that a check may take. It also bounds the time that a scheduler may
    /// keep the request in its queue, whatever its `queue_timeout`. Zero is no limit.
    ///
    /// The default is that of the decider: 200 ms for an [`ApertureClient`](crate::ApertureClient).
    /// A client of an Agent waits for the response longer by a grace, 800 ms by default
    /// (`ApertureClientBuilder::check_grace`).
    #[must_use]
    pub fn check_timeout(self, timeout: Duration) -> Self {
        self.set(|settings| settings.check_timeout = Some(timeout))
    }

    /// Sets whether requests run only if a *load ramp* accepts them; off by default. Unreachable
    /// requests are then rejected, unless [`on_unreachable`](Self::on_unreachable) is set.
    #[must_use]
    pub fn ramp_mode(self, ramp_mode: bool) -> Self {
        self.set(|settings| settings.ramp_mode = ramp_mode)
    }

    /// Skips the requests for which the closure returns true: they have no labels, no check and no
    /// flow. May be called several times; one closure that returns true is enough.
    ///
    /// The closure runs first, for every request, so keep it cheap.
    #[must_use]
    pub fn skip<F>(self, skip: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.set(|settings| settings.skip.push(Arc::new(skip)))
    }

    /// Sets whether unreachable requests, which got no decision, run or are rejected. By default
    /// they run, except in [ramp mode](Self::ramp_mode).
    #[must_use]
    pub fn on_unreachable(self, mode: FailureMode) -> Self {
        self.set(|settings| settings.on_unreachable = Some(OnUnreachable::Always(mode)))
    }

    /// Sets a hook that decides for each unreachable request whether it runs or is rejected.
    ///
    /// For a custom response, return [`FailureMode::Closed`] and handle
    /// [`RejectReason::Unreachable`](crate::RejectReason::Unreachable) in the
    /// [reject hook](Self::on_reject).
    #[must_use]
    pub fn on_unreachable_with<F>(self, mode: F) -> Self
    where
        F: Fn(&FlowError, RequestHead<'_>) -> FailureMode + Send + Sync + 'static,
    {
        self.set(|settings| settings.on_unreachable = Some(OnUnreachable::Hook(Arc::new(mode))))
    }

    /// Sets a hook that classifies the responses to accepted requests, instead of
    /// [`ResponseHead::is_error`].
    ///
    /// The hook gets the head of each response, and also the trailers if the body has them,
    /// including the trailers in the last frame of a gRPC-Web body. A flow is an error if the hook
    /// returns [`FlowStatus::Error`] for one of them.
    #[must_use]
    pub fn classify<F>(self, classify: F) -> Self
    where
        F: Fn(ResponseHead<'_>) -> FlowStatus + Send + Sync + 'static,
    {
        self.set(|settings| settings.classify = Some(Arc::new(classify)))
    }

    /// Sets whether accepted and unreachable requests carry their
    /// [`FlowDecision`](crate::FlowDecision) as an extension for the inner service; off by default,
    /// because extensions cost allocations.
    #[must_use]
    pub fn insert_decision(self, insert: bool) -> Self {
        self.set(|settings| settings.insert_decision = insert)
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

    #[cfg(feature = "response-cache")]
    pub(super) fn control_point(&self) -> &ControlPoint {
        &self.config.settings.control_point
    }

    /// Serves responses from the result cache and stores them, by these rules.
    #[cfg(feature = "response-cache")]
    pub(super) fn cache_by(self, rules: Arc<super::cache::CacheSettings>) -> Self {
        self.set(|settings| {
            settings.result_cache_key = None;
            settings.cache = Some(rules);
        })
    }

    /// Inserts a [`FlowHandle`](crate::layer::FlowHandle) as an extension into requests that run,
    /// for the inner service. Off by default, because it costs allocations.
    #[must_use]
    pub fn expose_flow(self) -> Self {
        self.set(|settings| settings.expose_flow = true)
    }

    /// Sets whether accepted requests carry the values from the caches, a
    /// [`CacheLookup`](crate::cache::CacheLookup), as an extension for the inner service; off by default.
    /// Requests without a cache key do not get the extension.
    #[must_use]
    pub fn insert_cache_lookup(self, insert: bool) -> Self {
        self.set(|settings| settings.insert_cache_lookup = insert)
    }

    /// Sets a hook that builds the responses to rejected requests. Without a hook, the layer uses
    /// [`DefaultReject`].
    ///
    /// The layer sends the response unchanged, except that it adds `cache-control: no-store` if the
    /// response has no `cache-control`.
    #[must_use]
    pub fn on_reject<F, C>(self, reject: F) -> ApertureLayer<D, F>
    where
        F: Fn(&Rejection, RequestHead<'_>) -> Response<C>,
    {
        self.reject_with(reject)
    }

    /// Sets an [`OnReject`](crate::layer::OnReject) type as the hook for rejected requests, instead
    /// of a closure.
    #[must_use]
    pub fn reject_with<H>(self, reject: H) -> ApertureLayer<D, H> {
        self.map_reject(|_| reject)
    }

    pub(super) fn map_reject<H>(self, make: impl FnOnce(Arc<R>) -> H) -> ApertureLayer<D, H> {
        let reject = make(Arc::clone(&self.config.reject));
        let settings = match Arc::try_unwrap(self.config) {
            Ok(config) => config.settings,
            Err(shared) => shared.settings.clone(),
        };
        ApertureLayer {
            decider: self.decider,
            config: Arc::new(Config {
                settings,
                reject: Arc::new(reject),
            }),
        }
    }
}

impl<S, D: Clone, R> Layer<S> for ApertureLayer<D, R> {
    type Service = Aperture<S, D, R>;

    fn layer(&self, inner: S) -> Self::Service {
        Aperture::new(inner, self.decider.clone(), self.config.clone())
    }
}

// Not derived, to avoid a `Clone` bound on the hook.
impl<D: Clone, R> Clone for ApertureLayer<D, R> {
    fn clone(&self) -> Self {
        Self {
            decider: self.decider.clone(),
            config: self.config.clone(),
        }
    }
}

impl<D, R> fmt::Debug for ApertureLayer<D, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.config.settings;
        let mut debug = f.debug_struct("ApertureLayer");
        if let ControlPoint::Fixed(name) = &settings.control_point {
            debug.field("control_point", name);
        }
        debug
            .field("check_timeout", &settings.check_timeout)
            .field("ramp_mode", &settings.ramp_mode)
            .finish_non_exhaustive()
    }
}
