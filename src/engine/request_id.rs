//! The names of slots: random, because a caller that knows a name can free its slot.

use std::cell::RefCell;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use ahash::RandomState;
use uuid::Uuid;

/// Names one slot of a concurrency limiter or scheduler: a random UUID (version 4, RFC 9562).
///
/// It cannot be guessed: its 90 free bits come from the system's cryptographic source. Its text, 36
/// characters, is made where it is asked for.
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

/// Bytes of one id.
const ID: usize = 16;
/// Bytes that a thread asks the system for at once, for 64 ids.
const BLOCK: usize = 64 * ID;

thread_local! {
    static OWN: RefCell<Random> = const { RefCell::new(Random::EMPTY) };
}

/// A thread's random bytes, each used once.
struct Random {
    bytes: [u8; BLOCK],
    used: usize,
}

impl Random {
    const EMPTY: Self = Self {
        bytes: [0; BLOCK],
        used: BLOCK,
    };

    fn next(&mut self) -> [u8; ID] {
        let mut next = [0; ID];
        if self.used >= BLOCK {
            if getrandom::fill(&mut self.bytes).is_err() {
                return Self::without_a_source();
            }
            self.used = 0;
        }
        let taken = &mut self.bytes[self.used..self.used + ID];
        next.copy_from_slice(taken);
        taken.fill(0);
        self.used += ID;
        next
    }

    /// The system has no random bytes now. Hashes under fresh keys stay distinct.
    #[cold]
    fn without_a_source() -> [u8; ID] {
        log_event!(
            warn,
            "the system gives no random bytes: names of slots are harder to keep secret"
        );
        let (high, low) = (RandomState::new(), RandomState::new());
        let (high, low) = (high.hash_one(0), low.hash_one(0));
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    }
}

impl RequestId {
    /// Returns an id for a slot at this place, which the id leads to without a table.
    pub(crate) fn new(place: u32) -> Self {
        // A thread that is ending has no bytes of its own any more.
        let bytes = OWN
            .try_with(|own| own.try_borrow_mut().ok().map(|mut own| own.next()))
            .ok()
            .flatten()
            .unwrap_or_else(|| {
                let mut own = Random::EMPTY;
                own.next()
            });
        Self::random_from(bytes, place)
    }

    /// The bits of the place stand under random ones.
    fn random_from(bytes: [u8; ID], place: u32) -> Self {
        let random = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let (high, low) = random.as_u64_pair();
        let mask = high >> 32;
        let low = low >> 32 << 32 | mask ^ u64::from(place);
        // Never zero: the version is in it.
        Self(NonZeroU64::new(high).unwrap_or(NonZeroU64::MAX), low)
    }

    /// Returns the place to look at. An id from outside may name any place; the slot there has its
    /// own id.
    pub(crate) const fn place(self) -> u32 {
        (self.0.get() >> 32 ^ self.1) as u32
    }

    const fn uuid(self) -> Uuid {
        Uuid::from_u64_pair(self.0.get(), self.1)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uuid().as_hyphenated().fmt(f)
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

    /// Parses what [`Display`](fmt::Display) prints, and no other spelling of a UUID.
    fn from_str(text: &str) -> Result<Self, ParseRequestIdError> {
        let wrong = ParseRequestIdError(());
        let parsed = Uuid::try_parse(text).map_err(|_| wrong)?;
        let mut buffer = Uuid::encode_buffer();
        if *parsed.as_hyphenated().encode_lower(&mut buffer) != *text {
            return Err(wrong);
        }
        let (high, low) = parsed.as_u64_pair();
        NonZeroU64::new(high).map_or(Err(wrong), |high| Ok(Self(high, low)))
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
    fn an_id_tells_nothing_about_the_next_one() {
        // Each free bit is set in about half of the ids, also where the one before had it.
        const IDS: usize = 4096;
        let ids: Vec<u128> = (0..IDS)
            .map(|_| RequestId::new(7).uuid().as_u128())
            .collect();
        let fixed = 0xf000_u128 << 64 | 0xc000_u128 << 48;
        for bit in (0..128)
            .map(|bit| 1_u128 << bit)
            .filter(|bit| bit & fixed == 0)
        {
            let set = ids.iter().filter(|id| **id & bit != 0).count();
            let same = ids
                .windows(2)
                .filter(|pair| (pair[0] ^ pair[1]) & bit == 0)
                .count();
            for count in [set, same] {
                assert!(
                    (IDS / 2 - 400..IDS / 2 + 400).contains(&count),
                    "{bit:x}: {count}"
                );
            }
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
