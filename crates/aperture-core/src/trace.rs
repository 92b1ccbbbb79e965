//! Reads the trace that a request belongs to, by W3C Trace Context.

use std::borrow::Cow;
use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::headers::first_value;

static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
static TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The most members of a `tracestate`, by W3C Trace Context.
const MAX_MEMBERS: usize = 32;
/// The most bytes of a `tracestate`: the length that every vendor has to propagate.
const MAX_STATE_BYTES: usize = 512;

/// The trace that a flow belongs to: `traceparent` and `tracestate` of W3C Trace Context, level 1.
///
/// The span that the Agent receives for an accepted or rejected flow links to it. The headers are
/// parsed only if spans are sent. A malformed `traceparent` means no trace; a `tracestate` that is
/// malformed or longer than 512 bytes is left out.
///
/// `ApertureLayer` takes it from the request. Without a layer:
///
/// ```
/// use tower_aperture::{FlowParams, TraceContext};
///
/// let trace = TraceContext::new("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "");
/// assert!(trace.is_valid());
/// let params = FlowParams::new().trace_context(trace);
/// # let _ = params;
/// ```
#[derive(Clone, Copy)]
pub struct TraceContext<'a>(TraceSource<'a>);

#[derive(Clone, Copy)]
enum TraceSource<'a> {
    Headers(&'a HeaderMap),
    Text { parent: &'a str, state: &'a str },
}

/// A valid trace context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The id of the trace.
    pub trace_id: [u8; 16],
    /// The id of the parent span.
    pub span_id: [u8; 8],
    /// The flags; bit 0 means sampled.
    pub flags: u8,
    /// The header `tracestate`, empty if there is none.
    pub state: String,
}

impl<'a> TraceContext<'a> {
    /// Returns a context from the values of the two headers. An empty `tracestate` means none.
    #[must_use]
    pub const fn new(traceparent: &'a str, tracestate: &'a str) -> Self {
        Self(TraceSource::Text {
            parent: traceparent,
            state: tracestate,
        })
    }

    /// Returns a context that reads the two headers on use. More than one `traceparent` means no
    /// trace; several `tracestate` headers are joined.
    #[must_use]
    pub const fn from_headers(headers: &'a HeaderMap) -> Self {
        Self(TraceSource::Headers(headers))
    }

    /// Returns whether there is a `traceparent` and it is well formed.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.parse().is_some()
    }

    #[doc(hidden)]
    pub fn parse(&self) -> Option<TraceParent> {
        match self.0 {
            TraceSource::Text { parent, state } => {
                parse(parent.as_bytes(), || Cow::Borrowed(state))
            }
            TraceSource::Headers(headers) => {
                first_value(headers, &TRACEPARENT)?;
                let mut parents = headers.get_all(&TRACEPARENT).iter();
                let parent = parents.next().filter(|_| parents.next().is_none())?;
                parse(parent.as_bytes(), || joined(headers))
            }
        }
    }
}

/// Shows only the `traceparent`.
impl fmt::Debug for TraceContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_tuple("TraceContext");
        match self.0 {
            TraceSource::Text { parent, .. } => f.field(&parent),
            TraceSource::Headers(headers) => f.field(&headers.get(&TRACEPARENT)),
        };
        f.finish()
    }
}

/// Joins the `tracestate` headers; the result is empty if one is not ASCII or the others are too
/// long.
fn joined(headers: &HeaderMap) -> Cow<'_, str> {
    let mut values = headers.get_all(&TRACESTATE).iter().map(HeaderValue::to_str);
    let Some(Ok(only)) = values.next() else {
        return Cow::Borrowed("");
    };
    let mut all = Cow::Borrowed(only);
    for value in values {
        let (Ok(value), true) = (value, all.len() <= MAX_STATE_BYTES) else {
            return Cow::Borrowed("");
        };
        let all = all.to_mut();
        all.push(',');
        all.push_str(value);
    }
    all
}

