//! Reads typed fields from the YAML tree and keeps the path that errors name.

mod context;
mod object;
mod section;
mod syntax;

use std::fmt::Write;
use std::rc::Rc;
use std::sync::Arc;

pub(super) use self::context::LoadContext;
pub(super) use self::object::Object;
#[cfg(test)]
pub(super) use self::section::Absent;
pub(super) use self::section::{Bounds, Field, FieldValue, Given, Section};
use self::syntax::{in_seconds, is_camel_case_of, is_word, quoted_number, seconds};
use super::suggest::hint;
use super::yaml::{MapEntry, ScalarKind, TextPosition, YamlNode, YamlValue, shortened};
use super::{PolicyError, PolicyWarning};

type NodePath<'t> = Option<Rc<PathSegment<'t>>>;

#[derive(Debug)]
struct PathSegment<'t> {
    parent: NodePath<'t>,
    step: PathStep<'t>,
}

#[derive(Clone, Copy, Debug)]
enum PathStep<'t> {
    Key(&'t str),
    Index(usize),
}

/// A node of the tree, with the position and the path that errors about it name.
#[derive(Clone, Debug)]
pub(super) struct DocumentNode<'t> {
    pub(super) context: &'t LoadContext,
    tree: &'t YamlNode,
    position: TextPosition,
    path: NodePath<'t>,
}

impl<'t> DocumentNode<'t> {
    pub(super) fn root(context: &'t LoadContext, tree: &'t YamlNode) -> Self {
        Self {
            context,
            tree,
            position: tree.position,
            path: None,
        }
    }

    fn step(&self, step: PathStep<'t>, tree: &'t YamlNode, position: TextPosition) -> Self {
        let parent = self.path.clone();
        Self {
            context: self.context,
            tree,
            position,
            path: Some(Rc::new(PathSegment { parent, step })),
        }
    }

    fn entry(&self, entry: &'t MapEntry) -> Self {
        // A block value starts below its key, so errors about it point to the key.
        let position = match entry.value.value {
            YamlValue::Scalar { .. } if !entry.value.is_null() => entry.value.position,
            _ => entry.position,
        };
        self.step(PathStep::Key(&entry.key), &entry.value, position)
    }

    fn field(&self, last: Option<&str>) -> String {
        let mut steps = Vec::new();
        let mut path = self.path.as_deref();
        while let Some(segment) = path {
            steps.push(segment.step);
            path = segment.parent.as_deref();
        }
        let mut field = String::new();
        for step in steps.into_iter().rev().chain(last.map(PathStep::Key)) {
            let written = match step {
                PathStep::Index(index) => write!(field, "[{index}]"),
                PathStep::Key(key) if is_word(key) && field.is_empty() => write!(field, "{key}"),
                PathStep::Key(key) if is_word(key) => write!(field, ".{key}"),
                PathStep::Key(key) => write!(field, "[\"{}\"]", shortened(key)),
            };
            // Writing to a `String` does not fail.
            let _ = written;
        }
        field
    }

    pub(super) fn error(&self, message: impl Into<String>) -> PolicyError {
        let file = Arc::clone(&self.context.file);
        PolicyError::located(file, self.position, self.field(None), message)
    }

    /// Creates an error about a position of the text that belongs to no field.
    pub(super) fn error_in_text(
        &self,
        position: TextPosition,
        message: impl Into<String>,
    ) -> PolicyError {
        PolicyError::located(
            Arc::clone(&self.context.file),
            position,
            String::new(),
            message,
        )
    }

    /// Creates the error for a required key that is absent.
    pub(super) fn missing(&self, key: &str) -> PolicyError {
        let file = Arc::clone(&self.context.file);
        PolicyError::located(file, self.position, self.field(Some(key)), "is required")
    }

    pub(super) fn warn(&self, message: impl Into<String>) {
        if !self.context.has_max_warnings() {
            let file = Arc::clone(&self.context.file);
            let warning = PolicyWarning::located(file, self.position, self.field(None), message);
            self.context.warn(warning);
        }
    }

    fn expected(&self, what: &str) -> PolicyError {
        let found = match &self.tree.value {
            YamlValue::List(_) => "a list".to_owned(),
            YamlValue::Map(_) => "a mapping".to_owned(),
            YamlValue::Scalar { kind, raw } => match kind {
                ScalarKind::Null => "null".to_owned(),
                ScalarKind::Bool(_) => format!("the boolean `{raw}`"),
                ScalarKind::Number(_) => format!("the number `{}`", shortened(raw)),
                ScalarKind::Text => format!("the text `{}`", shortened(raw)),
            },
        };
        self.error(format!("expected {what}, found {found}"))
    }

    pub(super) fn is_null(&self) -> bool {
        self.tree.is_null()
    }

    /// Returns the value of a key if this node is a mapping that has the key.
    pub(super) fn peek(&self, key: &str) -> Option<Self> {
        self.tree.get(key).map(|entry| self.entry(entry))
    }

