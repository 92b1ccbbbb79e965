//! Prints a value as YAML that every reader of YAML 1.1 and 1.2 understands alike.

use std::fmt::Write;

use super::scalar::{ScalarKind, resolve};
use super::value::{Mapping, Value};

/// The maximum length of a list or mapping that is printed in one line.
const LINE_CHARS: usize = 60;

/// Returns the document as YAML, with a line break at its end.
pub(in crate::policy) fn print(document: &Mapping) -> String {
    let mut out = String::new();
    map(&mut out, document, 0, false);
    out
}

/// Prints the entries of a mapping in lines of their own. The first line is already indented if
/// `inline`.
fn map(out: &mut String, map: &Mapping, indent: usize, inline: bool) {
    for (index, (key, value)) in map.0.iter().enumerate() {
        if index > 0 || !inline {
            spaces(out, indent);
        }
        scalar(out, key);
        out.push(':');
        if let Some(line) = in_line(value) {
            out.push(' ');
            out.push_str(&line);
            out.push('\n');
            continue;
        }
        match value {
            Value::Text(text) => block(out, text, indent + 2),
            Value::Map(below) => {
                out.push('\n');
                self::map(out, below, indent + 2, false);
            }
            Value::List(items) => {
                out.push('\n');
                list(out, items, indent);
            }
            Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

fn list(out: &mut String, items: &[Value], indent: usize) {
    for item in items {
        spaces(out, indent);
        out.push('-');
        if let Some(line) = in_line(item) {
            out.push(' ');
            out.push_str(&line);
            out.push('\n');
            continue;
        }
        match item {
            Value::Text(text) => block(out, text, indent + 2),
            Value::Map(below) => {
                out.push(' ');
                map(out, below, indent + 2, true);
            }
            Value::List(below) => {
                out.push('\n');
                list(out, below, indent + 2);
            }
            Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

fn spaces(out: &mut String, count: usize) {
    out.extend(std::iter::repeat_n(' ', count));
}

/// Returns the value in one line; `None` for a long list or mapping, and for a text of several
/// lines.
fn in_line(value: &Value) -> Option<String> {
    let mut line = String::new();
    let fits = flow(&mut line, value, usize::MAX);
    match value {
        Value::List(items) if items.is_empty() => Some(line),
        Value::Map(map) if map.0.is_empty() => Some(line),
        Value::List(_) | Value::Map(_) => {
            line.clear();
            flow(&mut line, value, LINE_CHARS).then_some(line)
        }
        _ => fits.then_some(line),
    }
}

/// Prints a value in YAML's flow style. Returns false, and stops, if that takes more than `limit`
/// bytes or several lines.
fn flow(out: &mut String, value: &Value, limit: usize) -> bool {
    match value {
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(raw) => out.push_str(raw),
        Value::Text(text) if is_block(text) => return false,
        Value::Text(text) => scalar(out, text),
        Value::List(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                if !flow(out, item, limit) {
                    return false;
                }
            }
            out.push(']');
        }
        Value::Map(map) => {
            out.push('{');
            for (index, (key, value)) in map.0.iter().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                scalar(out, key);
                out.push_str(": ");
                if !flow(out, value, limit) {
                    return false;
                }
            }
            out.push('}');
        }
    }
    out.len() <= limit
}

/// Prints a text of one line: plain if no reader takes it for anything else, else in double quotes.
fn scalar(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            _ if is_printable(char) => out.push(char),
            _ => {
                // Writing to a `String` does not fail.
                let _ = match u32::from(char) {
                    code @ ..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push('"');
}

/// Returns true for a word that is text to every reader: not `yes`, `1e3` or `null`. A duration in
/// seconds is one.
fn is_plain(text: &str) -> bool {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(seconds) = text.strip_suffix('s')
        && is_digits(&seconds.replacen('.', "0", 1))
        && !seconds.starts_with('.')
    {
        return true;
    }
    is_word(text)
}

fn is_word(text: &str) -> bool {
    const WORDS: [&str; 6] = ["y", "n", "nan", "inf", "infinity", "none"];
    let starts = |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'_' | b'/');
    let goes_on = |byte: u8| byte.is_ascii_alphanumeric() || b"_./-".contains(&byte);
    text.len() <= 128
        && text.as_bytes().first().is_some_and(starts)
        && text.bytes().all(goes_on)
        && resolve(text) == ScalarKind::Text
        && resolve(&text.to_ascii_lowercase()) == ScalarKind::Text
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

fn is_printable(char: char) -> bool {
    matches!(char, ' '..='~') || (!char.is_ascii() && char.is_alphanumeric())
}

/// Returns true for a text of several lines that can be printed line by line as it is.
fn is_block(text: &str) -> bool {
    let Some(body) = text.strip_suffix('\n') else {
        return false;
    };
    let line = |line: &str| !line.ends_with(' ') && line.chars().all(is_printable);
    body.contains('\n')
        && !body.starts_with([' ', '\n'])
        && !body.ends_with('\n')
        && body.split('\n').all(line)
}

/// Prints a text that [`is_block`] line by line.
fn block(out: &mut String, text: &str, indent: usize) {
    out.push_str(" |\n");
    for line in text.lines() {
        if !line.is_empty() {
            spaces(out, indent);
            out.push_str(line);
        }
        out.push('\n');
    }
}
