//! The deadline of the caller, read from the header `grpc-timeout`.

use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue, Method};
use tokio::time::Instant;

use super::head::RequestHead;
use crate::flow::headers::first_value;

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Up to this number, the names of headers are searched linearly.
const MAX_SCANNED: usize = 12;

/// The largest number of digits that the gRPC specification allows.
const MAX_DIGITS: usize = 8;

/// The time at which the caller stops waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// Reads the deadline of a request that arrives now. Returns `None` if the header is missing or
    /// malformed, and if the deadline is beyond the range of the clock.
    #[inline]
    pub(crate) fn of(head: RequestHead<'_>) -> Option<Self> {
        // gRPC calls are POST requests.
        if *head.method() != Method::POST {
            return None;
        }
        let headers = head.headers();
        // To compare a few names costs less than to hash one.
        if headers.keys_len() <= MAX_SCANNED && headers.keys().all(|name| *name != GRPC_TIMEOUT) {
            return None;
        }
        Self::read(headers)
    }

    #[inline(never)]
    fn read(headers: &HeaderMap) -> Option<Self> {
        let timeout = parse(first_value(headers, &GRPC_TIMEOUT)?.as_bytes())?;
        Instant::now().checked_add(timeout).map(Self)
    }

    pub(crate) fn has_passed(self) -> bool {
        Instant::now() >= self.0
    }

    /// Returns the time until the deadline; zero once it has passed.
    pub(crate) fn time_left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Sets the header to the time that is left, for the next service.
    pub(crate) fn update(self, headers: &mut HeaderMap) {
        headers.insert(&GRPC_TIMEOUT, format(self.time_left()));
    }
}

/// Parses one to eight digits and a unit.
fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > MAX_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = digits.iter();
    let amount = digits.fold(0, |amount: u64, digit| {
        amount * 10 + u64::from(digit - b'0')
    });
    // Eight digits of hours are far below the limit of `u64` and of `Duration`.
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

/// Formats a time in the finest unit in which it has at most eight digits, rounded down.
fn format(time: Duration) -> HeaderValue {
    const BOUND: u128 = 10_u128.pow(MAX_DIGITS as u32);
    let seconds = u128::from(time.as_secs());
    let units = [
        (time.as_nanos(), 'n'),
        (time.as_micros(), 'u'),
        (time.as_millis(), 'm'),
        (seconds, 'S'),
        (seconds / 60, 'M'),
        (seconds / 3600, 'H'),
    ];
    let fits = units.into_iter().find(|(amount, _)| *amount < BOUND);
    let (amount, unit) = fits.unwrap_or((BOUND - 1, 'H'));
    let text = format!("{amount}{unit}");
    // Digits and a letter are always a valid header value.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("0n"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parse_reads_all_units_and_rejects_malformed_values() {
        for (value, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("6n", Some(Duration::from_nanos(6))),
            ("0n", Some(Duration::ZERO)),
            ("00000001S", Some(Duration::from_secs(1))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("000000001S", None),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("1h", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            (" 1S", None),
            ("1 S", None),
            ("1S,2S", None),
            ("\u{0661}S", None),
        ] {
            assert_eq!(parse(value.as_bytes()), expected, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn a_formatted_time_parses_to_at_most_the_original(nanos: u64, hours in 0_u64..1_000_000_000) {
            for time in [
                Duration::from_nanos(nanos),
                Duration::from_secs(hours * 3600),
                Duration::MAX,
            ] {
                let read = parse(format(time).as_bytes()).expect("a valid value");
                prop_assert!(read <= time);
                let lost = time - read;
                let close = lost.as_nanos() * 10_u128.pow(5) <= time.as_nanos();
                prop_assert!(close || read == parse(b"99999999H").expect("a valid value"), "{time:?}");
            }
        }
    }
}
