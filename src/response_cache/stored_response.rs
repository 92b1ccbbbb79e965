//! The binary format of stored responses.
//!
//! ```text
//! 0xa7 version    2 bytes
//! writer          8, a random number of the process that stored the response
//! sequence        8, the number of invalidations by the writer before the request
//! asked at        8, milliseconds since 1970: when the request began
//! born            8, milliseconds since 1970: when the response had age 0
//! lifetime        8, milliseconds
//! body length     4
//! status          2
//! header count    2, then for each header
//!   name          2 for its length, and the name
//!   value         4 for its length, and the value
//! the body
//! ```
//!
//! Numbers are big-endian. Values in the cache may come from other programs: a value that this
//! module cannot have written is refused.

use std::time::SystemTime;

use bytes::{Buf, BufMut, Bytes};
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::flow::ResponseStamp;

const MAGIC: [u8; 2] = [0xa7, 2];
/// The offset of the field with the body's length.
const BODY_LENGTH_AT: usize = 2 + 5 * 8;
/// The length of everything before the first header.
const FIXED_LENGTH: usize = BODY_LENGTH_AT + 4 + 2 + 2;
const MAX_HEADERS: u16 = 256;

/// Fields that RFC 9111, section 3.1, excludes from caches: those of one connection (RFC 9110,
/// section 7.6.1) and those of the proxy in front of the origin. Fields that `connection` names
/// are excluded as well.
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

/// Further fields that belong to one response: the age is calculated when a stored response is
/// used, and cookies and quotas belong to the client that caused the response.
const PER_RESPONSE: [HeaderName; 4] = [
    header::AGE,
    header::SET_COOKIE,
    HeaderName::from_static("ratelimit"),
    HeaderName::from_static("ratelimit-policy"),
];

/// A response from the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredResponse {
    pub(super) stamp: ResponseStamp,
    /// When the response had age 0, in milliseconds since 1970.
    pub(super) born: u64,
    /// In milliseconds.
    pub(super) lifetime: u64,
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Encodes everything but the body of a response. Returns `None` if it has more than
/// [`MAX_HEADERS`] headers.
///
/// A response without a `date` gets the time of its arrival (RFC 9110, section 6.6.1).
pub(super) fn encode_head(
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
    let connection_fields = fields_named_by_connection(headers);
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
        if is_storable(name)
            && !connection_fields
                .iter()
                .any(|field| *field == name.as_str())
        {
            add(name, text.as_bytes())?;
        }
    }
    if !headers.contains_key(header::DATE) {
        add(&header::DATE, httpdate::fmt_http_date(now).as_bytes())?;
    }
    value[count_at..][..2].copy_from_slice(&count.to_be_bytes());
    Some(value)
}

/// Writes the length of the body, which was appended at `body_start`, into the head. Returns `None`
/// if the body is too large for the format.
pub(super) fn set_body_length(value: &mut [u8], body_start: usize) -> Option<()> {
    let len = u32::try_from(value.len() - body_start).ok()?;
    value[BODY_LENGTH_AT..][..4].copy_from_slice(&len.to_be_bytes());
    Some(())
}

