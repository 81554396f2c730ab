//! `stoke describe`: everything that is known of one object.

use std::process::ExitCode;

use stoke_api::control::ObjectEvent;
use stoke_api::objects::{BmcStatus, NodeState, Power};
use stoke_api::{AnyObject, Condition, Kind, ObjectRef};

use super::get::truth;
use crate::cli::OneObject;
use crate::client::Client;
use crate::cluster::{Choice, Target};
use crate::folders::Folders;
use crate::output::{self, Color, Table};

pub(crate) async fn run(folders: &Folders, choice: &Choice, object: &OneObject) -> anyhow::Result<ExitCode> {
    // What makes no sense anywhere is said before anybody is asked.
    object.reference(&crate::cluster::default_namespace(None)?)?;
    let client = choice.target(folders, object.namespace.as_ref()).await?;
    let reference = object.reference(&client.namespace(None)?)?;
    let object = client.object(&reference).await?;
    let events = client.events(&reference).await?;
    let now = jiff::Timestamp::now();
    let mut text = render(&object, &events, now)?;
    // In a cluster the farm's own status has those.
    if let Target::Standalone(client) = &client {
        text.push_str(&unknown_machines(client, &reference, now).await?);
    }
    output::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Machines without object, of a farm or on a LAN.
async fn unknown_machines(client: &Client, of: &ObjectRef, now: jiff::Timestamp) -> anyhow::Result<String> {
    if !matches!(of.kind, Kind::Farm | Kind::Lan) {
        return Ok(String::new());
    }
    let mut sections = Vec::new();
    for farm in client.list(Kind::Farm, None).await? {
        // A farm that nothing runs for hears of nobody.
        let Ok(mut view) = client.farm(&farm.reference()).await else { continue };
        view.strangers.retain(|stranger| view.farm == *of || stranger.lan == *of);
        if !view.strangers.is_empty() {
            sections.push(section("Unknown machines", &super::farm::strangers(&view, now)));
        }
    }
    Ok(sections.concat())
}

fn render(object: &AnyObject, events: &[ObjectEvent], now: jiff::Timestamp) -> anyhow::Result<String> {
    let mut text = head(object, now);
    let json = output::json(object)?;
    if let Some(spec) = json.get("spec") {
        text.push_str(&section("Spec", &output::indented(&output::yaml(spec)?, "  ")));
    }
    text.push_str(&section("Conditions", &conditions(object.conditions(), now)));
    if let AnyObject::Server(server) = object
        && let Some(bmc) = &server.status.bmc
    {
        text.push_str(&section("Management controller", &controller_lines(bmc)));
    }
    if let Some(node) = node_of(object) {
        text.push_str(&section("Node", &node_lines(node)));
        text.push_str(&section("Boot", &timeline(node)));
    }
    text.push_str(&section("Events", &event_lines(events, now)));
    Ok(text)
}

fn section(title: &str, body: &str) -> String {
    let title = output::paint(Color::Bold, &format!("{title}:"));
    if body.is_empty() { format!("{title} none\n") } else { format!("{title}\n{body}") }
}

fn head(object: &AnyObject, now: jiff::Timestamp) -> String {
    let metadata = object.metadata();
    let labels: Vec<_> = metadata.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let created = metadata.creation_timestamp.as_deref().unwrap_or_default();
    let lines = [
        ("Name", metadata.name.to_string()),
        ("Kind", object.kind().to_string()),
        ("Namespace", object.reference().namespace.map(|namespace| namespace.to_string()).unwrap_or_default()),
        ("Labels", labels.join(", ")),
        ("Created", format!("{created} ({} ago)", output::age(created, now))),
        ("Generation", metadata.generation.map(|generation| generation.to_string()).unwrap_or_default()),
    ];
    let kept = lines.iter().filter(|(name, value)| !value.is_empty() && (*name != "Created" || !created.is_empty()));
    kept.map(|(name, value)| format!("{:<12}{value}\n", format!("{name}:"))).collect::<Vec<_>>().concat()
}

fn conditions(conditions: &[Condition], now: jiff::Timestamp) -> String {
    if conditions.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["TYPE", "STATUS", "SINCE", "REASON", "MESSAGE"]);
    for condition in conditions {
        table.row(vec![
            condition.kind.clone(),
            truth(condition.status).to_owned(),
            output::age(&condition.last_transition_time, now),
            condition.reason.clone(),
            condition.message.clone(),
        ]);
    }
    table.render("  ")
}

