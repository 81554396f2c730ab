//! A derived JSON schema as a structural one: no references, no alternatives, a type everywhere.

use serde_json::{Map, Value, json};
use stoke_api::schema::{Schema, Sort};

use super::rules;

/// Names of objects: those of `ObjectName`, since what runs for an object is named after it.
const NAME: &str = "^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$";
/// The formats of `stoke-api` that an API server checks, by its name.
const FORMATS: [(&str, &str); 3] = [("ipv4", "ipv4"), ("cidr", "cidr"), ("cidr6", "cidr")];
/// A recursive type would have no end here.
const DEPTH: usize = 32;

/// The schema of a whole object.
pub(super) fn object(schema: Schema<'_>) -> Value {
    let part = |name: &str, defaults| schema.field(name).map(|part| node(part, defaults, 0)).unwrap_or_default();
    json!({
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": { "type": "string" },
            "kind": { "type": "string" },
            "metadata": {
                "type": "object",
                "properties": { "name": { "type": "string", "maxLength": 63, "pattern": NAME } },
            },
            "spec": part("spec", Defaults::Written),
            "status": part("status", Defaults::LeftOut),
        },
    })
}

/// What a status does not say is not known: nothing is made up for it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Defaults {
    Written,
    LeftOut,
}

fn node(schema: Schema<'_>, defaults: Defaults, depth: usize) -> Value {
    let mut out = match schema.sort() {
        _ if depth == DEPTH => anything(),
        Sort::Object => fields(schema, defaults, depth),
        Sort::Map => map(schema, defaults, depth),
        Sort::List => list(schema, defaults, depth),
        Sort::String => string(schema),
        Sort::Choice => choice(schema),
        Sort::Integer => integer(schema),
        Sort::Number => plain("number"),
        Sort::Boolean => plain("boolean"),
        Sort::Any | Sort::Reference => anything(),
    };
    let description = description(schema);
    if !description.is_empty() {
        out.insert("description".to_owned(), description.into());
    }
    if let Some(default) = schema.default().filter(|value| defaults == Defaults::Written && !value.is_null()) {
        out.insert("default".to_owned(), default.clone());
    }
    Value::Object(out)
}

fn plain(name: &str) -> Map<String, Value> {
    Map::from_iter([("type".to_owned(), name.into())])
}

/// A value of several forms, which only the types know.
fn anything() -> Map<String, Value> {
    Map::from_iter([("x-kubernetes-preserve-unknown-fields".to_owned(), true.into())])
}

fn fields(schema: Schema<'_>, defaults: Defaults, depth: usize) -> Map<String, Value> {
    let mut out = plain("object");
    let fields = schema.fields().map(|(name, field)| (name.to_owned(), node(field, defaults, depth + 1)));
    let fields: Map<_, _> = fields.collect();
    if !fields.is_empty() {
        out.insert("properties".to_owned(), fields.into());
    }
    let required: Vec<_> = schema.required().collect();
    if !required.is_empty() {
        out.insert("required".to_owned(), required.into());
    }
    let rules = rules::of(schema);
    if defaults == Defaults::Written && !rules.is_empty() {
        out.insert("x-kubernetes-validations".to_owned(), rules.into());
    }
    out
}

fn map(schema: Schema<'_>, defaults: Defaults, depth: usize) -> Map<String, Value> {
    let mut out = plain("object");
    let values = schema.items().map_or_else(|| anything().into(), |items| node(items, defaults, depth + 1));
    out.insert("additionalProperties".to_owned(), values);
    out
}

fn list(schema: Schema<'_>, defaults: Defaults, depth: usize) -> Map<String, Value> {
    let mut out = plain("array");
    let Some(items) = schema.items() else {
        // A tuple: its parts have types of their own.
        out.insert("items".to_owned(), anything().into());
        return out;
    };
    let mut inner = node(items, defaults, depth + 1);
    // Null would be filled in where an item has none.
    inner.as_object_mut().map(|inner| inner.remove("default"));
    out.insert("items".to_owned(), inner);
    if let Some(key) = key(schema, items) {
        out.insert("x-kubernetes-list-type".to_owned(), "map".into());
        out.insert("x-kubernetes-list-map-keys".to_owned(), [key].as_slice().into());
    }
    out
}

/// The field by which the items of a list are told apart, as the documentation of the list or its items says it:
/// "keyed by `name`".
fn key<'a>(list: Schema<'a>, items: Schema<'a>) -> Option<&'a str> {
    let said = |text: &'a str| text.split_once("keyed by `")?.1.split('`').next();
    let of_conditions = (items.definition() == Some("Condition")).then_some("type");
    let key = of_conditions.or_else(|| said(list.description())).or_else(|| said(items.description()))?;
    let scalar = items.field(key)?.sort();
    let is_there = items.requires(key) && matches!(scalar, Sort::String | Sort::Choice | Sort::Integer);
    is_there.then_some(key)
}

fn string(schema: Schema<'_>) -> Map<String, Value> {
    let mut out = plain("string");
    for word in ["pattern", "minLength", "maxLength"] {
        out.extend(schema.keyword(word).map(|value| (word.to_owned(), value.clone())));
    }
    let format = FORMATS.iter().find(|(ours, _)| *ours == schema.format());
    out.extend(format.map(|(_, theirs)| ("format".to_owned(), (*theirs).into())));
    out
}

fn choice(schema: Schema<'_>) -> Map<String, Value> {
    let mut out = plain("string");
    let words: Vec<_> = schema.choices().into_iter().map(|(word, _)| word).collect();
    out.insert("enum".to_owned(), words.into());
    out
}

fn integer(schema: Schema<'_>) -> Map<String, Value> {
    let mut out = plain("integer");
    let small = matches!(schema.format(), "uint8" | "uint16" | "int8" | "int16" | "int32");
    out.insert("format".to_owned(), if small { "int32" } else { "int64" }.into());
    let (low, high) = schema.range();
    // What an int64 cannot hold is no bound of one.
    let mut bound = |name: &str, value: Option<i128>| {
        let value = value.and_then(|value| i64::try_from(value).ok());
        out.extend(value.map(|value| (name.to_owned(), value.into())));
    };
    bound("minimum", low);
    bound("maximum", high);
    out
}

/// What it is, and what each word to choose from means.
fn description(schema: Schema<'_>) -> String {
    let mut text = schema.description().replace('\n', " ");
    for (word, meaning) in schema.choices().into_iter().filter(|(_, meaning)| !meaning.is_empty()) {
        let meaning = meaning.replace('\n', " ");
        // Some say the word themselves.
        let meaning = meaning.strip_prefix(&format!("{word}: ")).unwrap_or(&meaning);
        text = format!("{text}\n{word}: {meaning}");
    }
    text.trim().to_owned()
}
