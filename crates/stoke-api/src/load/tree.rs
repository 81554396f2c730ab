//! Text to trees: the documents of a YAML (or JSON) file, each value with its position.
//!
//! Everything that a hostile file could grow is bounded: size, depth, and the number of values after aliases are
//! replaced by what they stand for. Merge keys and tags are refused: a file says what it means where it says it.

use std::collections::{BTreeSet, HashMap};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};

use super::finding::Position;

/// How deep values may be nested.
const MAX_DEPTH: usize = 64;
/// How much a file may hold, in values and in parts of 32 bytes of text, when each alias is what it stands for.
const MAX_WEIGHT: usize = 250_000;

/// A value and where it begins.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

/// A scalar as it is written. What it means is decided by the schema.
#[derive(Clone, Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Not quoted, so that it may be a number, a boolean or nothing.
    pub(super) plain: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) text: String,
    pub(super) at: Position,
}

/// Something that makes a text no tree.
#[derive(Debug)]
pub(super) struct Malformed {
    pub(super) at: Position,
    pub(super) message: String,
}

/// The documents of a text, and what is wrong with it. What comes before a syntax error is still there.
pub(super) fn parse(text: &str) -> (Vec<Node>, Vec<Malformed>) {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(text);
    loop {
        match parser.next_event() {
            None | Some(Ok((Event::StreamEnd, _))) => break,
            Some(Ok((event, span))) => {
                if let Err(malformed) = builder.event(event, span) {
                    builder.malformed.push(malformed);
                    break;
                }
            }
            Some(Err(error)) => {
                builder.malformed.push(syntax_error(text, &error));
                break;
            }
        }
    }
    (builder.documents, builder.malformed)
}

fn syntax_error(text: &str, error: &ScanError) -> Malformed {
    let at = position(*error.marker());
    let line = text.lines().nth(at.line.saturating_sub(1)).unwrap_or_default();
    let indent: String = line.chars().take_while(|c| c.is_whitespace()).collect();
    let message = if indent.contains('\t') {
        "this line is indented with a tab; YAML takes spaces only".to_owned()
    } else if error.info().contains("recursion limit") {
        too_deep()
    } else if error.info().contains("simple key expect") {
        "this is no YAML: a colon is missing behind a field's name".to_owned()
    } else {
        format!("this is no YAML: {}", error.info())
    };
    Malformed { at, message }
}

fn position(marker: Marker) -> Position {
    Position { line: marker.line().max(1), column: marker.col() + 1 }
}

/// Puts events together. An explicit stack, so that depth costs no stack of ours.
#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    malformed: Vec<Malformed>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    weight: usize,
}

/// A list or map that has not ended.
struct Open {
    at: Position,
    anchor: usize,
    inside: Inside,
}

