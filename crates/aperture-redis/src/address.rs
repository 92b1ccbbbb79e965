//! Where a server listens, and how a connection to it begins. Addresses hold no credentials.

use std::fmt;
use std::path::PathBuf;

use redis::{ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo};

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Address {
    /// Returns the address of a node of a cluster that another node names as `host:port`. The host
    /// is empty if it is that of the other node.
    pub(crate) fn of_node(named: &str, by: &Self) -> Option<Self> {
        let (host, port) = named.rsplit_once(':')?;
        Some(Self::of_host(host, port.parse().ok()?, by))
    }

    /// Like [`of_node`](Self::of_node), with the port apart.
    pub(crate) fn of_host(host: &str, port: u16, by: &Self) -> Self {
        let host = match (host, by) {
            ("" | "?", Self::Tcp { host, .. }) => host.clone(),
            _ => host.to_owned(),
        };
        Self::Tcp { host, port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The parts of a URL.
pub(crate) struct ParsedUrl {
    pub(crate) address: Address,
    pub(crate) tls: bool,
    /// The user, the password and the database.
    pub(crate) login: RedisConnectionInfo,
}

/// Reads a URL. The error never contains parts of it, which may be secret.
pub(crate) fn parse_url(url: &str) -> Result<ParsedUrl, String> {
    const FORM: &str = "expected redis://[user:password@]host[:port][/database], \
                        or the scheme rediss, valkey, valkeys or unix";
    if url.contains('#') {
        return Err("fragments are not supported; certificates are always verified".to_owned());
    }
    // The client is built without TLS: this crate makes the connections.
    let (plain, tls) = match url.split_once("://") {
        Some(("rediss" | "valkeys", rest)) => (format!("redis://{rest}"), true),
        _ => (url.to_owned(), false),
    };
    // The client's error may repeat a part of the URL.
    let info = plain.into_connection_info().map_err(|_| FORM.to_owned())?;
    let address = match info.addr() {
        ConnectionAddr::Tcp(host, port) => Address::Tcp {
            host: host.clone(),
            port: *port,
        },
        ConnectionAddr::Unix(path) => Address::Unix(path.clone()),
        _ => return Err(FORM.to_owned()),
    };
    let login = info.redis_settings().clone();
    // Freed slots are pushed, which needs version 3.
    let login = login
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("aperture-redis", env!("CARGO_PKG_VERSION"));
    Ok(ParsedUrl {
        address,
        tls,
        login,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_the_address_the_login_and_tls() {
        let parsed = parse_url("rediss://ann:s3cret@[::1]:7000/2").expect("it is valid");
        assert_eq!(parsed.address.to_string(), "[::1]:7000");
        assert!(parsed.tls);
        assert_eq!(parsed.login.username(), Some("ann"));
        assert_eq!(parsed.login.password(), Some("s3cret"));
        assert_eq!(parsed.login.db(), 2);
        let parsed = parse_url("valkey://cache").expect("it is valid");
        assert_eq!(parsed.address.to_string(), "cache:6379");
        assert!(!parsed.tls);
    }

    #[test]
    fn errors_of_urls_do_not_repeat_them() {
        for url in [
            "",
            "cache:6379",
            "http://ann:s3cret@cache",
            "redis://ann:s3cret@cache/s3cret",
            "redis://:s3cret@cache:s3cret",
            "redis://ann:s3cret@cache?protocol=s3cret",
            "rediss://ann:s3cret@cache/#insecure",
        ] {
            let error = parse_url(url).err().expect("it is wrong");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn nodes_without_a_host_are_at_the_host_that_named_them() {
        let by = Address::of_host("10.0.0.1", 7000, &Address::Unix(PathBuf::new()));
        let node = |text| Address::of_node(text, &by).map(|address| address.to_string());
        assert_eq!(node(":7001").as_deref(), Some("10.0.0.1:7001"));
        assert_eq!(node("10.0.0.2:7002").as_deref(), Some("10.0.0.2:7002"));
        assert_eq!(node("::1:7002").as_deref(), Some("[::1]:7002"));
        assert_eq!(node("10.0.0.2"), None);
    }
}
