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

/// Puts services under flow control.
///
/// A layer asks its decider `D`, usually an [`ApertureClient`](crate::ApertureClient), about every
/// request, under the name of a *control point*. See the [module documentation](crate::layer) for
/// what happens then.
///
/// Cloning a layer, or a service it made, clones the decider and bumps one pointer.
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
    /// A layer with one control point for all requests.
    ///
    /// # Panics
    ///
    /// If the control point is empty; [`try_new`](Self::try_new) returns that as an error.
    #[must_use]
    #[track_caller]
    pub fn new(decider: D, control_point: impl Into<Arc<str>>) -> Self {
        refuse(Self::try_new(decider, control_point))
    }

    /// A layer with one control point for all requests, which comes from a configuration.
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

    /// A layer that takes the control point from the request: a route, a gRPC service, a header.
    ///
    /// Keep the names few, they are what policies select by. A name that a client makes up, and an
    /// empty one, is [`other`](crate::layer::FALLBACK_NAME); see
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
    /// // Any closure does, here for the whole path.
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

#[track_caller]
pub(super) fn refuse<T>(built: Result<T, LayerError>) -> T {
    match built {
        Ok(built) => built,
        Err(error) => panic!("{error}"),
    }
}

impl<D, R> ApertureLayer<D, R> {
    pub(super) fn set(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        // In place, unless a clone of the layer shares it.
        set(&mut Arc::make_mut(&mut self.config).settings);
        self
    }

    /// Sets a label for all requests; of one key the last call counts.
    ///
    /// Labels that are read from the request win over it; `baggage` never sets its key.
    #[must_use]
    pub fn label(
        self,
        key: impl Into<Cow<'static, str>>,
        value: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.set(|settings| settings.extract.add_constant(key.into(), value.into()))
    }

    /// Reads a label from a header, where the request has it.
    ///
    /// Several values are joined by commas. A value that is empty, blank, or not visible ASCII is
    /// none, see [`header`](crate::layer::header): a constant [label](Self::label) of the same key
    /// is the default then. No header travels without being named here, and secrets never do.
    /// Beware of trusting what a client says: a client that may choose its label chooses its limit.
    ///
    /// # Panics
    ///
    /// If this is not the name of a header, or that of a secret: `authorization`,
    /// `proxy-authorization`, `cookie`, `set-cookie`;
    /// [`try_label_from_header`](Self::try_label_from_header) returns that as an error.
    #[must_use]
    #[track_caller]
    pub fn label_from_header(
        self,
        key: impl Into<Cow<'static, str>>,
        header: impl AsRef<str>,
    ) -> Self {
        refuse(self.try_label_from_header(key, header))
    }

    /// Like [`label_from_header`](Self::label_from_header) for names from a configuration.
    ///
    /// # Errors
    ///
    /// If this is not the name of a header, or that of a secret.
    pub fn try_label_from_header(
        self,
        key: impl Into<Cow<'static, str>>,
        header: impl AsRef<str>,
    ) -> Result<Self, LayerError> {
        let source = LabelSource::Header(key.into(), allowed_header(header.as_ref())?);
        Ok(self.set(|settings| settings.extract.add_source(source)))
    }

    /// Reads a label from the request; an empty text is no label.
    ///
    /// Made for [`extension_str`](crate::layer::extension_str) and
    /// [`extension`](crate::layer::extension); any closure will do.
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
    /// All readers run in the order in which the layer got them; a later value of the same key
    /// replaces an earlier one. The layer does not know which keys the closure sets: name them by
    /// [`reserve_label`](Self::reserve_label) where clients must not set them by `baggage`.
    #[must_use]
    pub fn labels<F>(self, read: F) -> Self
    where
        F: for<'h> Fn(RequestHead<'h>, &mut Labels<'h>) + Send + Sync + 'static,
    {
        let source = LabelSource::Labels(Arc::new(read));
        self.set(|settings| settings.extract.add_source(source))
    }

    /// Whether members of the `baggage` header (W3C Baggage) become labels; they do by default.
    ///
    /// While this is on, a client can set any label that the layer does not name: a key, a tier or
    /// a priority that policies look at and that nothing else sets. They never replace a label from
    /// another source, and never set a key that the layer names, also when its reader finds
    /// nothing. Turn it off where clients that you do not trust reach the layer directly.
    ///
    /// Each header line and each member is judged alone; a malformed member is skipped. Of a line
    /// the last 180 members count, and of a repeated key the last value. Members get the room that
    /// other labels leave; where it is too small, lines share it, and the last line comes first.
    #[must_use]
    pub fn baggage(self, baggage: bool) -> Self {
        self.set(|settings| settings.extract.baggage = baggage)
    }

    /// Sets how many labels a flow may have, and how many bytes; see [`LabelLimits`] for the
    /// defaults. Where there are more, members of `baggage` are dropped first, then values that
    /// clients can choose are shortened, the longest first, then dropped; constants go last.
    #[must_use]
    pub fn label_limits(self, limits: LabelLimits) -> Self {
        self.set(|settings| settings.extract.limits = limits)
    }

