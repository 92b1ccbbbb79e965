//! Why a client cannot be built.

use std::fmt;

#[cfg(feature = "tls")]
use crate::flow::Cause;

/// More connections than this to one Agent help nobody.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// One bit each in the record of those a check has tried.
pub(super) const MAX_AGENTS: usize = 64;

/// Why a client could not be built; its text names the value, unless that is secret. What is wrong
/// with a certificate or a key is the [`source`](std::error::Error::source).
///
/// ```
/// use tower_aperture::ApertureClient;
///
/// let error = ApertureClient::builder().address("agent").insecure(true).build().unwrap_err();
/// assert_eq!(error.to_string(), "bad agent address `agent`: the port is missing");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct BuildError(pub(super) Problem);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    NoAddress,
    Address(String, &'static str),
    UserInfo,
    ApiKey,
    Variable(&'static str, String),
    Connections(usize),
    Agents(usize),
    Zero(&'static str),
    TlsUnused,
    #[cfg(feature = "tls")]
    Tls(&'static str, Cause),
    #[cfg(not(feature = "tls"))]
    NoTls(String),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Problem::NoAddress => f.write_str("the agent address is missing"),
            Problem::Address(address, why) => write!(f, "bad agent address `{address}`: {why}"),
            Problem::UserInfo => f.write_str(
                "bad agent address: it holds user information; use `api_key` to authenticate",
            ),
            Problem::ApiKey => f.write_str(
                "bad API key: only visible ASCII characters and blanks can be sent (not shown here)",
            ),
            Problem::Variable(name, why) => write!(f, "environment variable {name} {why}"),
            Problem::Connections(n) => {
                write!(f, "bad number of connections {n}: expected 1 to {MAX_CONNECTIONS}")
            }
            Problem::Agents(n) => {
                write!(f, "bad number of agent addresses {n}: expected 1 to {MAX_AGENTS}")
            }
            Problem::Zero(what) => write!(f, "bad {what}: it must be more than zero"),
            Problem::TlsUnused => f.write_str(
                "CA certificate, client identity and server name make no sense without TLS",
            ),
            #[cfg(feature = "tls")]
            Problem::Tls(what, _) => write!(f, "bad {what}: it cannot be used for TLS"),
            #[cfg(not(feature = "tls"))]
            Problem::NoTls(address) => write!(
                f,
                "agent address `{address}` asks for TLS, which the feature `tls` would bring; \
                 plaintext has to be asked for"
            ),
        }
    }
}

impl fmt::Debug for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BuildError").field(&self.0).finish()
    }
}

impl std::error::Error for BuildError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0 {
            #[cfg(feature = "tls")]
            Problem::Tls(_, cause) => cause.get(),
            _ => None,
        }
    }
}
