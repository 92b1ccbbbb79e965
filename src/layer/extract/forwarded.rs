//! Parses the hops that proxies list in `x-forwarded-for` and `forwarded`, from right to left.
//!
//! The rightmost element was written by the nearest proxy, and elements from a client are to the
//! left of those that proxies appended. Because the list is parsed from the right, byte by byte, a
//! client's text cannot change how the elements to its right are parsed: an open quote, a stray
//! byte or a line that is not UTF-8 only affects elements further left.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The number of bytes that are read of a quoted address. The longest address is `[`, 45 bytes of
/// IPv6, and `]`. A longer port or zone is cut off, because only the address is needed.
const MAX_QUOTED_BYTES: usize = 64;

/// The header in which proxies list hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProxyHeader {
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// One element of a list of hops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProxyHop {
    /// The address of the hop, with port 0 if the port is missing, obfuscated or invalid.
    Address(SocketAddr),
    /// The element has no readable address.
    Unreadable,
}

/// Iterates over the elements of all lines of a header, from the right.
///
/// Callers must stop at the first [unreadable](ProxyHop::Unreadable) element: those to its left are
/// not reliable.
pub(super) struct ProxyHops<'a> {
    lines: std::iter::Rev<http::header::ValueIter<'a, HeaderValue>>,
    /// The unread part of the current line.
    rest: Option<&'a [u8]>,
    header: ProxyHeader,
}

impl<'a> ProxyHops<'a> {
    pub(super) fn new(headers: &'a HeaderMap, header: ProxyHeader) -> Self {
        let name = match header {
            ProxyHeader::XForwardedFor => &X_FORWARDED_FOR,
            ProxyHeader::Forwarded => &FORWARDED,
        };
        Self {
            lines: headers.get_all(name).into_iter().rev(),
            rest: None,
            header,
        }
    }

    /// Reads all remaining elements, and returns true if they are all empty.
    fn rest_is_blank(&mut self) -> bool {
        let blank = |line: &[u8]| line.iter().all(|byte| matches!(byte, b',' | b' ' | b'\t'));
        self.rest.take().is_none_or(blank) && self.lines.all(|line| blank(line.as_bytes()))
    }
}

impl Iterator for ProxyHops<'_> {
    type Item = ProxyHop;

    fn next(&mut self) -> Option<ProxyHop> {
        let line = match self.rest.take() {
            Some(rest) => rest,
            None => self.lines.next()?.as_bytes(),
        };
        let Some((rest, element)) = split_last(line, b',') else {
            return Some(ProxyHop::Unreadable);
        };
        self.rest = rest;
        let element = element.trim_ascii();
        if element.is_empty() {
            // A proxy that appends to an empty header leaves empty elements at the left end. An
            // empty element to the right of another element stands for an unknown hop.
            return (!self.rest_is_blank()).then_some(ProxyHop::Unreadable);
        }
        let address = match self.header {
            ProxyHeader::XForwardedFor => maybe_quoted_address(element),
            ProxyHeader::Forwarded => forwarded_for(element).and_then(maybe_quoted_address),
        };
        Some(address.map_or(ProxyHop::Unreadable, ProxyHop::Address))
    }
}

/// Splits at the last separator outside of quoted strings. Returns the text before the separator,
/// if any, and the text after it. `None` if a quoted string has no opening or closing quote.
fn split_last(text: &[u8], separator: u8) -> Option<(Option<&[u8]>, &[u8])> {
    let mut at = text.len();
    while at > 0 {
        at -= 1;
        match text[at] {
            b'"' => at = opening_quote(text, at)?,
            byte if byte == separator => return Some((Some(&text[..at]), &text[at + 1..])),
            _ => {}
        }
    }
    Some((None, text))
}

/// Returns the position of the opening quote of the string whose closing quote is at `close`.
fn opening_quote(text: &[u8], close: usize) -> Option<usize> {
    let is_quote = |at: usize| text[at] == b'"' && !is_escaped(text, at);
    if !is_quote(close) {
        return None;
    }
    (0..close).rev().find(|at| is_quote(*at))
}

/// Returns true if an odd number of backslashes precedes the byte at `at`.
fn is_escaped(text: &[u8], at: usize) -> bool {
    let backslashes = text[..at].iter().rev().take_while(|byte| **byte == b'\\');
    backslashes.count() % 2 == 1
}

