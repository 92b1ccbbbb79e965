//! The content of a document that was made in code: it is printed as YAML, and read like a parsed
//! text.

use std::borrow::Cow;
use std::rc::Rc;

use super::scalar::{ScalarKind, resolve};
use super::{MapEntry, NO_POSITION, YamlNode, YamlValue};

/// A scalar, a list or a mapping, without a position in a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Value {
    Bool(bool),
    /// A finite number in decimal digits.
    Number(String),
    Text(String),
    List(Vec<Value>),
    Map(Mapping),
}

/// A mapping in the order in which it is printed. Its keys are unique.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::policy) struct Mapping(pub(super) Vec<(Cow<'static, str>, Value)>);

impl Value {
    /// Returns the tree that the loader reads. It has no positions.
    pub(in crate::policy) fn to_node(&self) -> Rc<YamlNode> {
        let scalar = |kind, raw: &str| YamlValue::Scalar {
            kind,
            raw: raw.into(),
        };
        let (value, below) = match self {
            Self::Bool(value) => {
                let raw = if *value { "true" } else { "false" };
                (scalar(ScalarKind::Bool(*value), raw), 0)
            }
            Self::Number(raw) => (scalar(resolve(raw), raw), 0),
            Self::Text(raw) => (scalar(ScalarKind::Text, raw), 0),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::to_node).collect();
                let below = items.iter().map(|item| item.size).sum();
                (YamlValue::List(items), below)
            }
            Self::Map(map) => {
                let entries: Vec<_> = map.0.iter().map(|(key, value)| entry(key, value)).collect();
                let below = entries.iter().map(|entry| entry.value.size).sum();
                (YamlValue::Map(entries), below)
            }
        };
        Rc::new(YamlNode {
            position: NO_POSITION,
            value,
            size: 1_usize.saturating_add(below),
        })
    }
}

fn entry(key: &str, value: &Value) -> MapEntry {
    MapEntry {
        key: Rc::from(key),
        position: NO_POSITION,
        value: value.to_node(),
    }
}

impl Mapping {
    /// Returns an empty mapping.
    pub(in crate::policy) fn new() -> Self {
        Self::default()
    }

    /// Returns the mapping with another entry.
    pub(in crate::policy) fn with(
        mut self,
        key: impl Into<Cow<'static, str>>,
        value: impl Into<Value>,
    ) -> Self {
        self.0.push((key.into(), value.into()));
        self
    }

    /// Returns the mapping with another entry, if there is a value for it.
    pub(in crate::policy) fn with_some(
        self,
        key: &'static str,
        value: Option<impl Into<Value>>,
    ) -> Self {
        match value {
            Some(value) => self.with(key, value),
            None => self,
        }
    }

    /// Returns the mapping, or `None` if it is empty.
    pub(in crate::policy) fn unless_empty(self) -> Option<Self> {
        (!self.0.is_empty()).then_some(self)
    }

    /// Returns true if the mapping has the key.
    pub(in crate::policy) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(known, _)| known == key)
    }
}

impl From<Mapping> for Value {
    fn from(map: Mapping) -> Self {
        Self::Map(map)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Self::List(items)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

/// Infinities and NaN have no form in a policy, so callers pass finite numbers.
impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Number(value.to_string())
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Number(value.to_string())
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}