    /// Reads a mapping. Unknown keys cause a warning, or an error in a values file.
    pub(super) fn object(self, section: &'static Section) -> Result<Object<'t>, PolicyError> {
        let YamlValue::Map(entries) = &self.tree.value else {
            return Err(self.expected("a mapping"));
        };
        for entry in entries {
            if section.names().any(|name| *name == *entry.key) {
                if self.context.strict && entry.value.is_null() {
                    return Err(self
                        .entry(entry)
                        .error("null is not allowed in a values file"));
                }
                continue;
            }
            let node = self.step(PathStep::Key(&entry.key), &entry.value, entry.position);
            if let Some(name) = section
                .names()
                .find(|name| is_camel_case_of(&entry.key, name))
            {
                return Err(node.error(format!("write `{name}`: keys are in snake_case")));
            }
            if self.context.strict {
                let hint = hint(&entry.key, section.names());
                return Err(node.error(format!("unknown key{hint}")));
            }
            if !self.context.has_max_warnings() {
                let hint = hint(&entry.key, section.names());
                node.warn(format!("unknown key, ignored{hint}"));
            }
        }
        Ok(Object {
            node: self,
            section,
        })
    }

    /// Returns the entries of a mapping with arbitrary keys; null is an empty mapping.
    pub(super) fn free_map(&self) -> Result<Vec<(&'t str, Self)>, PolicyError> {
        match &self.tree.value {
            YamlValue::Map(entries) => Ok(entries
                .iter()
                .map(|entry| (&*entry.key, self.entry(entry)))
                .collect()),
            _ if self.tree.is_null() => Ok(Vec::new()),
            _ => Err(self.expected("a mapping")),
        }
    }

    /// Returns the elements of a list; null is an empty list.
    pub(super) fn list(&self) -> Result<Vec<Self>, PolicyError> {
        match &self.tree.value {
            YamlValue::List(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(index, item)| self.step(PathStep::Index(index), item, item.position))
                .collect()),
            _ if self.tree.is_null() => Ok(Vec::new()),
            _ => Err(self.expected("a list")),
        }
    }

    pub(super) fn text(&self) -> Result<&'t str, PolicyError> {
        match &self.tree.value {
            YamlValue::Scalar {
                kind: ScalarKind::Text,
                raw,
            } => Ok(raw),
            YamlValue::Scalar {
                kind: ScalarKind::Bool(_) | ScalarKind::Number(_),
                raw,
            } => {
                let raw = shortened(raw);
                Err(self.expected(&format!("text, written `'{raw}'` with quotes")))
            }
            _ => Err(self.expected("text")),
        }
    }

    /// Reads a text that must be one of `names`.
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
        match &self.tree.value {
            YamlValue::Scalar {
                kind: ScalarKind::Bool(value),
                ..
            } => Ok(*value),
            _ => Err(self.expected("`true` or `false`, without quotes")),
        }
    }

    /// Reads a number. In a policy it may be quoted, and then also be `NaN` or `Infinity`.
    pub(super) fn number(&self) -> Result<f64, PolicyError> {
        match &self.tree.value {
            YamlValue::Scalar {
                kind: ScalarKind::Number(value),
                ..
            } if value.is_finite() => Ok(*value),
            YamlValue::Scalar {
                kind: ScalarKind::Text,
                raw,
            } if !self.context.strict => {
                quoted_number(raw).ok_or_else(|| self.expected("a number"))
            }
            YamlValue::Scalar {
                kind: ScalarKind::Text,
                ..
            } => Err(self.expected("a number without quotes")),
            _ => Err(self.expected("a number")),
        }
    }

    /// Reads a whole number of at least zero.
    pub(super) fn count(&self) -> Result<u32, PolicyError> {
        let value = self.number()?;
        if value.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&value) {
            Ok(value as u32)
        } else {
            Err(self.expected("a whole number that is not negative"))
        }
    }

    /// Returns the value if it is a number without quotes.
    pub(super) fn plain_number(&self) -> Option<f64> {
        match &self.tree.value {
            YamlValue::Scalar {
                kind: ScalarKind::Number(value),
                ..
            } => Some(*value),
            _ => None,
        }
    }

    /// Reads a duration such as `1.5s`. Returns nanoseconds.
    pub(super) fn duration(&self) -> Result<i128, PolicyError> {
        let right = "a duration in seconds, such as `30s` or `0.5s`; policies accept no other unit";
        let YamlValue::Scalar {
            kind: ScalarKind::Text,
            raw,
        } = &self.tree.value
        else {
            return Err(self.expected(right));
        };
        seconds(raw).ok_or_else(|| match in_seconds(raw) {
            Some(right) => self.error(format!(
                "write `{}` as `{right}`: durations of policies are in seconds, and no other unit \
                 is accepted",
                shortened(raw)
            )),
            None => self.expected(right),
        })
    }

    /// Counts a pattern that is to be compiled.
    ///
    /// # Errors
    ///
    /// Returns an error if the document has too many.
    pub(super) fn count_regex(&self) -> Result<(), PolicyError> {
        if !self.context.count_regex() {
            let most = LoadContext::MAX_REGEXES;
            return Err(self.error(format!(
                "more than {most} regular expressions in one policy"
            )));
        }
        Ok(())
    }

    /// Feeds the content of this node to `sink`, see [`YamlNode::digest`].
    pub(super) fn digest(&self, sink: &mut impl FnMut(&[u8])) {
        self.tree.digest(sink);
    }
}
