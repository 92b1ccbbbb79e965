//! Files of API keys: one key per line, and comments on lines of their own.

use std::fs;
use std::path::Path;

use tower_aperture_agent::ApiKey;

use crate::output::CommandError;

/// Returns the keys of a file, at least one.
pub(crate) fn read(path: &Path) -> Result<Vec<ApiKey>, CommandError> {
    let text = read_text(path)?;
    if let Some(warning) = open_to_all(path) {
        tracing::warn!("{warning}");
    }
    Ok(parse(path, &text)?.into_iter().map(ApiKey::new).collect())
}

/// Returns the first key of a file, for a client.
pub(crate) fn first(path: &Path) -> Result<String, CommandError> {
    let text = read_text(path)?;
    let keys = parse(path, &text)?;
    // `parse` returns at least one key.
    Ok(keys.first().copied().unwrap_or_default().to_owned())
}

/// Reads a file as UTF-8.
fn read_text(path: &Path) -> Result<String, CommandError> {
    let bytes =
        fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{}:{line}: this is not UTF-8 text", path.display()).into()
    })
}

/// Returns the keys of a text. Errors name the line, but do not repeat its content.
fn parse<'t>(path: &Path, text: &'t str) -> Result<Vec<&'t str>, CommandError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let key = line.trim();
        if key.is_empty() || key.starts_with('#') {
            continue;
        }
        let problem = if key.contains(char::is_whitespace) {
            Some("a key must not contain blanks; write comments on lines of their own")
        } else if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            Some("a key must consist of visible ASCII characters, because a header carries it")
        } else {
            None
        };
        if let Some(problem) = problem {
            return Err(format!("{}:{}: {problem}", path.display(), index + 1).into());
        }
        keys.push(key);
    }
    if keys.is_empty() {
        let path = path.display();
        return Err(
            format!("{path}: the file contains no key, so no call could be accepted").into(),
        );
    }
    Ok(keys)
}

/// Returns a warning if all users of the machine can read the file.
#[cfg(unix)]
pub(crate) fn open_to_all(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;

    let open = fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0);
    open.then(|| {
        let path = path.display();
        format!("all users of this machine can read the API keys in {path}: run chmod o-r on it")
    })
}

#[cfg(not(unix))]
pub(crate) fn open_to_all(_path: &Path) -> Option<String> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<Vec<&str>, String> {
        parse(Path::new("keys.txt"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_are_read_one_per_line_without_comments() {
        let text = "\u{feff}# staging\r\n  alpha \r\n\n#beta\nga#mma\n";
        assert_eq!(keys(text), Ok(vec!["alpha", "ga#mma"]));
    }

    #[test]
    fn errors_name_the_line_but_do_not_show_the_key() {
        for (text, line) in [
            ("good\nsesame open # mine\n", "keys.txt:2: "),
            ("# one\n\nsesäme\n", "keys.txt:3: "),
            ("sesame\u{7}\n", "keys.txt:1: "),
            ("# nothing\n", "keys.txt: "),
            ("", "keys.txt: "),
        ] {
            let error = keys(text).expect_err(text);
            assert!(error.starts_with(line), "{error}");
            assert!(!error.contains("ses"), "{error}");
        }
    }
}
