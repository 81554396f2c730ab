//! `stoke config NAME`: a node's whole configuration, and for each value where it came from.

use std::process::ExitCode;

use anyhow::bail;
use serde_json::{Value, json};
use stoke_api::control::ObjectProblem;
use stoke_api::load::{self, Loaded};
use stoke_api::{AnyObject, Kind, ObjectRef};
use stoke_boot::config::{Origin, Source, value_at};
use stoke_reconcile::{Explained, explain};

use crate::cli::{Config, ConfigFormat};
use crate::client::Client;
use crate::folders::Folders;
use crate::output::{self, Color, Table};

/// As much of a value is shown in a table.
const SHOWN: usize = 60;

pub(crate) async fn run(folders: &Folders, config: &Config) -> anyhow::Result<ExitCode> {
    let loaded = if config.file.is_empty() { Vec::new() } else { super::load(&config.file)? };
    let objects = match loaded.as_slice() {
        [] => of_installation(folders).await?,
        files => files.iter().flat_map(|file| &file.objects).map(|(object, _)| object.clone()).collect(),
    };
    let (node, explained) = find(&objects, config)?;
    output::print(&match config.output {
        ConfigFormat::Table => table(&explained, &loaded),
        ConfigFormat::Json => format!("{}\n", serde_json::to_string_pretty(&document(&node, &explained, &loaded))?),
        ConfigFormat::Yaml => output::yaml(&document(&node, &explained, &loaded))?,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The objects that the installation has, whether it runs or not.
async fn of_installation(folders: &Folders) -> anyhow::Result<Vec<AnyObject>> {
    let client = Client::new(&folders.control_socket())?;
    if !client.is_alive().await? {
        return match stoke_host::up::look(folders).await? {
            Some((_, observed)) => Ok(observed.objects),
            None => bail!("there is no installation in {}; name files with -f", folders.state.display()),
        };
    }
    let mut objects = Vec::new();
    for kind in [Kind::Lan, Kind::Farm, Kind::Server, Kind::Machine] {
        objects.extend(client.list(kind, None).await?);
    }
    Ok(objects)
}

fn find(objects: &[AnyObject], config: &Config) -> anyhow::Result<(ObjectRef, Explained)> {
    let candidates = config.candidates()?;
    let there: Vec<_> = candidates.iter().filter(|name| objects.iter().any(|o| o.reference() == **name)).collect();
    match there.as_slice() {
        [] => bail!("there is neither a machine nor a server called {:?}", config.node),
        [one] => match explain(objects, one) {
            Some(explained) => Ok(((*one).clone(), explained)),
            None => bail!("{one} is fed by no farm that is there: it has no configuration"),
        },
        _ => bail!("{} is a machine and a server: name one as machine/{0} or server/{0}", config.node),
    }
}

fn table(explained: &Explained, loaded: &[Loaded]) -> String {
    let mut table = Table::new(&["FIELD", "VALUE", "FROM", "OVER"]);
    for (path, origin) in &explained.merged.origins {
        let value = value_at(&explained.merged.config, path).unwrap_or_default();
        let over: Vec<_> = origin.over.iter().map(|source| source.name.clone()).collect();
        table.row(vec![path.clone(), words(&value), from(origin, loaded), over.join(", ")]);
    }
    let mut text = table.render("");
    for (title, classes) in [("Classes", &explained.classes), ("Classes if the machine is so", &explained.undecided)] {
        if !classes.is_empty() {
            let title = output::paint(Color::Bold, &format!("{title}:"));
            text.extend([&title, " ", &classes.join(", "), "\n"]);
        }
    }
    text
}

/// Where a value is written: the scope, and the line if files were named.
fn from(origin: &Origin, loaded: &[Loaded]) -> String {
    match place(&origin.source, &origin.whole_field(), loaded) {
        Some(place) => format!("{} ({place})", origin.source.name),
        None => origin.source.name.clone(),
    }
}

fn place(source: &Source, field: &str, loaded: &[Loaded]) -> Option<String> {
    let object = source.object.clone()?;
    let found = load::locate(loaded, &ObjectProblem { object, field: field.to_owned(), message: String::new() })?;
    let line = found.at.map(|at| format!(":{}", at.line)).unwrap_or_default();
    Some(format!("{}{line}", found.path.display()))
}

/// A value on one line, as short as people need it.
fn words(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.trim_end().replace('\n', " ⏎ "),
        Value::Array(items) => items.iter().map(words).collect::<Vec<_>>().join(", "),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| match value {
                Value::Object(_) => format!("{name}: {{{}}}", words(value)),
                Value::Array(_) => format!("{name}: [{}]", words(value)),
                _ => format!("{name}: {}", words(value)),
            };
            fields.iter().map(field).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    };
    if text.chars().count() <= SHOWN { text } else { text.chars().take(SHOWN - 1).chain(['…']).collect() }
}

/// The same for programs.
fn document(node: &ObjectRef, explained: &Explained, loaded: &[Loaded]) -> Value {
    let origin = |(path, origin): (&String, &Origin)| {
        let mut entry = json!({
            "field": path,
            "from": origin.source.name,
            "over": origin.over.iter().map(|source| &source.name).collect::<Vec<_>>(),
        });
        if let Some(entry) = entry.as_object_mut() {
            if let Some(object) = &origin.source.object {
                entry.insert("object".to_owned(), object.to_string().into());
                entry.insert("path".to_owned(), origin.whole_field().into());
            }
            if let Some(place) = place(&origin.source, &origin.whole_field(), loaded) {
                entry.insert("place".to_owned(), place.into());
            }
        }
        entry
    };
    json!({
        "node": node.to_string(),
        "classes": explained.classes,
        "undecidedClasses": explained.undecided,
        "config": explained.merged.config,
        "origins": explained.merged.origins.iter().map(origin).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const FILE: &str = include_str!("config_test.yaml");

    fn explained() -> (Explained, Vec<Loaded>) {
        let loaded = vec![load::load_text(Path::new("farm.yaml"), FILE).unwrap()];
        let objects: Vec<_> = loaded[0].objects.iter().map(|(object, _)| object.clone()).collect();
        let name = ObjectRef { kind: Kind::Server, namespace: None, name: "rack1-07".parse().unwrap() };
        (explain(&objects, &name).unwrap(), loaded)
    }

    #[test]
    fn each_value_with_its_place() {
        let (explained, loaded) = explained();
        insta::assert_snapshot!(table(&explained, &loaded));
    }

    #[test]
    fn the_same_for_programs() {
        let (explained, loaded) = explained();
        let node = ObjectRef { kind: Kind::Server, namespace: None, name: "rack1-07".parse().unwrap() };
        let document = document(&node, &explained, &loaded);
        assert_eq!(document["config"]["sysctls"]["vm.swappiness"], "10");
        let origins = document["origins"].as_array().unwrap();
        let origin = origins.iter().find(|origin| origin["field"] == "sysctls[vm.swappiness]").unwrap();
        assert_eq!(origin["from"], "server/rack1-07");
        assert_eq!(origin["over"], json!(["farm/lab", "class storage of farm/lab"]));
        assert_eq!(origin["path"], "spec.config.sysctls.vm.swappiness");
    }

    #[test]
    fn long_and_nested_values_stay_on_a_line() {
        let value = json!({"path": "/etc/x", "content": "one\ntwo\n", "list": ["a", "b"], "inner": {"id": 3}});
        assert_eq!(words(&value), "content: one ⏎ two, inner: {id: 3}, list: [a, b], path: /et…");
    }
}
