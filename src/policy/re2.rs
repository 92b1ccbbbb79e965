//! Regular expressions in Go's syntax, which is what policies are written in.
//!
//! Both engines are automata of the same family; their syntaxes differ in places. Here a pattern
//! is rewritten so that it means the same, and refused where Go would refuse it.

use std::fmt::Write;
use std::iter::Peekable;
use std::str::CharIndices;

use regex::bytes::{Regex, RegexBuilder};

/// Bytes of a pattern's source.
const MAX_SOURCE: usize = 8 * 1024;
/// Bytes of a compiled pattern, and of its cache.
const MAX_COMPILED: usize = 1 << 20;
/// Groups inside each other.
const MAX_NESTING: u32 = 100;
/// What Go allows in `{n,m}`.
const MAX_REPEAT: u32 = 1000;
/// Names between `[:` and `:]`.
const POSIX: &[&str] = &[
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct",
    "space", "upper", "word", "xdigit",
];

/// A compiled pattern, looked for anywhere in the text.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    regex: Regex,
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

/// What stands before a repetition operator.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    Item,
    Repetition,
}

struct Translation<'s> {
    source: &'s str,
    rest: Peekable<CharIndices<'s>>,
    out: String,
    before: Before,
    not_boundary: bool,
}

impl<'s> Translation<'s> {
    fn new(source: &'s str) -> Self {
        Self {
            source,
            rest: source.char_indices().peekable(),
            out: String::with_capacity(source.len() + 16),
            before: Before::Nothing,
            not_boundary: false,
        }
    }

    fn next(&mut self) -> Option<char> {
        self.rest.next().map(|(_, char)| char)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().map(|(_, char)| *char)
    }

