//! The error of a layer that cannot be built.

use std::borrow::Cow;
use std::error::Error;
use std::fmt;

use http::header::HeaderName;

/// The reason why a layer cannot be built with the given settings.
///
/// ```
/// # let client = tower_aperture::ApertureClient::disabled();
/// use tower_aperture::ApertureLayer;
///
/// let error = ApertureLayer::new(client, "checkout")
///     .try_label_from_header("session", "Cookie")
///     .unwrap_err();
/// assert_eq!(error.to_string(), "the header `cookie` is a secret and cannot be a label");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct LayerError {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    EmptyControlPoint,
    InvalidHeader(String),
    SecretHeader(HeaderName),
    InvalidNetwork(String),
    InvalidRoute(String, Cow<'static, str>),
}

impl LayerError {
    pub(crate) const fn empty_control_point() -> Self {
        Self {
            kind: Kind::EmptyControlPoint,
        }
    }

    pub(crate) const fn invalid_header(name: String) -> Self {
        Self {
            kind: Kind::InvalidHeader(name),
        }
    }

    pub(crate) const fn secret_header(name: HeaderName) -> Self {
        Self {
            kind: Kind::SecretHeader(name),
        }
    }

    pub(crate) const fn invalid_network(text: String) -> Self {
        Self {
            kind: Kind::InvalidNetwork(text),
        }
    }

    pub(crate) fn invalid_route(route: &str, reason: Cow<'static, str>) -> Self {
        Self {
            kind: Kind::InvalidRoute(route.to_owned(), reason),
        }
    }
}

impl fmt::Display for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::EmptyControlPoint => f.write_str("the control point is empty"),
            Kind::InvalidHeader(name) => write!(f, "`{name}` is not the name of a header"),
            Kind::SecretHeader(name) => {
                write!(f, "the header `{name}` is a secret and cannot be a label")
            }
            Kind::InvalidNetwork(text) => write!(
                f,
                "`{text}` is neither a network, such as `10.0.0.0/8`, nor an address"
            ),
            Kind::InvalidRoute(route, reason) => write!(f, "the route `{route}`: {reason}"),
        }
    }
}

impl fmt::Debug for LayerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LayerError").field(&self.kind).finish()
    }
}

impl Error for LayerError {}

/// Returns the result of a fallible builder method, or panics with the error as message.
#[track_caller]
pub(crate) fn unwrap_or_panic<T>(built: Result<T, LayerError>) -> T {
    match built {
        Ok(built) => built,
        Err(error) => panic!("{error}"),
    }
}
