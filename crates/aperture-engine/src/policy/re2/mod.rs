//! Regular expressions in the syntax of Go, in which policies are written.
//!
//! The engines of Go and of the `regex` crate are automata of the same family, but their syntaxes
//! differ in places. A pattern is rewritten here so that it has the same meaning, and refused where
//! Go would refuse it.

mod class;
mod escape;
#[cfg(test)]
mod tests;
mod translate;

use std::fmt::{self, Display};

use regex::bytes::{Regex, RegexBuilder};

use self::translate::Translation;

/// The maximum length of a pattern in bytes.
const MAX_SOURCE: usize = 8 * 1024;
/// The maximum size in bytes of a compiled pattern, and of its cache.
const MAX_COMPILED: usize = 1 << 20;
/// The maximum nesting depth of groups.
const MAX_NESTING: u32 = 100;

/// A compiled pattern. It matches anywhere in a text, unless it is anchored.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    regex: Regex,
    /// The pattern as written in the policy.
    source: Box<str>,
    /// True if the pattern contains `\B`, which would also match between the bytes of one
    /// character, where Go does not look. Matches are then accepted only at character boundaries.
    whole_characters: bool,
}

impl Pattern {
    pub(super) fn new(source: &str) -> Result<Self, String> {
        if source.len() > MAX_SOURCE {
            return Err(format!("a pattern may take {MAX_SOURCE} bytes"));
        }
        let mut translation = Translation::new(source);
        translation.run()?;
        let regex = RegexBuilder::new(&translation.out)
            .size_limit(MAX_COMPILED)
            .dfa_size_limit(MAX_COMPILED)
            .nest_limit(MAX_NESTING)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => "it is too large when compiled".to_owned(),
                // The last line has the reason; the lines before it show the rewritten pattern.
                error => {
                    let text = error.to_string();
                    let reason = text.lines().last().unwrap_or_default();
                    reason.trim_start_matches("error: ").to_owned()
                }
            })?;
        Ok(Self {
            regex,
            source: source.into(),
            whole_characters: translation.has_not_boundary,
        })
    }

    pub(super) fn is_match(&self, text: &str) -> bool {
        if !self.whole_characters {
            return self.regex.is_match(text.as_bytes());
        }
        self.regex
            .find_iter(text.as_bytes())
            .any(|found| text.is_char_boundary(found.start()) && text.is_char_boundary(found.end()))
    }
}

impl Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}
