//! What proxies say about who is in front of them.

use std::net::{IpAddr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The header to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// Addresses from the right, `None` for what is no address.
pub(super) struct Hops<'a> {
    values: std::iter::Rev<http::header::ValueIter<'a, HeaderValue>>,
    /// What is left of the value at hand.
    rest: Option<&'a str>,
    list: List,
}

impl<'a> Hops<'a> {
    pub(super) fn new(headers: &'a HeaderMap, list: List) -> Self {
        let name = match list {
            List::XForwardedFor => &X_FORWARDED_FOR,
            List::Forwarded => &FORWARDED,
        };
        Self {
            values: headers.get_all(name).into_iter().rev(),
            rest: None,
            list,
        }
    }
}

impl Iterator for Hops<'_> {
    type Item = Option<SocketAddr>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = match self.rest.take() {
            Some(rest) => rest,
            None => match self.values.next()?.to_str() {
                Ok(value) => value,
                Err(_) => return Some(None),
            },
        };
        // By commas whatever stands in quotes: no address has one, and a quote that a client never
        // closes must not swallow what its proxy appended.
        let hop = match rest.rsplit_once(',') {
            None => rest,
            Some((rest, hop)) => {
                self.rest = Some(rest);
                hop
            }
        };
        Some(match self.list {
            List::XForwardedFor => address(hop.trim()),
            List::Forwarded => node(hop),
        })
    }
}

/// The `for` of an element of `forwarded`.
fn node(element: &str) -> Option<SocketAddr> {
    let mut pairs = element.split(';').filter_map(|pair| pair.split_once('='));
    let (_, node) = pairs.find(|(name, _)| name.trim().eq_ignore_ascii_case("for"))?;
    let node = node.trim();
    let quoted = node
        .strip_prefix('"')
        .and_then(|node| node.strip_suffix('"'));
    address(quoted.unwrap_or(node))
}

/// An address with or without brackets and port; port 0 without.
fn address(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, 0));
    }
    if let Ok(socket) = text.parse() {
        return Some(socket);
    }
    let bare = text.strip_prefix('[')?.strip_suffix(']')?;
    Some(SocketAddr::new(IpAddr::V6(bare.parse().ok()?), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(list: List, values: &[&str]) -> Vec<Option<String>> {
        let name = match list {
            List::XForwardedFor => X_FORWARDED_FOR.clone(),
            List::Forwarded => FORWARDED,
        };
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).expect("a legal value");
            headers.append(name.clone(), value);
        }
        let hops = Hops::new(&headers, list);
        hops.map(|hop| hop.map(|hop| hop.to_string())).collect()
    }

    fn expect(list: List, values: &[&str], expected: &[Option<&str>]) {
        let expected: Vec<_> = expected.iter().map(|hop| hop.map(str::to_owned)).collect();
        assert_eq!(hops(list, values), expected, "{values:?}");
    }

    #[test]
    fn addresses_come_from_the_right_over_all_values() {
        let list = List::XForwardedFor;
        expect(
            list,
            &[
                "192.0.2.1, 192.0.2.2:80",
                "2001:db8::1,[2001:db8::2],[2001:db8::3]:90",
            ],
            &[
                Some("[2001:db8::3]:90"),
                Some("[2001:db8::2]:0"),
                Some("[2001:db8::1]:0"),
                Some("192.0.2.2:80"),
                Some("192.0.2.1:0"),
            ],
        );
        expect(
            list,
            &["unknown, , 192.0.2.1"],
            &[Some("192.0.2.1:0"), None, None],
        );
        expect(list, &["\u{fc}"], &[None]);
        expect(list, &[], &[]);
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_has_it() {
        let list = List::Forwarded;
        expect(
            list,
            &[r#"for=192.0.2.43;proto=https;by=203.0.113.4, For="[2001:db8:cafe::17]:4711""#],
            &[Some("[2001:db8:cafe::17]:4711"), Some("192.0.2.43:0")],
        );
        expect(
            list,
            &[r#"for=_hidden, proto=http;FOR="192.0.2.1:80""#],
            &[Some("192.0.2.1:80"), None],
        );
        expect(list, &["proto=https", "for=unknown"], &[None, None]);
    }

    #[test]
    fn a_quote_left_open_swallows_nothing() {
        let values = [r#"for="evil, for=192.0.2.9"#];
        expect(List::Forwarded, &values, &[Some("192.0.2.9:0"), None]);
    }
}