/// Returns the value of the `for` parameter of an element of `forwarded`. `None` if the element has
/// several: RFC 7239 allows one, and another may come from a client.
fn forwarded_for(element: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    let mut rest = Some(element);
    while let Some(text) = rest {
        let (left, pair) = split_last(text, b';')?;
        rest = left;
        let Some(equals) = pair.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let (name, value) = (pair[..equals].trim_ascii(), &pair[equals + 1..]);
        if name.eq_ignore_ascii_case(b"for") && found.replace(value.trim_ascii()).is_some() {
            return None;
        }
    }
    found
}

/// Parses an address that is plain or a quoted string.
fn maybe_quoted_address(text: &[u8]) -> Option<SocketAddr> {
    if !text.contains(&b'"') {
        return address(text);
    }
    let close = text.len() - 1;
    if opening_quote(text, close) != Some(0) {
        return None;
    }
    let mut plain = [0; MAX_QUOTED_BYTES];
    let mut length = 0;
    let mut bytes = text[1..close].iter();
    while length < plain.len()
        && let Some(byte) = bytes.next()
    {
        let byte = match byte {
            b'\\' => bytes.next()?,
            byte => byte,
        };
        plain[length] = *byte;
        length += 1;
    }
    address(&plain[..length])
}

/// Parses an address with or without brackets, zone and port. Zones are ignored, and a port that is
/// not a number up to 65535 counts as 0.
fn address(text: &[u8]) -> Option<SocketAddr> {
    if let Some(bracketed) = text.strip_prefix(b"[") {
        let close = bracketed.iter().position(|byte| *byte == b']')?;
        let port = match &bracketed[close + 1..] {
            [] => 0,
            [b':', port @ ..] => port_number(port),
            _ => return None,
        };
        return Some((ipv6(&bracketed[..close])?, port).into());
    }
    let colons = text.iter().filter(|byte| **byte == b':').take(2).count();
    let dotted = text.iter().position(|byte| *byte == b'.');
    let colon = text.iter().position(|byte| *byte == b':');
    match colon {
        // The first colon of `192.0.2.1:80` or `192.0.2.1:a:b` follows a dot; that of
        // `::ffff:192.0.2.1` does not.
        Some(colon) if dotted.is_some_and(|dot| dot < colon) => {
            let port = port_number(&text[colon + 1..]);
            Some((ipv4(&text[..colon])?, port).into())
        }
        Some(_) if colons == 2 => Some((ipv6(text)?, 0).into()),
        _ => Some((ipv4(text)?, 0).into()),
    }
}

fn ipv4(text: &[u8]) -> Option<IpAddr> {
    let ip: Ipv4Addr = str::from_utf8(text).ok()?.parse().ok()?;
    Some(ip.into())
}

fn ipv6(text: &[u8]) -> Option<IpAddr> {
    let zone = text.iter().position(|byte| *byte == b'%');
    let text = &text[..zone.unwrap_or(text.len())];
    let ip: Ipv6Addr = str::from_utf8(text).ok()?.parse().ok()?;
    Some(ip.into())
}

