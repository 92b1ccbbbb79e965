//! Heads of requests and responses, as hooks see them.

use http::{Extensions, HeaderMap, Method, Request, StatusCode, Uri, Version, header::HeaderName};

use super::names::LabelNames;
use crate::flow::FlowStatus;

/// What hooks see of a request: everything but its body, borrowed.
///
/// ```
/// use tower_aperture::layer::RequestHead;
///
/// let request = http::Request::get("/cart?id=1").header("x-user-id", "42").body(())?;
/// let head = RequestHead::new(&request);
/// assert_eq!(head.uri().path(), "/cart");
/// assert_eq!(head.header("x-user-id"), Some("42"));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    method: &'a Method,
    uri: &'a Uri,
    version: Version,
    headers: &'a HeaderMap,
    extensions: &'a Extensions,
    /// Judges the names that become labels; `None` where names are wanted as they are.
    names: Option<&'a LabelNames<'a>>,
}

impl<'a> RequestHead<'a> {
    /// The head of a request with any body.
    #[must_use]
    pub fn new<B>(request: &'a Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            version: request.version(),
            headers: request.headers(),
            extensions: request.extensions(),
            names: None,
        }
    }

    /// The same head for readers of labels.
    pub(crate) const fn naming_labels(mut self, names: &'a LabelNames<'a>) -> Self {
        self.names = Some(names);
        self
    }

    pub(crate) const fn label_names(self) -> Option<&'a LabelNames<'a>> {
        self.names
    }

    /// Returns true if the text is a piece of the target or of a header, and so the client's own
    /// words. Compares places in memory, not contents.
    pub(crate) fn holds(self, text: &str) -> bool {
        let text = text.as_bytes().as_ptr_range();
        let within = |whole: &[u8]| {
            let whole = whole.as_ptr_range();
            whole.start <= text.start && text.end <= whole.end
        };
        let target = self.uri.path_and_query();
        target.is_some_and(|target| within(target.as_str().as_bytes()))
            || self.uri.host().is_some_and(|host| within(host.as_bytes()))
            || self.headers.values().any(|value| within(value.as_bytes()))
    }

    /// The method.
    #[must_use]
    pub const fn method(self) -> &'a Method {
        self.method
    }

    /// The target, as the server or client before the layer left it.
    #[must_use]
    pub const fn uri(self) -> &'a Uri {
        self.uri
    }

    /// The version of HTTP.
    #[must_use]
    pub const fn version(self) -> Version {
        self.version
    }

    /// All headers, those that may identify people included.
    #[must_use]
    pub const fn headers(self) -> &'a HeaderMap {
        self.headers
    }

    /// What layers and servers have attached to the request.
    #[must_use]
    pub const fn extensions(self) -> &'a Extensions {
        self.extensions
    }

    /// The first value of a header, when there is one and it is UTF-8.
    #[must_use]
    pub fn header(self, name: &str) -> Option<&'a str> {
        let value = self.headers.get(name)?;
        str::from_utf8(value.as_bytes()).ok()
    }
}

impl<'a, B> From<&'a Request<B>> for RequestHead<'a> {
    fn from(request: &'a Request<B>) -> Self {
        Self::new(request)
    }
}

/// What [`classify`](crate::layer::ApertureLayer::classify) sees of a response: its status with
/// its headers or, at the end of a body that has them, with its trailers.
///
/// ```
/// use tower_aperture::layer::ResponseHead;
///
/// let response = http::Response::builder().header("grpc-status", "14").body(())?;
/// let head = ResponseHead::new(&response);
/// assert_eq!(head.grpc_status(), Some("14"));
/// assert!(head.is_error());
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'a> {
    status: StatusCode,
    headers: &'a HeaderMap,
    trailers: bool,
}

// Not a constant: each use of one would make and drop a name.
pub(super) static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

impl<'a> ResponseHead<'a> {
    /// The head of a response with any body.
    #[must_use]
    pub fn new<B>(response: &'a http::Response<B>) -> Self {
        Self {
            status: response.status(),
            headers: response.headers(),
            trailers: false,
        }
    }

    pub(crate) const fn trailers(status: StatusCode, trailers: &'a HeaderMap) -> Self {
        Self {
            status,
            headers: trailers,
            trailers: true,
        }
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.status
    }

    /// The headers, or the trailers where [`is_trailers`](Self::is_trailers).
    #[must_use]
    pub const fn headers(self) -> &'a HeaderMap {
        self.headers
    }

    /// The headers are those that follow the body.
    #[must_use]
    pub const fn is_trailers(self) -> bool {
        self.trailers
    }

    /// What the layer makes of it by itself.
    pub(crate) fn judged(self) -> FlowStatus {
        if self.is_error() {
            FlowStatus::Error
        } else {
            FlowStatus::Ok
        }
    }

    /// The `grpc-status` among the headers, when it is there and text.
    #[must_use]
    pub fn grpc_status(self) -> Option<&'a str> {
        self.headers.get(&GRPC_STATUS)?.to_str().ok()
    }

    /// What the layer takes for an error by itself: a status of 500 and more, or a `grpc-status`
    /// other than 0.
    #[must_use]
    pub fn is_error(self) -> bool {
        self.status.is_server_error()
            || self
                .headers
                .get(&GRPC_STATUS)
                .is_some_and(|status| status != "0")
    }
}