    /// What is left of the source.
    fn ahead(&mut self) -> &'s str {
        let at = self.rest.peek().map_or(self.source.len(), |(at, _)| *at);
        &self.source[at..]
    }

    fn skip(&mut self, bytes: usize) {
        let end = self.source.len() - self.ahead().len() + bytes;
        while self.rest.peek().is_some_and(|(at, _)| *at < end) {
            self.rest.next();
        }
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(char) = self.next() {
            match char {
                '\\' => self.escape()?,
                '[' => {
                    self.class()?;
                    self.before = Before::Item;
                }
                '(' => self.group()?,
                '|' => {
                    self.out.push('|');
                    self.before = Before::Nothing;
                }
                '*' | '+' | '?' => self.repeat(char.encode_utf8(&mut [0; 4]))?,
                '{' => self.braces()?,
                ')' | '^' | '$' | '.' => self.item(char),
                _ => self.literal(char),
            }
        }
        Ok(())
    }

    fn item(&mut self, char: char) {
        self.out.push(char);
        self.before = Before::Item;
    }

    fn literal(&mut self, char: char) {
        push_literal(&mut self.out, char);
        self.before = Before::Item;
    }

    fn repeat(&mut self, operator: &str) -> Result<(), String> {
        match self.before {
            Before::Nothing => return Err(format!("nothing to repeat before `{operator}`")),
            Before::Repetition => return Err(format!("`{operator}` repeats a repetition")),
            Before::Item => {}
        }
        self.out.push_str(operator);
        if self.peek() == Some('?') {
            self.next();
            self.out.push('?');
        }
        self.before = Before::Repetition;
        Ok(())
    }

    /// A repetition when it has the form of one, else just a brace.
    fn braces(&mut self) -> Result<(), String> {
        let ahead = self.ahead();
        let Some((least, most, length)) = counted(ahead) else {
            self.literal('{');
            return Ok(());
        };
        let too_many = |bound: Option<u32>| bound.is_none_or(|bound| bound > MAX_REPEAT);
        let reversed = matches!((least, most), (Some(least), Some(Some(most))) if most < least);
        if too_many(least) || most.is_some_and(too_many) || reversed {
            return Err(format!(
                "the repetition `{{{}` is out of range",
                &ahead[..length]
            ));
        }
        self.skip(length);
        self.repeat(&format!("{{{}", &ahead[..length]))
    }

    fn group(&mut self) -> Result<(), String> {
        self.before = Before::Nothing;
        self.out.push('(');
        if self.peek() != Some('?') {
            return Ok(());
        }
        self.next();
        let ahead = self.ahead();
        if ahead.starts_with("P<")
            || (ahead.starts_with('<') && !ahead.starts_with("<=") && !ahead.starts_with("<!"))
        {
            self.out.push('?');
            return Ok(());
        }
        let end = ahead.find([':', ')']).ok_or("a group is not closed")?;
        let flags = &ahead[..end];
        let (on, off) = flags.split_once('-').unwrap_or((flags, ""));
        let known = |flags: &str| flags.chars().all(|flag| "imsU".contains(flag));
        if !known(on) || !known(off) || (flags.contains('-') && off.is_empty()) {
            return Err(format!("`(?{flags}` is not supported in this syntax"));
        }
        self.skip(end + 1);
        let colon = ahead[end..].starts_with(':');
        // The other engine knows neither an empty nor a repeated set of flags.
        let set = |flags: &str| -> String {
            "imsU"
                .chars()
                .filter(|flag| flags.contains(*flag))
                .collect()
        };
        let on: String = set(on)
            .chars()
            .filter(|flag| !off.contains(*flag))
            .collect();
        let off = set(off);
        let minus = if off.is_empty() { "" } else { "-" };
        match (colon, on.is_empty() && off.is_empty()) {
            (true, _) => self.out.push_str(&format!("?{on}{minus}{off}:")),
            (false, true) => {
                self.out.push_str("?:)");
            }
            (false, false) => self.out.push_str(&format!("?{on}{minus}{off})")),
        }
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        let char = self.peek().ok_or("a `\\` at the end")?;
        match char {
            'Q' => {
                self.next();
                let ahead = self.ahead();
                let length = ahead.find("\\E").unwrap_or(ahead.len());
                for char in ahead[..length].chars() {
                    self.literal(char);
                }
                self.skip((length + 2).min(ahead.len()));
                return Ok(());
            }
            // Closes nothing; Go takes it for nothing.
            'E' => return Err("`\\E` without `\\Q`".to_owned()),
            'A' | 'z' => self.out.push_str(if char == 'A' { "\\A" } else { "\\z" }),
            'b' => self.out.push_str("(?-u:\\b)"),
            'B' => {
                self.not_boundary = true;
                self.out.push_str("(?-u:\\B)");
            }
            _ => {
                self.set_or_character(false)?;
                self.before = Before::Item;
                return Ok(());
            }
        }
        self.next();
        self.before = Before::Item;
        Ok(())
    }

    /// An escape that may stand in a class too: a set of characters, which is written out, or one
    /// character, which is also returned.
    fn set_or_character(&mut self, in_class: bool) -> Result<Option<char>, String> {
        let char = self.peek().ok_or("a `\\` at the end")?;
        let set = match char {
            'd' => "[0-9]",
            'D' => "[^0-9]",
            'w' => "[0-9A-Za-z_]",
            'W' => "[^0-9A-Za-z_]",
            's' => "[\\t\\n\\f\\r ]",
            'S' => "[^\\t\\n\\f\\r ]",
            'p' | 'P' => {
                self.next();
                self.property(char == 'P')?;
                return Ok(None);
            }
            _ => {
                let char = self.character()?;
                if !in_class {
                    push_literal(&mut self.out, char);
                }
                return Ok(Some(char));
            }
        };
        self.next();
        self.out.push_str(set);
        Ok(None)
    }

    /// `\pL`, `\p{Greek}`, `\p{^Greek}` behind the letter.
    fn property(&mut self, mut negated: bool) -> Result<(), String> {
        let unclosed = "a `\\p` without its property";
        let first = self.next().ok_or(unclosed)?;
        let mut name = String::from(first);
        if first == '{' {
            let ahead = self.ahead();
            let length = ahead.find('}').ok_or(unclosed)?;
            name = ahead[..length].to_owned();
            self.skip(length + 1);
            if let Some(positive) = name.strip_prefix('^') {
                name = positive.to_owned();
                negated = !negated;
            }
        }
        if name.is_empty()
            || !name
                .chars()
                .all(|char| char.is_ascii_alphanumeric() || char == '_')
        {
            return Err(format!("`\\p{{{name}}}` is no property"));
        }
        let letter = if negated { 'P' } else { 'p' };
        // Writing to a String does not fail.
        let _ = write!(self.out, "\\{letter}{{{name}}}");
        Ok(())
    }

    /// One escaped character.
    fn character(&mut self) -> Result<char, String> {
        let char = self.next().ok_or("a `\\` at the end")?;
        Ok(match char {
            'a' => '\x07',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\x0b',
            '0'..='7' => {
                let mut value = u32::from(char) - u32::from('0');
                let next_is_octal = self.peek().is_some_and(|next| next.is_digit(8));
                if char != '0' && !next_is_octal {
                    return Err(format!("the backreference `\\{char}` is not supported"));
                }
                for _ in 0..2 {
                    let Some(digit) = self.peek().and_then(|next| next.to_digit(8)) else {
                        break;
                    };
                    value = value * 8 + digit;
                    self.next();
                }
                char::from_u32(value).ok_or("an escaped number is no character")?
            }
            'x' => self.hexadecimal()?,
            _ if char.is_ascii() && !char.is_ascii_alphanumeric() => char,
            _ => return Err(format!("the escape `\\{char}` is not supported")),
        })
    }

    fn hexadecimal(&mut self) -> Result<char, String> {
        let wrong = "a `\\x` takes two digits, or any number of them in braces";
        let ahead = self.ahead();
        let (digits, length) = match ahead.strip_prefix('{') {
            Some(braced) => {
                let length = braced.find('}').ok_or(wrong)?;
                (&braced[..length], length + 2)
            }
            None => (ahead.get(..2).ok_or(wrong)?, 2),
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong.to_owned());
        }
        let value = u32::from_str_radix(digits.trim_start_matches('0'), 16);
        let value = if digits.bytes().all(|byte| byte == b'0') {
            Ok(0)
        } else {
            value
        };
        self.skip(length);
        value
            .ok()
            .and_then(char::from_u32)
            .ok_or_else(|| format!("`\\x{{{digits}}}` is no character"))
    }

    /// A class behind its bracket: every character is written out escaped, because the other
    /// engine has set operations and nested classes where Go has plain characters.
    fn class(&mut self) -> Result<(), String> {
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
            if self.ahead().starts_with("[:") {
                if let Some(length) = self.ahead().find(":]") {
                    let name = &self.ahead()[..length + 2];
                    let inner = &name[2..length];
                    if POSIX.contains(&inner.strip_prefix('^').unwrap_or(inner)) {
                        self.out.push_str(name);
                        self.skip(length + 2);
                        continue;
                    }
                    return Err(format!("`{name}` is no class of characters"));
                }
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

    /// The next character of a class; `None` when it was a set, which has been written out.
    fn class_character(&mut self, sets: bool) -> Result<Option<char>, String> {
        match self.next() {
            None => Err("a `[` without its `]`".to_owned()),
            Some('\\') if sets => self.set_or_character(true),
            Some('\\') => self.character().map(Some),
            Some(char) => Ok(Some(char)),
        }
    }
}

/// `n}`, `n,}` or `n,m}`: the bounds, and the length of the text. A bound that does not fit is
/// `None` inside.
#[allow(clippy::type_complexity)]
fn counted(text: &str) -> Option<(Option<u32>, Option<Option<u32>>, usize)> {
    let length = text.find('}')?;
    let (least, most) = match text[..length].split_once(',') {
        None => (&text[..length], None),
        Some((least, "")) => (least, None),
        Some((least, most)) => (least, Some(most)),
    };
    let number = |text: &str| {
        let leading_zero = text.len() > 1 && text.starts_with('0');
        !text.is_empty() && !leading_zero && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    if !number(least) || !most.is_none_or(number) {
        return None;
    }
    let bound = |text: &str| text.parse().ok();
    Some((bound(least), most.map(bound), length + 1))
}

fn push_literal(out: &mut String, char: char) {
    if regex_syntax_meta(char) {
        out.push('\\');
    }
    out.push(char);
}

fn push_class_character(out: &mut String, char: char) {
    if regex_syntax_meta(char) || matches!(char, '&' | '~' | '-' | '<' | '>') {
        let _ = write!(out, "\\x{{{:x}}}", u32::from(char));
    } else {
        out.push(char);
    }
}

fn regex_syntax_meta(char: char) -> bool {
    matches!(
        char,
        '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$'
    )
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    fn finds(pattern: &str, text: &str) -> bool {
        Pattern::new(pattern).expect(pattern).is_match(text)
    }

    #[test]
    fn a_pattern_is_looked_for_anywhere() {
        assert!(finds("b", "abc"));
        assert!(finds("", ""));
        assert!(finds("a.c", "xabcx"));
        assert!(!finds("a.c", "a\nc"));
        assert!(!finds("^b", "abc"));
    }

    #[test]
    fn classes_are_of_ascii() {
        for (pattern, text) in [
            ("^\\d$", "\u{661}"),
            ("^\\w$", "é"),
            ("^\\s$", "\u{a0}"),
            ("^\\s$", "\u{b}"),
            ("^[[:alpha:]]$", "é"),
            ("^[\\d]$", "\u{661}"),
            ("^\\W$", "a"),
        ] {
            assert!(!finds(pattern, text), "{pattern} {text:?}");
        }
        for (pattern, text) in [
            ("^\\D$", "\u{661}"),
            ("^\\W$", "é"),
            ("^\\S$", "\u{b}"),
            ("^[^\\w]$", "é"),
            ("é\\b", "éa"),
            ("^(?i)É$", "é"),
            ("^\\pL$", "é"),
            ("^\\p{^L}$", "1"),
            ("^\\P{Greek}$", "a"),
        ] {
            assert!(finds(pattern, text), "{pattern} {text:?}");
        }
    }

    #[test]
    fn no_boundary_is_looked_for_between_characters_only() {
        assert!(!finds("\\B", "aéa"));
        assert!(finds("\\B", "é"));
        assert!(finds("a\\Bb", "ab"));
        assert!(finds("\\B", ""));
    }

    #[test]
    fn dollar_is_the_end_of_the_text() {
        assert!(!finds("a$", "a\n"));
        assert!(finds("(?m)a$", "a\nb"));
        assert!(finds("a\\z", "a"));
    }

    #[test]
    fn quoted_text_is_literal() {
        assert!(finds("^\\Qa.b*\\E$", "a.b*"));
        assert!(!finds("^\\Qa.b\\E$", "axb"));
        assert!(finds("^\\Qa+", "a+"));
        assert!(finds("^\\Qab\\E+$", "abbb"));
        assert!(finds("^\\Q\\\\E$", "\\"));
    }

    #[test]
    fn a_class_holds_plain_characters() {
        for (pattern, text) in [
            ("^[a&&b]$", "&"),
            ("^[+--]$", ","),
            ("^[[a]$", "["),
            ("^[a~~b]$", "~"),
            ("^[]a]$", "]"),
            ("^[^]a]$", "b"),
            ("^[a-]$", "-"),
            ("^[-a]$", "-"),
            ("^[\\x41-\\x{43}]$", "B"),
            ("^[\\n]$", "\n"),
            ("^[\\]]$", "]"),
            ("^[\\W\\d]$", "5"),
            ("^[[:^digit:]x]$", "a"),
            ("^[a-c-e]$", "-"),
            ("^[^a]$", "\n"),
        ] {
            assert!(finds(pattern, text), "{pattern} {text:?}");
        }
        assert!(!finds("^[a&&b]$", "c"));
    }

    #[test]
    fn braces_that_count_nothing_are_plain() {
        assert!(finds("^{,2}$", "{,2}"));
        assert!(finds("^a{$", "a{"));
        assert!(finds("^a{x}$", "a{x}"));
        assert!(finds("^{$", "{"));
        assert!(finds("^a{2}$", "aa"));
        assert!(finds("^a{1,}?$", "aaa"));
        assert!(finds("^a{02}$", "a{02}"));
    }

    #[test]
    fn escapes_read_as_in_go() {
        assert!(finds("^\\101\\0\\x41\\x{0041}$", "A\0AA"));
        assert!(finds("^\\<\\>\\_\\ \\-$", "<>_ -"));
        assert!(finds("^\\a\\f\\t\\v$", "\x07\x0c\t\x0b"));
        assert!(finds("^(?P<n>a)(?<m>b)(?i:C)(?s-i:.)(?)$", "abc\n"));
        assert!(finds("^(?ii)a(?i-i)A$", "AA"));
        assert!(finds("^#a b$", "#a b"));
        assert!(finds("^a&b-<c>$", "a&b-<c>"));
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for pattern in [
            "(",
            ")",
            "[",
            "[]",
            "a**",
            "a+*",
            "a{2}{3}",
            "a??*",
            "*",
            "a|*",
            "(*)",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?<!a)",
            "(a)\\1",
            "\\8",
            "\\k",
            "\\Z",
            "\\C",
            "\\G",
            "\\h",
            "\\x",
            "\\xg1",
            "\\x{110000}",
            "\\x{}",
            "\\",
            "[b-a]",
            "[a-\\d]",
            "[[:nope:]]",
            "[\\b]",
            "a{1001}",
            "a{2,1}",
            "a{99999999999}",
            "(?x)a",
            "(?u)a",
            "(?-)a",
            "(?i",
            "\\p",
            "\\p{",
            "\\p{Nope}",
            "(?#c)",
            "\\é",
            "\\E",
        ] {
            assert!(Pattern::new(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn hostile_patterns_are_refused_within_bounds() {
        for pattern in [
            "(".repeat(1000) + &")".repeat(1000),
            "((((\\pL{1000}){1000}){1000}){1000})".to_owned(),
            "(?:a{1000}){1000}".to_owned(),
            "a".repeat(10_000),
        ] {
            assert!(Pattern::new(&pattern).is_err());
        }
    }
}
