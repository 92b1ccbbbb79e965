//! The attributes of an HTTP request for a check by Aperture's `CheckHTTP`, and the extras in its
//! response.

pub mod fit;

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::baggage;

/// The attributes of an HTTP request, from which the Agent or the engine makes labels: the message
/// `CheckHTTPRequest.HttpRequest` of an Agent and the addresses of both ends of the connection.
///
/// Unknown texts are empty.
///
/// A check has to fit into a gRPC message of 4 MiB, the most that Agents accept. If the texts
/// together take more than 4 MiB less 64 KiB, the client shortens the largest first: it cuts the
/// body and sets [`PARTIAL_BODY`](Self::PARTIAL_BODY) to `true`, and
/// [shortens](crate::Labels#long-values) the other texts. A layer bounds each text before that, see
/// `ApertureLayer::http`.
///
/// ```
/// use tower_aperture::HttpAttributes;
///
/// let request = HttpAttributes::new("GET", "/cart?id=1")
///     .host("shop.example")
///     .header("x-kind", "mobile");
/// assert_eq!(request.size, -1);
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct HttpAttributes<'a> {
    /// The request method.
    pub method: &'a str,
    /// The path and the query as sent, not decoded.
    pub path: &'a str,
    /// The value of `:authority` or `host`.
    pub host: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
    /// The length of the body in bytes; -1 if unknown.
    pub size: i64,
    /// The headers, each name once and in lower case. `baggage` is not sent from here: the client
    /// makes it of the flow's labels.
    pub headers: Vec<(&'a str, Cow<'a, str>)>,
    /// The body, or its beginning.
    pub body: &'a str,
    /// The address of the sender; port 0 if only the IP address is known.
    pub source: Option<SocketAddr>,
    /// The address of the receiver.
    pub destination: Option<SocketAddr>,
}

impl<'a> HttpAttributes<'a> {
    /// The header that marks the body as incomplete (`true`) or complete (`false`) for policies.
    /// Envoy's `ext_authz` sets the same header.
    pub const PARTIAL_BODY: &'static str = "x-envoy-auth-partial-body";

    /// Returns attributes with a method and a path only.
    #[must_use]
    pub const fn new(method: &'a str, path: &'a str) -> Self {
        Self {
            method,
            path,
            host: "",
            scheme: "",
            protocol: "",
            size: -1,
            headers: Vec::new(),
            body: "",
            source: None,
            destination: None,
        }
    }

    /// Sets the host.
    #[must_use]
    pub const fn host(mut self, host: &'a str) -> Self {
        self.host = host;
        self
    }

    /// Adds a header. The name must be in lower case.
    #[must_use]
    pub fn header(mut self, name: &'a str, value: impl Into<Cow<'a, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Returns the headers except `baggage`.
    #[doc(hidden)]
    pub fn plain_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.headers.iter();
        headers
            .filter(|(name, _)| *name != baggage::BAGGAGE.as_str())
            .map(|(name, value)| (*name, &**value))
    }
}

/// Leaves out path, headers, body and addresses, because they may identify people.
impl fmt::Debug for HttpAttributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpAttributes")
            .field("method", &self.method)
            .field("host", &self.host)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// The extras that a check with [`HttpAttributes`] returns with its decision: the headers to set on
/// an accepted request, or the headers and the body of the response to a rejected one.
///
/// ```
/// use tower_aperture::HttpExtras;
///
/// let extras = HttpExtras::new([("set-cookie", "a=1"), ("Set-Cookie", "b=2")], "not today");
/// let cookies: Vec<_> = extras.headers().get_all("set-cookie").iter().collect();
/// assert_eq!(cookies, ["a=1", "b=2"]);
/// assert_eq!(extras.body(), "not today");
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HttpExtras {
    headers: HeaderMap,
    body: Bytes,
}

impl HttpExtras {
    /// Returns extras with these headers and this body.
    ///
    /// A repeated name, in any case, adds a value: two `set-cookie` stay two. Fields with a single
    /// value (RFC 9110), such as `content-type`, `location` and `authorization`, keep the last one.
    /// Invalid names and values are left out, and so are the fields that frame or route a message:
    /// `connection`, `content-length`, `host`, `transfer-encoding`, `te`, `trailer`, `upgrade`.
    #[must_use]
    pub fn new<N, V>(headers: impl IntoIterator<Item = (N, V)>, body: impl Into<Bytes>) -> Self
    where
        N: AsRef<str>,
        V: AsRef<str>,
    {
        const FRAMING: [HeaderName; 7] = [
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::HOST,
            header::TRANSFER_ENCODING,
            header::TE,
            header::TRAILER,
            header::UPGRADE,
        ];
        /// Fields of which a message may have only one value.
        const SINGLE: [HeaderName; 16] = [
            header::AGE,
            header::AUTHORIZATION,
            header::CONTENT_LOCATION,
            header::CONTENT_RANGE,
            header::CONTENT_TYPE,
            header::DATE,
            header::ETAG,
            header::EXPIRES,
            header::FROM,
            header::LAST_MODIFIED,
            header::LOCATION,
            header::MAX_FORWARDS,
            header::PROXY_AUTHORIZATION,
            header::REFERER,
            header::RETRY_AFTER,
            header::USER_AGENT,
        ];
        let mut all = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_ref().as_bytes());
            let value = HeaderValue::from_bytes(value.as_ref().as_bytes());
            let (Ok(name), Ok(value)) = (name, value) else {
                continue;
            };
            if FRAMING.contains(&name) {
                continue;
            }
            // A map holds at most 32768 values; further ones are left out.
            let _ = if SINGLE.contains(&name) {
                all.try_insert(name, value).map(|_| false)
            } else {
                all.try_append(name, value)
            };
        }
        Self {
            headers: all,
            body: body.into(),
        }
    }

    /// Returns the headers.
    #[must_use]
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the body, which is empty for an accepted request.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// Boxes the extras; `None` if there are neither headers nor a body.
    #[doc(hidden)]
    pub fn boxed_unless_empty(self) -> Option<Box<Self>> {
        (!self.headers.is_empty() || !self.body.is_empty()).then(|| Box::new(self))
    }

    /// Sets the headers on a request and replaces those of the same names.
    #[doc(hidden)]
    pub fn set_on(self, headers: &mut HeaderMap) {
        // Headers that do not fit into a full map are left out.
        let mut current = None;
        for (name, value) in self.headers {
            // The iterator yields a name only with the first of its values.
            match name {
                Some(name) => {
                    let _ = headers.try_insert(name.clone(), value);
                    current = Some(name);
                }
                None => {
                    if let Some(name) = &current {
                        let _ = headers.try_append(name.clone(), value);
                    }
                }
            }
        }
    }
}

/// Leaves out values, because they may identify people.
impl fmt::Debug for HttpExtras {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpExtras")
            .field("headers", &self.headers.keys().collect::<Vec<_>>())
            .field("body", &self.body.len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn framing_headers_and_invalid_headers_are_left_out() {
        let extras = HttpExtras::new(
            [
                ("Content-Length", "5"),
                ("X-Kind", "a"),
                ("no name", "b"),
                ("x-bad", "a\r\nb"),
            ],
            "",
        );
        assert_eq!(extras.headers().len(), 1);
        assert_eq!(extras.headers()["x-kind"], "a");
    }

    #[test]
    fn debug_shows_no_values() {
        let request = HttpAttributes::new("GET", "/secret").header("x-user", "secret");
        let extras = HttpExtras::new([("baggage", "user=secret")], "secret");
        let shown = format!("{request:?} {extras:?}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}
