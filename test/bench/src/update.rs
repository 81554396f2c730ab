//! What an update of a node costs: seconds in which it does not serve, and bytes that its farm sends, for a version of its
//! image in which one percent of the root is new. Through the firmware, as everybody does it, and by kexec.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::{BOOT_LIMIT, cache, object, publish, withdraw_newest};
use serde_json::Value;
use testbed::machine::{Firmware, Foreign, wire};
use testbed::{Installation, User, World, programs, wait_for};

use crate::row::Row;

const MAC: &str = "52:54:00:00:00:07";
const IMAGE: &str = "default/node";
/// Bytes of the new file: text of sixteen different letters, of which half remains when it is compressed.
const CHANGED: usize = 2_800_000;

/// Where the root is, and how the new version is booted.
struct Side {
    root: &'static str,
    kexec: bool,
    seconds: Vec<f64>,
    mebibytes: Vec<f64>,
}

/// Runs every side whose name contains `only` once a round, in turn.
pub(crate) fn run(rounds: usize, only: &str) -> Result<Vec<Row>> {
    let store = store()?;
    let side = |root, kexec| Side { root, kexec, seconds: Vec::new(), mebibytes: Vec::new() };
    let mut sides = vec![side("Nbd", false), side("Nbd", true), side("Ram", false), side("Ram", true)];
    sides.retain(|side| name(side).contains(only));
    for round in 1..=rounds {
        for side in &mut sides {
            let (seconds, bytes) = update(&store, side)?;
            eprintln!("round {round}, {}: {seconds:.1} s down, {} bytes sent", name(side), bytes);
            side.seconds.push(seconds);
            side.mebibytes.push(mebibytes(bytes));
        }
    }
    Ok(rows(&sides))
}

fn name(side: &Side) -> String {
    format!("{} {}", side.root, if side.kexec { "kexec" } else { "firmware" })
}

fn mebibytes(bytes: u64) -> f64 {
    // Half a million pages are exact.
    f64::from(u32::try_from(bytes >> 12).unwrap_or(u32::MAX)) / 256.0
}

/// Kexec beside the firmware, in each mode.
fn rows(sides: &[Side]) -> Vec<Row> {
    let mut rows = Vec::new();
    for root in ["Nbd", "Ram"] {
        let find = |kexec| sides.iter().find(|side| side.root == root && side.kexec == kexec);
        let (Some(ours), Some(firmware)) = (find(true), find(false)) else { continue };
        let peer = |values: &[f64]| [("through the firmware", values.to_vec())];
        rows.extend(Row::lower(
            "update",
            &format!("{root}, down"),
            "s",
            &ours.seconds,
            &peer(&firmware.seconds),
            Some(1.0),
        ));
        rows.extend(Row::lower(
            "update",
            &format!("{root}, sent"),
            "MiB",
            &ours.mebibytes,
            &peer(&firmware.mebibytes),
            None,
        ));
    }
    rows
}

/// A store with two versions of the example's image, the newer one with a file more; built on first use.
fn store() -> Result<PathBuf> {
    let state = cache().join("bench-update");
    let before = e2e::images()?;
    if !state.exists() {
        fs_err::create_dir_all(&state)?;
        // What the tests have built need not be built again. Blobs never change, so links are as good as copies.
        let copied = Command::new("cp").arg("-al").arg(before).arg(state.join("images")).status()?;
        ensure!(copied.success(), "the image store cannot be copied");
    }
    let recipe = include_str!("../../../examples/netboot/image.yaml");
    build(&state, "old.yaml", recipe)?;
    let file = format!("      files:\n      - path: /srv/changed\n        content: {}\n", letters(CHANGED));
    build(&state, "new.yaml", &recipe.replacen("      files:\n", &file, 1))?;
    Ok(state.join("images"))
}

fn build(state: &Path, name: &str, recipe: &str) -> Result<()> {
    let file = state.join(name);
    fs_err::write(&file, recipe)?;
    let mut build = Command::new(programs()?.join("stoke"));
    let status =
        build.arg("--state").arg(state).args(["image", "build"]).arg(file).status().context("cannot run stoke")?;
    ensure!(status.success(), "the image of {name} cannot be built");
    Ok(())
}

