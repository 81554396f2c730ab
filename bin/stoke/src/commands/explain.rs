//! `stoke explain KIND[.FIELD]`: what there is to write, from the types themselves.

use std::process::ExitCode;

use stoke_api::load::nearest;
use stoke_api::schema::{self, Schema, Sort};
use stoke_api::{API_VERSION, Kind};

use crate::failure::Failure;
use crate::output::{self, Color};

pub(crate) fn run(what: &str) -> anyhow::Result<ExitCode> {
    output::print(&explain(what)?)?;
    Ok(ExitCode::SUCCESS)
}

fn explain(what: &str) -> anyhow::Result<String> {
    let mut words = what.split('.');
    let kind: Kind = words.next().unwrap_or_default().parse().map_err(|error: stoke_api::objects::UnknownKind| {
        let near = nearest(&error.0, Kind::ALL.map(Kind::singular)).unwrap_or("machine");
        Failure::usage(error.to_string(), format!("for example: stoke explain {near}"))
    })?;
    let (mut schema, mut path) = (schema::of(kind), kind.singular().to_owned());
    for word in words {
        // `nics[0]` and `nics` both mean what a list of them holds.
        let word = word.split('[').next().unwrap_or(word);
        let inside = contents(schema);
        schema = inside.field(word).ok_or_else(|| unknown(word, &path, inside))?;
        path = format!("{path}.{word}");
    }
    Ok(page(kind, &path, schema))
}

/// The object that a list holds, or the schema itself.
fn contents(schema: Schema<'_>) -> Schema<'_> {
    schema.items().filter(|_| schema.sort() == Sort::List).unwrap_or(schema)
}

fn unknown(word: &str, path: &str, schema: Schema<'_>) -> anyhow::Error {
    let known: Vec<_> = schema.fields().map(|(name, _)| name).collect();
    let hint = match nearest(word, known.iter().copied()) {
        Some(near) => format!("did you mean {path}.{near}?"),
        None if known.is_empty() => format!("{path} has no fields"),
        None => format!("the fields of {path} are {}", known.join(", ")),
    };
    Failure::usage(format!("{path} has no field {word:?}"), hint)
}

fn page(kind: Kind, path: &str, schema: Schema<'_>) -> String {
    let heading = |text: &str| output::paint(Color::Bold, text);
    let types = schema.type_words();
    let mut page = format!("{} {kind}, {API_VERSION}\n{} {path} <{types}>\n\n", heading("KIND:"), heading("FIELD:"));
    let inside = contents(schema);
    let spec = schema.field("spec").filter(|_| path == kind.singular()).and_then(|spec| spec.type_description());
    let own = spec.unwrap_or_else(|| schema.description());
    for text in [Some(own), schema.type_description(), inside_description(schema, inside)] {
        if let Some(text) = text.filter(|text| !text.is_empty()) {
            page.push_str(&output::indented(text, "    "));
        }
    }
    page.push_str(&facts(schema));
    let fields: Vec<_> = inside.fields().collect();
    if !fields.is_empty() {
        page.extend(["\n", &heading("FIELDS:"), "\n"]);
        // What must be written comes first.
        let (required, optional): (Vec<_>, Vec<_>) = fields.iter().partition(|(name, _)| inside.requires(name));
        page.extend(required.iter().map(|(name, field)| field_entry(name, *field, true)));
        page.extend(optional.iter().map(|(name, field)| field_entry(name, *field, false)));
    }
    page
}

fn inside_description<'a>(schema: Schema<'a>, inside: Schema<'a>) -> Option<&'a str> {
    (schema.sort() == Sort::List).then(|| inside.description())
}

fn field_entry(name: &str, field: Schema<'_>, required: bool) -> String {
    let required = if required { ", required" } else { "" };
    let name = output::paint(Color::Cyan, name);
    let description = output::indented(field.description(), "      ");
    format!("  {name} <{}{required}>\n{description}{}", field.type_words(), output::indented(&facts(field), "  "))
}

/// Default, range, choices.
fn facts(schema: Schema<'_>) -> String {
    let mut facts = Vec::new();
    for (word, meaning) in schema.choices() {
        facts.push(if meaning.is_empty() { word.to_owned() } else { format!("{word}: {meaning}") });
    }
    match schema.range() {
        (Some(low), Some(high)) if high < i128::from(u16::MAX) => facts.push(format!("from {low} to {high}")),
        _ => {}
    }
    match schema.default() {
        Some(serde_json::Value::String(text)) => facts.push(format!("default: {text}")),
        // An object's default is that of its fields, which is said there.
        Some(value) if !value.is_object() => facts.push(format!("default: {value}")),
        _ => {}
    }
    output::indented(&facts.join("\n"), "    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_a_list_a_choice() {
        let pages =
            ["machine", "machine.spec.nics", "farm.spec.boot.root", "lan.spec"].map(|what| explain(what).unwrap());
        insta::assert_snapshot!(pages.join("\n--------\n"));
    }

    #[test]
    fn what_there_is_not() {
        let told =
            ["pod", "machine.spec.vn", "machine.spec.vm.cpus.x"].map(|what| explain(what).unwrap_err().to_string());
        let expected = [
            "no kind is called \"pod\"; kinds are images, lans, farms, servers, machines, machinesets",
            "machine.spec has no field \"vn\"",
            "machine.spec.vm.cpus has no field \"x\"",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn every_field_of_every_kind_has_a_page() {
        fn visit(path: &str, schema: Schema<'_>) {
            assert!(explain(path).is_ok(), "{path}");
            contents(schema).fields().for_each(|(name, field)| visit(&format!("{path}.{name}"), field));
        }
        for kind in Kind::ALL {
            visit(kind.singular(), schema::of(kind));
        }
    }
}
