//! Shortens long label values so that different values stay different.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// The most bytes that a shortened value keeps of the beginning of the value.
const PREFIX_LEN: usize = 64;
/// The bytes of the SHA-256 that are kept: 128 bits.
const HASH_BYTES: usize = 16;

/// The length of a shortened value that consists of the hash alone, in bytes.
pub const HASH_LEN: usize = 2 * HASH_BYTES;
/// The greatest length of a shortened value, in bytes.
pub const SHORTENED_LEN: usize = PREFIX_LEN + 1 + HASH_LEN;

/// Returns the beginning of a value, `~`, and 128 bits of the SHA-256 of the whole value in
/// hexadecimal, in at most `max` bytes. If `max` leaves no room for a beginning, returns the hash
/// alone, which is never cut.
///
/// Every process returns the same text for the same value, so replicas share its key. A shortened
/// value is at most [`SHORTENED_LEN`] bytes long, so callers never shorten it again to that length.
#[cold]
#[inline(never)]
pub fn shorten(value: &str, max: usize) -> String {
    let room = max.saturating_sub(HASH_LEN + 1).min(PREFIX_LEN);
    let mut end = room.min(value.len());
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let mut short = String::with_capacity(end + 1 + HASH_LEN);
    if end > 0 {
        short.push_str(&value[..end]);
        short.push('~');
    }
    for byte in &Sha256::digest(value)[..HASH_BYTES] {
        // Writing to a String cannot fail.
        let _ = write!(short, "{byte:02x}");
    }
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_shortened_value_is_a_prefix_and_128_bits_of_the_sha_256() {
        // The SHA-256 of "abc" is in FIPS 180-2.
        let hash = "ba7816bf8f01cfea414140de5dae2223";
        assert_eq!(shorten("abc", 100), format!("abc~{hash}"));
        assert_eq!(shorten("abc", HASH_LEN + 2), format!("a~{hash}"));
        assert_eq!(shorten("abc", HASH_LEN + 1), hash);
        assert_eq!(shorten("abc", 0), hash);
        let long = shorten(&"x".repeat(5000), usize::MAX);
        assert_eq!(long.len(), SHORTENED_LEN);
        assert!(long.starts_with(&"x".repeat(PREFIX_LEN)));
    }

    proptest! {
        #[test]
        fn different_values_stay_different(
            one in "[ab\u{fc}]{60,70}",
            two in "[ab\u{fc}]{60,70}",
            max in 0_usize..120,
        ) {
            let (short, other) = (shorten(&one, max), shorten(&two, max));
            prop_assert_eq!(one == two, short == other);
            prop_assert!(short.len() <= max.max(HASH_LEN));
        }
    }
}
