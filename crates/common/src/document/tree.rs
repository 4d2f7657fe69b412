//! A YAML or JSON file as a tree of values that know where they stand.

use std::borrow::Cow;
use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::problem::Position;
use super::scalar;
use crate::limits::{MAX_FILE_BYTES, MAX_FILE_VALUES, MAX_NESTING};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node<'s> {
    pub(super) position: Option<Position>,
    pub(super) value: Value<'s>,
}

/// A value as YAML's core schema reads it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value<'s> {
    Null,
    Bool(bool),
    Integer(i128),
    Float(f64),
    Text(Cow<'s, str>),
    List(Vec<Node<'s>>),
    Map(Vec<(Key<'s>, Node<'s>)>),
}

/// A key of a map and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key<'s> {
    pub(super) position: Option<Position>,
    pub(super) text: Cow<'s, str>,
}

impl<'s> Node<'s> {
    /// A value that stands nowhere.
    pub(super) fn from_json(json: serde_json::Value) -> Self {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(value),
            serde_json::Value::Number(number) => match number.as_i128() {
                Some(whole) => Value::Integer(whole),
                None => Value::Float(number.as_f64().unwrap_or_default()),
            },
            serde_json::Value::String(text) => Value::Text(Cow::Owned(text)),
            serde_json::Value::Array(items) => {
                Value::List(items.into_iter().map(Self::from_json).collect())
            }
            serde_json::Value::Object(map) => Value::Map(
                map.into_iter()
                    .map(|(key, item)| {
                        let key = Key {
                            position: None,
                            text: Cow::Owned(key),
                        };
                        (key, Self::from_json(item))
                    })
                    .collect(),
            ),
        };
        Self {
            position: None,
            value,
        }
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn as_list(&self) -> Option<&[Self]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    pub(super) fn as_map(&self) -> Option<&[(Key<'s>, Self)]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The entry of that key.
    pub(super) fn entry(&self, key: &str) -> Option<&(Key<'s>, Self)> {
        self.as_map()?.iter().find(|(found, _)| found.text == key)
    }

    /// The value of that key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entry(key).map(|(_, node)| node)
    }

    /// What it is, in the words of messages.
    pub(super) fn phrase(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    fn weigh(&self) -> Weight {
        let mut weight = Weight {
            values: 1,
            bytes: 0,
            depth: 1,
        };
        match &self.value {
            Value::Text(text) => weight.bytes = text.len(),
            Value::List(items) => items.iter().for_each(|item| weight.add(item.weigh(), 0)),
            Value::Map(entries) => entries
                .iter()
                .for_each(|(key, item)| weight.add(item.weigh(), key.text.len())),
            _ => {}
        }
        weight
    }
}

/// What a value costs where an alias repeats it.
#[derive(Clone, Copy)]
struct Weight {
    values: usize,
    bytes: usize,
    depth: usize,
}

impl Weight {
    fn add(&mut self, part: Self, key: usize) {
        self.values += part.values;
        self.bytes += part.bytes + key;
        self.depth = self.depth.max(part.depth + 1);
    }
}

/// Something that is wrong with the text of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    pub(super) position: Option<Position>,
    pub(super) message: String,
    pub(super) help: Option<String>,
}

impl Flaw {
    pub(super) fn new(position: Option<Position>, message: impl Into<String>) -> Self {
        Self {
            position,
            message: message.into(),
            help: None,
        }
    }
}

/// Reads a text. Flaws that do not hide the rest of the file are returned beside the tree.
pub(super) fn parse(text: &str) -> (Option<Node<'_>>, Vec<Flaw>) {
    parse_within(text, MAX_FILE_VALUES)
}

/// The same with another bound on the number of values.
pub(super) fn parse_within(text: &str, max_values: usize) -> (Option<Node<'_>>, Vec<Flaw>) {
    let mut builder = Builder {
        max_values,
        open: Vec::new(),
        anchors: HashMap::new(),
        values: 0,
        repeated_bytes: 0,
        flaws: Vec::new(),
    };
    let root = match builder.build(text) {
        Ok(root) => root,
        Err(flaw) => {
            builder.flaws.push(flaw);
            None
        }
    };
    (root, builder.flaws)
}

struct Builder<'s> {
    max_values: usize,
    open: Vec<Frame<'s>>,
    anchors: HashMap<usize, (Node<'s>, Weight)>,
    values: usize,
    repeated_bytes: usize,
    flaws: Vec<Flaw>,
}

/// A list or map whose end has not come yet.
struct Frame<'s> {
    position: Option<Position>,
    anchor: usize,
    content: Content<'s>,
}