fn parse<'a>(parent: &[u8], state: impl FnOnce() -> Cow<'a, str>) -> Option<TraceParent> {
    let (version, rest) = (parent.get(..2)?, parent.get(2..)?);
    let [version] = hex(version)?;
    let (fields, more) = rest.split_at_checked(53)?;
    // Text only: a header value with other bytes is not a `traceparent`.
    if !more.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\t')) {
        return None;
    }
    match (version, more) {
        // Later versions may append fields after a dash.
        (0, []) | (1..=0xfe, [] | [b'-', ..]) => {}
        _ => return None,
    }
    let dashes = [fields[0], fields[33], fields[50]];
    if dashes != *b"---" {
        return None;
    }
    let trace_id: [u8; 16] = hex(&fields[1..33])?;
    let span_id: [u8; 8] = hex(&fields[34..50])?;
    let [flags] = hex(&fields[51..])?;
    if trace_id == [0; 16] || span_id == [0; 8] {
        return None;
    }
    let state = state();
    Some(TraceParent {
        trace_id,
        span_id,
        flags,
        state: if is_state(&state) {
            state.into_owned()
        } else {
            String::new()
        },
    })
}

/// Decodes lower-case hexadecimal digits.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    let (pairs, []) = digits.as_chunks::<2>() else {
        return None;
    };
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

fn is_state(state: &str) -> bool {
    if state.len() > MAX_STATE_BYTES {
        return false;
    }
    let mut keys: [&str; MAX_MEMBERS] = [""; MAX_MEMBERS];
    let mut members = 0;
    for member in state.split(',') {
        let member = member.trim_matches([' ', '\t']);
        if member.is_empty() {
            continue;
        }
        let Some((key, value)) = member.split_once('=') else {
            return false;
        };
        let fresh = !keys[..members].contains(&key);
        if members == MAX_MEMBERS || !fresh || !is_key(key) || !is_value(value) {
            return false;
        }
        keys[members] = key;
        members += 1;
    }
    true
}

/// Returns whether the text is a valid key: `key` or `tenant@system`.
fn is_key(key: &str) -> bool {
    let part = |text: &str, digit: bool, longest: usize| {
        let allowed =
            |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
        let begins = |byte: u8| byte.is_ascii_lowercase() || (digit && byte.is_ascii_digit());
        text.len() <= longest
            && text.bytes().next().is_some_and(begins)
            && text.bytes().all(allowed)
    };
    match key.split_once('@') {
        None => part(key, false, 256),
        Some((tenant, system)) => part(tenant, true, 241) && part(system, false, 14),
    }
}

