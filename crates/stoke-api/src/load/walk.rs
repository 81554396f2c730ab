//! A tree held against the schema of its kind: JSON out, and everything that is wrong, each at its place.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde_json::{Map, Value};

use super::finding::{Position, Positions, field_of, suggest};
use super::tree::{Content, Key, Node, Scalar};
use crate::names::{Bytes, Digest, LinkName, MacAddr, ObjectName};
use crate::objects::{FileMode, Pool};
use crate::schema::{Schema, Sort};

/// A finding before it has a file.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) at: Position,
    pub(super) field: String,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

/// One walk over one object.
pub(super) struct Walk<'a> {
    /// The schema of the whole object: where a misplaced field belongs is looked up here.
    pub(super) whole: Schema<'a>,
    pub(super) positions: Positions,
    pub(super) wrong: Vec<Wrong>,
    /// How many of these are about a field that was left out of the object: what is left can still be looked at.
    left_out: usize,
    /// The objects that these were in.
    around: Vec<String>,
    /// The fields that were probably meant.
    meant: Vec<String>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(whole: Schema<'a>) -> Self {
        let positions = Positions::default();
        Self { whole, positions, wrong: Vec::new(), left_out: 0, around: Vec::new(), meant: Vec::new() }
    }

    /// Whether the object is whole but for fields that it should not have.
    pub(super) fn is_whole(&self) -> bool {
        self.wrong.len() == self.left_out
    }

    /// Whether something may be wrong with a field only because a name is misspelt: that is what to mend first.
    pub(super) fn may_be_misspelt(&self, field: &str) -> bool {
        let is_in =
            |outer: &str| field.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']));
        let absent = |meant: &&String| self.positions.lacks(meant);
        self.around.iter().any(|around| around == field) || self.meant.iter().filter(absent).any(|meant| is_in(meant))
    }

    /// A field that is no part of the object and is left out of it.
    pub(super) fn leave_out(&mut self, at: Position, field: &str, message: impl Into<String>, hint: Option<String>) {
        self.left_out += 1;
        self.wrong(at, field, message, hint);
    }

    pub(super) fn wrong(&mut self, at: Position, field: &str, message: impl Into<String>, hint: Option<String>) {
        self.wrong.push(Wrong { at, field: field.to_owned(), message: message.into(), hint });
    }

    /// The value at `field`, which begins at `at` (a map's own position is that of its first entry, so the place of its
    /// name is taken).
    pub(super) fn value(&mut self, schema: Schema<'a>, node: &Node, field: &str, at: Position) -> Value {
        let here = if matches!(node.content, Content::Scalar(_)) { node.at } else { at };
        self.positions.insert(field, here);
        if node.is_nothing() {
            self.wrong(here, field, "has no value", Some(instead_of_nothing(schema)));
            return Value::Null;
        }
        match (schema.sort(), &node.content) {
            (Sort::Object | Sort::Reference, Content::Map(entries)) => self.object(schema, entries, field, here),
            (Sort::Map, Content::Map(entries)) => self.map(schema, entries, field),
            (Sort::List, Content::List(items)) => self.list(schema, items, field),
            (Sort::Object | Sort::Map | Sort::List, _) => self.mismatch(schema, node, field, here),
            (_, Content::Scalar(scalar)) => self.scalar(schema, scalar, field, here),
            (_, _) => self.mismatch(schema, node, field, here),
        }
    }

    fn object(&mut self, schema: Schema<'a>, entries: &[(Key, Node)], field: &str, at: Position) -> Value {
        for name in schema.required().filter(|name| !entries.iter().any(|(key, _)| key.text == *name)) {
            let what = schema.field(name).map(|field| first_sentence(field.description())).unwrap_or_default();
            self.wrong(at, &field_of(field, name), format!("is required: {what}"), None);
        }
        let mut object = Map::new();
        for (key, node) in entries {
            let inner = field_of(field, &key.text);
            match schema.field(&key.text) {
                Some(schema) => {
                    object.insert(key.text.clone(), self.value(schema, node, &inner, key.at));
                }
                // A merge key was refused when the text was read.
                None if key.text == "<<" => {}
                None => self.unknown(schema, key, field),
            }
        }
        Value::Object(object)
    }

    fn unknown(&mut self, schema: Schema<'a>, key: &Key, field: &str) {
        let known: Vec<_> = schema.fields().map(|(name, _)| name).collect();
        let near = super::finding::nearest(&key.text, known.iter().copied());
        self.around.push(field.to_owned());
        self.meant.extend(near.map(|near| field_of(field, near)));
        let elsewhere = near.is_none().then(|| owner(self.whole, &key.text, "", 0)).flatten();
        let hint = match elsewhere {
            Some(place) => Some(format!("it belongs to {place}")),
            None => suggest(&key.text, &known, "the fields here are"),
        };
        self.leave_out(key.at, field, format!("unknown field {:?}", key.text), hint);
    }

    fn map(&mut self, schema: Schema<'a>, entries: &[(Key, Node)], field: &str) -> Value {
        let Some(items) = schema.items() else { return Value::Null };
        let value = |(key, node): &(Key, Node)| {
            (key.text.clone(), self.value(items, node, &field_of(field, &key.text), key.at))
        };
        Value::Object(entries.iter().map(value).collect())
    }

    fn list(&mut self, schema: Schema<'a>, items: &[Node], field: &str) -> Value {
        let Some(inner) = schema.items() else { return Value::Null };
        let value = |(index, node): (usize, &Node)| self.value(inner, node, &format!("{field}[{index}]"), node.at);
        Value::Array(items.iter().enumerate().map(value).collect())
    }

    fn scalar(&mut self, schema: Schema<'a>, scalar: &Scalar, field: &str, at: Position) -> Value {
        let result = match schema.sort() {
            Sort::Boolean => scalar.boolean().map(Value::Bool).ok_or_else(|| refused(scalar, "true or false")),
            Sort::Integer => integer(schema, scalar),
            Sort::Number => number(scalar),
            Sort::Choice => choice(schema, scalar),
            _ => string(schema, scalar),
        };
        result.unwrap_or_else(|(message, hint)| {
            self.wrong(at, field, message, hint);
            Value::Null
        })
    }

    fn mismatch(&mut self, schema: Schema<'a>, node: &Node, field: &str, at: Position) -> Value {
        let is = match &node.content {
            Content::Scalar(_) => "a single value",
            Content::List(_) => "a list",
            Content::Map(_) => "a map",
        };
        let (wanted, hint) = match schema.sort() {
            Sort::Object => ("a map of fields", fields_hint(schema)),
            Sort::Map => ("a map", None),
            Sort::List => ("a list", Some("write it as [a, b] or as lines that begin with -".to_owned())),
            Sort::Reference => ("a name", Some("or write {namespace: NAMESPACE, name: NAME}".to_owned())),
            _ => ("a single value", None),
        };
        self.wrong(at, field, format!("must be {wanted} and is {is}"), hint);
        Value::Null
    }
}

