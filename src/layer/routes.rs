//! Route tables, which map methods and paths to control points.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use http::Method;

use super::error::{LayerError, unwrap_or_panic};
use super::head::RequestHead;
use super::normalize_path;
use super::templates::RouteTemplates;

/// A table of control points by method and path, for services without a router that exposes the
/// matched template.
///
/// Paths have the syntax of axum: `{name}` matches one segment, and `{*name}` matches all that
/// follow; both match at least one character. A request gets the most specific route whose path
/// matches and that has its method: a route for that method, for `GET` if the method is `HEAD`, or
/// for [any method](Self::any). From left to right, a text is more specific than `{name}`, and
/// `{name}` is more specific than `{*name}`. Routes without the method are ignored: with `POST
/// /checkout` and `/{*rest}` for any method, `GET /checkout` gets the latter. A request that
/// matches no route gets the [`fallback`](Self::fallback); without a fallback it is skipped, as
/// with [`Skip`].
///
/// Paths are compared literally, as in axum. If a service behind the layer accepts other spellings
/// of the same path, such as `//users/42/` for `/users/42`, a client can evade its limit with them:
/// [`normalize`](Self::normalize) the table then.
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
    /// Finds indices of `routes`.
    templates: RouteTemplates,
    fallback: RouteTarget,
    normalize: bool,
}

/// The control points of one path, by method; `None` stands for any method.
#[derive(Clone)]
struct Route {
    path: Box<str>,
    targets: Vec<(Option<Method>, RouteTarget)>,
}

impl Route {
    fn target(&self, method: Option<&Method>) -> Option<&RouteTarget> {
        let mut targets = self.targets.iter();
        let found = targets.find(|(known, _)| known.as_ref() == method);
        found.map(|(_, target)| target)
    }

    /// Returns the control point of requests with this method.
    fn applying(&self, method: &Method) -> Option<&RouteTarget> {
        let get = || (method == Method::HEAD).then_some(&Method::GET);
        self.target(Some(method))
            .or_else(|| self.target(Some(get()?)))
            .or_else(|| self.target(None))
    }
}

/// The target of a route in a [`RouteTable`]: a control point or [`Skip`].
///
/// ```
/// use tower_aperture::layer::{RouteTarget, Skip};
///
/// let targets: [RouteTarget; 3] = ["get-user".into(), String::from("add-user").into(), Skip.into()];
/// # let _ = targets;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteTarget(Option<Arc<str>>);

/// The target of routes whose requests the layer skips. See [`RouteTable`] for an example.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skip;

impl From<Skip> for RouteTarget {
    fn from(Skip: Skip) -> Self {
        Self(None)
    }
}

impl From<&str> for RouteTarget {
    fn from(name: &str) -> Self {
        Self(Some(name.into()))
    }
}

impl From<String> for RouteTarget {
    fn from(name: String) -> Self {
        Self(Some(name.into()))
    }
}

impl RouteTable {
    /// Creates a table without routes and fallback.
    #[must_use]
    pub fn new() -> Self {
        Self {
            routes: Vec::new(),
            templates: RouteTemplates::default(),
            fallback: Skip.into(),
            normalize: false,
        }
    }

    /// Adds a route for one method.
    ///
    /// # Panics
    ///
    /// If the path is not a valid template, differs from another one only in the names of its
    /// parameters, already has a route for that method, or if the control point is empty.
    /// [`try_route`](Self::try_route) returns these as errors. The methods for single HTTP methods
    /// and [`any`](Self::any) panic alike.
    #[must_use]
    #[track_caller]
    pub fn route(self, method: Method, path: &str, target: impl Into<RouteTarget>) -> Self {
        unwrap_or_panic(self.try_route(method, path, target))
    }

    /// Like [`route`](Self::route), for routes from a configuration.
    ///
    /// # Errors
    ///
    /// In the cases in which [`route`](Self::route) panics. The error names the route and the
    /// remedy.
    pub fn try_route(
        self,
        method: Method,
        path: &str,
        target: impl Into<RouteTarget>,
    ) -> Result<Self, LayerError> {
        self.add(Some(method), path, target.into())
    }

    /// Adds a route for all methods that have no route of their own at that path.
    ///
    /// # Panics
    ///
    /// In the same cases as [`route`](Self::route).
    #[must_use]
    #[track_caller]
    pub fn any(self, path: &str, target: impl Into<RouteTarget>) -> Self {
        unwrap_or_panic(self.try_any(path, target))
    }

    /// Like [`any`](Self::any), for routes from a configuration.
    ///
    /// # Errors
    ///
    /// In the same cases as [`try_route`](Self::try_route).
    pub fn try_any(self, path: &str, target: impl Into<RouteTarget>) -> Result<Self, LayerError> {
        self.add(None, path, target.into())
    }

