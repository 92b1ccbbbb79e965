//! Reading typed fields out of the tree, each under the path that an error names.

use std::cell::{Cell, RefCell};
use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;

use super::suggest::hint;
use super::yaml::{Entry, Kind, Mark, Node, Value, shortened};
use super::{PolicyError, PolicyWarning};

/// What one load shares.
#[derive(Debug)]
pub(super) struct Context {
    file: Arc<str>,
    /// Values files are checked as by a schema: no unknown keys, no nulls, no quoted numbers, no
    /// deprecated fields.
    pub(super) strict: bool,
    warnings: RefCell<Vec<PolicyWarning>>,
    regexes: Cell<usize>,
}

impl Context {
    /// More warnings than anyone reads; hostile files could make a hundred thousand.
    const MAX_WARNINGS: usize = 100;
    /// Each compiled pattern may take a megabyte.
    const MAX_REGEXES: usize = 256;

    pub(super) fn new(file: Arc<str>, strict: bool) -> Self {
        Self {
            file,
            strict,
            warnings: RefCell::default(),
            regexes: Cell::new(0),
        }
    }

    pub(super) fn into_warnings(self) -> Vec<PolicyWarning> {
        self.warnings.into_inner()
    }

    fn full(&self) -> bool {
        self.warnings.borrow().len() >= Self::MAX_WARNINGS
    }
}

type Path<'t> = Option<Rc<Segment<'t>>>;

#[derive(Debug)]
struct Segment<'t> {
    parent: Path<'t>,
    step: Step<'t>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'t> {
    Key(&'t str),
    Index(usize),
}

/// A place in the tree.
#[derive(Clone, Debug)]
pub(super) struct At<'t> {
    pub(super) context: &'t Context,
    node: &'t Node,
    mark: Mark,
    path: Path<'t>,
}

impl<'t> At<'t> {
    pub(super) fn root(context: &'t Context, node: &'t Node) -> Self {
        Self {
            context,
            node,
            mark: node.mark,
            path: None,
        }
    }

    fn step(&self, step: Step<'t>, node: &'t Node, mark: Mark) -> Self {
        let parent = self.path.clone();
        Self {
            context: self.context,
            node,
            mark,
            path: Some(Rc::new(Segment { parent, step })),
        }
    }

    fn entry(&self, entry: &'t Entry) -> Self {
        // A value that is itself a block stands a line below its key.
        let mark = match entry.value.value {
            Value::Scalar { .. } if !entry.value.is_null() => entry.value.mark,
            _ => entry.mark,
        };
        self.step(Step::Key(&entry.key), &entry.value, mark)
    }

    fn field(&self, last: Option<&str>) -> String {
        let mut steps = Vec::new();
        let mut path = self.path.as_deref();
        while let Some(segment) = path {
            steps.push(segment.step);
            path = segment.parent.as_deref();
        }
        let mut field = String::new();
        for step in steps.into_iter().rev().chain(last.map(Step::Key)) {
            let written = match step {
                Step::Index(index) => write!(field, "[{index}]"),
                Step::Key(key) if is_word(key) && field.is_empty() => write!(field, "{key}"),
                Step::Key(key) if is_word(key) => write!(field, ".{key}"),
                Step::Key(key) => write!(field, "[\"{}\"]", shortened(key)),
            };
            // Writing to a String does not fail.
            let _ = written;
        }
        field
    }

    pub(super) fn error(&self, message: impl Into<String>) -> PolicyError {
        let file = Arc::clone(&self.context.file);
        PolicyError::at(file, self.mark, self.field(None), message)
    }

    /// A required key that is not there.
    pub(super) fn missing(&self, key: &str) -> PolicyError {
        let file = Arc::clone(&self.context.file);
        PolicyError::at(file, self.mark, self.field(Some(key)), "is required")
    }

    pub(super) fn warn(&self, message: impl Into<String>) {
        if !self.context.full() {
            let file = Arc::clone(&self.context.file);
            let warning = PolicyWarning::at(file, self.mark, self.field(None), message);
            self.context.warnings.borrow_mut().push(warning);
        }
    }

