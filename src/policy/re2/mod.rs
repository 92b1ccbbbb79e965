//! Regular expressions in Go's syntax, which is what policies are written in.
//!
//! Both engines are automata of the same family; their syntaxes differ in places. Here a pattern
//! is rewritten so that it means the same, and refused where Go would refuse it.

mod class;
mod escape;
#[cfg(test)]
mod tests;
mod translate;

use std::fmt::{self, Display};

use regex::bytes::{Regex, RegexBuilder};

use self::translate::Translation;

/// Bytes of a pattern's source.
const MAX_SOURCE: usize = 8 * 1024;
/// Bytes of a compiled pattern, and of its cache.
const MAX_COMPILED: usize = 1 << 20;
/// Groups inside each other.
const MAX_NESTING: u32 = 100;

/// A compiled pattern, looked for anywhere in the text.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    regex: Regex,
    /// As the policy has it.
    source: Box<str>,
    /// `\B` holds between the bytes of one character too, where Go does not look.
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
                // The last line says what; those before it show the rewritten pattern.
                error => {
                    let text = error.to_string();
                    let reason = text.lines().last().unwrap_or_default();
                    reason.trim_start_matches("error: ").to_owned()
                }
            })?;
        Ok(Self {
            regex,
            source: source.into(),
            whole_characters: translation.not_boundary,
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
