//! Parses numbers as the Agent reads them from labels: in the syntax of Go's floating-point parser.

/// Parses the number of a label; `None` if the text is not a number, or one too large for an `f64`.
///
/// Accepts decimal numbers, hexadecimal numbers with a binary exponent, `inf`, `infinity` and `nan`
/// in any case, and underscores between digits. A number too small for an `f64` is zero.
/// Surrounding blanks are not accepted.
pub(crate) fn parse_number(text: &str) -> Option<f64> {
    let (negative, body) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let signed = body.len() < text.len();
    let magnitude = if body.eq_ignore_ascii_case("inf") || body.eq_ignore_ascii_case("infinity") {
        f64::INFINITY
    } else if body.eq_ignore_ascii_case("nan") {
        if signed {
            return None;
        }
        f64::NAN
    } else {
        let value = match body.get(..2) {
            Some("0x" | "0X") => hexadecimal(&body[2..])?,
            _ => decimal(body)?,
        };
        if value.is_infinite() {
            return None;
        }
        value
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// Returns true if each underscore is between two digits; after the prefix of a base, one may
/// also come first.
fn underscores_in_place(digits: &[u8], prefixed: bool, hex: bool) -> bool {
    let mut after_digit = prefixed;
    let mut pending = false;
    for &byte in digits {
        if byte == b'_' {
            if !after_digit {
                return false;
            }
            (after_digit, pending) = (false, true);
        } else if byte.is_ascii_digit() || (hex && byte.is_ascii_hexdigit()) {
            (after_digit, pending) = (true, false);
        } else if pending {
            return false;
        } else {
            after_digit = false;
        }
    }
    !pending
}

fn decimal(body: &str) -> Option<f64> {
    let bytes = body.as_bytes();
    if !bytes
        .iter()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-' | b'_'))
        // The standard parser would accept a second sign.
        || matches!(bytes.first(), Some(b'+' | b'-'))
    {
        return None;
    }
    if !body.contains('_') {
        return body.parse().ok();
    }
    if !underscores_in_place(bytes, false, false) {
        return None;
    }
    body.replace('_', "").parse().ok()
}

fn hexadecimal(body: &str) -> Option<f64> {
    let bytes = body.as_bytes();
    if !underscores_in_place(bytes, true, true) {
        return None;
    }
    let (mut mantissa, mut exponent) = (0_u64, 0_i64);
    let (mut point, mut any) = (false, false);
    let mut rest = bytes.iter().copied();
    loop {
        // A hexadecimal number must have an exponent.
        let byte = rest.next()?;
        match byte {
            b'_' => {}
            b'.' if !point => point = true,
            b'p' | b'P' => break,
            _ => {
                let digit = u64::from(char::from(byte).to_digit(16)?);
                any = true;
                if mantissa >> 60 == 0 {
                    mantissa = mantissa << 4 | digit;
                    exponent -= if point { 4 } else { 0 };
                } else {
                    // Digits beyond the precision matter only for rounding.
                    mantissa |= u64::from(digit != 0);
                    exponent += if point { 0 } else { 4 };
                }
            }
        }
    }
    if !any {
        return None;
    }
    exponent = exponent.saturating_add(power(rest)?);
    Some(scale(mantissa, exponent))
}

fn power(text: impl Iterator<Item = u8>) -> Option<i64> {
    let mut text = text.peekable();
    let negative = match text.peek()? {
        b'-' => text.next().is_some(),
        b'+' => text.next().is_none(),
        _ => false,
    };
    if !text.peek()?.is_ascii_digit() {
        return None;
    }
    let mut value = 0_i64;
    for byte in text {
        match byte {
            b'_' => {}
            b'0'..=b'9' => value = (value * 10 + i64::from(byte - b'0')).min(1 << 40),
            _ => return None,
        }
    }
    Some(if negative { -value } else { value })
}

/// Returns `mantissa * 2^exponent`, rounded half to even, also below the smallest normal number.
fn scale(mantissa: u64, exponent: i64) -> f64 {
    if mantissa == 0 {
        return 0.0;
    }
    let zeros = mantissa.leading_zeros();
    let mantissa = mantissa << zeros;
    let exponent = exponent - i64::from(zeros);
    let top = exponent + 63;
    if top > 1023 {
        return f64::INFINITY;
    }
    if top < -1076 {
        return 0.0;
    }
    let kept = if top >= -1022 { 53 } else { 53 + top + 1022 };
    let shift = 64 - kept;
    let wide = u128::from(mantissa);
    let (whole, rest, half) = (
        wide >> shift,
        wide & ((1 << shift) - 1),
        1_u128 << (shift - 1),
    );
    let up = rest > half || (rest == half && whole & 1 == 1);
    let whole = (whole + u128::from(up)) as f64;
    // Two steps, because the power alone may be out of range. Both multiplications are exact.
    let first = (exponent + shift) / 2;
    whole * power_of_two(first) * power_of_two(exponent + shift - first)
}

/// Returns two to the power of an exponent, which must be that of a normal number.
fn power_of_two(exponent: i64) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::parse_number;

    #[test]
    fn numbers_parse_as_on_the_agent() {
        for (text, value) in [
            ("1", 1.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("+2", 2.0),
            ("-2", -2.0),
            ("1E-1", 0.1),
            ("1_0", 10.0),
            ("1_0.2_5e1_0", 10.25e10),
            ("0x1p1", 2.0),
            ("0X1.8P+1", 3.0),
            ("-0x_1p-1", -0.5),
            ("0x.8p0", 0.5),
            ("0x1p-1074", 5e-324),
            ("0x1.8p-1075", 5e-324),
            ("0x1p-1075", 0.0),
            ("0x1.fffffffffffff8p1022", f64::MAX / 2.0 + 2f64.powi(969)),
            ("0x1.00000000000008p0", 1.0),
            ("0x1.000000000000080000000000000001p0", 1.0 + f64::EPSILON),
            ("0x10000000000000000000p-76", 1.0),
            ("1e-400", 0.0),
            ("inf", f64::INFINITY),
            ("+Infinity", f64::INFINITY),
            ("-INF", f64::NEG_INFINITY),
        ] {
            assert_eq!(parse_number(text), Some(value), "{text}");
        }
        assert!(parse_number("nan").is_some_and(f64::is_nan));
        assert!(parse_number("NaN").is_some_and(f64::is_nan));
    }

    #[test]
    fn texts_that_are_no_numbers_are_refused() {
        for text in [
            "",
            " 1",
            "1 ",
            "+",
            "-",
            ".",
            "e5",
            "1e",
            "1e+",
            "--1",
            "+-1",
            "0x2",
            "0x",
            "0xp1",
            "0x.p1",
            "0x1p",
            "0x1p+",
            "0x1p1.0",
            "0x1e5",
            "_1",
            "1_",
            "1__0",
            "1_.0",
            "1._0",
            "1e_5",
            "1e5_",
            "0x1_p1",
            "0x__1p1",
            "0x1p_1",
            "+nan",
            "-nan",
            "infi",
            "1e999",
            "-1e999",
            "0x1p1024",
            "0x1.fffffffffffff8p1023",
            "1,5",
            "\u{661}",
            "1d",
            "0b1",
            "0o7",
        ] {
            assert_eq!(parse_number(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn parsing_any_text_does_not_panic(text in ".*") {
            let _ = parse_number(&text);
        }

        #[test]
        fn parsing_number_like_text_does_not_panic(text in "[-+]?(0[xX])?[0-9a-fA-F_.]{0,12}([pPeE][-+]?[0-9_]{0,6})?") {
            let _ = parse_number(&text);
        }

        #[test]
        fn printed_numbers_parse_to_themselves(value in any::<f64>().prop_filter("a number", |v| v.is_finite())) {
            for text in [format!("{value}"), format!("{value:e}"), format!("{value:E}")] {
                prop_assert_eq!(parse_number(&text), Some(value));
            }
        }

        #[test]
        fn hexadecimal_numbers_are_an_integer_times_a_power_of_two(mantissa in any::<u32>(), exponent in -900_i32..900) {
            let text = format!("{mantissa:#x}p{exponent}");
            let value = f64::from(mantissa) * 2_f64.powi(exponent);
            prop_assert_eq!(parse_number(&text), Some(value));
        }

        #[test]
        fn long_mantissas_round_as_integers_do(mantissa in any::<u64>()) {
            prop_assert_eq!(parse_number(&format!("{mantissa:#x}p0")), Some(mantissa as f64));
            let wide = u128::from(mantissa) << 40 | 1;
            prop_assert_eq!(parse_number(&format!("{wide:#x}p0")), Some(wide as f64));
        }

        #[test]
        fn the_smallest_numbers_round_half_to_even(mantissa in any::<u32>(), below in 1_u32..40) {
            // In units of the smallest subnormal number, which are the units of the bits of such a
            // float.
            let mantissa_wide = u64::from(mantissa);
            let (whole, rest, half) = (mantissa_wide >> below, mantissa_wide & ((1 << below) - 1), 1_u64 << (below - 1));
            let up = rest > half || (rest == half && whole % 2 == 1);
            let expected = f64::from_bits(whole + u64::from(up));
            let text = format!("{mantissa:#x}p-{}", 1074 + below);
            prop_assert_eq!(parse_number(&text), Some(expected));
        }
    }
}