    fn expected(&self, what: &str) -> PolicyError {
        let found = match &self.node.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Scalar { kind, raw } => match kind {
                Kind::Null => "nothing (null)".to_owned(),
                Kind::Bool(_) => format!("the boolean `{raw}`"),
                Kind::Number(_) => format!("the number `{}`", shortened(raw)),
                Kind::Text => format!("the text `{}`", shortened(raw)),
            },
        };
        self.error(format!("expected {what}, found {found}"))
    }

    pub(super) fn is_null(&self) -> bool {
        self.node.is_null()
    }

    /// The value of a key when this is a mapping that has it.
    pub(super) fn peek(&self, key: &str) -> Option<Self> {
        self.node.get(key).map(|entry| self.entry(entry))
    }

    /// A mapping with known keys.
    pub(super) fn object(self, known: &'static [&'static str]) -> Result<Object<'t>, PolicyError> {
        let Value::Map(entries) = &self.node.value else {
            return Err(self.expected("a mapping"));
        };
        for entry in entries {
            if known.contains(&&*entry.key) {
                if self.context.strict && entry.value.is_null() {
                    return Err(self
                        .entry(entry)
                        .error("null is not allowed in a values file"));
                }
                continue;
            }
            let at = self.step(Step::Key(&entry.key), &entry.value, entry.mark);
            if let Some(name) = known.iter().find(|name| is_camel_case_of(&entry.key, name)) {
                return Err(at.error(format!("write `{name}`: keys are in snake_case")));
            }
            if self.context.strict {
                let hint = hint(&entry.key, known.iter().copied());
                return Err(at.error(format!("unknown key{hint}")));
            }
            if !self.context.full() {
                let hint = hint(&entry.key, known.iter().copied());
                at.warn(format!("unknown key, ignored{hint}"));
            }
        }
        Ok(Object { at: self })
    }

    /// Keys that the user chose, with their values.
    pub(super) fn free_map(&self) -> Result<Vec<(&'t str, Self)>, PolicyError> {
        match &self.node.value {
            Value::Map(entries) => Ok(entries
                .iter()
                .map(|entry| (&*entry.key, self.entry(entry)))
                .collect()),
            _ if self.node.is_null() => Ok(Vec::new()),
            _ => Err(self.expected("a mapping")),
        }
    }

    /// The elements; null is an empty list.
    pub(super) fn list(&self) -> Result<Vec<Self>, PolicyError> {
        match &self.node.value {
            Value::List(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(index, item)| self.step(Step::Index(index), item, item.mark))
                .collect()),
            _ if self.node.is_null() => Ok(Vec::new()),
            _ => Err(self.expected("a list")),
        }
    }

    pub(super) fn text(&self) -> Result<&'t str, PolicyError> {
        match &self.node.value {
            Value::Scalar {
                kind: Kind::Text,
                raw,
            } => Ok(raw),
            Value::Scalar {
                kind: Kind::Bool(_) | Kind::Number(_),
                raw,
            } => {
                let raw = shortened(raw);
                Err(self.expected(&format!("text, which would be `'{raw}'` with its quotes")))
            }
            _ => Err(self.expected("text")),
        }
    }

    /// One text of a list.
    pub(super) fn one_of(
        &self,
        names: &'static [&'static str],
    ) -> Result<&'static str, PolicyError> {
        let text = self.text()?;
        names
            .iter()
            .copied()
            .find(|name| *name == text)
            .ok_or_else(|| {
                let hint = hint(text, names.iter().copied());
                let (names, found) = (names.join(", "), shortened(text));
                self.error(format!("expected one of {names}, found `{found}`{hint}"))
            })
    }

    pub(super) fn boolean(&self) -> Result<bool, PolicyError> {
        match &self.node.value {
            Value::Scalar {
                kind: Kind::Bool(value),
                ..
            } => Ok(*value),
            _ => Err(self.expected("`true` or `false`, without quotes")),
        }
    }

    /// A number, which may be quoted in a policy; quoted, also `NaN` and `Infinity`.
    pub(super) fn number(&self) -> Result<f64, PolicyError> {
        match &self.node.value {
            Value::Scalar {
                kind: Kind::Number(value),
                ..
            } if value.is_finite() => Ok(*value),
            Value::Scalar {
                kind: Kind::Text,
                raw,
            } if !self.context.strict => {
                quoted_number(raw).ok_or_else(|| self.expected("a number"))
            }
            _ => Err(self.expected("a number")),
        }
    }

    /// A whole number from zero on.
    pub(super) fn count(&self) -> Result<u32, PolicyError> {
        let value = self.number()?;
        if value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value) {
            Ok(value as u32)
        } else {
            Err(self.expected("a whole number that is not negative"))
        }
    }

    /// A number that stands there as such, without quotes; `None` for anything else.
    pub(super) fn plain_number(&self) -> Option<f64> {
        match &self.node.value {
            Value::Scalar {
                kind: Kind::Number(value),
                ..
            } => Some(*value),
            _ => None,
        }
    }

    /// Nanoseconds, from text as `1.5s`.
    pub(super) fn duration(&self) -> Result<i128, PolicyError> {
        let right = "a duration in seconds as `30s` or `0.5s`";
        let Value::Scalar {
            kind: Kind::Text,
            raw,
        } = &self.node.value
        else {
            return Err(self.expected(right));
        };
        seconds(raw).ok_or_else(|| self.expected(right))
    }

    /// Another pattern to compile.
    pub(super) fn count_regex(&self) -> Result<(), PolicyError> {
        let regexes = self.context.regexes.get() + 1;
        self.context.regexes.set(regexes);
        if regexes > Context::MAX_REGEXES {
            let most = Context::MAX_REGEXES;
            return Err(self.error(format!(
                "more than {most} regular expressions in one policy"
            )));
        }
        Ok(())
    }

    /// Feeds what this place says, without layout, comments, order of keys and aliases.
    pub(super) fn digest(&self, sink: &mut impl FnMut(&[u8])) {
        digest(self.node, sink);
    }
}

