//! `stoke farm status`: replicas, image, nodes, traffic, and machines that no object names.

use std::collections::BTreeMap;
use std::process::ExitCode;

use stoke_api::control::{FarmReplica, FarmView, LanStranger};
use stoke_api::node::Phase;
use stoke_api::report::{FarmNodeReport, StormReport, Stranger};
use stoke_api::{API_VERSION, ObjectRef};

use crate::cli::{FarmStatus, Report};
use crate::client::Client;
use crate::folders::Folders;
use crate::output::{self, Color, Table};

pub(crate) async fn run(folders: &Folders, which: &FarmStatus) -> anyhow::Result<ExitCode> {
    let client = Client::connect(folders).await?;
    let views = super::views(&client, which.name.as_ref(), &which.namespace).await?;
    if which.output == Report::Json {
        output::print(&format!("{}\n", serde_json::to_string_pretty(&views)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let now = jiff::Timestamp::now();
    let texts: Vec<_> = views.iter().map(|view| render(view, now)).collect();
    output::print(&texts.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn render(view: &FarmView, now: jiff::Timestamp) -> String {
    let image = view.image.map_or_else(|| "none is built yet".to_owned(), |image| image.short());
    let mut text = format!("{}  image {image}\n", output::paint(Color::Bold, &view.farm.to_string()));
    text.push_str(&replicas(&view.replicas));
    text.push_str(&section("Nodes", &nodes(&nodes_of(view))));
    text.push_str(&section("Storm", &storm(&total(view))));
    text.push_str(&section("Sent", &traffic(&total(view))));
    text.push_str(&section("Unknown machines", &strangers(view, now)));
    text
}

fn section(title: &str, body: &str) -> String {
    let title = output::paint(Color::Bold, &format!("{title}:"));
    if body.is_empty() { format!("{title} none\n") } else { format!("{title}\n{body}") }
}

fn replicas(replicas: &[FarmReplica]) -> String {
    let mut table = Table::new(&["REPLICA", "ADDRESS", "READY", "NODES", "MESSAGE"]);
    for replica in replicas {
        table.row(vec![
            replica.workload.clone(),
            replica.address.to_string(),
            if replica.ready { "True" } else { "False" }.to_owned(),
            replica.report.nodes.len().to_string(),
            replica.failure.clone().unwrap_or_default(),
        ]);
    }
    table.render("  ")
}

/// The nodes of all replicas, each once: as the replica says that knows most of it.
pub(super) fn nodes_of(view: &FarmView) -> Vec<&FarmNodeReport> {
    let mut best: BTreeMap<_, &FarmNodeReport> = BTreeMap::new();
    for node in view.replicas.iter().flat_map(|replica| &replica.report.nodes) {
        let known = best.entry(node.mac).or_insert(node);
        let newer = (&node.state.boot_started, node.state.phase) > (&known.state.boot_started, known.state.phase);
        if newer {
            *known = node;
        }
    }
    best.into_values().collect()
}

fn nodes(nodes: &[&FarmNodeReport]) -> String {
    let mut by_phase: BTreeMap<Phase, usize> = BTreeMap::new();
    for node in nodes {
        *by_phase.entry(node.state.phase).or_default() += 1;
    }
    let mut lines: Vec<_> =
        by_phase.iter().map(|(phase, count)| format!("  {:<12}{count}\n", phase.to_string())).collect();
    let failed = nodes.iter().filter_map(|node| Some((name(node), node.state.failure.as_ref()?)));
    lines.extend(failed.map(|(name, failure)| format!("  {name}: {}\n", failure.replace('\n', " "))));
    lines.concat()
}

/// What people call a node.
pub(super) fn name(node: &FarmNodeReport) -> String {
    node.owner.as_ref().map_or_else(|| node.mac.to_string(), ToString::to_string)
}

/// The storm figures of all replicas together. The most that loaded at once is a sum of moments that may differ.
pub(super) fn total(view: &FarmView) -> StormReport {
    let mut total = StormReport::default();
    for storm in view.replicas.iter().map(|replica| &replica.report.storm) {
        total.loading += storm.loading;
        total.waiting += storm.waiting;
        total.most_loading += storm.most_loading;
        total.boots += storm.boots;
        total.peers += storm.peers;
        for (way, bytes) in &storm.bytes {
            *total.bytes.entry(way.clone()).or_default() += bytes;
        }
    }
    total
}

fn storm(storm: &StormReport) -> String {
    let lines = [
        ("Loading", u64::from(storm.loading)),
        ("Waiting", u64::from(storm.waiting)),
        ("Most at once", u64::from(storm.most_loading)),
        ("Boots", storm.boots),
        ("Peers", u64::from(storm.peers)),
    ];
    lines.map(|(what, count)| format!("  {what:<14}{count}\n")).concat()
}

fn traffic(storm: &StormReport) -> String {
    let line = |(way, bytes): (&String, &u64)| format!("  {:<6}{}\n", way, output::size(*bytes));
    storm.bytes.iter().map(line).collect()
}

/// Machines that no object names, and for each the command that makes it a `Server` of the farm.
pub(crate) fn strangers(view: &FarmView, now: jiff::Timestamp) -> String {
    if view.strangers.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["MAC", "CLIENT", "HEARD", "LAN", "UUID"]);
    for LanStranger { lan, stranger } in &view.strangers {
        let heard = i64::try_from(stranger.last_seen).unwrap_or_default();
        table.row(vec![
            stranger.mac.to_string(),
            stranger.client.clone(),
            format!("{} ago", output::duration(now.as_second().saturating_sub(heard).max(0))),
            lan.to_string(),
            stranger.uuid.clone().unwrap_or_default(),
        ]);
    }
    let commands: Vec<_> =
        view.strangers.iter().map(|stranger| format!("    {}\n", command(&stranger.stranger, &view.farm))).collect();
    format!("{}  To make one a Server, with a name of your choice:\n{}", table.render("  "), commands.concat())
}

/// The command that makes a machine a `Server`.
fn command(stranger: &Stranger, farm: &ObjectRef) -> String {
    let name = format!("server-{}", stranger.mac.to_string().replace(':', ""));
    let namespace = farm.namespace.as_ref().map_or("default", |namespace| namespace.as_str());
    let uuid = stranger.uuid.as_ref().map(|uuid| format!(", uuid: {uuid}")).unwrap_or_default();
    let object = format!(
        "{{apiVersion: {API_VERSION}, kind: Server, metadata: {{name: {name}}}, \
         spec: {{farm: {{namespace: {namespace}, name: {}}}, macs: [\"{}\"]{uuid}}}}}",
        farm.name, stranger.mac
    );
    format!("echo '{object}' > {name}.yaml && stoke up {name}.yaml")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::json;

    pub(crate) fn view() -> FarmView {
        let node = |mac: &str, phase: &str, started: &str| {
            json!({"owner": {"kind": "Machine", "namespace": "default", "name": "node-1"}, "mac": mac,
                "state": {"phase": phase, "bootStarted": started}})
        };
        let replica = |number: u8, phase: &str, started: &str| {
            json!({"workload": format!("farm-default-lab.{number}"), "address": format!("10.10.0.{number}"), "ready": number == 1,
                "failure": (number == 2).then_some("10.10.0.2:80 is not open yet for HTTP"),
                "report": {"ready": true, "nodes": [node("52:54:00:00:00:01", phase, started)],
                    "storm": {"loading": 3, "waiting": 1, "mostLoading": 8, "boots": 20, "peers": 0,
                        "bytes": {"http": 1_500_000, "tftp": 4096}}}})
        };
        let value = json!({
            "farm": {"kind": "Farm", "namespace": "default", "name": "lab"},
            "image": format!("sha256:{}", "ab".repeat(32)),
            "replicas": [replica(1, "Ready", "2026-01-01T00:00:00Z"), replica(2, "Loading", "2026-01-01T00:01:00Z")],
            "strangers": [{"lan": {"kind": "Lan", "namespace": "default", "name": "lab"}, "mac": "52:54:00:12:34:56",
                "uuid": "07070707-0707-0707-0707-070707070707", "client": "UEFI x86-64", "lastSeen": 1_767_225_700}],
        });
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_farm_with_two_replicas() {
        insta::assert_snapshot!(render(&view(), "2026-01-01T00:02:00Z".parse().unwrap()));
    }

    #[test]
    fn the_command_for_an_unknown_machine_makes_a_server() {
        let view = view();
        let command = command(&view.strangers[0].stranger, &view.farm);
        let yaml = command.split('\'').nth(1).unwrap();
        let loaded = stoke_api::load::load_text("x.yaml".as_ref(), yaml).unwrap();
        let stoke_api::AnyObject::Server(server) = &loaded.objects[0].0 else { panic!("{yaml}") };
        assert_eq!(server.spec.macs, [view.strangers[0].stranger.mac]);
        assert_eq!(server.spec.farm.name.as_str(), "lab");
    }
}
