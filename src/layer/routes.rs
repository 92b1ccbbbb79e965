use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use http::Method;

use super::config::ControlPoint;
use super::error::LayerError;
use super::head::RequestHead;
use super::layer::{ApertureLayer, refuse};

/// Control points by method and path, for services without a router that leaves its template.
///
/// Paths are as axum has them: `{name}` stands for one segment, `{*name}` for all that follow. The
/// method's own entry comes before [`any`](Self::any), and `HEAD` is `GET` where it has none. What
/// matches nothing has the [`fallback`](Self::fallback), and without one is left alone, like
/// [`Skip`].
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
    paths: matchit::Router<usize>,
    /// As written, to know them again.
    known: HashMap<Box<str>, usize>,
    entries: Vec<Vec<(Option<Method>, Point)>>,
    fallback: Point,
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
            paths: matchit::Router::new(),
            known: HashMap::new(),
            entries: Vec::new(),
            fallback: Skip.into(),
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

    fn add(mut self, method: Option<Method>, path: &str, point: Point) -> Result<Self, LayerError> {
        let route = match &method {
            Some(method) => format!("{method} {path}"),
            None => path.to_owned(),
        };
        let point = named(point, &route)?;
        let at = match self.known.get(path) {
            Some(at) => *at,
            None => {
                let at = self.entries.len();
                if !path.starts_with('/') {
                    let why = "a path begins with `/`";
                    return Err(LayerError::invalid_route(&route, why.into()));
                }
                let added = self.paths.insert(path, at);
                added.map_err(|error| LayerError::invalid_route(&route, why(error)))?;
                self.known.insert(path.into(), at);
                self.entries.push(Vec::new());
                at
            }
        };
        let entries = &mut self.entries[at];
        if entries.iter().any(|(known, _)| *known == method) {
            let why = "it is there already; remove one of the two";
            return Err(LayerError::invalid_route(&route, why.into()));
        }
        entries.push((method, point));
        Ok(self)
    }

    /// The control point of a request, `None` when it is left alone.
    #[must_use]
    pub fn control_point(&self, head: RequestHead<'_>) -> Option<&str> {
        self.find(head.method(), head.uri().path()).0.as_deref()
    }

    fn find(&self, method: &Method, path: &str) -> &Point {
        let Ok(matched) = self.paths.at(path) else {
            return &self.fallback;
        };
        let entries = &self.entries[*matched.value];
        let of = |method: Option<&Method>| {
            let found = entries.iter().find(|(known, _)| known.as_ref() == method);
            found.map(|(_, point)| point)
        };
        of(Some(method))
            .or_else(|| of((method == Method::HEAD).then_some(&Method::GET)))
            .or_else(|| of(None))
            .unwrap_or(&self.fallback)
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

fn why(error: matchit::InsertError) -> Cow<'static, str> {
    use matchit::InsertError::{Conflict, InvalidCatchAll, InvalidParam, InvalidParamSegment};

    match error {
        Conflict { with } => {
            format!("it cannot be told from `{with}`; name their parameters alike").into()
        }
        InvalidParamSegment => "a segment holds one parameter and nothing else: `/{id}`".into(),
        InvalidParam => "a parameter is a name in braces: `{id}`; `{{` is a brace".into(),
        InvalidCatchAll => "`{*rest}` comes last".into(),
        other => other.to_string().into(),
    }
}

impl Default for RouteTable {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RouteTable")
            .field("paths", &self.known.keys())
            .field("fallback", &self.fallback)
            .finish_non_exhaustive()
    }
}

impl<D> ApertureLayer<D> {
    /// A layer that takes the control point from a table of routes, and leaves alone what the
    /// table says.
    #[must_use]
    pub fn with_routes(decider: D, routes: RouteTable) -> Self {
        let routes = Arc::new(routes);
        let skips = Arc::clone(&routes);
        Self::of(decider, ControlPoint::Routes(routes))
            .skip(move |head| skips.control_point(head).is_none())
    }
}
