//! Parses the addresses of Agents.

use http::Uri;
use http::uri::{Authority, Scheme};

use super::error::{BuildError, BuildProblem, MAX_AGENTS};

/// Returns the URIs to connect to, and whether they use TLS.
pub(super) fn parse_all(
    addresses: &[String],
    insecure: Option<bool>,
) -> Result<(Vec<Uri>, bool), BuildError> {
    let (first, others) = addresses
        .split_first()
        .ok_or(BuildError(BuildProblem::NoAddress))?;
    if addresses.len() > MAX_AGENTS {
        return Err(BuildError(BuildProblem::Agents(addresses.len())));
    }
    let (uri, secure) = parse(first.trim(), insecure)?;
    let mut uris = vec![uri];
    for address in others {
        let address = address.trim();
        let bad = |why| BuildError(BuildProblem::Address(address.to_owned(), why));
        let (uri, other) = parse(address, insecure)?;
        if other != secure {
            return Err(bad("all addresses must be secure, or none"));
        }
        if uris.contains(&uri) {
            return Err(bad("the address is repeated"));
        }
        uris.push(uri);
    }
    Ok((uris, secure))
}

/// Returns the URI to connect to, and whether it uses TLS.
pub(super) fn parse(address: &str, insecure: Option<bool>) -> Result<(Uri, bool), BuildError> {
    let bad = |why| BuildError(BuildProblem::Address(address.to_owned(), why));
    if address.is_empty() {
        return Err(BuildError(BuildProblem::NoAddress));
    }
    if address.contains('@') {
        // The text before `@` may be a password, so the error must not show it.
        return Err(BuildError(BuildProblem::UserInfo));
    }
    if address.contains(',') {
        return Err(bad("expected one address; `addresses` takes several"));
    }
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(false), rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(true), rest),
        Some(_) => return Err(bad("expected no scheme, http:// or https://")),
        None => (None, address),
    };
    let secure = match (scheme, insecure) {
        (Some(true), Some(true)) => return Err(bad("https:// contradicts insecure(true)")),
        (Some(false), Some(false)) => return Err(bad("http:// contradicts insecure(false)")),
        (Some(secure), _) => secure,
        (None, insecure) => !insecure.unwrap_or(false),
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let authority: Authority = rest
        .parse()
        .map_err(|_| bad("expected `host:port`, an IPv6 host in brackets"))?;
    if authority.host().is_empty() {
        return Err(bad("the host is missing"));
    }
    let after_host = rest.get(authority.host().len()..).unwrap_or("");
    let authority = match (authority.port_u16(), after_host) {
        (Some(0), _) => return Err(bad("the port must be between 1 and 65535")),
        (Some(_), _) => authority,
        (None, "") if scheme.is_some() => {
            let port = if secure { 443 } else { 80 };
            format!("{authority}:{port}")
                .parse()
                .map_err(|_| bad("the host is not valid"))?
        }
        (None, "") => return Err(bad("the port is missing")),
        (None, _) => return Err(bad("the port must be between 1 and 65535")),
    };
    let uri = Uri::builder()
        .scheme(if secure { Scheme::HTTPS } else { Scheme::HTTP })
        .authority(authority)
        .path_and_query("/")
        .build()
        .map_err(|_| bad("the host is not valid"))?;
    Ok((uri, secure))
}
