//! The layer and its constructors; its other builder methods are in `builder`.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use tower_layer::Layer;

use super::error::{LayerError, unwrap_or_panic};
use super::head::RequestHead;
use super::reject::DefaultReject;
use super::routes::RouteTable;
use super::service::Aperture;
use super::settings::{Config, ControlPoint, Settings};

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
    pub(crate) decider: D,
    pub(crate) config: Arc<Config<R>>,
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

    /// Creates a layer that takes the control point from a route table, and skips the requests for
    /// which the table has none.
    #[must_use]
    pub fn with_routes(decider: D, routes: RouteTable) -> Self {
        Self::of(decider, ControlPoint::Routes(Arc::new(routes)))
    }

    fn of(decider: D, control_point: ControlPoint) -> Self {
        Self {
            decider,
            config: Arc::new(Config {
                settings: Settings::new(control_point),
                reject: Arc::new(DefaultReject::new()),
            }),
        }
    }
}

impl<D, R> ApertureLayer<D, R> {
    pub(crate) fn set(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        // In place, unless a clone of the layer shares the settings.
        let settings = &mut Arc::make_mut(&mut self.config).settings;
        set(settings);
        settings.prepare_direct();
        self
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