/// A mapping whose keys have been checked.
#[derive(Clone, Debug)]
pub(super) struct Object<'t> {
    pub(super) at: At<'t>,
}

impl<'t> Object<'t> {
    /// A message, list or map: absent and null are the same.
    pub(super) fn get(&self, key: &str) -> Option<At<'t>> {
        self.at.peek(key).filter(|at| !at.is_null())
    }

    pub(super) fn required(&self, key: &str) -> Result<At<'t>, PolicyError> {
        self.get(key).ok_or_else(|| self.at.missing(key))
    }

    pub(super) fn object(
        &self,
        key: &str,
        known: &'static [&'static str],
    ) -> Result<Option<Object<'t>>, PolicyError> {
        self.get(key).map(|at| at.object(known)).transpose()
    }

    /// A scalar: null is as if absent, which users may not expect of it.
    pub(super) fn scalar(&self, key: &str) -> Option<At<'t>> {
        let at = self.at.peek(key)?;
        if at.is_null() {
            at.warn("null counts as absent here");
            return None;
        }
        Some(at)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'t str>, PolicyError> {
        self.scalar(key).map(|at| at.text()).transpose()
    }

    /// Text that must be there and not be empty.
    pub(super) fn required_text(&self, key: &str) -> Result<&'t str, PolicyError> {
        let at = self.required(key)?;
        match at.text()? {
            "" => Err(at.error("must not be empty")),
            text => Ok(text),
        }
    }

    pub(super) fn boolean(&self, key: &str, default: bool) -> Result<bool, PolicyError> {
        self.scalar(key).map_or(Ok(default), |at| at.boolean())
    }

    /// The one of several keys that is given.
    pub(super) fn only(
        &self,
        keys: &[&'static str],
    ) -> Result<Option<(&'static str, At<'t>)>, PolicyError> {
        let mut found: Option<(&'static str, At<'t>)> = None;
        for &key in keys {
            let Some(at) = self.get(key) else { continue };
            if let Some((first, _)) = found {
                return Err(at.error(format!("cannot stand beside `{first}`; give one of them")));
            }
            found = Some((key, at));
        }
        Ok(found)
    }
}

fn digest(node: &Node, sink: &mut impl FnMut(&[u8])) {
    match &node.value {
        Value::Scalar { kind, raw } => {
            match kind {
                Kind::Null => sink(b"~"),
                Kind::Bool(value) => sink(&[b'b', u8::from(*value)]),
                Kind::Number(value) => {
                    sink(b"n");
                    sink(&value.to_bits().to_le_bytes());
                }
                Kind::Text => {
                    sink(b"t");
                    sink(&raw.len().to_le_bytes());
                    sink(raw.as_bytes());
                }
            };
        }
        Value::List(items) => {
            sink(b"[");
            items.iter().for_each(|item| digest(item, sink));
            sink(b"]");
        }
        Value::Map(entries) => {
            sink(b"{");
            let mut entries: Vec<&Entry> = entries.iter().collect();
            entries.sort_by(|a, b| a.key.cmp(&b.key));
            for entry in entries {
                sink(&entry.key.len().to_le_bytes());
                sink(entry.key.as_bytes());
                digest(&entry.value, sink);
            }
            sink(b"}");
        }
    }
}