enum Inside {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, seen: BTreeSet<String>, key: Option<Key> },
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Malformed> {
        let at = position(span.start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && !string_tag(at, tag.as_deref())?;
                let content = Content::Scalar(Scalar { text: text.into_owned(), plain });
                self.finish(Node { at, content }, anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                string_tag(at, tag.as_deref())?;
                self.start(Open { at, anchor, inside: Inside::List(Vec::new()) })
            }
            Event::MappingStart(anchor, tag) => {
                string_tag(at, tag.as_deref())?;
                let inside = Inside::Map { entries: Vec::new(), seen: BTreeSet::new(), key: None };
                self.start(Open { at, anchor, inside })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Alias(anchor) => self.alias(anchor, at),
            _ => Ok(()),
        }
    }

    fn start(&mut self, open: Open) -> Result<(), Malformed> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Malformed { at: open.at, message: too_deep() });
        }
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self) -> Result<(), Malformed> {
        let Some(Open { at, anchor, inside }) = self.open.pop() else { return Ok(()) };
        let content = match inside {
            Inside::List(items) => Content::List(items),
            Inside::Map { entries, .. } => Content::Map(entries),
        };
        self.finish(Node { at, content }, anchor)
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(), Malformed> {
        let Some(node) = self.anchors.get(&anchor) else {
            return Err(Malformed { at, message: "this alias stands for something that contains it".to_owned() });
        };
        let weight = node.weight();
        if self.weight + weight > MAX_WEIGHT {
            return Err(too_much(at));
        }
        let node = Node { at, content: node.content.clone() };
        self.weight += weight;
        self.finish(node, 0)
    }

    /// A value is complete: it goes where it belongs.
    fn finish(&mut self, node: Node, anchor: usize) -> Result<(), Malformed> {
        self.weight += 1 + node.text().map_or(0, str::len) / 32;
        if self.weight > MAX_WEIGHT {
            return Err(too_much(node.at));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut() {
            None => self.documents.push(node),
            Some(Open { inside: Inside::List(items), .. }) => items.push(node),
            Some(Open { inside: Inside::Map { entries, seen, key }, .. }) => match key.take() {
                None => *key = Some(key_of(node, seen, &mut self.malformed)?),
                Some(complete) => entries.push((complete, node)),
            },
        }
        Ok(())
    }
}

fn too_deep() -> String {
    format!("this is nested more than {MAX_DEPTH} levels deep")
}

fn too_much(at: Position) -> Malformed {
    Malformed { at, message: "this file holds too much for a description of machines".to_owned() }
}

fn key_of(node: Node, seen: &mut BTreeSet<String>, malformed: &mut Vec<Malformed>) -> Result<Key, Malformed> {
    let Node { at, content: Content::Scalar(scalar) } = node else {
        return Err(Malformed { at: node.at, message: "a field's name must be a word".to_owned() });
    };
    if scalar.plain && scalar.text == "<<" {
        let message = "merge keys (<<) are not supported: write the fields out".to_owned();
        malformed.push(Malformed { at, message });
    } else if !seen.insert(scalar.text.clone()) {
        malformed.push(Malformed { at, message: format!("{:?} is written twice", scalar.text) });
    }
    Ok(Key { text: scalar.text, at })
}

/// Whether a tag says "string"; every other tag is refused.
fn string_tag(at: Position, tag: Option<&Tag>) -> Result<bool, Malformed> {
    match tag {
        None => Ok(false),
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Ok(true),
        Some(tag) if tag.is_yaml_core_schema() && ["map", "seq"].contains(&tag.suffix.as_str()) => Ok(false),
        Some(tag) => Err(Malformed { at, message: format!("tags ({tag}) are not supported") }),
    }
}

impl Node {
    fn weight(&self) -> usize {
        match &self.content {
            Content::Scalar(scalar) => 1 + scalar.text.len() / 32,
            Content::List(items) => 1 + items.iter().map(Self::weight).sum::<usize>(),
            Content::Map(entries) => 1 + entries.iter().map(|(_, value)| 1 + value.weight()).sum::<usize>(),
        }
    }

    /// The value of a field, if this is a map that has it.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Content::Map(entries) = &self.content else { return None };
        entries.iter().find(|(key, _)| key.text == name).map(|(_, value)| value)
    }

    /// The text, if this is a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        let Content::Scalar(scalar) = &self.content else { return None };
        Some(&scalar.text)
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(&self.content, Content::Scalar(scalar) if scalar.is_nothing())
    }
}

impl Scalar {
    /// Whether it is YAML's null (YAML 1.2, section 10.3.2).
    pub(super) fn is_nothing(&self) -> bool {
        self.plain && ["", "~", "null", "Null", "NULL"].contains(&self.text.as_str())
    }

    /// The boolean that it is, if it is one.
    pub(super) fn boolean(&self) -> Option<bool> {
        match self.text.as_str() {
            "true" | "True" | "TRUE" if self.plain => Some(true),
            "false" | "False" | "FALSE" if self.plain => Some(false),
            _ => None,
        }
    }

    /// The whole number that it is, if it is one.
    pub(super) fn integer(&self) -> Option<i128> {
        let text = Some(self.text.as_str()).filter(|_| self.plain)?;
        let radix = |digits: &str, radix| i128::from_str_radix(digits, radix).ok();
        match text.split_at_checked(2) {
            Some(("0x", digits)) if !digits.starts_with(['-', '+']) => radix(digits, 16),
            Some(("0o", digits)) if !digits.starts_with(['-', '+']) => radix(digits, 8),
            _ => text.parse().ok(),
        }
    }

    /// Whether it is a number of any sort.
    pub(super) fn is_number(&self) -> bool {
        let begins = self.text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c));
        self.integer().is_some() || (self.plain && begins && self.text.parse::<f64>().is_ok())
    }
}
