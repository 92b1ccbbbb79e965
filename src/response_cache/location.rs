//! Resolves the targets that `Location` and `Content-Location` name (RFC 9111, section 4.4; RFC
//! 3986, section 5).

use http::header::{self, HeaderMap};
use http::uri::{Authority, PathAndQuery};
use http::{Request, Uri};
use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

/// Bytes that are not allowed in a URI, and that clients percent-encode in a request's target.
const UNSAFE: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'`');

/// Returns the target that a reference names, in the form of the request's own target. Returns
/// `None` if its origin is unknown or differs from that of the request, or if it is not a valid
/// URI.
pub(super) fn target(request: &Request<()>, reference: &[u8]) -> Option<Uri> {
    let text = percent_encode(reference.trim_ascii(), UNSAFE).to_string();
    let reference = UriReference::parse(&text);
    let base = request.uri();
    if !is_same_origin(base, request.headers(), &reference)? {
        return None;
    }
    let path_and_query = resolve(base, &reference);
    let mut parts = base.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(path_and_query).ok()?);
    Uri::from_parts(parts).ok()
}

/// The parts of a URI reference, without its fragment.
#[derive(Debug, PartialEq, Eq)]
struct UriReference<'a> {
    scheme: Option<&'a str>,
    authority: Option<&'a str>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> UriReference<'a> {
    /// Splits a reference into its parts as in RFC 3986, appendix B. Every text is a reference.
    fn parse(text: &'a str) -> Self {
        let text = text.split('#').next().unwrap_or_default();
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (Some(scheme), rest),
            _ => (None, text),
        };
        let (authority, rest) = match rest.strip_prefix("//") {
            Some(rest) => {
                let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
                (Some(authority), rest)
            }
            None => (None, rest),
        };
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        Self {
            scheme,
            authority,
            path,
            query,
        }
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Returns true if the reference has the origin of the request. The scheme of a request in origin
/// form is unknown and counts as equal. Returns `None` if either origin is unknown.
fn is_same_origin(base: &Uri, headers: &HeaderMap, reference: &UriReference<'_>) -> Option<bool> {
    let Some(authority) = reference.authority else {
        // A reference such as `http:path` has a scheme without an authority: its origin is unknown.
        return reference.scheme.is_none().then_some(true);
    };
    let own = base.scheme_str();
    let scheme = reference.scheme.or(own);
    if let (Some(scheme), Some(own)) = (scheme, own)
        && !scheme.eq_ignore_ascii_case(own)
    {
        return Some(false);
    }
    let default = match scheme {
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => Some(80),
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => Some(443),
        Some(_) => return Some(false),
        None => None,
    };
    let host;
    let own = match base.authority() {
        Some(authority) => authority,
        None => {
            let header = headers.get(header::HOST)?;
            host = Authority::try_from(header.as_bytes()).ok()?;
            &host
        }
    };
    let other = Authority::try_from(authority).ok()?;
    let port = |authority: &Authority| authority.port_u16().or(default);
    Some(own.host().eq_ignore_ascii_case(other.host()) && port(own) == port(&other))
}

/// Resolves a reference to a path and query (RFC 3986, section 5.2.2).
fn resolve(base: &Uri, reference: &UriReference<'_>) -> String {
    let path = reference.path;
    let mut query = reference.query;
    let mut target = if reference.authority.is_some() || path.starts_with('/') {
        remove_dot_segments(path)
    } else if path.is_empty() {
        query = query.or(base.query());
        base.path().to_owned()
    } else {
        let folder = base.path().rfind('/').map_or(0, |slash| slash + 1);
        remove_dot_segments(&[&base.path()[..folder], path].concat())
    };
    if !target.starts_with('/') {
        target.insert(0, '/');
    }
    if let Some(query) = query {
        target.push('?');
        target.push_str(query);
    }
    target
}

/// Removes the dot segments of a path that is empty or starts with a slash (RFC 3986, section
/// 5.2.4).
fn remove_dot_segments(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if last {
                    kept.push("");
                }
            }
            plain => kept.push(plain),
        }
    }
    let mut clean = String::with_capacity(path.len());
    for segment in kept {
        clean.push('/');
        clean.push_str(segment);
    }
    clean
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(uri: &str, host: Option<&str>) -> Request<()> {
        let mut request = Request::post(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        request.body(()).expect("a request")
    }

    fn target_of(uri: &str, host: Option<&str>, reference: &str) -> Option<String> {
        target(&request(uri, host), reference.as_bytes()).map(|uri| uri.to_string())
    }

    /// RFC 3986, section 5.4.
    #[test]
    fn references_are_resolved_as_in_rfc_3986() {
        for (reference, expected) in [
            ("g", "/b/c/g"),
            ("./g", "/b/c/g"),
            ("g/", "/b/c/g/"),
            ("/g", "/g"),
            ("?y", "/b/c/d;p?y"),
            ("g?y", "/b/c/g?y"),
            ("#s", "/b/c/d;p?q"),
            ("g#s", "/b/c/g"),
            ("g?y#s", "/b/c/g?y"),
            (";x", "/b/c/;x"),
            ("g;x?y#s", "/b/c/g;x?y"),
            ("", "/b/c/d;p?q"),
            (".", "/b/c/"),
            ("./", "/b/c/"),
            ("..", "/b/"),
            ("../", "/b/"),
            ("../g", "/b/g"),
            ("../..", "/"),
            ("../../", "/"),
            ("../../g", "/g"),
            ("../../../g", "/g"),
            ("/./g", "/g"),
            ("/../g", "/g"),
            ("g.", "/b/c/g."),
            ("..g", "/b/c/..g"),
            ("./../g", "/b/g"),
            ("./g/.", "/b/c/g/"),
            ("g/./h", "/b/c/g/h"),
            ("g/../h", "/b/c/h"),
            ("g;x=1/./y", "/b/c/g;x=1/y"),
            ("g?y/./x", "/b/c/g?y/./x"),
            (" /with blanks ", "/with%20blanks"),
            ("/z\u{fc}rich", "/z%C3%BCrich"),
        ] {
            let found = target_of("/b/c/d;p?q", None, reference);
            assert_eq!(found.as_deref(), Some(expected), "{reference}");
        }
    }

    #[test]
    fn only_targets_of_the_same_origin_are_returned() {
        let origin_form = ("/x", Some("Shop.example"));
        let with_port = ("/x", Some("shop.example:8080"));
        let absolute = ("https://shop.example/x", None);
        let unknown = ("/x", None);
        for ((uri, host), reference, expected) in [
            (origin_form, "//shop.example/y", Some("/y")),
            (origin_form, "http://shop.example/y?z=1", Some("/y?z=1")),
            (origin_form, "https://shop.EXAMPLE:443", Some("/")),
            (origin_form, "https://shop.example:80/y", None),
            (origin_form, "http://other.example/y", None),
            (origin_form, "http://shop.example.evil/y", None),
            (origin_form, "ftp://shop.example/y", None),
            (origin_form, "http:y", None),
            (origin_form, "mailto:a@shop.example", None),
            (origin_form, "http://ann@shop.example/y", Some("/y")),
            (origin_form, "http://shop.example@other.example/y", None),
            (origin_form, "http://[::1/y", None),
            (with_port, "http://shop.example:8080/y", Some("/y")),
            (with_port, "http://shop.example/y", None),
            (with_port, "/y", Some("/y")),
            (
                absolute,
                "https://shop.example/y",
                Some("https://shop.example/y"),
            ),
            (absolute, "http://shop.example/y", None),
            (
                absolute,
                "//shop.example:443/y",
                Some("https://shop.example/y"),
            ),
            (absolute, "y", Some("https://shop.example/y")),
            (unknown, "http://shop.example/y", None),
            (unknown, "/y", Some("/y")),
        ] {
            let found = target_of(uri, host, reference);
            assert_eq!(found.as_deref(), expected, "{host:?} {uri} {reference}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_references_do_not_panic(reference in proptest::collection::vec(any::<u8>(), 0..48)) {
            let request = request("/b/c/d;p?q", Some("shop.example"));
            if let Some(uri) = target(&request, &reference) {
                prop_assert!(uri.path().starts_with('/'));
            }
        }

        #[test]
        fn dot_segments_are_removed(path in "(/[.a]{0,3}){0,6}") {
            let clean = remove_dot_segments(&path);
            prop_assert!(!clean.split('/').any(|segment| matches!(segment, "." | "..")), "{clean}");
        }
    }
}
