//! Decodes the values of a query: percent escapes, and `+` for a space.

/// Decodes a value by the rules of a query. Returns `None` for a malformed escape.
pub(super) fn decode_query(text: &[u8]) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(match first {
            b'+' => b' ',
            b'%' => {
                let [high, low, after @ ..] = rest else {
                    return None;
                };
                rest = after;
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                u8::try_from(digit(high)? * 16 + digit(low)?).ok()?
            }
            plain => *plain,
        });
    }
    Some(match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_decoding_follows_query_rules() {
        for (text, expected) in [
            ("a+b", Some("a b")),
            ("a%2Bb", Some("a+b")),
            ("%41%7a", Some("Az")),
            ("%ff", Some("\u{fffd}")),
            ("%", None),
            ("%4", None),
            ("%zz", None),
        ] {
            assert_eq!(decode_query(text.as_bytes()).as_deref(), expected, "{text}");
        }
    }
}
