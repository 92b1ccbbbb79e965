//! Long values of labels as short ones that stay distinct.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// Bytes of the value's own beginning in a shortened value.
const PREFIX: usize = 64;
/// Bytes of the SHA-256 that are kept, 128 bits.
const HASH_BYTES: usize = 16;

/// Bytes of a shortened value that is a hash and nothing else.
pub(crate) const HASH: usize = 2 * HASH_BYTES;
/// Bytes of a shortened value at most.
pub(crate) const SHORTENED: usize = PREFIX + 1 + HASH;

/// Returns the beginning of a value, `~`, and 128 bits of the SHA-256 of the whole value in
/// hexadecimal, at most `most` bytes. Where `most` leaves no room for a beginning it is the hash
/// alone, which is never cut.
///
/// Every process returns the same text for the same value, so replicas share its key. A shortened
/// value is no longer than [`SHORTENED`], so shortening it again to that length changes nothing.
#[cold]
#[inline(never)]
pub(crate) fn shorten(value: &str, most: usize) -> String {
    let room = most.saturating_sub(HASH + 1).min(PREFIX);
    let mut end = room.min(value.len());
    while !value.is_char_boundary(end) {
        end -= 1;
    }
    let mut short = String::with_capacity(end + 1 + HASH);
    if end > 0 {
        short.push_str(&value[..end]);
        short.push('~');
    }
    for byte in &Sha256::digest(value)[..HASH_BYTES] {
        // Writing to a String does not fail.
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
        assert_eq!(shorten("abc", HASH + 2), format!("a~{hash}"));
        assert_eq!(shorten("abc", HASH + 1), hash);
        assert_eq!(shorten("abc", 0), hash);
        let long = shorten(&"x".repeat(5000), usize::MAX);
        assert_eq!(long.len(), SHORTENED);
        assert!(long.starts_with(&"x".repeat(PREFIX)));
    }

    proptest! {
        #[test]
        fn different_values_stay_different(
            one in "[ab\u{fc}]{60,70}",
            two in "[ab\u{fc}]{60,70}",
            most in 0_usize..120,
        ) {
            let (short, other) = (shorten(&one, most), shorten(&two, most));
            prop_assert_eq!(one == two, short == other);
            prop_assert!(short.len() <= most.max(HASH));
        }
    }
}