type Refusal = (String, Option<String>);

fn refused(scalar: &Scalar, wanted: &str) -> Refusal {
    (format!("{:?} is not {wanted}", scalar.text), None)
}

fn integer(schema: Schema<'_>, scalar: &Scalar) -> Result<Value, Refusal> {
    let number = scalar.integer().ok_or_else(|| match scalar.text.parse::<i128>() {
        Ok(_) => (format!("{:?} is text", scalar.text), Some("write the number without quotes".to_owned())),
        Err(_) => refused(scalar, "a whole number"),
    })?;
    let inside = match schema.range() {
        (Some(low), Some(high)) => (!(low..=high).contains(&number)).then(|| format!("between {low} and {high}")),
        (Some(low), None) => (number < low).then(|| format!("{low} or more")),
        (None, Some(high)) => (number > high).then(|| format!("{high} or less")),
        (None, None) => None,
    };
    if let Some(bounds) = inside {
        return Err((format!("{number} is not {bounds}"), None));
    }
    let small = u64::try_from(number).map(Value::from).or_else(|_| i64::try_from(number).map(Value::from));
    small.map_err(|_| (format!("{number} is too large"), None))
}

fn number(scalar: &Scalar) -> Result<Value, Refusal> {
    let number = scalar.is_number().then(|| scalar.text.parse::<f64>().ok()).flatten();
    let value = number.and_then(serde_json::Number::from_f64);
    value.map(Value::Number).ok_or_else(|| refused(scalar, "a number"))
}