/// Text that compresses to half its size, the same every time.
fn letters(count: usize) -> String {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(b'a' + u8::try_from(state >> 60).unwrap_or_default())
    };
    (0..count).map(|_| letter()).collect()
}

/// One update of one node: seconds from the last moment at which it was up to the first at which it is again, and bytes that the
/// farm sent from the new version's publication on.
fn update(store: &Path, side: &Side) -> Result<(f64, u64)> {
    let mut farm = Installation::new(World::new()?, User::Root, Some(store))?;
    let images = farm.state().join("images");
    let new = withdraw_newest(&images, IMAGE)?;
    write_objects(&farm, side)?;
    wire(farm.world())?;
    farm.up()?;
    farm.wait_condition("farm", "lab", "Ready", BOOT_LIMIT)?;
    let machine = Foreign::power_on(farm.world(), MAC, Firmware::UefiHttp)?;
    let booted = farm.wait_condition("server", "server", "Ready", BOOT_LIMIT);
    booted.map_err(|error| error.context(machine.console()))?;
    let before = sent(&farm)?;
    let wanted = new.pointer("/digest").cloned();
    publish(&images, new)?;
    let down = until(&farm, "the node to go down", |node| node.pointer("/ready") != Some(&true.into()))?;
    let up = until(&farm, "the node to come up", |node| {
        node.pointer("/ready") == Some(&true.into()) && node.pointer("/image").cloned() == wanted
    });
    let up = up.map_err(|error| error.context(machine.console()))?;
    let bytes = sent(&farm)?.saturating_sub(before);
    drop(machine);
    farm.down()?;
    Ok((up.duration_since(down).as_secs_f64(), bytes))
}

fn write_objects(farm: &Installation, side: &Side) -> Result<()> {
    farm.write("image.yaml", include_str!("../../../examples/netboot/image.yaml"))?;
    let lan = "  subnets: [{name: v4, cidr: 10.10.0.0/24, pools: [10.10.0.100-10.10.0.199]}]\n  dhcp: {mode: Authoritative}\n  uplinks: [{interface: uplink0}]\n";
    farm.write("lan.yaml", &object("Lan", "lab", lan))?;
    let update = format!("{{kexec: {}, healthGate: {{minutes: 0, limitMinutes: 30}}}}", side.kexec);
    let spec = format!("  lan: lab\n  image: node\n  boot: {{root: {}}}\n  update: {update}\n", side.root);
    farm.write("farm.yaml", &object("Farm", "lab", &spec))?;
    let spec = format!("  farm: {{namespace: default, name: lab}}\n  macs: [\"{MAC}\"]\n  address: 10.10.0.27\n");
    farm.write("server.yaml", &object("Server", "server", &spec))
}

/// Waits until the farm says so of its node; the moment at which it does. The farm itself is asked, which knows it at once.
fn until(farm: &Installation, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<Instant> {
    let socket = farm.state().join("run/workloads/farm-default-lab/admin.sock");
    wait_for(what, BOOT_LIMIT, || {
        let mut ask = Command::new("curl");
        let answer = ask.args(["-sf", "--unix-socket"]).arg(&socket).arg("http://farm/status").output()?;
        let report: Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
        let node = report.pointer("/report/nodes/0/state").cloned().unwrap_or_default();
        Ok(is_it(&node).then(Instant::now))
    })
}

/// Bytes that the farm has sent so far.
fn sent(farm: &Installation) -> Result<u64> {
    let text = farm.check(&["farm", "status", "lab", "--output", "json"])?;
    let views: Value = serde_json::from_str(&text)?;
    let bytes = views.pointer("/0/replicas/0/report/storm/bytes").and_then(Value::as_object);
    Ok(bytes.context("the farm does not say what it has sent")?.values().filter_map(Value::as_u64).sum())
}
