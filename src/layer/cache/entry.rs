//! The format of stored responses.
//!
//! ```text
//! 0xa7 version    2 bytes
//! writer          8, a random number of the process that stored it
//! sequence        8, invalidations of the writer before the request
//! asked at        8, milliseconds since 1970: when the request began
//! born            8, milliseconds since 1970: when a response of age 0 was made
//! lifetime        8, milliseconds
//! body            4, its length
//! status          2
//! headers         2, their number; for each
//!   name          2, its length, and the name
//!   value         4, its length, and the value
//! the body
//! ```
//!
//! Numbers are big-endian. Stored values come from outside the process: a value that this module
//! would not have written is refused.

use std::time::SystemTime;

use bytes::{Buf, BufMut, Bytes};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::flow::ResponseStamp;

const MAGIC: [u8; 2] = [0xa7, 2];
/// The offset of the body's length.
const BODY: usize = 2 + 5 * 8;
/// The length of everything before the first header.
const FIXED: usize = BODY + 4 + 2 + 2;
const MAX_HEADERS: u16 = 256;

/// Fields that RFC 9111, section 3.1, keeps out of caches: those of one connection (RFC 9110,
/// section 7.6.1) and those of the proxy in front of the origin. Fields that `connection` names
/// are left out as well.
const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    HeaderName::from_static("proxy-authentication-info"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Fields of one answer, besides: its age is calculated anew, cookies belong to one client, and
/// so do the quotas of the client that caused the response.
const PER_ANSWER: [HeaderName; 4] = [
    header::AGE,
    header::SET_COOKIE,
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) stamp: ResponseStamp,
    pub(super) born: u64,
    pub(super) lifetime: u64,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Writes everything but the body of an entry. Returns `None` when there are too many headers.
///
/// A response without a date gets that of its arrival (RFC 9110, section 6.6.1).
pub(super) fn begin(
    stamp: ResponseStamp,
    born: u64,
    lifetime: u64,
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Option<Vec<u8>> {
    let mut value = Vec::with_capacity(512);
    value.put_slice(&MAGIC);
    value.put_u64(stamp.writer);
    value.put_u64(stamp.sequence);
    value.put_u64(stamp.requested_at);
    value.put_u64(born);
    value.put_u64(lifetime);
    value.put_u32(0);
    value.put_u16(status.as_u16());
    let count_at = value.len();
    value.put_u16(0);
    let named = named_by_connection(headers);
    let mut count = 0u16;
    let mut add = |name: &HeaderName, text: &[u8]| -> Option<()> {
        let name = name.as_str().as_bytes();
        value.put_u16(u16::try_from(name.len()).ok()?);
        value.put_slice(name);
        value.put_u32(u32::try_from(text.len()).ok()?);
        value.put_slice(text);
        count = count.checked_add(1).filter(|count| *count <= MAX_HEADERS)?;
        Some(())
    };
    for (name, text) in headers {
        if is_kept(name) && !named.iter().any(|named| *named == name.as_str()) {
            add(name, text.as_bytes())?;
        }
    }
    if !headers.contains_key(header::DATE) {
        add(&header::DATE, httpdate::fmt_http_date(now).as_bytes())?;
    }
    value[count_at..][..2].copy_from_slice(&count.to_be_bytes());
    Some(value)
}

/// Fills in the length of the body once it was appended. Returns `None` when it is too large.
pub(super) fn complete(value: &mut [u8], body_at: usize) -> Option<()> {
    let len = u32::try_from(value.len() - body_at).ok()?;
    value[BODY..][..4].copy_from_slice(&len.to_be_bytes());
    Some(())
}

/// Reads an entry, whose parts are slices of the value. Returns `None` for any other value.
pub(super) fn decode(value: &Bytes) -> Option<Entry> {
    let mut rest = value.clone();
    if take(&mut rest, 2)? != MAGIC[..] || value.len() < FIXED {
        return None;
    }
    let stamp = ResponseStamp {
        writer: rest.get_u64(),
        sequence: rest.get_u64(),
        requested_at: rest.get_u64(),
    };
    let (born, lifetime) = (rest.get_u64(), rest.get_u64());
    let body = usize::try_from(rest.get_u32()).ok()?;
    let status = StatusCode::from_u16(rest.get_u16()).ok()?;
    let count = rest.get_u16();
    // Informational heads announce another one.
    if count > MAX_HEADERS || status.is_informational() {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(usize::from(count));
    for _ in 0..count {
        let len = rest.try_get_u16().ok()?;
        let raw = take(&mut rest, usize::from(len))?;
        let name = HeaderName::from_bytes(&raw).ok()?;
        if name.as_str().as_bytes() != raw || !is_kept(&name) {
            return None;
        }
        let len = usize::try_from(rest.try_get_u32().ok()?).ok()?;
        let text = HeaderValue::from_maybe_shared(take(&mut rest, len)?).ok()?;
        headers.append(name, text);
    }
    (rest.len() == body).then_some(Entry {
        stamp,
        born,
        lifetime,
        status,
        headers,
        body: rest,
    })
}

fn take(from: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= from.len()).then(|| from.split_to(len))
}

fn is_kept(name: &HeaderName) -> bool {
    !HOP_BY_HOP.contains(name) && !PER_ANSWER.contains(name)
}

/// Returns the fields that `connection` names, in lower case.
fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(header::CONNECTION).iter();
    let texts = values.filter_map(|value| value.to_str().ok());
    texts
        .flat_map(|text| text.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use proptest::prelude::*;

    use super::*;

    fn dated() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1)
    }

    const STAMP: ResponseStamp = ResponseStamp {
        writer: 7,
        sequence: 8,
        requested_at: 9,
    };

    fn encode(entry: &Entry) -> Bytes {
        let value = begin(
            entry.stamp,
            entry.born,
            entry.lifetime,
            entry.status,
            &entry.headers,
            dated(),
        );
        let mut value = value.expect("few headers");
        let body_at = value.len();
        value.extend_from_slice(&entry.body);
        complete(&mut value, body_at).expect("it is small");
        value.into()
    }

    fn entries() -> impl Strategy<Value = Entry> {
        let header = ("[a-z][a-z0-9-]{0,12}", "[ -~]{0,24}");
        let headers = proptest::collection::vec(header, 0..8).prop_map(|pairs| {
            let pairs = pairs.into_iter().filter_map(|(name, text)| {
                let name = HeaderName::try_from(name).ok()?;
                is_kept(&name).then_some((name, HeaderValue::try_from(text).ok()?))
            });
            let date = (header::DATE, HeaderValue::from_static("now"));
            let mut headers = HeaderMap::from_iter([date]);
            pairs.for_each(|(name, text)| {
                headers.append(name, text);
            });
            headers
        });
        let body = proptest::collection::vec(any::<u8>(), 0..64);
        let stamp = (any::<u64>(), any::<u64>(), any::<u64>());
        let times = (any::<u64>(), any::<u64>());
        (stamp, times, 200..600u16, headers, body).prop_map(
            |((writer, sequence, requested_at), (born, lifetime), status, headers, body)| Entry {
                stamp: ResponseStamp {
                    writer,
                    sequence,
                    requested_at,
                },
                born,
                lifetime,
                status: StatusCode::from_u16(status).expect("in range"),
                headers,
                body: body.into(),
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(entry in entries()) {
            prop_assert_eq!(decode(&encode(&entry)), Some(entry));
        }

        #[test]
        fn any_bytes_are_survived(value in proptest::collection::vec(any::<u8>(), 0..96)) {
            let value = [&MAGIC[..], &value].concat();
            let _ = decode(&value.into());
        }

        #[test]
        fn a_changed_bit_makes_another_entry_or_none(entry in entries(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let value = encode(&entry);
            let mut changed = value.to_vec();
            let at = at.index(changed.len());
            changed[at] ^= 1u8 << bit;
            let changed = Bytes::from(changed);
            prop_assert_ne!(decode(&changed), Some(entry));
        }

        #[test]
        fn what_was_cut_off_is_no_entry(entry in entries(), at in any::<prop::sample::Index>()) {
            let value = encode(&entry);
            prop_assert_eq!(decode(&value.slice(..at.index(value.len()))), None);
        }
    }

    #[test]
    fn what_belongs_to_a_connection_is_left_out_and_not_accepted() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("close, X-Hop"));
        for name in ["x-hop", "transfer-encoding", "set-cookie", "age", "x-kept"] {
            headers.append(name, HeaderValue::from_static("1"));
        }
        let value = begin(STAMP, 1, 2, StatusCode::OK, &headers, dated()).expect("few headers");
        let entry = decode(&value.into()).expect("an entry");
        assert_eq!(entry.headers.keys().collect::<Vec<_>>(), ["x-kept", "date"]);
        assert_eq!(entry.headers["date"], "Thu, 01 Jan 1970 00:00:01 GMT");

        for name in ["set-cookie", "connection", "age", "UPPER"] {
            let stand_in = "x".repeat(name.len());
            let header = HeaderName::try_from(&stand_in).expect("a name");
            let headers = HeaderMap::from_iter([(header, HeaderValue::from_static("1"))]);
            let value = begin(STAMP, 1, 2, StatusCode::OK, &headers, dated()).expect("few headers");
            let at = value
                .windows(name.len())
                .position(|text| text == stand_in.as_bytes());
            let at = at.expect("it is there");
            let mut forged = value.clone();
            forged[at..][..name.len()].copy_from_slice(name.as_bytes());
            assert!(decode(&value.into()).is_some());
            assert_eq!(decode(&forged.into()), None, "{name}");
        }
    }

    #[test]
    fn more_headers_than_anybody_sends_are_not_kept() {
        let mut headers = HeaderMap::new();
        for at in 0..=MAX_HEADERS {
            headers.append("x", HeaderValue::from(at));
        }
        assert!(begin(STAMP, 1, 2, StatusCode::OK, &headers, dated()).is_none());
    }
}
