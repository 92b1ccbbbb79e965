//! Reads the hops that proxies list in `x-forwarded-for` and `forwarded`, from right to left.
//!
//! The rightmost element was written by the nearest proxy, and what a client wrote stands to the
//! left of what proxies appended. Reading from the right, byte by byte, means that nothing a client
//! writes can change how an element to the right of it is read: an open quote, a stray byte or a
//! line that is not UTF-8 spoils only what stands further left.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::header::{FORWARDED, HeaderMap, HeaderName, HeaderValue};

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The longest text of an address is `[`, 45 bytes of IPv6, and `]`. A port or a zone may be longer
/// and is cut off, because only the address counts.
const LONGEST_ADDRESS: usize = 64;

/// The header to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum List {
    XForwardedFor,
    /// RFC 7239.
    Forwarded,
}

/// One element of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hop {
    /// The address, with port 0 where the port is missing, obfuscated or impossible.
    At(SocketAddr),
    /// The element has no address that can be read.
    Unreadable,
}

/// The elements of all header lines, the rightmost first.
///
/// What stands to the left of an [unreadable](Hop::Unreadable) element is not meant to be read.
pub(super) struct Hops<'a> {
    lines: std::iter::Rev<http::header::ValueIter<'a, HeaderValue>>,
    /// The unread part of the current line.
    rest: Option<&'a [u8]>,
    list: List,
}

impl<'a> Hops<'a> {
    pub(super) fn new(headers: &'a HeaderMap, list: List) -> Self {
        let name = match list {
            List::XForwardedFor => &X_FORWARDED_FOR,
            List::Forwarded => &FORWARDED,
        };
        Self {
            lines: headers.get_all(name).into_iter().rev(),
            rest: None,
            list,
        }
    }

    /// Reads on to the left end and returns true if there were only empty elements.
    fn ends_blank(&mut self) -> bool {
        let blank = |line: &[u8]| line.iter().all(|byte| matches!(byte, b',' | b' ' | b'\t'));
        self.rest.take().is_none_or(blank) && self.lines.all(|line| blank(line.as_bytes()))
    }
}

impl Iterator for Hops<'_> {
    type Item = Hop;

    fn next(&mut self) -> Option<Hop> {
        let line = match self.rest.take() {
            Some(rest) => rest,
            None => self.lines.next()?.as_bytes(),
        };
        let Some((rest, element)) = split_last(line, b',') else {
            return Some(Hop::Unreadable);
        };
        self.rest = rest;
        let element = element.trim_ascii();
        if element.is_empty() {
            // A proxy that appends to nothing leaves empty elements at the left end. An empty
            // element with another one to its left hides a hop.
            return (!self.ends_blank()).then_some(Hop::Unreadable);
        }
        let hop = match self.list {
            List::XForwardedFor => node(element),
            List::Forwarded => forwarded_for(element).and_then(node),
        };
        Some(hop.map_or(Hop::Unreadable, Hop::At))
    }
}

/// Splits at the last separator outside of quoted strings; `None` if a quoted string is not closed
/// on both sides.
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

/// Returns where the quoted string begins that ends at `close`.
fn opening_quote(text: &[u8], close: usize) -> Option<usize> {
    let quoted = |at: usize| text[at] == b'"' && !is_escaped(text, at);
    if !quoted(close) {
        return None;
    }
    (0..close).rev().find(|at| quoted(*at))
}

/// Returns true if an odd number of backslashes stands in front.
fn is_escaped(text: &[u8], at: usize) -> bool {
    let backslashes = text[..at].iter().rev().take_while(|byte| **byte == b'\\');
    backslashes.count() % 2 == 1
}

/// Returns the value of the only `for` of an element of `forwarded`. RFC 7239 allows one; of two,
/// one may be a client's.
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

