//! From the parser's events to a tree, within limits that hostile text cannot pass.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::scalar::{Kind, resolve};
use super::{Entry, MAX_BYTES, MAX_DEPTH, MAX_NODES, Mark, Node, Value};
use crate::policy::PolicyError;

/// Reads a text of exactly one document.
pub(in crate::policy) fn read(file: &Arc<str>, text: &str) -> Result<Rc<Node>, PolicyError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut tree = Tree {
        file,
        frames: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        root: None,
    };
    if text.len() > MAX_BYTES {
        return Err(PolicyError::new(
            Arc::clone(file),
            format!(
                "{} bytes are too many, the limit is {MAX_BYTES}",
                text.len()
            ),
        ));
    }
    if let Some(mark) = control_character(text) {
        return Err(tree.error(mark, "control characters are not allowed"));
    }
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            tree.error(
                position(error.marker()),
                &format!("not valid YAML: {}", error.info()),
            )
        })?;
        let mark = position(&span.start);
        match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(
                        tree.error(mark, "a second YAML document; each takes a file of its own")
                    );
                }
            }
            Event::Scalar(raw, style, anchor, tag) => {
                tree.scalar(&raw, style, anchor, tag.as_deref(), mark)?;
            }
            Event::Alias(anchor) => tree.alias(anchor, mark)?,
            Event::SequenceStart(anchor, tag) => {
                tree.open(Items::List(Vec::new()), anchor, tag.as_deref(), "seq", mark)?;
            }
            Event::MappingStart(anchor, tag) => {
                let map = Items::Map(Mapping::default());
                tree.open(map, anchor, tag.as_deref(), "map", mark)?;
            }
            Event::SequenceEnd | Event::MappingEnd => tree.close()?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }
    tree.root
        .ok_or_else(|| PolicyError::new(Arc::clone(file), "holds no YAML document"))
}

fn position(marker: &Marker) -> Mark {
    let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    (count(marker.line()), count(marker.col() + 1))
}

/// The parser takes some of them for the end of the text.
fn control_character(text: &str) -> Option<Mark> {
    let (mut line, mut column) = (1, 1);
    for char in text.chars() {
        match char {
            '\n' => (line, column) = (line + 1, 1),
            '\t' | '\r' | '\u{85}' => column += 1,
            _ if char.is_control() => return Some((line, column)),
            _ => column += 1,
        }
    }
    None
}

/// What is open and not yet closed.
struct Frame {
    mark: Mark,
    anchor: usize,
    items: Items,
}

enum Items {
    List(Vec<Rc<Node>>),
    Map(Mapping),
}

#[derive(Default)]
struct Mapping {
    entries: Vec<Entry>,
    seen: HashSet<Rc<str>>,
    /// A key that waits for its value.
    key: Option<(Rc<str>, Mark)>,
    /// What `<<` brings in.
    merged: Option<Rc<Node>>,
    merging: bool,
}

struct Tree<'a> {
    file: &'a Arc<str>,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Rc<Node>>,
    nodes: usize,
    root: Option<Rc<Node>>,
}

