//! YAML text as a tree that remembers where everything stood.

mod scalar;
#[cfg(test)]
mod tests;
mod tree;

use std::rc::Rc;

pub(super) use self::scalar::Kind;
pub(super) use self::tree::{read, shortened};

/// Bytes of a text.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// Mappings and lists inside each other.
pub(super) const MAX_DEPTH: usize = 64;
/// Nodes of a document with every alias written out.
pub(super) const MAX_NODES: usize = 100_000;

/// Line and column, counted from 1.
pub(super) type Mark = (u32, u32);

/// A scalar, a list or a mapping.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) value: Value,
    /// Nodes below and including this one, aliases counted as if written out.
    size: usize,
}

#[derive(Debug)]
pub(super) enum Value {
    Scalar { kind: Kind, raw: Box<str> },
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: Rc<str>,
    pub(super) mark: Mark,
    pub(super) value: Rc<Node>,
}

impl Node {
    pub(super) fn is_null(&self) -> bool {
        matches!(
            self.value,
            Value::Scalar {
                kind: Kind::Null,
                ..
            }
        )
    }

    /// The value of a key, `None` also when this is no mapping.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| &*entry.key == key),
            _ => None,
        }
    }

    /// Feeds what is said here, without layout, comments, order of keys and aliases.
    pub(super) fn digest(&self, sink: &mut impl FnMut(&[u8])) {
        match &self.value {
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
                items.iter().for_each(|item| item.digest(sink));
                sink(b"]");
            }
            Value::Map(entries) => {
                sink(b"{");
                let mut entries: Vec<&Entry> = entries.iter().collect();
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
