//! `stoke get`: objects as tables, JSON, YAML or names, once or as they change.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::json;
use stoke_api::control::{Change, WatchEvent};
use stoke_api::meta::{DEFAULT_NAMESPACE, Truth};
use stoke_api::objects::{FarmStatus, ImageStatus, LanStatus, MachineStatus, NodeState, Power};
use stoke_api::{API_VERSION, AnyObject, Condition, Digest, Kind, ObjectName, ObjectRef};

use crate::cli::{Format, Get};
use crate::cluster::{Choice, Target};
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output::{self, Table};

/// Which objects are meant.
struct Wanted {
    kinds: Vec<Kind>,
    names: Vec<ObjectName>,
    namespace: Option<ObjectName>,
}

pub(crate) async fn run(folders: &Folders, choice: &Choice, get: &Get) -> anyhow::Result<ExitCode> {
    let mut wanted = wanted(get)?;
    let client = choice.target(folders, get.namespace.as_ref()).await?;
    // As kubectl does: a cluster has many namespaces, and most people few of them.
    if let (Target::Cluster(cluster), false) = (&client, get.all_namespaces) {
        wanted.namespace = Some(cluster.namespace().clone());
    }
    let mut found = Vec::new();
    for kind in &wanted.kinds {
        let mut objects = client.list(*kind, wanted.namespace.as_ref()).await?;
        objects.sort_by_key(AnyObject::reference);
        found.push((*kind, objects));
    }
    wanted.all_found(&found)?;
    for (_, objects) in &mut found {
        objects.retain(|object| wanted.has(object));
    }
    show(&found, get)?;
    if get.watch {
        follow(&client, &wanted, found, get.output).await?;
    }
    Ok(ExitCode::SUCCESS)
}

fn wanted(get: &Get) -> anyhow::Result<Wanted> {
    let usage = |error: String| Failure::usage(error, "for example: stoke get machines, stoke get machine/node-1");
    let (namespace, mut names) = (get.namespace.clone(), get.names.clone());
    if get.what == "all" {
        return Ok(Wanted { kinds: Kind::ALL.to_vec(), names, namespace });
    }
    let kinds = match get.what.split_once('/') {
        Some((kind, name)) => {
            names.push(name.parse().map_err(|error: stoke_api::names::ParseError| usage(error.to_string()))?);
            kind
        }
        None => &get.what,
    };
    let kinds: Result<Vec<Kind>, _> = kinds.split(',').map(str::parse).collect();
    Ok(Wanted { kinds: kinds.map_err(|error| usage(error.to_string()))?, names, namespace })
}

impl Wanted {
    fn has(&self, object: &AnyObject) -> bool {
        let reference = object.reference();
        let namespace = self.namespace.as_ref().is_none_or(|namespace| reference.namespace.as_ref() == Some(namespace));
        let name = self.names.is_empty() || self.names.contains(&reference.name);
        self.kinds.contains(&reference.kind) && name && (namespace || !reference.kind.is_namespaced())
    }

    fn all_found(&self, found: &[(Kind, Vec<AnyObject>)]) -> anyhow::Result<()> {
        let there = |name: &&ObjectName| found.iter().flat_map(|(_, all)| all).any(|o| o.metadata().name == **name);
        match self.names.iter().find(|name| !there(name)) {
            None => Ok(()),
            Some(name) => {
                let kinds: Vec<_> = self.kinds.iter().map(|kind| kind.singular()).collect();
                let known = found.iter().flat_map(|(_, all)| all).map(|object| object.metadata().name.as_str());
                let near = stoke_api::load::nearest(name.as_str(), known).map(str::to_owned);
                let message = format!("there is no {} called {name}", kinds.join(" or "));
                Err(match near {
                    Some(near) => Failure::hinted(message, format!("did you mean {near}?")),
                    None => Failure::plain(message),
                })
            }
        }
    }
}

fn show(found: &[(Kind, Vec<AnyObject>)], get: &Get) -> anyhow::Result<()> {
    let all = || found.iter().flat_map(|(_, objects)| objects);
    let text = match get.output {
        Format::Name => all().map(|object| format!("{}\n", object.reference())).collect::<Vec<_>>().concat(),
        Format::Yaml => {
            let documents: anyhow::Result<Vec<_>> = all().map(|object| output::yaml(&output::json(object)?)).collect();
            documents?.join("---\n")
        }
        Format::Json => {
            let mut items = all().map(output::json).collect::<anyhow::Result<Vec<_>>>()?;
            let one = !get.names.is_empty() || get.what.contains('/');
            let value = match items.pop() {
                Some(only) if one && items.is_empty() => only,
                last => {
                    items.extend(last);
                    json!({ "apiVersion": API_VERSION, "kind": "List", "items": items })
                }
            };
            format!("{}\n", serde_json::to_string_pretty(&value)?)
        }
        Format::Table | Format::Wide => tables(found, get.output == Format::Wide),
    };
    output::print(&text).map_err(Into::into)
}