impl Tree<'_> {
    fn error(&self, mark: Mark, message: &str) -> PolicyError {
        let mut path = String::new();
        for frame in &self.frames {
            match &frame.items {
                Items::List(items) => path.push_str(&format!("[{}]", items.len())),
                Items::Map(map) => {
                    if let Some((key, _)) = &map.key {
                        if !path.is_empty() {
                            path.push('.');
                        }
                        path.push_str(&shortened(key));
                    }
                }
            }
        }
        PolicyError::at(Arc::clone(self.file), mark, path, message)
    }

    fn count(&mut self, nodes: usize, mark: Mark) -> Result<(), PolicyError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            let message = format!("more than {MAX_NODES} values, aliases written out");
            return Err(self.error(mark, &message));
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        raw: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        mark: Mark,
    ) -> Result<(), PolicyError> {
        let plain = style == ScalarStyle::Plain;
        if plain
            && raw == "<<"
            && tag.is_none()
            && let Some(Items::Map(map)) = self.frames.last_mut().map(|frame| &mut frame.items)
            && map.key.is_none()
            && !map.merging
        {
            if map.merged.is_some() {
                return Err(self.error(mark, "`<<` is written twice in this mapping"));
            }
            map.merging = true;
            return Ok(());
        }
        let kind = match tag {
            None if plain => resolve(raw),
            None => Kind::Text,
            Some(tag) => self.tagged(raw, tag, mark)?,
        };
        let value = Value::Scalar {
            kind,
            raw: raw.into(),
        };
        self.count(1, mark)?;
        self.place(
            Node {
                mark,
                value,
                size: 1,
            },
            anchor,
        )
    }

    fn tagged(&self, raw: &str, tag: &Tag, mark: Mark) -> Result<Kind, PolicyError> {
        let non_specific = tag.handle.len() + tag.suffix.len() == 1;
        let kind = if non_specific { "str" } else { core_tag(tag) };
        let read = resolve(raw);
        match (kind, read) {
            ("str", _) => Ok(Kind::Text),
            ("int" | "float", Kind::Number(_)) | ("bool", Kind::Bool(_)) | ("null", Kind::Null) => {
                Ok(read)
            }
            ("int" | "float" | "bool" | "null", _) => {
                Err(self.error(mark, &format!("`{}` is no `!!{kind}`", shortened(raw))))
            }
            _ => Err(self.unknown_tag(tag, mark)),
        }
    }

    fn unknown_tag(&self, tag: &Tag, mark: Mark) -> PolicyError {
        let shown = shortened(&format!("{}{}", tag.handle, tag.suffix));
        self.error(mark, &format!("the YAML tag `{shown}` has no meaning here"))
    }

    fn alias(&mut self, anchor: usize, mark: Mark) -> Result<(), PolicyError> {
        let Some(node) = self.anchors.get(&anchor).map(Rc::clone) else {
            return Err(self.error(mark, "an alias of something that holds the alias itself"));
        };
        self.count(node.size, mark)?;
        self.place_shared(node)
    }

    fn open(
        &mut self,
        items: Items,
        anchor: usize,
        tag: Option<&Tag>,
        expected: &str,
        mark: Mark,
    ) -> Result<(), PolicyError> {
        if let Some(tag) = tag.filter(|tag| core_tag(tag) != expected) {
            return Err(self.unknown_tag(tag, mark));
        }
        if self.frames.len() == MAX_DEPTH {
            return Err(self.error(mark, &format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.count(1, mark)?;
        self.frames.push(Frame {
            mark,
            anchor,
            items,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), PolicyError> {
        let Some(frame) = self.frames.pop() else {
            return Ok(());
        };
        let mark = frame.mark;
        let value = match frame.items {
            Items::List(items) => Value::List(items),
            Items::Map(map) => Value::Map(self.merge(map, mark)?),
        };
        let below: usize = match &value {
            Value::Scalar { .. } => 0,
            Value::List(items) => items.iter().map(|item| item.size).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.value.size).sum(),
        };
        let size = below.saturating_add(1);
        self.place(Node { mark, value, size }, frame.anchor)
    }

    /// A mapping's own keys come first, then those of the merged mappings in their order.
    fn merge(&mut self, map: Mapping, mark: Mark) -> Result<Vec<Entry>, PolicyError> {
        let Mapping {
            mut entries,
            mut seen,
            merged,
            ..
        } = map;
        let Some(merged) = merged else {
            return Ok(entries);
        };
        let sources = match &merged.value {
            Value::List(sources) => sources.as_slice(),
            _ => std::slice::from_ref(&merged),
        };
        for source in sources {
            let Value::Map(more) = &source.value else {
                return Err(self.error(mark, "`<<` takes a mapping or a list of mappings"));
            };
            for entry in more {
                if seen.insert(Rc::clone(&entry.key)) {
                    self.count(entry.value.size, mark)?;
                    entries.push(entry.clone());
                }
            }
        }
        Ok(entries)
    }

    fn place(&mut self, node: Node, anchor: usize) -> Result<(), PolicyError> {
        let node = Rc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.place_shared(node)
    }

    fn place_shared(&mut self, node: Rc<Node>) -> Result<(), PolicyError> {
        let Some(frame) = self.frames.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        let map = match &mut frame.items {
            Items::List(items) => {
                items.push(node);
                return Ok(());
            }
            Items::Map(map) => map,
        };
        if map.merging {
            map.merging = false;
            map.merged = Some(node);
            return Ok(());
        }
        if let Some((key, mark)) = map.key.take() {
            map.entries.push(Entry {
                key,
                mark,
                value: node,
            });
            return Ok(());
        }
        let mark = node.mark;
        let Value::Scalar { kind, raw } = &node.value else {
            return Err(self.error(mark, "a key must be text"));
        };
        // Where the Agent's tools make JSON of YAML, an unquoted `on` is the key `true`.
        let key: Rc<str> = match kind {
            Kind::Bool(true) => Rc::from("true"),
            Kind::Bool(false) => Rc::from("false"),
            _ => Rc::from(&**raw),
        };
        if !map.seen.insert(Rc::clone(&key)) {
            let first = map.entries.iter().find(|entry| entry.key == key);
            let line = first.map_or(mark.0, |entry| entry.mark.0);
            let message = format!(
                "the key `{}` is written twice in this mapping, first in line {line}",
                shortened(&key)
            );
            return Err(self.error(mark, &message));
        }
        map.key = Some((key, mark));
        Ok(())
    }
}

/// The name of a tag that YAML itself defines, else nothing.
fn core_tag(tag: &Tag) -> &str {
    if tag.is_yaml_core_schema() {
        &tag.suffix
    } else {
        ""
    }
}

/// Text for a message: hostile files must not make long ones.
pub(in crate::policy) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        None => text.escape_debug().to_string(),
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
    }
}
