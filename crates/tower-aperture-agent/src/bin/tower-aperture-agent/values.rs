//! Parses the values of options: durations and labels.

use std::time::Duration;

/// Parses a duration such as `500ms`, `10s` or `2m`; a bare number is in seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| "a duration has the form 500ms, 10s or 2m".to_owned())?;
    let duration = match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "s" | "" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        _ => None,
    };
    duration
        .filter(|duration| *duration <= Duration::from_secs(1 << 32))
        .ok_or_else(|| "a duration has the form 500ms, 10s or 2m".to_owned())
}

/// Parses a timeout after which connections are closed. A shorter one would close connections that
/// are in use; a longer one would let callers hold memory that they do not use.
pub(crate) fn parse_connection_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text)?;
    if (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&timeout) {
        return Ok(timeout);
    }
    Err("this timeout is at least 1s and at most 60m".to_owned())
}

/// Parses a label such as `user_id=42`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("a label has the form key=value, such as user_id=42")?;
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "-1s", "1h", "1.5s", "99999999999999999999s", "ü"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn connection_timeouts_have_bounds() {
        for (text, seconds) in [("1s", 1), ("1000ms", 1), ("90", 90), ("60m", 3600)] {
            let timeout = Duration::from_secs(seconds);
            assert_eq!(parse_connection_timeout(text), Ok(timeout), "{text}");
        }
        for bad in ["0", "999ms", "3601s", "61m", "soon"] {
            assert!(parse_connection_timeout(bad).is_err(), "{bad}");
        }
    }
}
