//! What the method of a request says about the body of its response.

use http::{Method, StatusCode};

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