enum Content<'s> {
    List(Vec<Node<'s>>),
    Map {
        entries: Vec<(Key<'s>, Node<'s>)>,
        key: Option<PendingKey<'s>>,
        merges: Vec<Node<'s>>,
    },
}

enum PendingKey<'s> {
    Ordinary(Key<'s>),
    /// `<<`: the value's entries are taken over.
    Merge,
}

impl<'s> Builder<'s> {
    fn build(&mut self, text: &'s str) -> Result<Option<Node<'s>>, Flaw> {
        let options = granit_parser::options! {
            emit_comments: false,
            flow_nesting_limit: MAX_NESTING + 1,
            block_nesting_limit: MAX_NESTING + 1,
        };
        let mut parser = Parser::new_from_str_with_options(text, options);
        let mut root = None;
        let mut documents = 0;
        while let Some(next) = parser.next_event() {
            let (event, span) = next.map_err(|error| syntax(&error))?;
            let position = position(span.tag_start().unwrap_or(span.start));
            let complete = match event {
                Event::DocumentStart(..) => {
                    documents += 1;
                    if documents > 1 {
                        let message = "another document starts here; a file holds one workflow";
                        return Err(Flaw::new(position, message));
                    }
                    None
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.count(1, position)?;
                    let node = self.scalar(text, style, tag.as_deref(), position);
                    let merge = style == ScalarStyle::Plain
                        && node.as_text() == Some("<<")
                        && self.expects_key();
                    if merge {
                        self.expect_merge();
                        None
                    } else {
                        Some((node, anchor))
                    }
                }
                Event::SequenceStart(_, anchor, tag) => {
                    self.no_tag(tag.as_deref(), position);
                    self.start(position, anchor, Content::List(Vec::new()))?;
                    None
                }
                Event::MappingStart(_, anchor, tag) => {
                    self.no_tag(tag.as_deref(), position);
                    let content = Content::Map {
                        entries: Vec::new(),
                        key: None,
                        merges: Vec::new(),
                    };
                    self.start(position, anchor, content)?;
                    None
                }
                Event::SequenceEnd | Event::MappingEnd => self.end(),
                Event::Alias(anchor) => Some((self.repeat(anchor, position)?, 0)),
                _ => None,
            };
            if let Some((node, anchor)) = complete {
                if anchor != 0 {
                    let weight = node.weigh();
                    self.anchors.insert(anchor, (node.clone(), weight));
                }
                root = self.place(node).or(root);
            }
        }
        Ok(root)
    }

    fn count(&mut self, values: usize, position: Option<Position>) -> Result<(), Flaw> {
        self.values += values;
        if self.values > self.max_values {
            let message = format!("the file holds more than {} values", self.max_values);
            return Err(Flaw::new(position, message));
        }
        Ok(())
    }

    fn scalar(
        &mut self,
        text: Cow<'s, str>,
        style: ScalarStyle,
        tag: Option<&Tag>,
        position: Option<Position>,
    ) -> Node<'s> {
        let as_text = match tag.map(|tag| (tag, tag.core_suffix())) {
            None => style != ScalarStyle::Plain,
            Some((_, Some("str"))) => true,
            Some((_, Some("null" | "bool" | "int" | "float"))) => false,
            Some((tag, _)) if tag.handle().is_empty() && tag.suffix() == "!" => true,
            Some(_) => {
                self.no_tag(tag, position);
                true
            }
        };
        let value = if as_text {
            Value::Text(text)
        } else {
            match scalar::resolve(text) {
                Value::Float(number) if !number.is_finite() => {
                    let message = "a number must be finite";
                    self.flaws.push(Flaw::new(position, message));
                    Value::Null
                }
                value => value,
            }
        };
        Node { position, value }
    }

    fn no_tag(&mut self, tag: Option<&Tag>, position: Option<Position>) {
        let Some(tag) = tag else { return };
        if !matches!(tag.core_suffix(), Some("seq" | "map")) {
            let message = format!("the tag `{}` is not known here", tag.original());
            self.flaws.push(Flaw::new(position, message));
        }
    }

    fn start(
        &mut self,
        position: Option<Position>,
        anchor: usize,
        content: Content<'s>,
    ) -> Result<(), Flaw> {
        self.count(1, position)?;
        if self.open.len() >= MAX_NESTING {
            return Err(too_deep(position));
        }
        self.open.push(Frame {
            position,
            anchor,
            content,
        });
        Ok(())
    }

    fn end(&mut self) -> Option<(Node<'s>, usize)> {
        let frame = self.open.pop()?;
        let value = match frame.content {
            Content::List(items) => Value::List(items),
            Content::Map {
                entries, merges, ..
            } => Value::Map(self.finish_map(entries, merges)),
        };
        let node = Node {
            position: frame.position,
            value,
        };
        Some((node, frame.anchor))
    }