/// Returns whether the text is a valid value: up to 256 visible characters, with blanks except at
/// the end.
fn is_value(value: &str) -> bool {
    let allowed = |byte: u8| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=';
    (1..=256).contains(&value.len()) && value.bytes().all(allowed) && !value.ends_with(' ')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn state_of(state: &str) -> String {
        TraceContext::new(GOOD, state).parse().expect("valid").state
    }

    #[test]
    fn a_traceparent_is_parsed() {
        let parent = TraceContext::new(GOOD, "").parse().expect("valid");
        assert_eq!(parent.trace_id[..2], [0x4b, 0xf9]);
        assert_eq!(
            parent.span_id,
            [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]
        );
        assert_eq!((parent.flags, parent.state.as_str()), (1, ""));
    }

    #[test]
    fn a_malformed_traceparent_is_no_trace() {
        for parent in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}-00"),
            &format!("{GOOD} "),
            &format!(" {GOOD}"),
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0x", 1),
            &GOOD.replace('-', "_"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace("-01", "-0g"),
            &GOOD.replace("4b", "\u{e4}"),
        ] {
            assert!(!TraceContext::new(parent, "").is_valid(), "{parent:?}");
        }
    }

    #[test]
    fn later_versions_may_append_fields_after_a_dash() {
        for (tail, valid) in [("", true), ("-", true), ("-what=ever", true), ("x", false)] {
            let parent = format!("{}{tail}", GOOD.replacen("00", "cc", 1));
            assert_eq!(TraceContext::new(&parent, "").is_valid(), valid, "{tail:?}");
        }
    }

    #[test]
    fn a_tracestate_is_kept_unchanged_or_left_out() {
        for good in ["a=1", "a=1,b=2", "a=1 , ,b=2,", "1t@sys=x y", "a=;:!"] {
            assert_eq!(state_of(good), good);
        }
        let long = format!("a={}", "x".repeat(257));
        let many: Vec<_> = (0..33).map(|at| format!("k{at}=1")).collect();
        let (all, most) = (many.join(","), many[..32].join(","));
        let wide: Vec<_> = (0..4)
            .map(|at| format!("k{at}={}", "x".repeat(200)))
            .collect();
        for bad in [
            "a",
            "=1",
            "A=1",
            "1=1",
            "a=",
            "a=1=2",
            "a=1,a=2",
            "a@1=1",
            "@a=1",
            "a=\u{e4}",
            &long,
            &all,
            &wide.join(","),
        ] {
            assert_eq!(state_of(bad), "", "{bad:?}");
        }
        assert_eq!(state_of(&most), most);
    }

    #[test]
    fn headers_are_found_and_joined() {
        let mut headers = HeaderMap::new();
        assert!(!TraceContext::from_headers(&headers).is_valid());
        headers.insert(&TRACEPARENT, HeaderValue::from_static(GOOD));
        headers.append(&TRACESTATE, HeaderValue::from_static("a=1"));
        headers.append(&TRACESTATE, HeaderValue::from_static("b=2"));
        let parent = TraceContext::from_headers(&headers).parse().expect("valid");
        assert_eq!(parent.state, "a=1,b=2");
        headers.append(&TRACEPARENT, HeaderValue::from_static(GOOD));
        assert!(!TraceContext::from_headers(&headers).is_valid(), "two");
    }

    #[test]
    fn debug_shows_only_the_traceparent() {
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("sesame"));
        headers.insert(&TRACEPARENT, HeaderValue::from_static(GOOD));
        let shown = format!("{:?}", TraceContext::from_headers(&headers));
        assert!(shown.contains(GOOD) && !shown.contains("sesame"), "{shown}");
    }

    proptest! {
        #[test]
        fn a_written_traceparent_is_parsed_back(
            version in 0u8..0xff,
            trace in any::<u128>(),
            span in any::<u64>(),
            flags in any::<u8>(),
        ) {
            let text = format!("{version:02x}-{trace:032x}-{span:016x}-{flags:02x}");
            let read = TraceContext::new(&text, "").parse();
            let expected = (trace != 0 && span != 0).then(|| TraceParent {
                trace_id: trace.to_be_bytes(),
                span_id: span.to_be_bytes(),
                flags,
                state: String::new(),
            });
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn almost_valid_headers_do_not_panic_and_are_bounded(
            parent in "[0-9a-fA-F-]{50,58}|.{0,60}",
            state in "[a-c0-9@=, _]{0,40}|.{0,600}",
        ) {
            if let Some(read) = TraceContext::new(&parent, &state).parse() {
                prop_assert!(read.trace_id != [0; 16] && read.span_id != [0; 8]);
                prop_assert!(read.state.is_empty() || read.state == state);
                prop_assert!(read.state.len() <= MAX_STATE_BYTES);
            }
        }

        #[test]
        fn one_wrong_byte_makes_a_traceparent_invalid(at in 0usize..55, byte in "[G-Zg-z_ ]") {
            let mut text = GOOD.to_owned();
            text.replace_range(at..=at, &byte);
            prop_assert!(!TraceContext::new(&text, "").is_valid());
        }
    }
}
