use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use ahash::RandomState;

/// Names one slot of a concurrency limiter or scheduler: a random UUID (version 4, RFC 9562).
///
/// Its text, 36 characters, is made where it is asked for.
///
/// ```
/// use tower_aperture::engine::RequestId;
///
/// let id: RequestId = "f81d4fae-7dec-41d0-a765-00a0c91e6bf6".parse()?;
/// assert_eq!(id.to_string(), "f81d4fae-7dec-41d0-a765-00a0c91e6bf6");
/// assert!("f81d4fae".parse::<RequestId>().is_err());
/// # Ok::<(), tower_aperture::engine::ParseRequestIdError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(NonZeroU64, u64);

/// Bits that say "random" and "as in the RFC"; the others are free.
const VERSION: (u64, u64) = (0x4000, 0x8000 << 48);
const FREE: (u64, u64) = (!0xf000, !(0xc000 << 48));
/// Where the hyphens are.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];

thread_local! {
    static OWN: Random = Random::new();
}

/// A thread's ids: numbers that nobody else counts, under keys that nobody else knows.
struct Random {
    high: RandomState,
    low: RandomState,
    next: Cell<u64>,
}

impl Random {
    fn new() -> Self {
        static THREADS: AtomicU64 = AtomicU64::new(0);
        Self {
            high: RandomState::new(),
            low: RandomState::new(),
            next: Cell::new(THREADS.fetch_add(1, Ordering::Relaxed) << 40),
        }
    }

    fn next(&self, place: u32) -> RequestId {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let (high, low) = (self.high.hash_one(number), self.low.hash_one(number));
        RequestId::random_from(high, low, place)
    }
}

impl RequestId {
    /// For what is kept at this place, so that it is found without a table.
    pub(crate) fn new(place: u32) -> Self {
        // A thread that is ending has no numbers of its own any more.
        OWN.try_with(|own| own.next(place))
            .unwrap_or_else(|_| Random::new().next(place))
    }

    /// Bits of the place stand under random ones: 90 are left for nobody to guess.
    fn random_from(high: u64, low: u64, place: u32) -> Self {
        let mask = high >> 32;
        let low = low >> 32 << 32 | mask ^ u64::from(place);
        // Never zero: the version is in it.
        let high = NonZeroU64::new(high & FREE.0 | VERSION.0).unwrap_or(NonZeroU64::MAX);
        Self(high, low & FREE.1 | VERSION.1)
    }

    /// Where to look. An id from outside may name any place; what is there has its own id.
    pub(crate) const fn place(self) -> u32 {
        (self.0.get() >> 32 ^ self.1) as u32
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = u128::from(self.0.get()) << 64 | u128::from(self.1);
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            bits >> 96,
            bits >> 80 & 0xffff,
            bits >> 64 & 0xffff,
            bits >> 48 & 0xffff,
            bits & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

/// The text is no id that an engine could have given.
///
/// See [`RequestId`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseRequestIdError(());

impl fmt::Display for ParseRequestIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not the text of a UUID")
    }
}

impl std::error::Error for ParseRequestIdError {}

impl FromStr for RequestId {
    type Err = ParseRequestIdError;

    /// Takes what it prints, and no other spelling.
    fn from_str(text: &str) -> Result<Self, ParseRequestIdError> {
        let wrong = Err(ParseRequestIdError(()));
        if text.len() != 36 {
            return wrong;
        }
        let mut bits: u128 = 0;
        for (at, byte) in text.bytes().enumerate() {
            if HYPHENS.contains(&at) {
                if byte != b'-' {
                    return wrong;
                }
                continue;
            }
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                _ => return wrong,
            };
            bits = bits << 4 | u128::from(digit);
        }
        let (high, low) = ((bits >> 64) as u64, bits as u64);
        NonZeroU64::new(high).map_or(wrong, |high| Ok(Self(high, low)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_are_random_uuids_and_go_through_text() {
        let mut seen = HashSet::new();
        for place in (0..10_000).chain([u32::MAX]) {
            let id = RequestId::new(place);
            assert_eq!(id.place(), place);
            let text = id.to_string();
            assert_eq!(text.as_bytes()[14], b'4', "{text}");
            assert!(b"89ab".contains(&text.as_bytes()[19]), "{text}");
            assert_eq!(text.parse(), Ok(id));
            assert!(seen.insert(id));
        }
    }

    #[test]
    fn what_is_no_uuid_is_refused() {
        for text in [
            "",
            "00000000-0000-0000-0000-000000000000",
            "f81d4fae-7dec-41d0-a765-00a0c91e6bf",
            "f81d4fae-7dec-41d0-a765-00a0c91e6bfg",
            "f81d4fae07dec-41d0-a765-00a0c91e6bf6",
            "F81D4FAE-7DEC-41D0-A765-00A0C91E6BF6",
        ] {
            assert!(text.parse::<RequestId>().is_err(), "{text}");
        }
    }
}
