//! Rewrites a pattern from Go's syntax to that of the `regex` crate, except for escapes and
//! classes.

use std::iter::Peekable;
use std::str::CharIndices;

/// The maximum bound of a repetition `{n,m}` in Go.
const MAX_REPEAT: u32 = 1000;

/// The item before the current position, which determines whether a repetition operator is valid.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum PrecedingItem {
    Nothing,
    Item,
    Repetition,
}

pub(super) struct Translation<'s> {
    source: &'s str,
    rest: Peekable<CharIndices<'s>>,
    pub(super) out: String,
    pub(super) preceding_item: PrecedingItem,
    pub(super) has_not_boundary: bool,
}

impl<'s> Translation<'s> {
    pub(super) fn new(source: &'s str) -> Self {
        Self {
            source,
            rest: source.char_indices().peekable(),
            out: String::with_capacity(source.len() + 16),
            preceding_item: PrecedingItem::Nothing,
            has_not_boundary: false,
        }
    }

    pub(super) fn next(&mut self) -> Option<char> {
        self.rest.next().map(|(_, char)| char)
    }

    pub(super) fn peek(&mut self) -> Option<char> {
        self.rest.peek().map(|(_, char)| *char)
    }

    /// Returns the rest of the source.
    pub(super) fn ahead(&mut self) -> &'s str {
        let at = self.rest.peek().map_or(self.source.len(), |(at, _)| *at);
        &self.source[at..]
    }

    pub(super) fn skip(&mut self, bytes: usize) {
        let end = self.source.len() - self.ahead().len() + bytes;
        while self.rest.peek().is_some_and(|(at, _)| *at < end) {
            self.rest.next();
        }
    }

    pub(super) fn run(&mut self) -> Result<(), String> {
        while let Some(char) = self.next() {
            match char {
                '\\' => self.escape()?,
                '[' => {
                    self.class()?;
                    self.preceding_item = PrecedingItem::Item;
                }
                '(' => self.group()?,
                '|' => {
                    self.out.push('|');
                    self.preceding_item = PrecedingItem::Nothing;
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
        self.preceding_item = PrecedingItem::Item;
    }

    pub(super) fn literal(&mut self, char: char) {
        push_literal(&mut self.out, char);
        self.preceding_item = PrecedingItem::Item;
    }

    fn repeat(&mut self, operator: &str) -> Result<(), String> {
        match self.preceding_item {
            PrecedingItem::Nothing => return Err(format!("nothing to repeat before `{operator}`")),
            PrecedingItem::Repetition => return Err(format!("`{operator}` repeats a repetition")),
            PrecedingItem::Item => {}
        }
        self.out.push_str(operator);
        if self.peek() == Some('?') {
            self.next();
            self.out.push('?');
        }
        self.preceding_item = PrecedingItem::Repetition;
        Ok(())
    }

    /// Translates a repetition such as `{2,3}`. A brace that begins no repetition is a literal.
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
        self.preceding_item = PrecedingItem::Nothing;
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
        // The `regex` crate accepts neither an empty nor a repeated set of flags.
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
}

/// Parses `n}`, `n,}` or `n,m}`: the bounds, and the length of the text. The inner `None` is a
/// bound that does not fit into a `u32`.
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

pub(super) fn push_literal(out: &mut String, char: char) {
    if is_meta(char) {
        out.push('\\');
    }
    out.push(char);
}

pub(super) fn is_meta(char: char) -> bool {
    matches!(
        char,
        '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$'
    )
}
