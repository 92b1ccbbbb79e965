//! Asking with the attributes of an HTTP request: Aperture's `CheckHTTP`.

#[cfg(any(feature = "embedded", feature = "remote"))]
pub(crate) mod fit;

use std::borrow::Cow;
use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

#[cfg(any(feature = "embedded", feature = "remote"))]
use super::baggage;

/// What is known of an HTTP request, for those who make labels of it themselves: the message
/// `CheckHTTPRequest.HttpRequest` of an Agent and both ends of the connection.
///
/// Texts that are not known are empty.
///
/// A check has to fit into a gRPC message of 4 MiB, which is what Agents accept. Where the texts
/// together take more than 4 MiB less 64 KiB, the client shortens the largest first: it
/// cuts the body and sets [`PARTIAL_BODY`](Self::PARTIAL_BODY) to `true`, and
/// [shortens](crate::Labels#long-values) the other texts. A layer bounds each text before that, see
/// [`ApertureLayer::http`](crate::ApertureLayer::http).
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
    /// The verb.
    pub method: &'a str,
    /// Path and query as sent, not decoded.
    pub path: &'a str,
    /// `:authority` or `host`.
    pub host: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// `HTTP/1.1`, `HTTP/2`.
    pub protocol: &'a str,
    /// Bytes of the body, -1 when nobody knows.
    pub size: i64,
    /// Headers, each name once and in lower case. `baggage` is left out: it is made of the flow's
    /// labels.
    pub headers: Vec<(&'a str, Cow<'a, str>)>,
    /// The body or its beginning.
    pub body: &'a str,
    /// Who sent the request; port 0 when only the address is known.
    pub source: Option<SocketAddr>,
    /// Who receives it.
    pub destination: Option<SocketAddr>,
}

impl<'a> HttpAttributes<'a> {
    /// The header that tells policies that the body is only a beginning (`true`), or that it is
    /// whole (`false`). Envoy's `ext_authz` sets the same one.
    pub const PARTIAL_BODY: &'static str = "x-envoy-auth-partial-body";

    /// A request of which nothing else is known yet.
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

    /// Adds a header, whose name has to be in lower case.
    #[must_use]
    pub fn header(mut self, name: &'a str, value: impl Into<Cow<'a, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The headers but for `baggage`.
    #[cfg(any(feature = "embedded", feature = "remote"))]
    pub(crate) fn plain_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.headers.iter();
        headers
            .filter(|(name, _)| *name != baggage::BAGGAGE.as_str())
            .map(|(name, value)| (*name, &**value))
    }
}

/// Path, headers, body and addresses may identify people.
impl fmt::Debug for HttpAttributes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpAttributes")
            .field("method", &self.method)
            .field("host", &self.host)
            .field("protocol", &self.protocol)
            .finish_non_exhaustive()
    }
}

/// What the answer to [`HttpAttributes`] says beside yes and no: the headers to set on a request
/// that may run, or the headers and the body of the response to one that may not.
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
    /// A name that comes again, in any case, adds a value: two `set-cookie` stay two. Of fields
    /// that have one value (RFC 9110), such as `content-type`, `location` and `authorization`, the
    /// last is kept. What is not a header is left out, and so are the fields that frame a message
    /// or route it: `connection`, `content-length`, `host`, `transfer-encoding`, `te`, `trailer`,
    /// `upgrade`.
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
        /// Two of these contradict each other.
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
            // Full at 32768 values; what does not fit is left out.
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

    /// The headers.
    #[must_use]
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The body, empty for a request that may run.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// `None` when it says nothing.
    #[cfg(any(feature = "embedded", feature = "remote"))]
    pub(crate) fn boxed(self) -> Option<Box<Self>> {
        (!self.headers.is_empty() || !self.body.is_empty()).then(|| Box::new(self))
    }

    /// Sets the headers on a request, in place of those of the same names.
    pub(crate) fn set_on(self, headers: &mut HeaderMap) {
        // A full map loses the headers that do not fit.
        let mut current = None;
        for (name, value) in self.headers {
            // A name comes with the first of its values only.
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

/// Values may identify people.
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
    fn framing_is_nobodys_to_set() {
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