/// One table for each kind that has objects; names carry their kind if there are several.
fn tables(found: &[(Kind, Vec<AnyObject>)], wide: bool) -> String {
    let now = jiff::Timestamp::now();
    let filled: Vec<_> = found.iter().filter(|(_, objects)| !objects.is_empty()).collect();
    if filled.is_empty() {
        let kinds: Vec<_> = found.iter().map(|(kind, _)| kind.plural()).collect();
        return format!("there are no {}\n", kinds.join(", "));
    }
    let several = found.len() > 1;
    let tables: Vec<_> = filled.iter().map(|(kind, all)| table(*kind, all, wide, several, now).render("")).collect();
    tables.join("\n")
}

fn table(kind: Kind, objects: &[AnyObject], wide: bool, several: bool, now: jiff::Timestamp) -> Table {
    let mut table = Table::new(&header(kind, wide));
    for object in objects {
        table.row(row(object, wide, several, now));
    }
    table
}

fn header(kind: Kind, wide: bool) -> Vec<&'static str> {
    let (own, more): (&[_], &[_]) = match kind {
        Kind::Machine => (&["PHASE", "POWER", "ADDRESS", "IMAGE"], &["WANTED", "ACCEL", "ROOT", "LINKS", "MESSAGE"]),
        Kind::Server => (&["PHASE", "ADDRESS", "IMAGE"], &["WANTED", "ROOT", "POWER", "FARM", "MACS", "MESSAGE"]),
        Kind::Image => (&["DIGEST", "SIZE", "KERNEL"], &["MESSAGE"]),
        Kind::Lan => (&["BRIDGE", "SUBNETS", "LEASES"], &["MESSAGE"]),
        Kind::Farm => (&["IMAGE", "NODES", "ADDRESS"], &["LAN", "VERSION", "MESSAGE"]),
        Kind::MachineSet => (&["REPLICAS"], &["FARM", "ADDRESSES", "MESSAGE"]),
    };
    let more = if wide { more } else { &[] };
    [&["NAME", "READY"], own, &["AGE"], more].concat()
}

fn row(object: &AnyObject, wide: bool, several: bool, now: jiff::Timestamp) -> Vec<String> {
    let (own, more) = match object {
        AnyObject::Machine(machine) => machine_cells(&machine.status),
        AnyObject::Server(server) => {
            let (address, image, root) = node_cells(server.status.node.as_ref());
            let macs: Vec<_> = server.spec.macs.iter().map(ToString::to_string).collect();
            let power = server.status.bmc.as_ref().and_then(|bmc| bmc.power);
            let power = power.map_or("", |power| if power == Power::On { "On" } else { "Off" });
            let farm = format!("{}/{}", server.spec.farm.namespace, server.spec.farm.name);
            (
                vec![phase(server.status.node.as_ref()), address, image],
                vec![short(server.status.image), root, power.to_owned(), farm, macs.join(",")],
            )
        }
        AnyObject::Image(image) => (image_cells(&image.status), Vec::new()),
        AnyObject::Lan(lan) => {
            let subnets: Vec<_> = lan.spec.subnets.iter().map(|subnet| subnet.cidr.to_string()).collect();
            (lan_cells(&lan.status, subnets.join(",")), Vec::new())
        }
        AnyObject::Farm(farm) => {
            let version = farm.status.image.map(|digest| digest.short()).unwrap_or_default();
            (farm_cells(&farm.status, &farm.spec.image.to_string()), vec![farm.spec.lan.to_string(), version])
        }
        AnyObject::MachineSet(set) => {
            let farm = set.spec.template.spec.farm.as_ref().map(ToString::to_string).unwrap_or_default();
            let addresses = set.spec.addresses.map(|pool| pool.to_string()).unwrap_or_default();
            let replicas = format!("{}/{}", set.status.ready_replicas, set.spec.replicas);
            (vec![replicas], vec![farm, addresses])
        }
    };
    let age = object.metadata().creation_timestamp.as_deref().map(|then| output::age(then, now)).unwrap_or_default();
    let more = if wide { [more, vec![message(object)]].concat() } else { Vec::new() };
    [vec![name(object, several), ready(object)], own, vec![age], more].concat()
}

/// The name, with its namespace if that is not the default one, with its kind if several are shown.
fn name(object: &AnyObject, several: bool) -> String {
    let ObjectRef { kind: _, namespace, name } = object.reference();
    match namespace.filter(|namespace| namespace.as_str() != DEFAULT_NAMESPACE) {
        _ if several => object.reference().to_string(),
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_string(),
    }
}