fn choice(schema: Schema<'_>, scalar: &Scalar) -> Result<Value, Refusal> {
    let words: Vec<_> = schema.choices().iter().map(|(word, _)| *word).collect();
    if words.contains(&scalar.text.as_str()) {
        return Ok(Value::String(scalar.text.clone()));
    }
    let near = super::finding::nearest(&scalar.text, words.iter().copied());
    let hint = near.map(|word| format!("did you mean {word}?"));
    Err((format!("{:?} is none of: {}", scalar.text, words.join(", ")), hint))
}

fn string(schema: Schema<'_>, scalar: &Scalar) -> Result<Value, Refusal> {
    let unquoted =
        if scalar.boolean().is_some() { Some("true or false") } else { scalar.is_number().then_some("a number") };
    if let Some(sort) = unquoted {
        let hint = format!("write \"{}\" if it is meant as text", scalar.text);
        return Err((format!("must be text, and {} is {sort}", scalar.text), Some(hint)));
    }
    match text_form(schema, &scalar.text) {
        Some(message) => Err((message, None)),
        None => Ok(Value::String(scalar.text.clone())),
    }
}

/// What is wrong with a text that must have a form, in the words of the type that it is parsed to.
fn text_form(schema: Schema<'_>, text: &str) -> Option<String> {
    fn message<T: std::str::FromStr<Err: ToString>>(text: &str) -> Option<String> {
        text.parse::<T>().err().map(|error| error.to_string())
    }
    let wanted = |wrong: bool, wanted: &str| wrong.then(|| format!("{text:?} is not {wanted}"));
    match (schema.definition().unwrap_or_default(), schema.format()) {
        ("MacAddr", _) => message::<MacAddr>(text),
        ("Digest", _) => message::<Digest>(text),
        ("ObjectName" | "TargetRef", _) => message::<ObjectName>(text),
        ("LinkName", _) => message::<LinkName>(text),
        ("Bytes", _) => message::<Bytes>(text),
        ("Pool", _) => message::<Pool>(text),
        ("FileMode", _) => message::<FileMode>(text),
        ("InterfaceAddress", _) => {
            wanted(text.parse::<IpNet>().is_err(), "an address with its prefix such as 10.20.0.7/24")
        }
        (_, "ipv4") => wanted(text.parse::<Ipv4Addr>().is_err(), "an IPv4 address such as 10.10.0.20"),
        (_, "ip") => wanted(text.parse::<IpAddr>().is_err(), "an IP address such as 10.10.0.20"),
        (_, "cidr6") => wanted(text.parse::<Ipv6Net>().is_err(), "an IPv6 network such as fd00:10::/64"),
        (_, "cidr") => wanted(text.parse::<Ipv4Net>().is_err(), "an IPv4 network such as 10.10.0.0/24"),
        _ => None,
    }
}

fn instead_of_nothing(schema: Schema<'_>) -> String {
    match schema.sort() {
        Sort::Object | Sort::Map => "leave the field out, or write {}".to_owned(),
        Sort::List => "leave the field out, or write []".to_owned(),
        _ => "leave the field out, or write a value".to_owned(),
    }
}

fn fields_hint(schema: Schema<'_>) -> Option<String> {
    let known: Vec<_> = schema.fields().map(|(name, _)| name).collect();
    (!known.is_empty()).then(|| format!("the fields here are {}", known.join(", ")))
}

fn first_sentence(text: &str) -> String {
    let line = text.split("\n\n").next().unwrap_or_default().replace('\n', " ");
    let end = line.find(". ").unwrap_or(line.len());
    line.get(..end).unwrap_or(&line).trim_end_matches('.').to_owned()
}

/// The object in the schema that has a field of this name: `spec.vm`.
fn owner(schema: Schema<'_>, name: &str, path: &str, depth: usize) -> Option<String> {
    if depth > 6 || path.starts_with("status") {
        return None;
    }
    if schema.field(name).is_some() && !path.is_empty() {
        return Some(path.to_owned());
    }
    schema.fields().find_map(|(field, inner)| {
        let list = if inner.sort() == Sort::List { "[]" } else { "" };
        let inside = inner.items().filter(|_| inner.sort() == Sort::List).unwrap_or(inner);
        owner(inside, name, &format!("{}{list}", field_of(path, field)), depth + 1)
    })
}
