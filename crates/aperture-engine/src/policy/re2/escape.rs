//! Translates escape sequences.

use std::fmt::Write;

use super::translate::{PrecedingItem, Translation, push_literal};

impl Translation<'_> {
    pub(super) fn escape(&mut self) -> Result<(), String> {
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
            // `\E` only ends a quotation that `\Q` began.
            'E' => return Err("`\\E` without `\\Q`".to_owned()),
            'A' | 'z' => self.out.push_str(if char == 'A' { "\\A" } else { "\\z" }),
            'b' => self.out.push_str("(?-u:\\b)"),
            'B' => {
                self.has_not_boundary = true;
                self.out.push_str("(?-u:\\B)");
            }
            _ => {
                self.set_or_character(false)?;
                self.preceding_item = PrecedingItem::Item;
                return Ok(());
            }
        }
        self.next();
        self.preceding_item = PrecedingItem::Item;
        Ok(())
    }

    /// Translates an escape that is also allowed in a class: a set of characters, which is written
    /// to the output, or one character, which is also returned.
    pub(super) fn set_or_character(&mut self, in_class: bool) -> Result<Option<char>, String> {
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

    /// Translates a property such as `\pL`, `\p{Greek}` or `\p{^Greek}`, after the letter.
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
            return Err(format!("`\\p{{{name}}}` is not a property"));
        }
        let letter = if negated { 'P' } else { 'p' };
        // Writing to a `String` does not fail.
        let _ = write!(self.out, "\\{letter}{{{name}}}");
        Ok(())
    }

    /// Returns the character of an escape sequence.
    pub(super) fn character(&mut self) -> Result<char, String> {
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
                char::from_u32(value).ok_or("an escaped number is not a character")?
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
            .ok_or_else(|| format!("`\\x{{{digits}}}` is not a character"))
    }
}
