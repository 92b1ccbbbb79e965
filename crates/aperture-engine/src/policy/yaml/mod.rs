//! Parses YAML text to a tree of nodes with their positions, and prints values as YAML.

mod print;
mod scalar;
#[cfg(test)]
mod tests;
mod tree;
mod value;

use std::rc::Rc;

pub(super) use self::print::print;
pub(super) use self::scalar::ScalarKind;
pub(super) use self::tree::{read, shortened};
pub(super) use self::value::{Mapping, Value};

/// The maximum length of a text in bytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// The maximum nesting depth of mappings and lists.
pub(super) const MAX_DEPTH: usize = 64;
/// The maximum number of nodes of a document, counted with all aliases expanded.
pub(super) const MAX_NODES: usize = 100_000;

/// Line and column, both counted from 1.
pub(super) type TextPosition = (u32, u32);

/// The position of a node that is in no text.
pub(super) const NO_POSITION: TextPosition = (0, 0);

/// A scalar, a list or a mapping, with its position.
#[derive(Debug)]
pub(super) struct YamlNode {
    pub(super) position: TextPosition,
    pub(super) value: YamlValue,
    /// The number of nodes of this subtree, itself included, counted with all aliases expanded.
    size: usize,
}

#[derive(Debug)]
pub(super) enum YamlValue {
    Scalar { kind: ScalarKind, raw: Box<str> },
    List(Vec<Rc<YamlNode>>),
    Map(Vec<MapEntry>),
}

/// A key of a mapping with its value.
#[derive(Clone, Debug)]
pub(super) struct MapEntry {
    pub(super) key: Rc<str>,
    pub(super) position: TextPosition,
    pub(super) value: Rc<YamlNode>,
}

impl YamlNode {
    /// Returns the number of nodes of this subtree, itself included, with all aliases expanded.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(
            self.value,
            YamlValue::Scalar {
                kind: ScalarKind::Null,
                ..
            }
        )
    }

    /// Returns the entry of a key; `None` also if this is not a mapping.
    pub(super) fn get(&self, key: &str) -> Option<&MapEntry> {
        match &self.value {
            YamlValue::Map(entries) => entries.iter().find(|entry| &*entry.key == key),
            _ => None,
        }
    }

    /// Feeds the content to `sink`, independent of layout, comments, order of keys and aliases.
    pub(super) fn digest(&self, sink: &mut impl FnMut(&[u8])) {
        match &self.value {
            YamlValue::Scalar { kind, raw } => {
                match kind {
                    ScalarKind::Null => sink(b"~"),
                    ScalarKind::Bool(value) => sink(&[b'b', u8::from(*value)]),
                    ScalarKind::Number(value) => {
                        sink(b"n");
                        sink(&value.to_bits().to_le_bytes());
                    }
                    ScalarKind::Text => {
                        sink(b"t");
                        sink(&raw.len().to_le_bytes());
                        sink(raw.as_bytes());
                    }
                };
            }
            YamlValue::List(items) => {
                sink(b"[");
                items.iter().for_each(|item| item.digest(sink));
                sink(b"]");
            }
            YamlValue::Map(entries) => {
                sink(b"{");
                let mut entries: Vec<&MapEntry> = entries.iter().collect();
                entries.sort_by(|a, b| a.key.cmp(&b.key));
                for entry in entries {
                    sink(&entry.key.len().to_le_bytes());
                    sink(entry.key.as_bytes());
                    entry.value.digest(sink);
                }
                sink(b"}");
            }
        }
    }
}