fn is_word(key: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    !key.is_empty() && key.len() <= 64 && key.bytes().all(word)
}

/// `inPorts` of `in_ports`; a name of one word has no other spelling.
fn is_camel_case_of(key: &str, name: &str) -> bool {
    if !name.contains('_') {
        return false;
    }
    let mut upper = false;
    let mut spelt = String::with_capacity(name.len());
    for char in name.chars() {
        match char {
            '_' => upper = true,
            _ if upper => {
                spelt.push(char.to_ascii_uppercase());
                upper = false;
            }
            _ => spelt.push(char),
        }
    }
    key == spelt
}

/// A number as JSON writes it, or one of the names that protobuf's JSON has for the others.
fn quoted_number(text: &str) -> Option<f64> {
    match text {
        "NaN" => return Some(f64::NAN),
        "Infinity" => return Some(f64::INFINITY),
        "-Infinity" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    let body = text.strip_prefix('-').unwrap_or(text).as_bytes();
    let digits = body.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let leading_zero = digits > 1 && body[0] == b'0';
    let decimal = |byte: &u8| byte.is_ascii_digit() || b".eE+-".contains(byte);
    let bare_point =
        body.get(digits) == Some(&b'.') && !body.get(digits + 1).is_some_and(u8::is_ascii_digit);
    if digits == 0 || leading_zero || bare_point || !body.iter().all(decimal) {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite())
}

/// Seconds with the suffix `s` and at most nine decimals, as nanoseconds.
fn seconds(text: &str) -> Option<i128> {
    /// What protobuf's Duration holds.
    const MOST: i128 = 315_576_000_000 * NANOS;
    const NANOS: i128 = 1_000_000_000;

    let number = text.strip_suffix('s')?;
    let (negative, number) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (number, None),
    };
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let decimals = fraction.unwrap_or_default();
    let leading_zero = whole.len() > 1 && whole.starts_with('0');
    if !is_digits(whole) || !is_digits(decimals) || leading_zero || decimals.len() > 9 {
        return None;
    }
    if whole.is_empty() && fraction.is_none() || whole.len() > 12 {
        return None;
    }
    let digits = |text: &str| {
        text.bytes()
            .fold(0_i128, |value, byte| value * 10 + i128::from(byte - b'0'))
    };
    let missing = 9 - decimals.len() as u32;
    let nanos = digits(whole) * NANOS + digits(decimals) * 10_i128.pow(missing);
    (nanos <= MOST).then_some(if negative { -nanos } else { nanos })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_with_a_suffix() {
        for (text, nanos) in [
            ("30s", 30_000_000_000),
            ("+30s", 30_000_000_000),
            (".5s", 500_000_000),
            ("30.s", 30_000_000_000),
            ("0.000000001s", 1),
            ("-1.5s", -1_500_000_000),
            ("0s", 0),
            ("315576000000s", 315_576_000_000_000_000_000),
        ] {
            assert_eq!(seconds(text), Some(nanos), "{text}");
        }
        for text in [
            "1m",
            "1500ms",
            "3e1s",
            "30 s",
            "30",
            "0.0000000001s",
            "",
            "s",
            "+s",
            "-",
            "01s",
            "--1s",
            "1_0s",
            "1.2.3s",
            "315576000001s",
            "9999999999999s",
            "\u{661}s",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn quoted_numbers_are_json_numbers() {
        for (text, value) in [
            ("2", 2.0),
            ("-0.5", -0.5),
            ("1e3", 1000.0),
            ("1.5E-1", 0.15),
        ] {
            assert_eq!(quoted_number(text), Some(value), "{text}");
        }
        assert_eq!(quoted_number("-Infinity"), Some(f64::NEG_INFINITY));
        assert!(quoted_number("NaN").is_some_and(f64::is_nan));
        for text in [
            "", "+2", ".5", "5.", "1.e5", "01", "0x10", " 2", "1_0", "inf", "1e999", "-", "e",
        ] {
            assert_eq!(quoted_number(text), None, "{text}");
        }
    }

    #[test]
    fn another_spelling_is_recognised() {
        assert!(is_camel_case_of("limitByLabelKey", "limit_by_label_key"));
        assert!(!is_camel_case_of("interval", "interval"));
        assert!(!is_camel_case_of("limitbylabelkey", "limit_by_label_key"));
    }
}
