//! Control points by method and path.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::Method;

use super::config::ControlPoint;
use super::error::LayerError;
use super::head::RequestHead;
use super::layer::{ApertureLayer, refuse};
use super::spelling;
use super::templates::Templates;

/// Control points by method and path, for services without a router that leaves its template.
///
/// Paths are as axum has them: `{name}` stands for one segment, `{*name}` for all that follow,
/// neither of them empty. A request has the most specific route that has its method: a route for
/// that method, for `GET` if the method is `HEAD`, or for [any](Self::any). From left to right a
/// text is more specific than `{name}`, and that more than `{*name}`. A route without the method
/// is as if it were not there, so `/{*rest}` for any method gets what `POST /checkout` leaves. What
/// matches no route has the [`fallback`](Self::fallback); without one it is left alone, like
/// [`Skip`].
///
/// Paths are compared as they are, like axum compares them. If anything behind the layer takes
/// other spellings for the same path, such as `//users/42/` for `/users/42`, a client that uses
/// them leaves its limit: [`normalize`](Self::normalize) the table then.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use tower_aperture::ApertureLayer;
/// use tower_aperture::layer::{RouteTable, Skip};
///
/// let layer = ApertureLayer::with_routes(
///     client,
///     RouteTable::new()
///         .get("/users/{id}", "get-user")
///         .post("/users", "add-user")
///         .any("/health", Skip)
///         .any("/shop.v1.Carts/{method}", "carts")
///         .fallback("other"),
/// );
/// # let _ = layer;
/// ```
#[derive(Clone)]
pub struct RouteTable {
    routes: Vec<Route>,
    /// Leads to indices of `routes`.
    templates: Templates,
    fallback: Point,
    normalize: bool,
}

/// The points of one path.
#[derive(Clone)]
struct Route {
    path: Box<str>,
    points: Vec<(Option<Method>, Point)>,
}

impl Route {
    fn point(&self, method: Option<&Method>) -> Option<&Point> {
        let mut points = self.points.iter();
        let found = points.find(|(known, _)| known.as_ref() == method);
        found.map(|(_, point)| point)
    }

    /// The point of requests with this method.
    fn applying(&self, method: &Method) -> Option<&Point> {
        let get = || (method == Method::HEAD).then_some(&Method::GET);
        self.point(Some(method))
            .or_else(|| self.point(Some(get()?)))
            .or_else(|| self.point(None))
    }
}

/// What a route of a [`RouteTable`] is under flow control: a control point or [`Skip`].
///
/// ```
/// use tower_aperture::layer::{Point, Skip};
///
/// let points: [Point; 3] = ["get-user".into(), String::from("add-user").into(), Skip.into()];
/// # let _ = points;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point(Option<Arc<str>>);

/// Requests that flow control has nothing to do with. See [`RouteTable`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skip;

impl From<Skip> for Point {
    fn from(Skip: Skip) -> Self {
        Self(None)
    }
}

impl From<&str> for Point {
    fn from(name: &str) -> Self {
        Self(Some(name.into()))
    }
}

impl From<String> for Point {
    fn from(name: String) -> Self {
        Self(Some(name.into()))
    }
}

impl RouteTable {
    /// No routes and no fallback.
    #[must_use]
    pub fn new() -> Self {
        Self {
            routes: Vec::new(),
            templates: Templates::default(),
            fallback: Skip.into(),
            normalize: false,
        }
    }

    /// Adds a route for one method.
    ///
    /// # Panics
    ///
    /// If the path is no template, cannot be told from another one, is there for that method
    /// already, or the control point is empty; [`try_route`](Self::try_route) returns that as an
    /// error. So do its companions for single methods and for any.
    #[must_use]
    #[track_caller]
    pub fn route(self, method: Method, path: &str, point: impl Into<Point>) -> Self {
        refuse(self.try_route(method, path, point))
    }

    /// Like [`route`](Self::route) for routes from a configuration.
    ///
    /// # Errors
    ///
    /// As [`route`](Self::route) panics; the error names the route and what to do.
    pub fn try_route(
        self,
        method: Method,
        path: &str,
        point: impl Into<Point>,
    ) -> Result<Self, LayerError> {
        self.add(Some(method), path, point.into())
    }

    /// Adds a route for all methods that have none of their own at that path.
    ///
    /// # Panics
    ///
    /// As [`route`](Self::route).
    #[must_use]
    #[track_caller]
    pub fn any(self, path: &str, point: impl Into<Point>) -> Self {
        refuse(self.try_any(path, point))
    }

    /// Like [`any`](Self::any) for routes from a configuration.
    ///
    /// # Errors
    ///
    /// As [`try_route`](Self::try_route).
    pub fn try_any(self, path: &str, point: impl Into<Point>) -> Result<Self, LayerError> {
        self.add(None, path, point.into())
    }

    /// What becomes of requests that match no route; without it they are left alone.
    ///
    /// # Panics
    ///
    /// If the control point is empty.
    #[must_use]
    #[track_caller]
    pub fn fallback(mut self, point: impl Into<Point>) -> Self {
        self.fallback = refuse(named(point.into(), "the fallback"));
        self
    }