/// Reads an address, as it is or as a quoted string.
fn node(text: &[u8]) -> Option<SocketAddr> {
    if !text.contains(&b'"') {
        return address(text);
    }
    let close = text.len() - 1;
    if opening_quote(text, close) != Some(0) {
        return None;
    }
    let mut plain = [0; LONGEST_ADDRESS];
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

/// Reads an address with or without brackets, zone and port. Zones are left out, and a port that
/// is no number up to 65535 counts as 0.
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

    fn hops(list: List, values: &[&[u8]]) -> Vec<Option<String>> {
        let name = match list {
            List::XForwardedFor => X_FORWARDED_FOR.clone(),
            List::Forwarded => FORWARDED,
        };
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value).expect("a legal value");
            headers.append(name.clone(), value);
        }
        let mut found = Vec::new();
        for hop in Hops::new(&headers, list) {
            match hop {
                Hop::At(address) => found.push(Some(address.to_string())),
                Hop::Unreadable => {
                    found.push(None);
                    break;
                }
            }
        }
        found
    }

    #[track_caller]
    fn expect(list: List, values: &[&str], expected: &[Option<&str>]) {
        let expected: Vec<_> = expected.iter().map(|hop| hop.map(str::to_owned)).collect();
        let bytes: Vec<_> = values.iter().map(|value| value.as_bytes()).collect();
        assert_eq!(hops(list, &bytes), expected, "{values:?}");
    }

    #[test]
    fn addresses_come_from_the_right_over_all_lines() {
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
        expect(list, &["unknown, 192.0.2.1"], &[Some("192.0.2.1:0"), None]);
        expect(list, &["\u{fc}"], &[None]);
        expect(list, &[], &[]);
    }

    #[test]
    fn empty_elements_at_the_left_end_are_none_and_others_hide_a_hop() {
        let list = List::XForwardedFor;
        expect(list, &[", 192.0.2.1"], &[Some("192.0.2.1:0")]);
        expect(list, &["", " , ", "\t,192.0.2.1"], &[Some("192.0.2.1:0")]);
        expect(list, &[""], &[]);
        expect(
            list,
            &["192.0.2.9, , 192.0.2.1"],
            &[Some("192.0.2.1:0"), None],
        );
        expect(
            list,
            &["192.0.2.9", "", "192.0.2.1"],
            &[Some("192.0.2.1:0"), None],
        );
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
        expect(list, &["proto=https"], &[None]);
        expect(list, &["for=unknown"], &[None]);
        expect(list, &["for=192.0.2.1;for=192.0.2.2"], &[None]);
        expect(list, &[";;for=192.0.2.1;"], &[Some("192.0.2.1:0")]);
    }

    #[test]
    fn quotes_keep_their_commas_semicolons_and_escapes() {
        for element in [
            r#"host="a,for=6.6.6.6;x=";for=192.0.2.9"#,
            r#"for=192.0.2.9;host="a,for=6.6.6.6;x=""#,
            r#"for=192.0.2.9;host="a\",for=6.6.6.6;x=\"""#,
            r#"for=192.0.2.9;host="a\\";by="\\,""#,
            r#"for="\192.0\.2.9""#,
        ] {
            expect(List::Forwarded, &[element], &[Some("192.0.2.9:0")]);
        }
    }

    #[test]
    fn what_a_client_leaves_open_spoils_nothing_to_its_right() {
        for left in [
            r#"for="evil"#,
            r#"""#,
            "for=\u{e9}",
            r#"for="a\"#,
            r#"host="x;for=6.6.6.6"#,
        ] {
            let values = format!("{left}, for=192.0.2.9");
            expect(List::Forwarded, &[&values], &[Some("192.0.2.9:0"), None]);
            expect(
                List::Forwarded,
                &[left, "for=192.0.2.9"],
                &[Some("192.0.2.9:0"), None],
            );
        }
    }

    #[test]
    fn an_odd_port_or_zone_leaves_the_address() {
        let long = format!("192.0.2.9:_{}", "x".repeat(500));
        for text in [
            "192.0.2.9:99999",
            "192.0.2.9:",
            "192.0.2.9:_p",
            "192.0.2.9:a:b",
            "\"192.0.2.9:_p\"",
            &long,
        ] {
            expect(List::XForwardedFor, &[text], &[Some("192.0.2.9:0")]);
            let quoted = format!("for=\"{}\"", text.trim_matches('"'));
            expect(List::Forwarded, &[&quoted], &[Some("192.0.2.9:0")]);
        }
        for text in ["fe80::1%eth0", "[fe80::1%25eth0]", "[fe80::1]:x"] {
            expect(List::XForwardedFor, &[text], &[Some("[fe80::1]:0")]);
        }
        expect(
            List::XForwardedFor,
            &["::ffff:192.0.2.9"],
            &[Some("[::ffff:192.0.2.9]:0")],
        );
    }

    #[test]
    fn what_is_no_address_is_unreadable() {
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
            expect(List::XForwardedFor, &[text], &[None]);
        }
    }
}
