//! Builds the tree from the events of the parser, within limits on its size for hostile texts.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::scalar::{ScalarKind, resolve};
use super::{MAX_BYTES, MAX_DEPTH, MAX_NODES, MapEntry, TextPosition, YamlNode, YamlValue};
use crate::policy::PolicyError;

/// Parses a text of exactly one document.
///
/// # Errors
///
/// Returns an error if the text is not valid YAML, has several documents or none, or exceeds a
/// limit.
pub(in crate::policy) fn read(file: &Arc<str>, text: &str) -> Result<Rc<YamlNode>, PolicyError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut tree = TreeBuilder {
        file,
        open_collections: Vec::new(),
        anchors: HashMap::new(),
        nodes: 0,
        root: None,
    };
    if text.len() > MAX_BYTES {
        return Err(PolicyError::new(
            Arc::clone(file),
            format!(
                "{} bytes are too many; the limit is {MAX_BYTES}",
                text.len()
            ),
        ));
    }
    if let Some(position) = control_character(text) {
        return Err(tree.error(position, "control characters are not allowed"));
    }
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            tree.error(
                position_of(error.marker()),
                &format!("not valid YAML: {}", error.info()),
            )
        })?;
        let position = position_of(&span.start);
        match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return Err(tree.error(
                        position,
                        "a second YAML document; put each document into a file of its own",
                    ));
                }
            }
            Event::Scalar(raw, style, anchor, tag) => {
                tree.scalar(&raw, style, anchor, tag.as_deref(), position)?;
            }
            Event::Alias(anchor) => tree.alias(anchor, position)?,
            Event::SequenceStart(anchor, tag) => {
                tree.open(
                    CollectionItems::List(Vec::new()),
                    anchor,
                    tag.as_deref(),
                    "seq",
                    position,
                )?;
            }
            Event::MappingStart(anchor, tag) => {
                let map = CollectionItems::Map(OpenMapping::default());
                tree.open(map, anchor, tag.as_deref(), "map", position)?;
            }
            Event::SequenceEnd | Event::MappingEnd => tree.close()?,
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }
    tree.root
        .ok_or_else(|| PolicyError::new(Arc::clone(file), "contains no YAML document"))
}

fn position_of(marker: &Marker) -> TextPosition {
    let count = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    (count(marker.line()), count(marker.col() + 1))
}

/// Returns the position of the first control character, because the parser treats some of them as
/// the end of the text.
fn control_character(text: &str) -> Option<TextPosition> {
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

/// A list or mapping that has been opened and not yet closed.
struct OpenCollection {
    position: TextPosition,
    anchor: usize,
    items: CollectionItems,
}

enum CollectionItems {
    List(Vec<Rc<YamlNode>>),
    Map(OpenMapping),
}

#[derive(Default)]
struct OpenMapping {
    entries: Vec<MapEntry>,
    seen: HashSet<Rc<str>>,
    /// A key whose value has not been read yet.
    key: Option<(Rc<str>, TextPosition)>,
    /// The value of `<<`.
    merged: Option<Rc<YamlNode>>,
    merging: bool,
}

struct TreeBuilder<'a> {
    file: &'a Arc<str>,
    open_collections: Vec<OpenCollection>,
    anchors: HashMap<usize, Rc<YamlNode>>,
    nodes: usize,
    root: Option<Rc<YamlNode>>,
}

