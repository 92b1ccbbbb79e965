//! What a plain scalar means, in the YAML 1.1 dialect that policies are written in.

/// What a scalar is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::policy) enum Kind {
    Null,
    Bool(bool),
    /// Also `.nan` and `.inf`, which no field accepts.
    Number(f64),
    Text,
}

/// Reads a plain scalar.
pub(in crate::policy) fn resolve(raw: &str) -> Kind {
    match raw {
        "" | "~" | "null" | "Null" | "NULL" => Kind::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => Kind::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            Kind::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" => Kind::Number(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => Kind::Number(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => Kind::Number(f64::NEG_INFINITY),
        _ => number(raw).map_or(Kind::Text, Kind::Number),
    }
}

fn number(raw: &str) -> Option<f64> {
    // Decides before anything is copied: most scalars are words.
    if !matches!(raw.as_bytes().first()?, b'0'..=b'9' | b'+' | b'-' | b'.') {
        return None;
    }
    let plain = raw.replace('_', "");
    let (sign, body) = match plain.as_bytes().first()? {
        b'-' => (-1.0, &plain[1..]),
        b'+' => (1.0, &plain[1..]),
        _ => (1.0, plain.as_str()),
    };
    if let Some(value) = integer(body) {
        return Some(sign * value as f64);
    }
    let bytes = body.as_bytes();
    let starts = match bytes {
        [b'0'..=b'9', ..] => true,
        [b'.', next, ..] => next.is_ascii_digit(),
        _ => false,
    };
    let decimal = |byte: &u8| byte.is_ascii_digit() || b".eE+-".contains(byte);
    if !starts || !bytes.iter().all(decimal) {
        return None;
    }
    let value: f64 = body.parse().ok()?;
    value.is_finite().then_some(sign * value)
}

/// An integer with its base's prefix; a leading zero is octal.
fn integer(body: &str) -> Option<u64> {
    let (radix, digits) = match body.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &body[2..]),
        [b'0', b'b' | b'B', ..] => (2, &body[2..]),
        [b'0', b'o' | b'O', ..] => (8, &body[2..]),
        [b'0', _, ..] => (8, &body[1..]),
        _ => (10, body),
    };
    // The standard parser would take another sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_read_as_yaml_1_1() {
        for (raw, kind) in [
            ("", Kind::Null),
            ("~", Kind::Null),
            ("yes", Kind::Bool(true)),
            ("Off", Kind::Bool(false)),
            ("0x10", Kind::Number(16.0)),
            ("-0x10", Kind::Number(-16.0)),
            ("010", Kind::Number(8.0)),
            ("0o10", Kind::Number(8.0)),
            ("0b11", Kind::Number(3.0)),
            ("09", Kind::Number(9.0)),
            ("1_000", Kind::Number(1000.0)),
            ("1e3", Kind::Number(1000.0)),
            ("+.5", Kind::Number(0.5)),
            ("5.", Kind::Number(5.0)),
            (
                "18446744073709551616",
                Kind::Number(18_446_744_073_709_551_616.0),
            ),
            (".inf", Kind::Number(f64::INFINITY)),
        ] {
            assert_eq!(resolve(raw), kind, "{raw}");
        }
    }

    #[test]
    fn words_and_near_numbers_stay_text() {
        for raw in [
            "y",
            "n",
            "NaN",
            "+Inf",
            "30s",
            "+30s",
            "_1",
            "-",
            "+",
            ".",
            "..",
            "1:30",
            "1e",
            "0x",
            "0xg",
            "--1",
            "+-1",
            "0b2",
            "2001-01-01",
            "nUlL",
            "yEs",
            ".e5",
            "1e999",
        ] {
            assert_eq!(resolve(raw), Kind::Text, "{raw}");
        }
    }
}