fn node_of(object: &AnyObject) -> Option<&NodeState> {
    match object {
        AnyObject::Machine(machine) => machine.status.node.as_ref(),
        AnyObject::Server(server) => server.status.node.as_ref(),
        _ => None,
    }
}

/// What a server's management controller says.
fn controller_lines(bmc: &BmcStatus) -> String {
    let power = bmc.power.map(|power| if power == Power::On { "On" } else { "Off" });
    let found = bmc.inventory.clone().unwrap_or_default();
    let macs: Vec<_> = found.macs.iter().map(ToString::to_string).collect();
    let lines = [
        ("Power", power.unwrap_or_default().to_owned()),
        ("Made by", found.manufacturer.unwrap_or_default()),
        ("Product", found.product.unwrap_or_default()),
        ("Serial", found.serial.unwrap_or_default()),
        ("UUID", found.uuid.unwrap_or_default()),
        ("MACs", macs.join(", ")),
        ("Error", bmc.last_error.clone()),
    ];
    let kept = lines.iter().filter(|(_, value)| !value.is_empty());
    kept.map(|(name, value)| format!("  {:<10}{value}\n", format!("{name}:"))).collect::<Vec<_>>().concat()
}

fn node_lines(node: &NodeState) -> String {
    let text = |value: Option<String>| value.unwrap_or_default();
    let lines = [
        ("Phase", node.phase.to_string()),
        ("Address", text(node.address.map(|address| address.to_string()))),
        ("Image", text(node.image.map(|digest| digest.to_string()))),
        ("Root", node.root.clone()),
        ("Booted", node.boot_started.clone()),
        ("Failure", text(node.failure.clone())),
    ];
    let lines = lines
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("  {:<10}{value}\n", format!("{name}:")));
    let keys = node.ssh_host_keys.iter().map(|key| format!("  Host key: {key}\n"));
    lines.chain(keys).collect::<Vec<_>>().concat()
}

/// The phases of the boot: when each was reached, and how long it took to get there.
fn timeline(node: &NodeState) -> String {
    if node.timeline.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["PHASE", "AT", "TOOK"]);
    let mut before = 0;
    for (phase, at) in &node.timeline {
        table.row(vec![phase.to_string(), seconds(*at), seconds(at.saturating_sub(before))]);
        before = *at;
    }
    table.render("  ")
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03} s", milliseconds / 1000, milliseconds % 1000)
}

fn event_lines(events: &[ObjectEvent], now: jiff::Timestamp) -> String {
    if events.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["AGE", "COUNT", "REASON", "MESSAGE"]);
    for event in events {
        let message = event.message.replace('\n', " ");
        table.row(vec![output::age(&event.at, now), event.count.to_string(), event.reason.clone(), message]);
    }
    table.render("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_up() {
        let object = serde_json::json!({
            "kind": "Machine",
            "metadata": {"name": "node-1", "labels": {"role": "storage"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"farm": "lab", "vm": {"cpus": 2}},
            "status": {
                "conditions": [{"type": "Ready", "status": "True", "reason": "NodeReady", "message": "it is up",
                    "lastTransitionTime": "2026-01-01T00:01:00Z"}],
                "power": "On",
                "node": {"phase": "Ready", "address": "10.10.0.21", "root": "nbd", "ready": true,
                    "sshHostKeys": ["ssh-ed25519 AAAA"], "timeline": [["Init", 1200], ["Network", 1950], ["Ready", 9000]]}
            }
        });
        let events = [ObjectEvent {
            at: "2026-01-01T00:00:30Z".into(),
            count: 2,
            reason: "Started".into(),
            message: "QEMU runs".into(),
        }];
        let object: AnyObject = serde_json::from_value(object).unwrap();
        insta::assert_snapshot!(render(&object, &events, "2026-01-01T00:02:00Z".parse().unwrap()).unwrap());
    }
}
