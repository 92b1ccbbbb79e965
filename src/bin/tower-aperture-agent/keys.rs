//! Files of API keys: one a line, comments in lines of their own.

use std::fs;
use std::path::Path;

use tower_aperture::agent::ApiKey;

use crate::output::Problem;

/// The keys of a file, of which there is at least one.
pub(crate) fn read(path: &Path) -> Result<Vec<ApiKey>, Problem> {
    let text = text(path)?;
    warn_of_readers(path);
    Ok(parse(path, &text)?.into_iter().map(ApiKey::new).collect())
}

/// The first key, for those who have to show one.
pub(crate) fn first(path: &Path) -> Result<String, Problem> {
    let text = text(path)?;
    let keys = parse(path, &text)?;
    // There is one.
    Ok(keys.first().copied().unwrap_or_default().to_owned())
}

fn text(path: &Path) -> Result<String, Problem> {
    let bytes =
        fs::read(path).map_err(|error| format!("{}: cannot be read: {error}", path.display()))?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        format!("{}:{line}: this is not text", path.display()).into()
    })
}

/// Errors name the line and nothing that stands in it.
fn parse<'t>(path: &Path, text: &'t str) -> Result<Vec<&'t str>, Problem> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut keys = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let key = line.trim();
        if key.is_empty() || key.starts_with('#') {
            continue;
        }
        let problem = if key.contains(char::is_whitespace) {
            Some("a key has no blanks in it, and a comment has a line of its own")
        } else if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            Some("a key is made of visible ASCII characters, so that a header can carry it")
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
        return Err(format!("{path}: there is no key in it: nobody could be let in").into());
    }
    Ok(keys)
}

#[cfg(unix)]
fn warn_of_readers(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;

    let open = fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o004 != 0);
    if open {
        let path = path.display();
        tracing::warn!("everybody on this machine can read the API keys in {path}: chmod o-r it");
    }
}

#[cfg(not(unix))]
fn warn_of_readers(_path: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<Vec<&str>, String> {
        parse(Path::new("keys.txt"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn one_key_a_line_and_comments() {
        let text = "\u{feff}# staging\r\n  alpha \r\n\n#beta\nga#mma\n";
        assert_eq!(keys(text), Ok(vec!["alpha", "ga#mma"]));
    }

    #[test]
    fn errors_name_the_line_and_no_key() {
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