fn port_number(text: &[u8]) -> u16 {
    let text = str::from_utf8(text).unwrap_or("");
    text.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hops(header: ProxyHeader, values: &[&[u8]]) -> Vec<Option<String>> {
        let name = match header {
            ProxyHeader::XForwardedFor => X_FORWARDED_FOR.clone(),
            ProxyHeader::Forwarded => FORWARDED,
        };
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value).expect("a legal value");
            headers.append(name.clone(), value);
        }
        let mut found = Vec::new();
        for hop in ProxyHops::new(&headers, header) {
            match hop {
                ProxyHop::Address(address) => found.push(Some(address.to_string())),
                ProxyHop::Unreadable => {
                    found.push(None);
                    break;
                }
            }
        }
        found
    }

    #[track_caller]
    fn expect(header: ProxyHeader, values: &[&str], expected: &[Option<&str>]) {
        let expected: Vec<_> = expected.iter().map(|hop| hop.map(str::to_owned)).collect();
        let bytes: Vec<_> = values.iter().map(|value| value.as_bytes()).collect();
        assert_eq!(hops(header, &bytes), expected, "{values:?}");
    }

    #[test]
    fn addresses_are_read_from_the_right_over_all_lines() {
        let header = ProxyHeader::XForwardedFor;
        expect(
            header,
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
            header,
            &["unknown, 192.0.2.1"],
            &[Some("192.0.2.1:0"), None],
        );
        expect(header, &["\u{fc}"], &[None]);
        expect(header, &[], &[]);
    }

    #[test]
    fn empty_elements_are_ignored_at_the_left_end_and_unreadable_elsewhere() {
        let header = ProxyHeader::XForwardedFor;
        expect(header, &[", 192.0.2.1"], &[Some("192.0.2.1:0")]);
        expect(header, &["", " , ", "\t,192.0.2.1"], &[Some("192.0.2.1:0")]);
        expect(header, &[""], &[]);
        expect(
            header,
            &["192.0.2.9, , 192.0.2.1"],
            &[Some("192.0.2.1:0"), None],
        );
        expect(
            header,
            &["192.0.2.9", "", "192.0.2.1"],
            &[Some("192.0.2.1:0"), None],
        );
    }

    #[test]
    fn forwarded_is_parsed_as_in_rfc_7239() {
        let header = ProxyHeader::Forwarded;
        expect(
            header,
            &[r#"for=192.0.2.43;proto=https;by=203.0.113.4, For="[2001:db8:cafe::17]:4711""#],
            &[Some("[2001:db8:cafe::17]:4711"), Some("192.0.2.43:0")],
        );
        expect(
            header,
            &[r#"for=_hidden, proto=http;FOR="192.0.2.1:80""#],
            &[Some("192.0.2.1:80"), None],
        );
        expect(header, &["proto=https"], &[None]);
        expect(header, &["for=unknown"], &[None]);
        expect(header, &["for=192.0.2.1;for=192.0.2.2"], &[None]);
        expect(header, &[";;for=192.0.2.1;"], &[Some("192.0.2.1:0")]);
    }

    #[test]
    fn separators_and_escapes_in_quotes_do_not_split_elements() {
        for element in [
            r#"host="a,for=6.6.6.6;x=";for=192.0.2.9"#,
            r#"for=192.0.2.9;host="a,for=6.6.6.6;x=""#,
            r#"for=192.0.2.9;host="a\",for=6.6.6.6;x=\"""#,
            r#"for=192.0.2.9;host="a\\";by="\\,""#,
            r#"for="\192.0\.2.9""#,
        ] {
            expect(ProxyHeader::Forwarded, &[element], &[Some("192.0.2.9:0")]);
        }
    }

    #[test]
    fn an_open_quote_does_not_affect_elements_to_its_right() {
        for left in [
            r#"for="evil"#,
            r#"""#,
            "for=\u{e9}",
            r#"for="a\"#,
            r#"host="x;for=6.6.6.6"#,
        ] {
            let values = format!("{left}, for=192.0.2.9");
            expect(
                ProxyHeader::Forwarded,
                &[&values],
                &[Some("192.0.2.9:0"), None],
            );
            expect(
                ProxyHeader::Forwarded,
                &[left, "for=192.0.2.9"],
                &[Some("192.0.2.9:0"), None],
            );
        }
    }

    #[test]
    fn an_address_with_an_invalid_port_or_zone_is_readable() {
        let long = format!("192.0.2.9:_{}", "x".repeat(500));
        for text in [
            "192.0.2.9:99999",
            "192.0.2.9:",
            "192.0.2.9:_p",
            "192.0.2.9:a:b",
            "\"192.0.2.9:_p\"",
            &long,
        ] {
            expect(ProxyHeader::XForwardedFor, &[text], &[Some("192.0.2.9:0")]);
            let quoted = format!("for=\"{}\"", text.trim_matches('"'));
            expect(ProxyHeader::Forwarded, &[&quoted], &[Some("192.0.2.9:0")]);
        }
        for text in ["fe80::1%eth0", "[fe80::1%25eth0]", "[fe80::1]:x"] {
            expect(ProxyHeader::XForwardedFor, &[text], &[Some("[fe80::1]:0")]);
        }
        expect(
            ProxyHeader::XForwardedFor,
            &["::ffff:192.0.2.9"],
            &[Some("[::ffff:192.0.2.9]:0")],
        );
    }

    #[test]
    fn elements_without_an_address_are_unreadable() {
        for text in [
            "192.0.2",
            "192.0.2.256",
            "192.0.2.9x",
            "192.0.2.09",
            "[192.0.2.9]",
            "[2001:db8::1",
            "[2001:db8::1]80",
            "2001:db8::g",
            "unix:",
            "_secret",
            "\"192.0.2.9",
            "192.0.2.9\"",
            "\"192.0.2.9\"x",
            "\"\"",
        ] {
            expect(ProxyHeader::XForwardedFor, &[text], &[None]);
        }
    }
}
