//! The errors of building a client.

use std::fmt;

use crate::flow::Cause;

/// The most connections to one Agent; more would not help.
pub(super) const MAX_CONNECTIONS: usize = 64;

/// The most Agents of a client: each is one bit in the set of Agents that a check has tried.
pub(super) const MAX_AGENTS: usize = 64;

/// Why a client could not be built. The text names the value, unless it is secret. For a certificate
/// or a key, the [`source`](std::error::Error::source) has the reason.
///
/// ```
/// use tower_aperture::ApertureClient;
///
/// let error = ApertureClient::builder().address("agent").insecure(true).build().unwrap_err();
/// assert_eq!(error.to_string(), "bad agent address `agent`: the port is missing");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct BuildError(pub(super) BuildProblem);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BuildProblem {
    NoAddress,
    Address(String, &'static str),
    UserInfo,
    ApiKey,
    Variable(&'static str, String),
    Connections(usize),
    Agents(usize),
    Zero(&'static str),
    TlsUnused,
    Tls(&'static str, Cause),
    NoTls(String),
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            BuildProblem::NoAddress => f.write_str("the agent address is missing"),
            BuildProblem::Address(address, why) => write!(f, "bad agent address `{address}`: {why}"),
            BuildProblem::UserInfo => f.write_str(
                "bad agent address: it has user information; use `api_key` to authenticate",
            ),
            BuildProblem::ApiKey => f.write_str(
                "bad API key: only visible ASCII characters and blanks can be sent (not shown here)",
            ),
            BuildProblem::Variable(name, why) => write!(f, "environment variable {name} {why}"),
            BuildProblem::Connections(n) => {
                write!(f, "bad number of connections {n}: expected 1 to {MAX_CONNECTIONS}")
            }
            BuildProblem::Agents(n) => {
                write!(f, "bad number of agent addresses {n}: expected 1 to {MAX_AGENTS}")
            }
            BuildProblem::Zero(setting) => write!(f, "bad {setting}: it must be more than zero"),
            BuildProblem::TlsUnused => f.write_str(
                "CA certificate, client identity and server name cannot be used without TLS",
            ),
            BuildProblem::Tls(setting, _) => write!(f, "bad {setting}: it cannot be used for TLS"),
            BuildProblem::NoTls(address) => write!(
                f,
                "agent address `{address}` uses TLS, which needs the feature `tls`; enable it, or \
                 choose plaintext with `insecure(true)`"
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
            BuildProblem::Tls(_, cause) => cause.get(),
            _ => None,
        }
    }
}