/// Decodes a stored response without copying: its parts are slices of `value`. Returns `None` for a
/// value of any other format.
pub(super) fn decode(value: &Bytes) -> Option<StoredResponse> {
    let mut rest = value.clone();
    if take(&mut rest, 2)? != MAGIC[..] || value.len() < FIXED_LENGTH {
        return None;
    }
    let stamp = ResponseStamp {
        writer: rest.get_u64(),
        sequence: rest.get_u64(),
        requested_at: rest.get_u64(),
    };
    let (born, lifetime) = (rest.get_u64(), rest.get_u64());
    let body_length = usize::try_from(rest.get_u32()).ok()?;
    let status = StatusCode::from_u16(rest.get_u16()).ok()?;
    let count = rest.get_u16();
    // An informational response is followed by the final one, so it is never stored alone.
    if count > MAX_HEADERS || status.is_informational() {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(usize::from(count));
    for _ in 0..count {
        let len = rest.try_get_u16().ok()?;
        let raw = take(&mut rest, usize::from(len))?;
        let name = HeaderName::from_bytes(&raw).ok()?;
        if name.as_str().as_bytes() != raw || !is_storable(&name) {
            return None;
        }
        let len = usize::try_from(rest.try_get_u32().ok()?).ok()?;
        let text = HeaderValue::from_maybe_shared(take(&mut rest, len)?).ok()?;
        headers.append(name, text);
    }
    (rest.len() == body_length).then_some(StoredResponse {
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

fn is_storable(name: &HeaderName) -> bool {
    !HOP_BY_HOP.contains(name) && !PER_RESPONSE.contains(name)
}

/// Returns the names of the fields that `connection` lists, in lower case.
fn fields_named_by_connection(headers: &HeaderMap) -> Vec<String> {
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

    fn encode(response: &StoredResponse) -> Bytes {
        let value = encode_head(
            response.stamp,
            response.born,
            response.lifetime,
            response.status,
            &response.headers,
            dated(),
        );
        let mut value = value.expect("few headers");
        let body_start = value.len();
        value.extend_from_slice(&response.body);
        set_body_length(&mut value, body_start).expect("it is small");
        value.into()
    }

    fn responses() -> impl Strategy<Value = StoredResponse> {
        let header = ("[a-z][a-z0-9-]{0,12}", "[ -~]{0,24}");
        let headers = proptest::collection::vec(header, 0..8).prop_map(|pairs| {
            let pairs = pairs.into_iter().filter_map(|(name, text)| {
                let name = HeaderName::try_from(name).ok()?;
                is_storable(&name).then_some((name, HeaderValue::try_from(text).ok()?))
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
            |((writer, sequence, requested_at), (born, lifetime), status, headers, body)| {
                StoredResponse {
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
                }
            },
        )
    }

    proptest! {
        #[test]
        fn encoded_responses_are_decoded(response in responses()) {
            prop_assert_eq!(decode(&encode(&response)), Some(response));
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(value in proptest::collection::vec(any::<u8>(), 0..96)) {
            let value = [&MAGIC[..], &value].concat();
            let _ = decode(&value.into());
        }

        #[test]
        fn a_flipped_bit_makes_another_response_or_none(response in responses(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let value = encode(&response);
            let mut changed = value.to_vec();
            let at = at.index(changed.len());
            changed[at] ^= 1u8 << bit;
            let changed = Bytes::from(changed);
            prop_assert_ne!(decode(&changed), Some(response));
        }

        #[test]
        fn truncated_values_are_refused(response in responses(), at in any::<prop::sample::Index>()) {
            let value = encode(&response);
            prop_assert_eq!(decode(&value.slice(..at.index(value.len()))), None);
        }
    }

    #[test]
    fn connection_fields_are_neither_stored_nor_accepted() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("close, X-Hop"));
        for name in ["x-hop", "transfer-encoding", "set-cookie", "age", "x-kept"] {
            headers.append(name, HeaderValue::from_static("1"));
        }
        let value =
            encode_head(STAMP, 1, 2, StatusCode::OK, &headers, dated()).expect("few headers");
        let stored = decode(&value.into()).expect("a stored response");
        assert_eq!(
            stored.headers.keys().collect::<Vec<_>>(),
            ["x-kept", "date"]
        );
        assert_eq!(stored.headers["date"], "Thu, 01 Jan 1970 00:00:01 GMT");

        for name in ["set-cookie", "connection", "age", "UPPER"] {
            let stand_in = "x".repeat(name.len());
            let header = HeaderName::try_from(&stand_in).expect("a name");
            let headers = HeaderMap::from_iter([(header, HeaderValue::from_static("1"))]);
            let value =
                encode_head(STAMP, 1, 2, StatusCode::OK, &headers, dated()).expect("few headers");
            let at = value
                .windows(name.len())
                .position(|text| text == stand_in.as_bytes());
            let at = at.expect("the name is in the value");
            let mut forged = value.clone();
            forged[at..][..name.len()].copy_from_slice(name.as_bytes());
            assert!(decode(&value.into()).is_some());
            assert_eq!(decode(&forged.into()), None, "{name}");
        }
    }

    #[test]
    fn responses_with_too_many_headers_are_not_stored() {
        let mut headers = HeaderMap::new();
        for at in 0..=MAX_HEADERS {
            headers.append("x", HeaderValue::from(at));
        }
        assert!(encode_head(STAMP, 1, 2, StatusCode::OK, &headers, dated()).is_none());
    }
}
