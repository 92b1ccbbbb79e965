//! The ids of slots. They are random, because a caller that knows an id can return the slot.

use std::cell::RefCell;
use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use ahash::RandomState;
use uuid::Uuid;

/// Identifies one slot of a concurrency limiter or scheduler: a random UUID (version 4, RFC 9562).
///
/// An id cannot be guessed, because its 90 free bits come from the system's cryptographic source.
/// Its text of 36 characters is only made when it is printed.
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
const ID_BYTES: usize = 16;
/// Random bytes that a thread requests from the system at once: enough for 64 ids.
const BLOCK_BYTES: usize = 64 * ID_BYTES;

thread_local! {
    static THREAD_BYTES: RefCell<RandomBytes> = const { RefCell::new(RandomBytes::EMPTY) };
}

/// The random bytes of a thread. Each is used once.
struct RandomBytes {
    bytes: [u8; BLOCK_BYTES],
    used: usize,
}

impl RandomBytes {
    const EMPTY: Self = Self {
        bytes: [0; BLOCK_BYTES],
        used: BLOCK_BYTES,
    };

    fn next(&mut self) -> [u8; ID_BYTES] {
        let mut next = [0; ID_BYTES];
        if self.used >= BLOCK_BYTES {
            if getrandom::fill(&mut self.bytes).is_err() {
                return Self::fallback();
            }
            self.used = 0;
        }
        let taken = &mut self.bytes[self.used..self.used + ID_BYTES];
        next.copy_from_slice(taken);
        taken.fill(0);
        self.used += ID_BYTES;
        next
    }

    /// Returns bytes for an id while the system has no random bytes. Hashes under fresh keys stay
    /// distinct.
    #[cold]
    fn fallback() -> [u8; ID_BYTES] {
        log_event!(
            warn,
            "the system has no random bytes: ids of slots are easier to guess until it has"
        );
        let (high, low) = (RandomState::new(), RandomState::new());
        let (high, low) = (high.hash_one(0), low.hash_one(0));
        (u128::from(high) << 64 | u128::from(low)).to_be_bytes()
    }
}

impl RequestId {
    /// The id in the place of a slot's for something that is no slot. It is no valid UUID, so it
    /// equals no other id.
    pub(crate) const NOT_A_SLOT: Self = Self(NonZeroU64::MAX, u64::MAX);

    /// Returns an id for the slot at an index. The index can be read from the id without a table.
    pub(crate) fn new(slot_index: u32) -> Self {
        // A thread that is ending has lost its own bytes.
        let bytes = THREAD_BYTES
            .try_with(|own| own.try_borrow_mut().ok().map(|mut own| own.next()))
            .ok()
            .flatten()
            .unwrap_or_else(|| {
                let mut own = RandomBytes::EMPTY;
                own.next()
            });
        Self::random_from(bytes, slot_index)
    }

    /// Hides the index by combining it with random bits.
    fn random_from(bytes: [u8; ID_BYTES], slot_index: u32) -> Self {
        let random = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let (high, low) = random.as_u64_pair();
        let mask = high >> 32;
        let low = low >> 32 << 32 | mask ^ u64::from(slot_index);
        // Never zero, because it contains the version.
        Self(NonZeroU64::new(high).unwrap_or(NonZeroU64::MAX), low)
    }

    /// Returns the index of the slot. An id from outside may contain any index, so compare it with
    /// the id of the slot there.
    pub(crate) const fn slot_index(self) -> u32 {
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

/// The text is not an id that an engine could have issued.
///
/// See [`RequestId`] for an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseRequestIdError(());

impl fmt::Display for ParseRequestIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a UUID in lowercase hyphenated form")
    }
}

impl std::error::Error for ParseRequestIdError {}

impl FromStr for RequestId {
    type Err = ParseRequestIdError;

    /// Parses the form that [`Display`](fmt::Display) prints, and no other spelling of a UUID.
    ///
    /// # Errors
    ///
    /// Returns [`ParseRequestIdError`] for any other text.
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
    fn ids_are_random_uuids_and_survive_a_round_trip_as_text() {
        let mut seen = HashSet::new();
        for slot_index in (0..10_000).chain([u32::MAX]) {
            let id = RequestId::new(slot_index);
            assert_eq!(id.slot_index(), slot_index);
            let text = id.to_string();
            assert_eq!(text.as_bytes()[14], b'4', "{text}");
            assert!(b"89ab".contains(&text.as_bytes()[19]), "{text}");
            assert_eq!(text.parse(), Ok(id));
            assert!(seen.insert(id));
        }
    }

    #[test]
    fn an_id_reveals_nothing_about_the_next_one() {
        // Each free bit is set in about half of the ids, and equals that of the previous id in
        // about half.
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
    fn other_texts_are_no_ids() {
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