    /// Sets the control point of requests that match no route; without it they are skipped.
    ///
    /// # Panics
    ///
    /// If the control point is empty.
    #[must_use]
    #[track_caller]
    pub fn fallback(mut self, target: impl Into<RouteTarget>) -> Self {
        self.fallback = unwrap_or_panic(check_name(target.into(), "the fallback"));
        self
    }

    /// Normalizes paths before they are matched: repeated slashes, a trailing slash, the segments
    /// `.` and `..`, and percent-encoded letters, digits, `-`, `.`, `_` and `~` (RFC 3986 sections
    /// 5.2.4 and 6.2.2). A percent-encoded slash is first treated as part of a segment and, if no
    /// route matches, as a slash. The request itself is passed on unchanged.
    ///
    /// Use it if the service behind the layer, or anything between the two, treats such spellings
    /// as equal: tower-http's `NormalizePath`, an application that decodes or splits paths itself,
    /// a proxy to another server. axum's router does not. Each path that has to be normalized costs
    /// an allocation.
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
        unwrap_or_panic(self.try_normalize())
    }

    /// Like [`normalize`](Self::normalize), for routes from a configuration.
    ///
    /// # Errors
    ///
    /// If two routes become the same.
    pub fn try_normalize(self) -> Result<Self, LayerError> {
        let mut table = Self::new();
        table.normalize = true;
        table.fallback = self.fallback;
        for route in self.routes {
            for (method, target) in route.targets {
                table = table.add(method, &route.path, target)?;
            }
        }
        Ok(table)
    }

    fn add(
        mut self,
        method: Option<Method>,
        path: &str,
        target: RouteTarget,
    ) -> Result<Self, LayerError> {
        let written = match &method {
            Some(method) => format!("{method} {path}"),
            None => path.to_owned(),
        };
        let invalid = |reason| LayerError::invalid_route(&written, reason);
        let target = check_name(target, &written)?;
        if !path.starts_with('/') {
            return Err(invalid("the path must begin with `/`".into()));
        }
        let path = match self.normalize {
            true => normalize_path::normalize(path),
            false => Cow::Borrowed(path),
        };
        let new = self.routes.len();
        let known = self.templates.insert(&path, new).map_err(invalid)?;
        let at = known.unwrap_or(new);
        match self.routes.get(at) {
            None => self.routes.push(Route {
                path: (*path).into(),
                targets: Vec::new(),
            }),
            Some(known) if *known.path != *path => {
                let path = &known.path;
                let reason =
                    format!("it matches the same paths as `{path}`; use the same parameter names");
                return Err(invalid(reason.into()));
            }
            Some(_) => {}
        }
        let route = &mut self.routes[at];
        if route.target(method.as_ref()).is_some() {
            let reason = "the route already exists; remove one of the two";
            return Err(invalid(reason.into()));
        }
        route.targets.push((method, target));
        Ok(self)
    }

    /// Returns the control point of a request; `None` if the layer skips the request.
    #[must_use]
    pub fn control_point(&self, head: RequestHead<'_>) -> Option<&str> {
        self.find(head.method(), head.uri().path()).0.as_deref()
    }

    fn find(&self, method: &Method, path: &str) -> &RouteTarget {
        let found = match self.normalize {
            false => self.lookup(method, path),
            true => {
                let path = normalize_path::normalize(path);
                self.lookup(method, &path).or_else(|| {
                    let path = normalize_path::decode_slashes(&path)?;
                    self.lookup(method, &normalize_path::normalize(&path))
                })
            }
        };
        found.unwrap_or(&self.fallback)
    }

    fn paths(&self) -> Vec<&str> {
        self.routes.iter().map(|route| &*route.path).collect()
    }

    fn lookup(&self, method: &Method, path: &str) -> Option<&RouteTarget> {
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
                /// In the same cases as [`route`](Self::route).
                #[must_use]
                #[track_caller]
                pub fn $name(self, path: &str, target: impl Into<RouteTarget>) -> Self {
                    self.route(Method::$method, path, target)
                }
            )+
        }
    };
}

methods!(get GET, post POST, put PUT, patch PATCH, delete DELETE, head HEAD, options OPTIONS);

fn check_name(target: RouteTarget, route: &str) -> Result<RouteTarget, LayerError> {
    if target.0.as_deref() == Some("") {
        let reason = "the control point is empty; name one, or use `Skip`";
        return Err(LayerError::invalid_route(route, reason.into()));
    }
    Ok(target)
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
