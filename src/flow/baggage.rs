//! Labels from the `baggage` header of W3C.

use std::borrow::Cow;
use std::collections::HashSet;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode;

use super::Labels;
use super::headers::first;

pub(super) static BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// Members of a header, by W3C Baggage.
pub(super) const MAX_MEMBERS: usize = 180;
/// Bytes of a member and of a header: beyond a limit an Agent ignores the header.
#[cfg(any(feature = "embedded", feature = "remote", test))]
pub(super) const MAX_MEMBER_BYTES: usize = 4096;
#[cfg(any(feature = "embedded", feature = "remote", test))]
pub(super) const MAX_BYTES: usize = 8192;

/// Adds the members of the `baggage` header lines as labels, unless a label of that key is there
/// or the key is `reserved`.
///
/// Each line and each member is judged alone: what is malformed is left out, and nothing else. Of a
/// line the last 180 members count. Of a repeated key the last well-formed value counts, over all
/// lines. Properties are ignored; values are percent-decoded once, with U+FFFD for what is not
/// UTF-8, and borrowed where nothing is encoded. What the labels' limits have no room for is
/// dropped and counted, see [`add_fairly`].
#[inline]
pub(crate) fn add_labels<'a>(
    labels: &mut Labels<'a>,
    headers: &'a HeaderMap,
    reserved: impl Fn(&str) -> bool,
) {
    if first(headers, &BAGGAGE).is_some() {
        add_members(labels, headers, &reserved);
    }
}

fn add_members<'a>(
    labels: &mut Labels<'a>,
    headers: &'a HeaderMap,
    reserved: &dyn Fn(&str) -> bool,
) {
    let before = labels.mark();
    let mut fits = true;
    for line in lines(headers) {
        let mut members = Members::new(line);
        for (key, value) in &mut members {
            // From the right, so the first value of a key is the last one in the header.
            if !is_reserved(key, reserved) && !labels.offer(key, decoded(value)) {
                fits = false;
                break;
            }
        }
        labels.count_dropped(members.too_many());
    }
    if !fits {
        labels.back_to(before);
        add_fairly(labels, headers, reserved);
    }
}

/// Adds members where there is no room for all: the last of each line, then the second last of
/// each line, and so on. The line of a client that takes all the room would else push out the line
/// of a gateway before or behind it.
#[cold]
#[inline(never)]
fn add_fairly<'a>(
    labels: &mut Labels<'a>,
    headers: &'a HeaderMap,
    reserved: &dyn Fn(&str) -> bool,
) {
    let mut known = HashSet::new();
    let mut all = Vec::new();
    for line in lines(headers) {
        let mut members = Members::new(line);
        for (rank, (key, value)) in (&mut members).enumerate() {
            if !is_reserved(key, reserved) && known.insert(key) {
                all.push((rank, key, value));
            }
        }
        labels.count_dropped(members.too_many());
    }
    // Stable: of the same rank, the members of the last line come first.
    all.sort_by_key(|(rank, ..)| *rank);
    for (_, key, value) in all {
        labels.offer(key, decoded(value));
    }
}

/// Whether a key is reserved, as it stands or percent-decoded: keys are not decoded here, but
/// nobody behind this may take `%75ser` for `user` either.
fn is_reserved(key: &str, reserved: &dyn Fn(&str) -> bool) -> bool {
    reserved(key)
        || (key.contains('%') && reserved(&percent_decode(key.as_bytes()).decode_utf8_lossy()))
}

fn decoded(value: &[u8]) -> Cow<'_, str> {
    percent_decode(value).decode_utf8_lossy()
}

/// The lines, the last one first.
fn lines(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let lines = headers.get_all(&BAGGAGE).into_iter();
    lines.rev().map(HeaderValue::as_bytes)
}

/// The well-formed members of a line from the right: keys and encoded values.
struct Members<'a> {
    /// What is left of the line.
    rest: Option<&'a [u8]>,
    left: usize,
}

impl<'a> Members<'a> {
    const fn new(line: &'a [u8]) -> Self {
        Self {
            rest: Some(line),
            left: MAX_MEMBERS,
        }
    }

    /// How many are left out, because the line has more than may be in one.
    fn too_many(&self) -> u32 {
        match self.rest {
            Some(rest) if self.left == 0 => {
                let well_formed = rest.split(|byte| *byte == b',').filter_map(parse);
                u32::try_from(well_formed.count()).unwrap_or(u32::MAX)
            }
            _ => 0,
        }
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            let rest = self.rest?;
            let comma = rest.iter().rposition(|byte| *byte == b',');
            let member = match comma {
                Some(at) => &rest[at + 1..],
                None => rest,
            };
            self.rest = comma.map(|at| &rest[..at]);
            if let Some(member) = parse(member) {
                self.left -= 1;
                return Some(member);
            }
        }
        None
    }
}

/// The decoded value of one member, by the rules of [`add_labels`].
pub(crate) fn member<'a>(headers: &'a HeaderMap, key: &str) -> Option<Cow<'a, str>> {
    let mut members = lines(headers).flat_map(Members::new);
    let (_, value) = members.find(|(known, _)| *known == key)?;
    Some(decoded(value))
}

/// Keys and encoded values of the header of a `CheckHTTP`, in order, by the rules of an Agent: `None`
/// when any member is malformed, or when the header is beyond a limit.
#[cfg(feature = "embedded")]
pub(crate) fn members(header: &[u8]) -> Option<impl Iterator<Item = (&str, &[u8])>> {
    let members = || header.split(|byte| *byte == b',');
    let fine = |member: &[u8]| member.len() <= MAX_MEMBER_BYTES && parse(member).is_some();
    let all_fine =
        header.len() <= MAX_BYTES && members().nth(MAX_MEMBERS).is_none() && members().all(fine);
    all_fine.then(|| members().filter_map(parse))
}

/// Key and encoded value of one member, `None` when it is malformed.
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

/// `key = value`, blanks around both allowed.
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

/// Octets that W3C allows in a value, each `%` with its two digits.
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
