//! Reads labels from the `baggage` header of W3C Baggage.

use std::borrow::Cow;
use std::collections::HashSet;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;

use super::Labels;
use super::headers::first_value;

pub(super) static BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// The most members in a header, by W3C Baggage.
pub(super) const MAX_MEMBERS: usize = 180;
/// The most bytes of a member. An Agent ignores a header that exceeds this limit or
/// [`MAX_BYTES`].
pub(super) const MAX_MEMBER_BYTES: usize = 4096;
/// The most bytes of a header.
pub(super) const MAX_BYTES: usize = 8192;

/// Returns true if there is a `baggage` header.
#[inline]
pub fn is_present(headers: &HeaderMap) -> bool {
    first_value(headers, &BAGGAGE).is_some()
}

/// Adds the members of the `baggage` header lines as labels. Skips a key that already has a label
/// and a key that is `reserved`.
///
/// Each line and each member is parsed on its own, so a malformed member affects no other. The
/// last 180 members of a line count. For a repeated key, the last well-formed value over all lines
/// counts. Properties are ignored. Values are percent-decoded once, with U+FFFD in place of bytes
/// that are not UTF-8, and borrowed if they contain no escape. Labels that exceed the limits are
/// dropped and counted, see `add_fairly`.
#[inline]
pub fn add_labels<'a>(
    labels: &mut Labels<'a>,
    headers: &'a HeaderMap,
    reserved: impl Fn(&str) -> bool,
) {
    if is_present(headers) {
        add_members(labels, headers, &reserved);
    }
}

fn add_members<'a>(
    labels: &mut Labels<'a>,
    headers: &'a HeaderMap,
    reserved: &dyn Fn(&str) -> bool,
) {
    let before = labels.checkpoint();
    let mut all_fit = true;
    for line in header_lines(headers) {
        let mut members = BaggageMembers::new(line);
        for (key, value) in &mut members {
            // Members come from right to left, so the first value seen of a key is its last one in
            // the header.
            if !is_reserved(key, reserved) && !labels.offer(key, decoded(value)) {
                all_fit = false;
                break;
            }
        }
        labels.count_dropped(members.excess());
    }
    if !all_fit {
        labels.restore_to(before);
        add_fairly(labels, headers, reserved);
    }
}

/// Adds members when the limits have no room for all of them: first the last member of each line,
/// then the second last of each line, and so on. Otherwise the line of a client that uses all the
/// room would displace the line of a gateway before or after it.
#[cold]
#[inline(never)]
fn add_fairly<'a>(
    labels: &mut Labels<'a>,
    headers: &'a HeaderMap,
    reserved: &dyn Fn(&str) -> bool,
) {
    let mut known = HashSet::new();
    let mut all = Vec::new();
    for line in header_lines(headers) {
        let mut members = BaggageMembers::new(line);
        for (rank, (key, value)) in (&mut members).enumerate() {
            if !is_reserved(key, reserved) && known.insert(key) {
                all.push((rank, key, value));
            }
        }
        labels.count_dropped(members.excess());
    }
    // The sort is stable: within a rank, the members of the last line come first.
    all.sort_by_key(|(rank, ..)| *rank);
    for (_, key, value) in all {
        labels.offer(key, decoded(value));
    }
}

/// Returns whether a key is reserved, as written or percent-decoded. Keys are not decoded here, but
/// a service further on may decode `%75ser` to `user`.
fn is_reserved(key: &str, reserved: &dyn Fn(&str) -> bool) -> bool {
    reserved(key)
        || (key.contains('%') && reserved(&percent_decode(key.as_bytes()).decode_utf8_lossy()))
}

fn decoded(value: &[u8]) -> Cow<'_, str> {
    percent_decode(value).decode_utf8_lossy()
}

/// Returns the header lines, the last one first.
fn header_lines(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(&BAGGAGE).into_iter();
    lines.rev().map(HeaderValue::as_bytes)
}

/// An iterator over the well-formed members of a line, from right to left, as keys and encoded
/// values.
struct BaggageMembers<'a> {
    /// The part of the line that is not parsed yet.
    rest: Option<&'a [u8]>,
    /// The number of members that the line may still have.
    remaining: usize,
}

impl<'a> BaggageMembers<'a> {
    const fn new(line: &'a [u8]) -> Self {
        Self {
            rest: Some(line),
            remaining: MAX_MEMBERS,
        }
    }

    /// Returns the number of well-formed members beyond [`MAX_MEMBERS`].
    fn excess(&self) -> u32 {
        match self.rest {
            Some(rest) if self.remaining == 0 => {
                let well_formed = rest.split(|byte| *byte == b',').filter_map(parse);
                u32::try_from(well_formed.count()).unwrap_or(u32::MAX)
            }
            _ => 0,
        }
    }
}

impl<'a> Iterator for BaggageMembers<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while self.remaining > 0 {
            let rest = self.rest?;
            let comma = rest.iter().rposition(|byte| *byte == b',');
            let member = match comma {
                Some(at) => &rest[at + 1..],
                None => rest,
            };
            self.rest = comma.map(|at| &rest[..at]);
            if let Some(member) = parse(member) {
                self.remaining -= 1;
                return Some(member);
            }
        }
        None
    }
}

/// Returns the decoded value of one member, by the rules of [`add_labels`].
pub fn member<'a>(headers: &'a HeaderMap, key: &str) -> Option<Cow<'a, str>> {
    let mut members = header_lines(headers).flat_map(BaggageMembers::new);
    let (_, value) = members.find(|(known, _)| *known == key)?;
    Some(decoded(value))
}

/// Returns the keys and encoded values of the header of a `CheckHTTP` request in order, by the rules
/// of an Agent: `None` if any member is malformed or the header exceeds a limit.
pub fn members(header: &[u8]) -> Option<impl Iterator<Item = (&str, &[u8])>> {
    let members = || header.split(|byte| *byte == b',');
    let valid = |member: &[u8]| member.len() <= MAX_MEMBER_BYTES && parse(member).is_some();
    let all_valid =
        header.len() <= MAX_BYTES && members().nth(MAX_MEMBERS).is_none() && members().all(valid);
    all_valid.then(|| members().filter_map(parse))
}

/// Returns the key and the encoded value of one member, or `None` if it is malformed.
fn parse(member: &[u8]) -> Option<(&str, &[u8])> {
    let mut parts = member.split(|byte| *byte == b';');
    let (key, value) = pair(parts.next()?)?;
    for property in parts {
        let property = property.trim_ascii();
        if property.is_empty() {
            continue;
        }
        if !is_token(property) {
            pair(property)?;
        }
    }
    // A token is ASCII.
    Some((str::from_utf8(key).ok()?, value))
}

/// Splits `key = value`, with optional blanks around both.
fn pair(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == b'=')?;
    let key = text[..at].trim_ascii();
    let value = text[at + 1..].trim_ascii();
    (is_token(key) && is_value(value)).then_some((key, value))
}

pub(super) fn is_token(text: &[u8]) -> bool {
    let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !text.is_empty() && text.iter().all(token)
}

/// Returns whether a value has only the octets that W3C Baggage allows, and two hexadecimal digits
/// after each `%`.
fn is_value(mut text: &[u8]) -> bool {
    loop {
        text = match text {
            [] => return true,
            [b'%', high, low, rest @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                rest
            }
            [b'%' | b'"' | b',' | b';' | b'\\', ..] => return false,
            [0x21..=0x7e, rest @ ..] => rest,
            _ => return false,
        };
    }
}

#[cfg(test)]
mod tests;