impl TreeBuilder<'_> {
    fn error(&self, position: TextPosition, message: &str) -> PolicyError {
        let mut path = String::new();
        for collection in &self.open_collections {
            match &collection.items {
                CollectionItems::List(items) => path.push_str(&format!("[{}]", items.len())),
                CollectionItems::Map(map) => {
                    if let Some((key, _)) = &map.key {
                        if !path.is_empty() {
                            path.push('.');
                        }
                        path.push_str(&shortened(key));
                    }
                }
            }
        }
        PolicyError::located(Arc::clone(self.file), position, path, message)
    }

    fn count(&mut self, nodes: usize, position: TextPosition) -> Result<(), PolicyError> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            let message = format!("more than {MAX_NODES} values, counted with aliases expanded");
            return Err(self.error(position, &message));
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        raw: &str,
        style: ScalarStyle,
        anchor: usize,
        tag: Option<&Tag>,
        position: TextPosition,
    ) -> Result<(), PolicyError> {
        let plain = style == ScalarStyle::Plain;
        if plain
            && raw == "<<"
            && tag.is_none()
            && let Some(CollectionItems::Map(map)) = self
                .open_collections
                .last_mut()
                .map(|collection| &mut collection.items)
            && map.key.is_none()
            && !map.merging
        {
            if map.merged.is_some() {
                return Err(self.error(position, "`<<` is written twice in this mapping"));
            }
            map.merging = true;
            return Ok(());
        }
        let kind = match tag {
            None if plain => resolve(raw),
            None => ScalarKind::Text,
            Some(tag) => self.tagged(raw, tag, position)?,
        };
        let value = YamlValue::Scalar {
            kind,
            raw: raw.into(),
        };
        self.count(1, position)?;
        self.insert(
            YamlNode {
                position,
                value,
                size: 1,
            },
            anchor,
        )
    }

    fn tagged(
        &self,
        raw: &str,
        tag: &Tag,
        position: TextPosition,
    ) -> Result<ScalarKind, PolicyError> {
        let non_specific = tag.handle.len() + tag.suffix.len() == 1;
        let kind = if non_specific { "str" } else { core_tag(tag) };
        let read = resolve(raw);
        match (kind, read) {
            ("str", _) => Ok(ScalarKind::Text),
            ("int" | "float", ScalarKind::Number(_))
            | ("bool", ScalarKind::Bool(_))
            | ("null", ScalarKind::Null) => Ok(read),
            ("int" | "float" | "bool" | "null", _) => Err(self.error(
                position,
                &format!("`{}` is not a `!!{kind}`", shortened(raw)),
            )),
            _ => Err(self.unknown_tag(tag, position)),
        }
    }

    fn unknown_tag(&self, tag: &Tag, position: TextPosition) -> PolicyError {
        let shown = shortened(&format!("{}{}", tag.handle, tag.suffix));
        self.error(
            position,
            &format!("the YAML tag `{shown}` is not supported"),
        )
    }

    fn alias(&mut self, anchor: usize, position: TextPosition) -> Result<(), PolicyError> {
        let Some(node) = self.anchors.get(&anchor).map(Rc::clone) else {
            return Err(self.error(
                position,
                "an alias of a value that contains the alias itself",
            ));
        };
        self.count(node.size, position)?;
        self.insert_shared(node)
    }

    fn open(
        &mut self,
        items: CollectionItems,
        anchor: usize,
        tag: Option<&Tag>,
        expected: &str,
        position: TextPosition,
    ) -> Result<(), PolicyError> {
        if let Some(tag) = tag.filter(|tag| core_tag(tag) != expected) {
            return Err(self.unknown_tag(tag, position));
        }
        if self.open_collections.len() == MAX_DEPTH {
            return Err(self.error(position, &format!("nested deeper than {MAX_DEPTH} levels")));
        }
        self.count(1, position)?;
        self.open_collections.push(OpenCollection {
            position,
            anchor,
            items,
        });
        Ok(())
    }

    fn close(&mut self) -> Result<(), PolicyError> {
        let Some(collection) = self.open_collections.pop() else {
            return Ok(());
        };
        let position = collection.position;
        let value = match collection.items {
            CollectionItems::List(items) => YamlValue::List(items),
            CollectionItems::Map(map) => YamlValue::Map(self.merge(map, position)?),
        };
        let below: usize = match &value {
            YamlValue::Scalar { .. } => 0,
            YamlValue::List(items) => items.iter().map(|item| item.size).sum(),
            YamlValue::Map(entries) => entries.iter().map(|entry| entry.value.size).sum(),
        };
        let size = below.saturating_add(1);
        self.insert(
            YamlNode {
                position,
                value,
                size,
            },
            collection.anchor,
        )
    }

    /// Appends the entries of merged mappings. The keys of the mapping itself take precedence, then
    /// those of the merged mappings in their order.
    fn merge(
        &mut self,
        map: OpenMapping,
        position: TextPosition,
    ) -> Result<Vec<MapEntry>, PolicyError> {
        let OpenMapping {
            mut entries,
            mut seen,
            merged,
            ..
        } = map;
        let Some(merged) = merged else {
            return Ok(entries);
        };
        let sources = match &merged.value {
            YamlValue::List(sources) => sources.as_slice(),
            _ => std::slice::from_ref(&merged),
        };
        for source in sources {
            let YamlValue::Map(more) = &source.value else {
                return Err(self.error(position, "`<<` takes a mapping or a list of mappings"));
            };
            for entry in more {
                if seen.insert(Rc::clone(&entry.key)) {
                    self.count(entry.value.size, position)?;
                    entries.push(entry.clone());
                }
            }
        }
        Ok(entries)
    }

    fn insert(&mut self, node: YamlNode, anchor: usize) -> Result<(), PolicyError> {
        let node = Rc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.insert_shared(node)
    }

    fn insert_shared(&mut self, node: Rc<YamlNode>) -> Result<(), PolicyError> {
        let Some(collection) = self.open_collections.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        let map = match &mut collection.items {
            CollectionItems::List(items) => {
                items.push(node);
                return Ok(());
            }
            CollectionItems::Map(map) => map,
        };
        if map.merging {
            map.merging = false;
            map.merged = Some(node);
            return Ok(());
        }
        if let Some((key, position)) = map.key.take() {
            map.entries.push(MapEntry {
                key,
                position,
                value: node,
            });
            return Ok(());
        }
        let position = node.position;
        let YamlValue::Scalar { kind, raw } = &node.value else {
            return Err(self.error(position, "a key must be text"));
        };
        // The tools of the Agent convert YAML to JSON, which turns an unquoted `on` into the key
        // `true`.
        let key: Rc<str> = match kind {
            ScalarKind::Bool(true) => Rc::from("true"),
            ScalarKind::Bool(false) => Rc::from("false"),
            _ => Rc::from(&**raw),
        };
        if !map.seen.insert(Rc::clone(&key)) {
            let first = map.entries.iter().find(|entry| entry.key == key);
            let line = first.map_or(position.0, |entry| entry.position.0);
            let message = format!(
                "the key `{}` is written twice in this mapping; the first is in line {line}",
                shortened(&key)
            );
            return Err(self.error(position, &message));
        }
        map.key = Some((key, position));
        Ok(())
    }
}

/// Returns the name of a tag of the YAML core schema; empty for any other tag.
fn core_tag(tag: &Tag) -> &str {
    if tag.is_yaml_core_schema() {
        &tag.suffix
    } else {
        ""
    }
}

/// Escapes and shortens text for a message, so that hostile files cannot produce long messages.
pub(in crate::policy) fn shortened(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    match text.char_indices().nth(MAX_CHARS) {
        None => text.escape_debug().to_string(),
        Some((end, _)) => format!("{}…", text[..end].escape_debug()),
    }
}
