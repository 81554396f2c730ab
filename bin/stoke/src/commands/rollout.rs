//! `stoke rollout`: how far a farm's nodes are with another version of their image.

use std::collections::BTreeMap;
use std::process::ExitCode;

use stoke_api::control::RolloutAction;
use stoke_api::objects::{NodeUpdate, RehearsalPhase, RolloutPhase, RolloutStatus};
use stoke_api::{AnyObject, Digest, Kind, ObjectRef};

use crate::cli::{OneFarm, Report, Rollout};
use crate::cluster::{Choice, Target};
use crate::failure::Failure;
use crate::folders::Folders;
use crate::output::{self, Color, Table};

/// Lines of a console that are shown: the last words of a kernel, and the firmware's of the next boot, which shows that it died.
const CONSOLE_LINES: usize = 60;

pub(crate) async fn run(folders: &Folders, choice: &Choice, verb: &Rollout) -> anyhow::Result<ExitCode> {
    let (Rollout::Status(crate::cli::RolloutStatus { farm, .. })
    | Rollout::Pause(farm)
    | Rollout::Resume(farm)
    | Rollout::Undo(farm)) = verb;
    let client = choice.target(folders, farm.namespace.as_ref()).await?;
    match verb {
        Rollout::Status(which) => {
            show(&client, &which.farm.reference_in(client.namespace(None)?), which.output).await?;
        }
        Rollout::Pause(farm) => ask(&client, farm, RolloutAction::Pause, "lets no more nodes go over").await?,
        Rollout::Resume(farm) => ask(&client, farm, RolloutAction::Resume, "goes on").await?,
        Rollout::Undo(farm) => ask(&client, farm, RolloutAction::Undo, "goes back to the version before").await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(client: &Target, farm: &OneFarm, action: RolloutAction, done: &str) -> anyhow::Result<()> {
    let farm = farm.reference_in(client.namespace(None)?);
    client.rollout(&farm, action).await?;
    Ok(output::print(&format!("{farm} {done}\n"))?)
}

async fn show(client: &Target, farm: &ObjectRef, output: Report) -> anyhow::Result<()> {
    let AnyObject::Farm(object) = client.object(farm).await? else {
        return Err(Failure::plain(format!("{farm} is no farm")));
    };
    let Some(rollout) = object.status.rollout else {
        let next = format!("stoke describe {farm} says what it waits for");
        return Err(Failure::hinted(format!("the image of {farm} is not built yet"), next));
    };
    if output == Report::Json {
        return Ok(output::print(&format!("{}\n", serde_json::to_string_pretty(&rollout)?))?);
    }
    let running = running(client).await?;
    let mut text = render(farm, &rollout, &running, jiff::Timestamp::now());
    let failed = rollout.rehearsal.as_ref().is_some_and(|rehearsal| rehearsal.phase == RehearsalPhase::Failed);
    // In a cluster the rehearsal's pod is gone, and its console with it.
    if let (true, Target::Standalone(client)) = (failed, client) {
        let folder = stoke_reconcile::names::farm_folder(&client.host().await?.state, farm).join("rehearsal");
        text.push_str(&console(&fs_err::read(folder.join("console.log")).unwrap_or_default()));
    }
    Ok(output::print(&text)?)
}

/// The version that each node runs.
async fn running(client: &Target) -> anyhow::Result<BTreeMap<ObjectRef, Digest>> {
    let mut running = BTreeMap::new();
    for kind in [Kind::Server, Kind::Machine] {
        for object in client.list(kind, None).await? {
            let node = match &object {
                AnyObject::Server(server) => server.status.node.as_ref(),
                AnyObject::Machine(machine) => machine.status.node.as_ref(),
                _ => None,
            };
            if let Some(image) = node.filter(|node| node.ready).and_then(|node| node.image) {
                running.insert(object.reference(), image);
            }
        }
    }
    Ok(running)
}

fn render(
    farm: &ObjectRef,
    rollout: &RolloutStatus,
    running: &BTreeMap<ObjectRef, Digest>,
    now: jiff::Timestamp,
) -> String {
    let phase = match (rollout.phase, rollout.paused) {
        (RolloutPhase::Progressing | RolloutPhase::Rehearsing, true) => "Paused".to_owned(),
        (phase, _) => format!("{phase:?}"),
    };
    let mut text = format!("{}  {phase}\n", output::paint(Color::Bold, &farm.to_string()));
    let mut line = |what: &str, value: String| {
        let line = format!("  {what:<11}{value}\n");
        text.push_str(&line);
    };
    line("Version", rollout.target.to_string());
    if let Some(stable) = rollout.stable.filter(|stable| *stable != rollout.target) {
        line("Before", stable.to_string());
    }
    if rollout.began_ms > 0 {
        line("Began", format!("{} ago", since(rollout.began_ms, now)));
    }
    if rollout.phase == RolloutPhase::Progressing && !rollout.going_back {
        let wave = if rollout.wave == 0 { "canaries".to_owned() } else { format!("wave {}", rollout.wave) };
        line("Now", wave);
    }
    if !rollout.message.is_empty() {
        line("Stopped", rollout.message.clone());
    }
    for version in &rollout.refused {
        line("Taken back", version.to_string());
    }
    if let Some(rehearsal) = &rollout.rehearsal {
        let example = rehearsal.stands_for.as_ref().map(|node| format!(" like {node}")).unwrap_or_default();
        line("Rehearsal", format!("{:?}{example}, begun {} ago", rehearsal.phase, since(rehearsal.began_ms, now)));
    }
    text.push_str(&nodes(rollout, running, now));
    text
}

fn nodes(rollout: &RolloutStatus, running: &BTreeMap<ObjectRef, Digest>, now: jiff::Timestamp) -> String {
    let mut table = Table::new(&["NODE", "PHASE", "RUNS", "SHALL", "SINCE", "BY", "MESSAGE"]);
    for noted in &rollout.nodes {
        table.row(vec![
            noted.node.to_string(),
            format!("{:?}", noted.phase),
            running.get(&noted.node).map(Digest::short).unwrap_or_default(),
            noted.image.short(),
            if noted.since_ms == 0 { String::new() } else { since(noted.since_ms, now) },
            way(noted),
            noted.message.clone(),
        ]);
    }
    table.render("  ")
}

fn way(noted: &NodeUpdate) -> String {
    noted.way.map(|way| format!("{way:?}")).unwrap_or_default()
}

fn since(then_ms: u64, now: jiff::Timestamp) -> String {
    let then = i64::try_from(then_ms / 1000).unwrap_or_default();
    output::duration(now.as_second().saturating_sub(then).max(0))
}

/// The end of a console, without what would move a terminal's cursor.
fn console(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let text = anstream::adapter::strip_str(&text).to_string();
    let plain: Vec<String> = text.lines().map(|line| line.chars().filter(|c| !c.is_control()).collect()).collect();
    let lines: Vec<_> = plain.iter().filter(|line| !line.trim().is_empty()).collect();
    let end = lines.iter().skip(lines.len().saturating_sub(CONSOLE_LINES));
    let end = end.fold(String::new(), |text, line| text + "    " + line + "\n");
    let title = output::paint(Color::Bold, "The end of the rehearsal's console:");
    if end.is_empty() { String::new() } else { format!("{title}\n{end}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_update_that_stopped() {
        let digest = |byte: u8| Digest([byte; 32]);
        let node = |name: &str| ObjectRef {
            kind: Kind::Machine,
            namespace: Some("default".parse().unwrap()),
            name: name.parse().unwrap(),
        };
        let farm = ObjectRef { kind: Kind::Farm, ..node("lab") };
        let rollout = json!({
            "target": digest(2), "stable": digest(1), "handedOut": digest(1), "phase": "Stopped", "beganMs": 1_767_225_600_000_u64,
            "message": "machine/node-1: 3 boots with 020202020202 failed",
            "rehearsal": {"image": digest(2), "phase": "Passed", "machine": farm, "standsFor": node("node-1"),
                "beganMs": 1_767_225_600_000_u64},
            "nodes": [
                {"node": node("node-1"), "image": digest(1), "phase": "Returned", "sinceMs": 1_767_225_660_000_u64, "way": "Kexec",
                 "message": "3 boots with 020202020202 failed; it has 010101010101 again"},
                {"node": node("node-2"), "image": digest(1)},
            ],
        });
        let rollout: RolloutStatus = serde_json::from_value(rollout).unwrap();
        let running = BTreeMap::from([(node("node-2"), digest(1))]);
        insta::assert_snapshot!(render(&farm, &rollout, &running, "2026-01-01T00:02:00Z".parse().unwrap()));
    }

    #[test]
    fn a_console_is_shown_without_what_moves_the_cursor() {
        let shown = console(b"\x1b[2Jone\r\n\n\x07two\n");
        assert_eq!(shown.lines().skip(1).collect::<Vec<_>>(), ["    one", "    two"]);
        assert_eq!(console(b"\n"), "");
    }
}