fn machine_cells(status: &MachineStatus) -> (Vec<String>, Vec<String>) {
    let (address, image, root) = node_cells(status.node.as_ref());
    let power = match (status.power, status.stop_requested) {
        (Power::On, false) => "On",
        (Power::On, true) => "Stopping",
        (Power::Off, _) => "Off",
    };
    let links: Vec<_> = status.links.iter().map(ToString::to_string).collect();
    let phase = if status.power == Power::Off { String::new() } else { phase(status.node.as_ref()) };
    (
        vec![phase, power.to_owned(), address, image],
        vec![short(status.image), status.accelerator.clone(), root, links.join(",")],
    )
}

/// The version that a node gets when it boots, beside the one that it runs.
fn short(image: Option<Digest>) -> String {
    image.map(|digest| digest.short()).unwrap_or_default()
}

fn phase(node: Option<&NodeState>) -> String {
    node.map(|node| node.phase.to_string()).unwrap_or_default()
}

fn node_cells(node: Option<&NodeState>) -> (String, String, String) {
    let Some(node) = node else { return (String::new(), String::new(), String::new()) };
    let address = node.address.map(|address| address.to_string()).unwrap_or_default();
    (address, node.image.map(|digest| digest.short()).unwrap_or_default(), node.root.clone())
}

fn image_cells(status: &ImageStatus) -> Vec<String> {
    let size = if status.size == 0 { String::new() } else { output::size(status.size) };
    vec![status.digest.map(|digest| digest.short()).unwrap_or_default(), size, status.kernel.clone()]
}

fn lan_cells(status: &LanStatus, subnets: String) -> Vec<String> {
    vec![status.bridge.clone(), subnets, format!("{}/{}", status.leases, status.capacity)]
}

fn farm_cells(status: &FarmStatus, image: &str) -> Vec<String> {
    let nodes = format!("{}/{}", status.ready_nodes, status.nodes);
    vec![image.to_owned(), nodes, status.address.clone().unwrap_or_default()]
}

/// The condition that every kind has.
pub(super) fn ready_condition(object: &AnyObject) -> Option<&Condition> {
    object.conditions().iter().find(|condition| condition.kind == "Ready")
}

fn ready(object: &AnyObject) -> String {
    ready_condition(object).map(|condition| truth(condition.status).to_owned()).unwrap_or_default()
}

fn message(object: &AnyObject) -> String {
    ready_condition(object).map(|condition| condition.message.clone()).unwrap_or_default()
}

/// As Kubernetes writes it.
pub(super) fn truth(truth: Truth) -> &'static str {
    match truth {
        Truth::True => "True",
        Truth::False => "False",
        Truth::Unknown => "Unknown",
    }
}

/// Prints each object again when what is shown of it changes.
async fn follow(
    client: &Target,
    wanted: &Wanted,
    found: Vec<(Kind, Vec<AnyObject>)>,
    format: Format,
) -> anyhow::Result<()> {
    let (wide, several) = (format == Format::Wide, found.len() > 1);
    let start = jiff::Timestamp::now();
    let columns: BTreeMap<_, _> =
        found.iter().map(|(kind, all)| (*kind, table(*kind, all, wide, several, start))).collect();
    let mut shown: BTreeMap<ObjectRef, AnyObject> =
        found.into_iter().flat_map(|(_, all)| all).map(|object| (object.reference(), object)).collect();
    let mut watch = client.watch(&wanted.kinds, wanted.namespace.as_ref()).await?;
    while let Some(event) = watch.next().await? {
        let reference = event.object.reference();
        let known = shown.get(&reference).is_some_and(|old| is_same(old, &event.object, wide)) && is_there(&event);
        if !wanted.has(&event.object) || known {
            continue;
        }
        let text = match (format, columns.get(&reference.kind)) {
            (Format::Table | Format::Wide, Some(columns)) => {
                let mut cells = row(&event.object, wide, several, jiff::Timestamp::now());
                if let Some(ready) = cells.get_mut(1).filter(|_| !is_there(&event)) {
                    "Deleted".clone_into(ready);
                }
                columns.line(&cells.into_iter().map(or_dash).collect::<Vec<_>>(), "")
            }
            (Format::Json, _) => format!("{}\n", output::json(&event.object)?),
            (Format::Yaml, _) => format!("---\n{}", output::yaml(&output::json(&event.object)?)?),
            (_, _) => format!("{reference}\n"),
        };
        output::print(&text)?;
        shown.insert(reference, *event.object);
    }
    Err(Failure::hinted("the installation ended", "its machines keep running; start it again with: stoke up PATH"))
}

fn or_dash(cell: String) -> String {
    if cell.is_empty() { "-".to_owned() } else { cell }
}

fn is_there(event: &WatchEvent) -> bool {
    event.change != Change::Deleted
}

/// Whether a table would show the same, but for the age.
fn is_same(old: &AnyObject, new: &AnyObject, wide: bool) -> bool {
    let now = jiff::Timestamp::UNIX_EPOCH;
    row(old, wide, true, now) == row(new, wide, true, now)
}
