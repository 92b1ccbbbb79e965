//! Splits the text of a GraphQL document into lexemes.

use std::iter::Peekable;
use std::str::Chars;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lexeme {
    Name(String),
    Int(String),
    Float(String),
    Text(String),
    BlockText(String),
    /// A punctuator. The punctuator `...` is represented by `.`.
    Punctuator(char),
    End,
}

/// Splits a text into lexemes.
pub(super) struct Lexer<'t>(Peekable<Chars<'t>>);

impl<'t> Lexer<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self(text.chars().peekable())
    }

    /// Returns the next lexeme. `None` if the text is not a lexeme.
    pub(super) fn read(&mut self) -> Option<Lexeme> {
        let first = loop {
            match self.0.next() {
                None => return Some(Lexeme::End),
                Some(' ' | '\t' | '\n' | '\r' | ',' | '\u{feff}') => {}
                Some('#') => {
                    while self
                        .0
                        .next_if(|letter| !matches!(letter, '\n' | '\r'))
                        .is_some()
                    {}
                }
                Some(letter) => break letter,
            }
        };
        match first {
            '.' => {
                self.0.next_if_eq(&'.')?;
                self.0.next_if_eq(&'.')?;
                Some(Lexeme::Punctuator('.'))
            }
            '"' => self.text(),
            '-' | '0'..='9' => self.number(first),
            'a'..='z' | 'A'..='Z' | '_' => {
                let mut name = String::from(first);
                name.push_str(
                    &self.take_while(|letter| letter.is_ascii_alphanumeric() || letter == '_'),
                );
                Some(Lexeme::Name(name))
            }
            '!' | '$' | '&' | '(' | ')' | ':' | '=' | '@' | '[' | ']' | '{' | '|' | '}' => {
                Some(Lexeme::Punctuator(first))
            }
            _ => None,
        }
    }

    /// Consumes characters as long as they match.
    fn take_while(&mut self, part: impl Fn(char) -> bool) -> String {
        std::iter::from_fn(|| self.0.next_if(|letter| part(*letter))).collect()
    }

    fn number(&mut self, first: char) -> Option<Lexeme> {
        let mut raw = String::from(first);
        raw.push_str(&self.take_while(|letter| letter.is_ascii_digit()));
        let digits = raw.trim_start_matches('-');
        if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
            return None;
        }
        let mut float = false;
        if self.0.next_if_eq(&'.').is_some() {
            let digits = self.take_while(|letter| letter.is_ascii_digit());
            if digits.is_empty() {
                return None;
            }
            float = true;
            raw.push('.');
            raw.push_str(&digits);
        }
        if let Some(exponent) = self.0.next_if(|letter| matches!(letter, 'e' | 'E')) {
            float = true;
            raw.push(exponent);
            raw.extend(self.0.next_if(|letter| matches!(letter, '+' | '-')));
            let digits = self.take_while(|letter| letter.is_ascii_digit());
            if digits.is_empty() {
                return None;
            }
            raw.push_str(&digits);
        }
        Some(if float {
            Lexeme::Float(raw)
        } else {
            Lexeme::Int(raw)
        })
    }

    fn text(&mut self) -> Option<Lexeme> {
        if self.0.next_if_eq(&'"').is_some() {
            if self.0.next_if_eq(&'"').is_none() {
                return Some(Lexeme::Text(String::new()));
            }
            return self.block_text();
        }
        let mut text = String::new();
        loop {
            match self.0.next()? {
                '"' => return Some(Lexeme::Text(text)),
                '\n' | '\r' => return None,
                '\\' => text.push(match self.0.next()? {
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    'u' => {
                        let mut code = 0;
                        for _ in 0..4 {
                            code = code * 16 + self.0.next()?.to_digit(16)?;
                        }
                        char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
                    }
                    plain @ ('"' | '\\' | '/') => plain,
                    _ => return None,
                }),
                letter => text.push(letter),
            }
        }
    }

    /// Reads a block string up to `"""`. Removes the common indentation of all lines but the first,
    /// and blank lines at both ends.
    fn block_text(&mut self) -> Option<Lexeme> {
        let mut text = String::new();
        loop {
            text.push(self.0.next()?);
            if text.ends_with("\\\"\"\"") {
                text.truncate(text.len() - 4);
                text.push_str("\"\"\"");
            } else if text.ends_with("\"\"\"") {
                text.truncate(text.len() - 3);
                break;
            }
        }
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let blank = |line: &str| line.trim_matches([' ', '\t']).is_empty();
        let indent = text
            .lines()
            .skip(1)
            .filter(|line| !blank(line))
            .map(|line| line.len() - line.trim_start_matches([' ', '\t']).len());
        let indent = indent.min().unwrap_or(0);
        let lines = text.split('\n').enumerate();
        let lines = lines.map(|(at, line)| {
            let cut = if at == 0 {
                Some(line)
            } else {
                line.get(indent..)
            };
            (at, cut.unwrap_or_default())
        });
        let mut lines: Vec<&str> = lines
            .skip_while(|(_, line)| blank(line))
            .map(|(_, line)| line)
            .collect();
        while lines.last().is_some_and(|line| blank(line)) {
            lines.pop();
        }
        Some(Lexeme::BlockText(lines.join("\n")))
    }
}
