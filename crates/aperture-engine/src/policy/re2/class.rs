//! Translates character classes in brackets.

use std::fmt::Write;

use super::translate::{Translation, is_meta};

/// The names that are valid between `[:` and `:]`.
const POSIX: &[&str] = &[
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

impl Translation<'_> {
    /// Translates a class after its opening bracket. Special characters are written in escaped
    /// form, because the `regex` crate has set operations and nested classes where Go has plain
    /// characters.
    pub(super) fn class(&mut self) -> Result<(), String> {
        let unclosed = "a `[` without its `]`";
        self.out.push('[');
        if self.peek() == Some('^') {
            self.next();
            self.out.push('^');
        }
        let mut first = true;
        loop {
            let char = self.peek().ok_or(unclosed)?;
            if char == ']' && !first {
                self.next();
                self.out.push(']');
                return Ok(());
            }
            first = false;
            // In `[[:]` the colon is both the first and the last: Go reads two characters.
            if let Some(rest) = self.ahead().strip_prefix("[:")
                && let Some((inner, _)) = rest.split_once(":]")
            {
                let name = format!("[:{inner}:]");
                if POSIX.contains(&inner.strip_prefix('^').unwrap_or(inner)) {
                    self.out.push_str(&name);
                    self.skip(name.len());
                    continue;
                }
                return Err(format!("`{name}` is not a character class"));
            }
            let Some(low) = self.class_character(true)? else {
                continue;
            };
            push_class_character(&mut self.out, low);
            let ahead = self.ahead();
            if ahead.len() < 2 || !ahead.starts_with('-') || ahead[1..].starts_with(']') {
                continue;
            }
            self.next();
            let high = self
                .class_character(false)?
                .ok_or("a range that ends in a set of characters")?;
            if high < low {
                return Err(format!("the range `{low}-{high}` is empty"));
            }
            self.out.push('-');
            push_class_character(&mut self.out, high);
        }
    }

    /// Returns the next character of a class; `None` if it was a set, which has been written to the
    /// output.
    fn class_character(&mut self, sets: bool) -> Result<Option<char>, String> {
        match self.next() {
            None => Err("a `[` without its `]`".to_owned()),
            Some('\\') if sets => self.set_or_character(true),
            Some('\\') => self.character().map(Some),
            Some(char) => Ok(Some(char)),
        }
    }
}

fn push_class_character(out: &mut String, char: char) {
    if is_meta(char) || matches!(char, '&' | '~' | '-' | '<' | '>') {
        let _ = write!(out, "\\x{{{:x}}}", u32::from(char));
    } else {
        out.push(char);
    }
}