    /// Refuses repeated keys, and takes over the entries of merged maps, where the first one wins.
    fn finish_map(
        &mut self,
        entries: Vec<(Key<'s>, Node<'s>)>,
        merges: Vec<Node<'s>>,
    ) -> Vec<(Key<'s>, Node<'s>)> {
        let mut seen: HashMap<Cow<'s, str>, Option<Position>> = HashMap::new();
        let mut kept = Vec::with_capacity(entries.len());
        let small = entries.len() <= 8 && merges.is_empty();
        for (key, node) in entries {
            let first = if small {
                kept.iter()
                    .find(|(kept, _): &&(Key<'_>, _)| kept.text == key.text)
                    .map(|(kept, _)| kept.position)
            } else {
                seen.get(&key.text).copied()
            };
            if let Some(first) = first {
                self.flaws.push(Flaw {
                    position: key.position,
                    message: format!("the key `{}` is given twice", key.text),
                    help: first.map(|first| format!("it is first given in line {}", first.line)),
                });
                continue;
            }
            if !small {
                seen.insert(key.text.clone(), key.position);
            }
            kept.push((key, node));
        }
        for merge in merges {
            let maps = match merge.value {
                Value::List(items) => items,
                _ => vec![merge],
            };
            for map in maps {
                let Value::Map(entries) = map.value else {
                    let message = "`<<` must be a map or a list of maps";
                    self.flaws.push(Flaw::new(map.position, message));
                    continue;
                };
                for (key, node) in entries {
                    if !seen.contains_key(&key.text) {
                        seen.insert(key.text.clone(), key.position);
                        kept.push((key, node));
                    }
                }
            }
        }
        kept
    }

    /// The value of an alias, if there is room for it.
    fn repeat(&mut self, anchor: usize, position: Option<Position>) -> Result<Node<'s>, Flaw> {
        let Some((_, weight)) = self.anchors.get(&anchor) else {
            return Err(Flaw::new(position, "an alias is used inside its own value"));
        };
        let weight = *weight;
        if self.open.len() + weight.depth > MAX_NESTING + 1 {
            return Err(too_deep(position));
        }
        self.values += weight.values;
        self.repeated_bytes += weight.bytes;
        if self.values > self.max_values || self.repeated_bytes > MAX_FILE_BYTES {
            let message = "the aliases of the file stand for too much data";
            return Err(Flaw::new(position, message));
        }
        Ok(self.anchors[&anchor].0.clone())
    }

    fn expects_key(&self) -> bool {
        matches!(
            self.open.last(),
            Some(Frame {
                content: Content::Map { key: None, .. },
                ..
            })
        )
    }

    fn expect_merge(&mut self) {
        if let Some(Frame {
            content: Content::Map { key, .. },
            ..
        }) = self.open.last_mut()
        {
            *key = Some(PendingKey::Merge);
        }
    }

    /// Puts a value where it belongs; gives it back where that is the root.
    fn place(&mut self, node: Node<'s>) -> Option<Node<'s>> {
        let Some(frame) = self.open.last_mut() else {
            return Some(node);
        };
        match &mut frame.content {
            Content::List(items) => items.push(node),
            Content::Map {
                entries,
                key,
                merges,
            } => match key.take() {
                Some(PendingKey::Ordinary(key)) => entries.push((key, node)),
                Some(PendingKey::Merge) => merges.push(node),
                None => {
                    let text = match node.value {
                        Value::Text(text) => text,
                        Value::Null => Cow::Borrowed("null"),
                        Value::Bool(value) => Cow::Owned(value.to_string()),
                        Value::Integer(number) => Cow::Owned(number.to_string()),
                        Value::Float(number) => Cow::Owned(number.to_string()),
                        Value::List(_) | Value::Map(_) => {
                            let message = "a key must be text";
                            self.flaws.push(Flaw::new(node.position, message));
                            Cow::Borrowed("")
                        }
                    };
                    *key = Some(PendingKey::Ordinary(Key {
                        position: node.position,
                        text,
                    }));
                }
            },
        }
        None
    }
}

fn too_deep(position: Option<Position>) -> Flaw {
    let message = format!("lists and maps are nested more than {MAX_NESTING} deep");
    Flaw::new(position, message)
}

fn syntax(error: &ScanError) -> Flaw {
    let position = position(*error.marker());
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => too_deep(position),
        _ => Flaw::new(
            position,
            format!("the file cannot be read: {}", error.info()),
        ),
    }
}

fn position(marker: Marker) -> Option<Position> {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Some(Position {
        line: number(marker.line()),
        column: number(marker.col()).saturating_add(1),
    })
}
