//! `stoke reference`: the generated pages of the documentation, from the types and from the command line's definition.

use std::process::ExitCode;

use clap::CommandFactory as _;
use stoke_api::schema::{self, Schema, Sort};
use stoke_api::{API_VERSION, Kind};

use crate::cli::{Cli, Page};
use crate::output;

pub(crate) fn run(page: Page) -> anyhow::Result<ExitCode> {
    let text = match page {
        Page::Objects => objects(),
        Page::Commands => commands(),
        Page::Man => manual()?,
    };
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn objects() -> String {
    let head = format!(
        "# Objects\n\nGroup and version: `{API_VERSION}`. `stoke explain KIND.FIELD` shows the same in a terminal. Every object has\n\
         `apiVersion`, `kind`, `metadata` (`name`, and if wanted `namespace`, `labels`, `annotations`) and `spec`; `status` is\n\
         written by Stokehold.\n"
    );
    let kinds = Kind::ALL.map(|kind| kind_section(kind, schema::of(kind)));
    format!("{head}{}", kinds.concat())
}

fn kind_section(kind: Kind, schema: Schema<'_>) -> String {
    let Some(spec) = schema.field("spec") else { return String::new() };
    let meaning = spec.type_description().unwrap_or_default();
    let mut text = format!("\n## {kind}\n\n{meaning}\n");
    object_table(&format!("{}.spec", kind.singular()), spec, &mut text);
    text
}

/// One table for the object at `path`, then one for each object in it.
fn object_table(path: &str, schema: Schema<'_>, text: &mut String) {
    let inside = schema.items().filter(|_| schema.sort() == Sort::List).unwrap_or(schema);
    let fields: Vec<_> = inside.fields().collect();
    if fields.is_empty() {
        return;
    }
    text.extend(["\n### `", path, "`\n\n| field | type | if absent | meaning |\n|---|---|---|---|\n"]);
    text.extend(fields.iter().map(|(name, field)| row(name, *field, inside.requires(name))));
    for (name, field) in fields {
        let list = if field.sort() == Sort::List { "[]" } else { "" };
        object_table(&format!("{path}.{name}{list}"), field, text);
    }
}

fn row(name: &str, field: Schema<'_>, required: bool) -> String {
    let absent = match field.default() {
        _ if required => "required".to_owned(),
        Some(serde_json::Value::String(word)) => format!("`{word}`"),
        Some(value) if !value.is_object() => format!("`{value}`"),
        _ => String::new(),
    };
    let choices = field.choices();
    let choices: Vec<_> = choices.iter().map(|(word, meaning)| choice(word, meaning)).collect();
    let meaning = [vec![field.description().replace('\n', " ")], choices].concat().join("<br>");
    format!("| `{name}` | {} | {absent} | {} |\n", field.type_words(), meaning.replace('|', "\\|"))
}

fn choice(word: &str, meaning: &str) -> String {
    if meaning.is_empty() { format!("`{word}`") } else { format!("`{word}`: {}", meaning.replace('\n', " ")) }
}

fn commands() -> String {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut text = format!("# Commands\n\n{}", block(&mut command));
    for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set()) {
        command_section(sub, &mut text);
    }
    text
}

fn command_section(command: &mut clap::Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let help = block(command);
    text.extend(["\n## `", &name, "`\n\n", &help]);
    for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set()) {
        command_section(sub, text);
    }
}

fn block(command: &mut clap::Command) -> String {
    let help = command.render_long_help().to_string();
    let lines: Vec<_> = help.lines().map(|line| format!("{}\n", line.trim_end())).collect();
    format!("```text\n{}```\n", lines.concat())
}

fn manual() -> anyhow::Result<String> {
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    Ok(String::from_utf8(page)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_every_command_has_its_section() {
        let (objects, commands) = (objects(), commands());
        assert!(Kind::ALL.iter().all(|kind| objects.contains(&format!("\n## {kind}\n"))));
        assert!(objects.contains("\n| `cpus` | integer | `1` | Number of virtual processors. |\n"), "{objects}");
        assert!(commands.contains("\n## `stoke image build`\n") && !commands.contains("stoke serve"));
        assert!(manual().unwrap().contains(".TH stoke 1"));
    }
}
