//! The error of client services behind the layer.

use std::error::Error;
use std::fmt;

use crate::flow::Rejection;

/// The error of an [`ApertureClientService`](crate::layer::ApertureClientService): the call was
/// rejected before it was sent, or the inner service failed.
///
/// The [`source`](Error::source) is the [`Rejection`] or the inner service's error, so both can be
/// found in a boxed error too.
///
/// ```
/// use std::time::Duration;
/// use tower_aperture::layer::ClientError;
/// use tower_aperture::{Denial, RejectReason, Rejection};
///
/// let denial = Denial::new(RejectReason::RateLimited).wait(Duration::from_secs(2));
/// let error: ClientError<std::io::Error> = Rejection::new("geocoder", denial).into();
/// assert!(error.is_rejected());
/// assert_eq!(error.rejection().and_then(Rejection::retry_after), Some(Duration::from_secs(2)));
///
/// let error: Box<dyn std::error::Error> = error.into();
/// assert!(error.source().is_some_and(|source| source.is::<Rejection>()));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientError<E> {
    /// The call was rejected and not sent.
    Rejected(Rejection),
    /// The inner service failed.
    Inner(E),
}

impl<E> ClientError<E> {
    /// Returns true if the call was rejected before it was sent, so that a later retry is safe.
    #[must_use]
    pub const fn is_rejected(&self) -> bool {
        matches!(self, Self::Rejected(_))
    }

    /// Returns the rejection, if the call was rejected.
    #[must_use]
    pub const fn rejection(&self) -> Option<&Rejection> {
        match self {
            Self::Rejected(rejection) => Some(rejection),
            Self::Inner(_) => None,
        }
    }

    /// Returns the error of the inner service, if the inner service failed.
    #[must_use]
    pub fn into_inner(self) -> Option<E> {
        match self {
            Self::Rejected(_) => None,
            Self::Inner(error) => Some(error),
        }
    }

    /// Converts the error of the inner service with `map`.
    #[must_use]
    pub fn map_inner<F>(self, map: impl FnOnce(E) -> F) -> ClientError<F> {
        match self {
            Self::Rejected(rejection) => ClientError::Rejected(rejection),
            Self::Inner(error) => ClientError::Inner(map(error)),
        }
    }
}

impl<E> From<Rejection> for ClientError<E> {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl<E> fmt::Display for ClientError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rejected(_) => "the call was not sent",
            Self::Inner(_) => "the call failed",
        })
    }
}

impl<E: Error + 'static> Error for ClientError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(match self {
            Self::Rejected(rejection) => rejection,
            Self::Inner(error) => error,
        })
    }
}