    /// Takes other spellings of a path for the same: repeated slashes, a slash at the end, the
    /// segments `.` and `..`, and percent-encoded letters, digits, `-`, `.`, `_` and `~` (RFC 3986
    /// sections 5.2.4 and 6.2.2). A percent-encoded slash counts as part of a segment first, and
    /// as a slash where that matches no route. Requests go on as they came.
    ///
    /// It is needed where the service behind the layer, or anything between the two, treats such
    /// spellings alike: tower-http's `NormalizePath`, an application that decodes or splits paths
    /// itself, a proxy to another server. axum's router does not. Paths that need it cost an
    /// allocation.
    ///
    /// ```
    /// use http::Request;
    /// use tower_aperture::layer::{RequestHead, RouteTable};
    ///
    /// let table = RouteTable::new().post("/login", "login").normalize();
    /// for path in ["/login", "/login/", "//login", "/x/../login", "/%2e/log%69n"] {
    ///     let request = Request::post(path).body(())?;
    ///     assert_eq!(table.control_point(RequestHead::new(&request)), Some("login"));
    /// }
    /// # Ok::<(), http::Error>(())
    /// ```
    ///
    /// # Panics
    ///
    /// If two routes become the same; [`try_normalize`](Self::try_normalize) returns that as an
    /// error.
    #[must_use]
    #[track_caller]
    pub fn normalize(self) -> Self {
        refuse(self.try_normalize())
    }

    /// Like [`normalize`](Self::normalize) for routes from a configuration.
    ///
    /// # Errors
    ///
    /// If two routes become the same.
    pub fn try_normalize(self) -> Result<Self, LayerError> {
        let mut table = Self::new();
        table.normalize = true;
        table.fallback = self.fallback;
        for route in self.routes {
            for (method, point) in route.points {
                table = table.add(method, &route.path, point)?;
            }
        }
        Ok(table)
    }

    fn add(mut self, method: Option<Method>, path: &str, point: Point) -> Result<Self, LayerError> {
        let written = match &method {
            Some(method) => format!("{method} {path}"),
            None => path.to_owned(),
        };
        let refused = |why| LayerError::invalid_route(&written, why);
        let point = named(point, &written)?;
        if !path.starts_with('/') {
            return Err(refused("a path begins with `/`".into()));
        }
        let path = match self.normalize {
            true => spelling::normal(path),
            false => Cow::Borrowed(path),
        };
        let new = self.routes.len();
        let known = self.templates.insert(&path, new).map_err(refused)?;
        let at = known.unwrap_or(new);
        match self.routes.get(at) {
            None => self.routes.push(Route {
                path: (*path).into(),
                points: Vec::new(),
            }),
            Some(known) if *known.path != *path => {
                let path = &known.path;
                let why = format!("it cannot be told from `{path}`; name their parameters alike");
                return Err(refused(why.into()));
            }
            Some(_) => {}
        }
        let route = &mut self.routes[at];
        if route.point(method.as_ref()).is_some() {
            let why = "it is there already; remove one of the two";
            return Err(refused(why.into()));
        }
        route.points.push((method, point));
        Ok(self)
    }

    /// Returns the control point of a request, `None` if the request is left alone.
    #[must_use]
    pub fn control_point(&self, head: RequestHead<'_>) -> Option<&str> {
        self.find(head.method(), head.uri().path()).0.as_deref()
    }

    fn find(&self, method: &Method, path: &str) -> &Point {
        let found = match self.normalize {
            false => self.lookup(method, path),
            true => {
                let path = spelling::normal(path);
                self.lookup(method, &path).or_else(|| {
                    let path = spelling::with_slashes(&path)?;
                    self.lookup(method, &spelling::normal(&path))
                })
            }
        };
        found.unwrap_or(&self.fallback)
    }

    fn paths(&self) -> Vec<&str> {
        self.routes.iter().map(|route| &*route.path).collect()
    }

    fn lookup(&self, method: &Method, path: &str) -> Option<&Point> {
        self.templates
            .find(path, |at| self.routes[at].applying(method))
    }
}

macro_rules! methods {
    ($($name:ident $method:ident),+) => {
        impl RouteTable {
            $(
                #[doc = concat!("Adds a route for `", stringify!($method), "`.")]
                ///
                /// # Panics
                ///
                /// As [`route`](Self::route).
                #[must_use]
                #[track_caller]
                pub fn $name(self, path: &str, point: impl Into<Point>) -> Self {
                    self.route(Method::$method, path, point)
                }
            )+
        }
    };
}

methods!(get GET, post POST, put PUT, patch PATCH, delete DELETE, head HEAD, options OPTIONS);

fn named(point: Point, route: &str) -> Result<Point, LayerError> {
    if point.0.as_deref() == Some("") {
        let why = "the control point is empty; name one, or use `Skip`";
        return Err(LayerError::invalid_route(route, why.into()));
    }
    Ok(point)
}

impl Default for RouteTable {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable")
            .field("paths", &self.paths())
            .field("normalize", &self.normalize)
            .field("fallback", &self.fallback)
            .finish_non_exhaustive()
    }
}

impl<D> ApertureLayer<D> {
    /// A layer that takes the control point from a table of routes, and leaves alone what the
    /// table says.
    #[must_use]
    pub fn with_routes(decider: D, routes: RouteTable) -> Self {
        Self::of(decider, ControlPoint::Routes(Arc::new(routes)))
    }
}
