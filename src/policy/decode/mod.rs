//! Reading typed fields out of the tree, each under the path that an error names.

mod context;
mod object;
mod syntax;

use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;

pub(super) use self::context::Context;
pub(super) use self::object::Object;
use self::syntax::{in_seconds, is_camel_case_of, is_word, quoted_number, seconds};
use super::suggest::hint;
use super::yaml::{Entry, Kind, Mark, Node, Value, shortened};
use super::{PolicyError, PolicyWarning};

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

    /// Something in the text that belongs to no field.
    pub(super) fn error_in_text(&self, mark: Mark, message: impl Into<String>) -> PolicyError {
        PolicyError::at(Arc::clone(&self.context.file), mark, String::new(), message)
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
            self.context.warn(warning);
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
            Value::Scalar {
                kind: Kind::Text, ..
            } => Err(self.expected("a number without quotes")),
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
        let right = "a duration in seconds as `30s` or `0.5s`: policies have no other unit";
        let Value::Scalar {
            kind: Kind::Text,
            raw,
        } = &self.node.value
        else {
            return Err(self.expected(right));
        };
        seconds(raw).ok_or_else(|| match in_seconds(raw) {
            Some(right) => self.error(format!(
                "`{}` is written `{right}`: durations of policies are in seconds, and no other \
                 unit is accepted",
                shortened(raw)
            )),
            None => self.expected(right),
        })
    }

    /// Another pattern to compile.
    pub(super) fn count_regex(&self) -> Result<(), PolicyError> {
        if !self.context.count_regex() {
            let most = Context::MAX_REGEXES;
            return Err(self.error(format!(
                "more than {most} regular expressions in one policy"
            )));
        }
        Ok(())
    }

    /// Feeds what this place says, see [`Node::digest`].
    pub(super) fn digest(&self, sink: &mut impl FnMut(&[u8])) {
        self.node.digest(sink);
    }
}
