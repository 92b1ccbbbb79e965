//! The syntax of names, numbers and durations.

pub(super) fn is_word(key: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !key.is_empty() && key.len() <= 64 && key.bytes().all(word)
}

/// Returns true if `key` is the camel-case spelling of `name`, as `inPorts` is of `in_ports`. A
/// name of one word has no other spelling.
pub(super) fn is_camel_case_of(key: &str, name: &str) -> bool {
    if !name.contains('_') {
        return false;
    }
    let mut upper = false;
    let mut spelt = String::with_capacity(name.len());
    for char in name.chars() {
        match char {
            '_' => upper = true,
            _ if upper => {
                spelt.push(char.to_ascii_uppercase());
                upper = false;
            }
            _ => spelt.push(char),
        }
    }
    key == spelt
}

/// Parses a quoted number: in JSON syntax, or one of the names that protobuf's JSON mapping has for
/// values without a JSON number.
pub(super) fn quoted_number(text: &str) -> Option<f64> {
    match text {
        "NaN" => return Some(f64::NAN),
        "Infinity" => return Some(f64::INFINITY),
        "-Infinity" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    let body = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let leading_zero = digits > 1 && body[0] == b'0';
    let decimal = |byte: &u8| byte.is_ascii_digit() || b".eE+-".contains(byte);
    let bare_point =
        body.get(digits) == Some(&b'.') && !body.get(digits + 1).is_some_and(u8::is_ascii_digit);
    if digits == 0 || leading_zero || bare_point || !body.iter().all(decimal) {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Parses seconds with the suffix `s` and at most nine decimals. Returns nanoseconds.
pub(super) fn seconds(text: &str) -> Option<i128> {
    /// The maximum of protobuf's `Duration`.
    const MAX_NANOS: i128 = 315_576_000_000 * NANOS;
    const NANOS: i128 = 1_000_000_000;

    let number = text.strip_suffix('s')?;
    let (negative, number) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let decimals = fraction.unwrap_or_default();
    let leading_zero = whole.len() > 1 && whole.starts_with('0');
    if !is_digits(whole) || !is_digits(decimals) || leading_zero || decimals.len() > 9 {
        return None;
    }
    if whole.is_empty() && fraction.is_none() || whole.len() > 12 {
        return None;
    }
    let digits = |text: &str| {
        text.bytes()
            .fold(0_i128, |value, byte| value * 10 + i128::from(byte - b'0'))
    };
    let missing = 9 - decimals.len() as u32;
    let nanos = digits(whole) * NANOS + digits(decimals) * 10_i128.pow(missing);
    (nanos <= MAX_NANOS).then_some(if negative { -nanos } else { nanos })
}

/// Converts a duration in another unit of Go, such as `1m`, to seconds; `None` for any other text.
pub(super) fn in_seconds(text: &str) -> Option<String> {
    const UNITS: [(&str, i128, i128); 7] = [
        ("ns", 1, 1_000_000_000),
        ("us", 1, 1_000_000),
        ("\u{b5}s", 1, 1_000_000),
        ("ms", 1, 1000),
        ("m", 60, 1),
        ("h", 3600, 1),
        ("d", 86_400, 1),
    ];
    let found = UNITS.iter().find_map(|(unit, times, by)| {
        let number = text.strip_suffix(unit)?;
        Some((seconds(&format!("{number}s"))?, times, by))
    });
    let (number, times, by) = found?;
    let nanos = number * times / by;
    let right = format!(
        "{}{}.{:09}",
        if nanos < 0 { "-" } else { "" },
        nanos.abs() / 1_000_000_000,
        nanos.abs() % 1_000_000_000
    );
    let right = right.trim_end_matches('0').trim_end_matches('.');
    Some(format!("{right}s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_in_seconds() {
        for (text, nanos) in [
            ("30s", 30_000_000_000),
            ("+30s", 30_000_000_000),
            (".5s", 500_000_000),
            ("30.s", 30_000_000_000),
            ("0.000000001s", 1),
            ("-1.5s", -1_500_000_000),
            ("0s", 0),
            ("315576000000s", 315_576_000_000_000_000_000),
        ] {
            assert_eq!(seconds(text), Some(nanos), "{text}");
        }
        for text in [
            "1m",
            "1500ms",
            "3e1s",
            "30 s",
            "30",
            "0.0000000001s",
            "",
            "s",
            "+s",
            "-",
            "01s",
            "--1s",
            "1_0s",
            "1.2.3s",
            "315576000001s",
            "9999999999999s",
            "\u{661}s",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn durations_in_other_units_convert_to_seconds() {
        for (text, right) in [
            ("1m", "60s"),
            ("1500ms", "1.5s"),
            ("5ms", "0.005s"),
            ("1.5h", "5400s"),
            ("-2m", "-120s"),
            ("250us", "0.00025s"),
            ("10ns", "0.00000001s"),
            ("0m", "0s"),
        ] {
            assert_eq!(in_seconds(text).as_deref(), Some(right), "{text}");
        }
        for text in ["", "m", "1", "1x", "1m30s", "one m", "3e1m"] {
            assert_eq!(in_seconds(text), None, "{text}");
        }
    }

    #[test]
    fn quoted_numbers_are_json_numbers() {
        for (text, value) in [
            ("2", 2.0),
            ("-0.5", -0.5),
            ("1e3", 1000.0),
            ("1.5E-1", 0.15),
        ] {
            assert_eq!(quoted_number(text), Some(value), "{text}");
        }
        assert_eq!(quoted_number("-Infinity"), Some(f64::NEG_INFINITY));
        assert!(quoted_number("NaN").is_some_and(f64::is_nan));
        for text in [
            "", "+2", ".5", "5.", "1.e5", "01", "0x10", " 2", "1_0", "inf", "1e999", "-", "e",
        ] {
            assert_eq!(quoted_number(text), None, "{text}");
        }
    }

    #[test]
    fn camel_case_spelling_is_recognised() {
        assert!(is_camel_case_of("limitByLabelKey", "limit_by_label_key"));
        assert!(!is_camel_case_of("interval", "interval"));
        assert!(!is_camel_case_of("limitbylabelkey", "limit_by_label_key"));
    }
}
