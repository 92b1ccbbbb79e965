//! Heads of requests and responses, which hooks read, and what the method says about the body.

use http::{Extensions, HeaderMap, Method, Request, StatusCode, Uri, Version, header::HeaderName};

use super::names::LabelNames;
use crate::flow::FlowStatus;

/// The head of a request, borrowed: everything except the body. Hooks get it.
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
    /// Replaces unknown names in labels; `None` to read names unchanged.
    names: Option<&'a LabelNames<'a>>,
}

impl<'a> RequestHead<'a> {
    /// Borrows the head of a request.
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

    /// Returns the same head for readers of labels.
    pub(crate) const fn naming_labels(mut self, names: &'a LabelNames<'a>) -> Self {
        self.names = Some(names);
        self
    }

    pub(crate) const fn label_names(self) -> Option<&'a LabelNames<'a>> {
        self.names
    }

    /// Returns true if `text` is a slice of the request target or of a header value, and so chosen
    /// by the client. Compares addresses in memory, not contents.
    pub(crate) fn contains_slice(self, text: &str) -> bool {
        let text = text.as_bytes().as_ptr_range();
        let within = |buffer: &[u8]| {
            let buffer = buffer.as_ptr_range();
            buffer.start <= text.start && text.end <= buffer.end
        };
        let target = self.uri.path_and_query();
        target.is_some_and(|target| within(target.as_str().as_bytes()))
            || self.uri.host().is_some_and(|host| within(host.as_bytes()))
            || self.headers.values().any(|value| within(value.as_bytes()))
    }

    /// Returns the method.
    #[must_use]
    pub const fn method(self) -> &'a Method {
        self.method
    }

    /// Returns the request target, as the layer received it.
    #[must_use]
    pub const fn uri(self) -> &'a Uri {
        self.uri
    }

    /// Returns the HTTP version.
    #[must_use]
    pub const fn version(self) -> Version {
        self.version
    }

    /// Returns all headers, including those that may identify people.
    #[must_use]
    pub const fn headers(self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns the extensions that servers and other layers attached to the request.
    #[must_use]
    pub const fn extensions(self) -> &'a Extensions {
        self.extensions
    }

    /// Returns the first value of a header, if the header is present and its value is UTF-8.
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

/// The head of a response, which [`classify`](crate::layer::ApertureLayer::classify) gets: the
/// status with the headers or, at the end of a body that has trailers, with the trailers.
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

// A static, because each use of a constant would create and drop a `HeaderName`.
pub(super) static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

impl<'a> ResponseHead<'a> {
    /// Borrows the head of a response.
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

    /// Returns the HTTP status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.status
    }

    /// Returns the headers, or the trailers if [`is_trailers`](Self::is_trailers).
    #[must_use]
    pub const fn headers(self) -> &'a HeaderMap {
        self.headers
    }

    /// Returns true if [`headers`](Self::headers) are the trailers of the body.
    #[must_use]
    pub const fn is_trailers(self) -> bool {
        self.trailers
    }

    /// Returns the status of a flow with this head, unless the application classifies it.
    pub(crate) fn default_status(self) -> FlowStatus {
        self.status_with(self.grpc_code())
    }

    /// Like [`default_status`](Self::default_status), for callers that have read the gRPC code.
    pub(crate) fn status_with(self, grpc_code: Option<u8>) -> FlowStatus {
        match self.status.is_server_error() || grpc_code.is_some_and(|code| code != 0) {
            true => FlowStatus::Error,
            false => FlowStatus::Ok,
        }
    }

    /// Returns the value of `grpc-status`, if it is present and visible ASCII.
    #[must_use]
    pub fn grpc_status(self) -> Option<&'a str> {
        self.headers.get(&GRPC_STATUS)?.to_str().ok()
    }

    /// Returns the code of `grpc-status`, if it is present. A value that is no code of gRPC counts as
    /// UNKNOWN, as clients read it.
    pub(crate) fn grpc_code(self) -> Option<u8> {
        const UNKNOWN: u8 = 2;
        let value = self.headers.get(&GRPC_STATUS)?;
        if value == "0" {
            return Some(0);
        }
        let code = value.to_str().ok().and_then(|value| value.parse().ok());
        Some(
            code.filter(|code| matches!(code, 1..=16))
                .unwrap_or(UNKNOWN),
        )
    }

    /// Returns true if the layer treats this head as an error by default: an HTTP status of 500 or
    /// more, or a `grpc-status` other than 0.
    #[must_use]
    pub fn is_error(self) -> bool {
        self.status.is_server_error()
            || self
                .headers
                .get(&GRPC_STATUS)
                .is_some_and(|status| status != "0")
    }
}

/// The kind of request method, which affects the body of the response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MethodKind {
    Head,
    Connect,
    Other,
}

impl MethodKind {
    #[inline]
    pub(crate) fn new(method: &Method) -> Self {
        match *method {
            Method::HEAD => Self::Head,
            Method::CONNECT => Self::Connect,
            _ => Self::Other,
        }
    }

    /// Returns true if HTTP sends no body in such a response, whatever the body contains.
    #[inline]
    pub(crate) fn has_no_body(self, status: StatusCode) -> bool {
        self == Self::Head
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
    }

    /// Returns true if the connection uses another protocol after the head of such a response.
    #[inline]
    pub(crate) fn switches_protocol(self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || (self == Self::Connect && status.is_success())
    }
}
