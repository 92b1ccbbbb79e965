//! Resolves plain scalars in the YAML 1.1 dialect in which policies are written.

/// The kind of a scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in crate::policy) enum ScalarKind {
    Null,
    Bool(bool),
    /// A number, also `.nan` and `.inf`, which no field accepts.
    Number(f64),
    Text,
}

/// Returns the kind of a plain scalar.
pub(in crate::policy) fn resolve(raw: &str) -> ScalarKind {
    match raw {
        "" | "~" | "null" | "Null" | "NULL" => ScalarKind::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => {
            ScalarKind::Bool(true)
        }
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            ScalarKind::Bool(false)
        }
        ".nan" | ".NaN" | ".NAN" => ScalarKind::Number(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => ScalarKind::Number(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => ScalarKind::Number(f64::NEG_INFINITY),
        _ => number(raw).map_or(ScalarKind::Text, ScalarKind::Number),
    }
}

fn number(raw: &str) -> Option<f64> {
    // Most scalars are words, so this returns before the text is copied.
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

/// Parses an integer with the prefix of its base; a leading zero means octal.
fn integer(body: &str) -> Option<u64> {
    let (radix, digits) = match body.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &body[2..]),
        [b'0', b'b' | b'B', ..] => (2, &body[2..]),
        [b'0', b'o' | b'O', ..] => (8, &body[2..]),
        [b'0', _, ..] => (8, &body[1..]),
        _ => (10, body),
    };
    // The standard parser would accept another sign.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_resolve_as_in_yaml_1_1() {
        for (raw, kind) in [
            ("", ScalarKind::Null),
            ("~", ScalarKind::Null),
            ("yes", ScalarKind::Bool(true)),
            ("Off", ScalarKind::Bool(false)),
            ("0x10", ScalarKind::Number(16.0)),
            ("-0x10", ScalarKind::Number(-16.0)),
            ("010", ScalarKind::Number(8.0)),
            ("0o10", ScalarKind::Number(8.0)),
            ("0b11", ScalarKind::Number(3.0)),
            ("09", ScalarKind::Number(9.0)),
            ("1_000", ScalarKind::Number(1000.0)),
            ("1e3", ScalarKind::Number(1000.0)),
            ("+.5", ScalarKind::Number(0.5)),
            ("5.", ScalarKind::Number(5.0)),
            (
                "18446744073709551616",
                ScalarKind::Number(18_446_744_073_709_551_616.0),
            ),
            (".inf", ScalarKind::Number(f64::INFINITY)),
        ] {
            assert_eq!(resolve(raw), kind, "{raw}");
        }
    }

    #[test]
    fn words_and_malformed_numbers_are_text() {
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
            assert_eq!(resolve(raw), ScalarKind::Text, "{raw}");
        }
    }
}