    /// Sets how long a check may take, which is also how long a scheduler may keep the request
    /// waiting, whatever its `queue_timeout` says. The decider's own by default, which is 200 ms
    /// for an [`ApertureClient`](crate::ApertureClient); zero is no limit. A client of an Agent
    /// waits for the answer a grace longer, 800 ms by default
    /// (`ApertureClientBuilder::check_grace`).
    #[must_use]
    pub fn check_timeout(self, timeout: Duration) -> Self {
        self.set(|settings| settings.check_timeout = Some(timeout))
    }

    /// Whether requests run only where a *load ramp* lets them; off by default. A request that
    /// nobody decides about is then rejected, unless [`on_unreachable`](Self::on_unreachable)
    /// says otherwise.
    #[must_use]
    pub fn ramp_mode(self, ramp_mode: bool) -> Self {
        self.set(|settings| settings.ramp_mode = ramp_mode)
    }

    /// Leaves requests alone for which any of these answers true: no labels, no check, no flow.
    ///
    /// It runs first, so keep it cheap.
    #[must_use]
    pub fn skip<F>(self, skip: F) -> Self
    where
        F: Fn(RequestHead<'_>) -> bool + Send + Sync + 'static,
    {
        self.set(|settings| settings.skip.push(Arc::new(skip)))
    }

    /// What happens to requests that nobody decides about. By default they run, and in
    /// [ramp mode](Self::ramp_mode) they do not.
    #[must_use]
    pub fn on_unreachable(self, mode: FailureMode) -> Self {
        self.set(|settings| settings.on_unreachable = Some(OnUnreachable::Always(mode)))
    }

    /// Decides for each request that nobody else decides about.
    ///
    /// For an answer of your own close it and look for
    /// [`RejectReason::Unreachable`](crate::RejectReason::Unreachable) in the
    /// [reject hook](Self::on_reject).
    #[must_use]
    pub fn on_unreachable_with<F>(self, mode: F) -> Self
    where
        F: Fn(&FlowError, RequestHead<'_>) -> FailureMode + Send + Sync + 'static,
    {
        self.set(|settings| settings.on_unreachable = Some(OnUnreachable::Hook(Arc::new(mode))))
    }

    /// Judges responses of accepted requests, in place of [`ResponseHead::is_error`].
    ///
    /// It sees the head of each response and, where a body ends in trailers, those too, also those
    /// in the last frame of a gRPC-Web body; a flow that is an error by one of them is an error.
    #[must_use]
    pub fn classify<F>(self, classify: F) -> Self
    where
        F: Fn(ResponseHead<'_>) -> FlowStatus + Send + Sync + 'static,
    {
        self.set(|settings| settings.classify = Some(Arc::new(classify)))
    }

    /// Whether accepted and unreachable requests carry their
    /// [`FlowDecision`](crate::FlowDecision) as an extension for the inner service; off by
    /// default, because that costs allocations.
    #[must_use]
    pub fn insert_decision(self, insert: bool) -> Self {
        self.set(|settings| settings.insert_decision = insert)
    }

    /// Looks up a key of the control point's result cache with each check; an empty text is no
    /// key. A flow whose result is there runs without asking quota and load schedulers.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use axum::extract::{Extension, Path};
    /// use axum::{Router, routing::get};
    /// use tower_aperture::{ApertureClient, ApertureLayer, CacheLookup};
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
    ///     // Best effort: without a cache the profile is made again next time.
    ///     let _ = client.set_result_cache("profile", &key, profile.clone(), ttl).await;
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
    /// several times.
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

    /// Answers and stores responses by these rules.
    #[cfg(feature = "response-cache")]
    pub(super) fn cache_by(self, rules: Arc<super::cache::CacheSettings>) -> Self {
        self.set(|settings| {
            settings.result_cache_key = None;
            settings.cache = Some(rules);
        })
    }

    /// Whether requests that run carry a [`FlowHandle`](crate::layer::FlowHandle) as an extension
    /// for the inner service; off by default, because that costs allocations.
    #[must_use]
    pub fn expose_flow(self) -> Self {
        self.set(|settings| settings.expose_flow = true)
    }

    /// Whether accepted requests carry what the caches had, a
    /// [`CacheLookup`](crate::CacheLookup), as an extension for the inner service; off by
    /// default. Requests without a key carry none.
    #[must_use]
    pub fn insert_cache_lookup(self, insert: bool) -> Self {
        self.set(|settings| settings.insert_cache_lookup = insert)
    }

    /// Answers rejected requests; the response goes out as it is, with `cache-control: no-store`
    /// unless it has a `cache-control` of its own. Without a hook the answer is that of
    /// [`DefaultReject`].
    #[must_use]
    pub fn on_reject<F, C>(self, reject: F) -> ApertureLayer<D, F>
    where
        F: Fn(&Rejection, RequestHead<'_>) -> Response<C>,
    {
        self.reject_with(reject)
    }

    /// Answers rejected requests with an [`OnReject`](crate::layer::OnReject) that has a name.
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

/// By hand: no bound on the hook.
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
