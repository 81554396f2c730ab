//! A farm's nodes go over to other versions: by kexec, back from one that does not work, back because somebody says so, and
//! not at all if a rehearsal fails.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use e2e::{BOOT_LIMIT, installation, machine, object, publish_variant};
use serde_json::Value;
use testbed::{Installation, User, wait_for};

/// Kernels that get this panic at once and let the machine start over.
const BROKEN: [&str; 2] = ["rdinit=/nothing", "panic=1"];

fn farm(update: &str) -> String {
    let gate = "healthGate: {minutes: 0, limitMinutes: 30}";
    object(
        "Farm",
        "lab",
        &format!("  lan: lab\n  image: node\n  boot: {{root: Nbd}}\n  update: {{failedBoots: 1, {gate}{update}}}\n"),
    )
}

fn images(farm: &Installation) -> PathBuf {
    farm.state().join("images")
}

/// The farm's update as it is now.
fn rollout(farm: &Installation) -> Result<Value> {
    let object = farm.object("farm", "lab")?;
    Ok(object.pointer("/status/rollout").cloned().unwrap_or_default())
}

fn word<'a>(value: &'a Value, at: &str) -> &'a str {
    value.pointer(at).and_then(Value::as_str).unwrap_or_default()
}

/// Waits until the machine is ready with this version and the update is where it should be.
fn settles(farm: &Installation, version: &str, phase: &str) -> Result<Value> {
    let mut last = String::new();
    let waited = wait_for(&format!("node-1 with {version} and the update {phase}"), BOOT_LIMIT * 2, || {
        let (node, rollout) = (farm.object("machine", "node-1")?, rollout(farm)?);
        let state = node.pointer("/status/node").cloned().unwrap_or_default();
        last = format!("{state}\n{rollout}");
        let ready = state.pointer("/ready") == Some(&true.into());
        let there = ready && word(&state, "/image") == version && word(&rollout, "/phase") == phase;
        Ok(there.then_some(rollout))
    });
    waited.with_context(|| format!("it said last: {last}\nits console:\n{}", farm.console("node-1")))
}

/// How often a kernel was started by firmware: iPXE says so each time.
fn power_ons(farm: &Installation) -> usize {
    farm.console("node-1").matches("boots image").count()
}

fn arguments(farm: &Installation) -> Result<String> {
    farm.check(&["ssh", "node-1", "--", "cat", "/proc/cmdline"])
}

#[test]
fn by_kexec_and_back_from_a_version_that_does_not_work_and_no_further_than_a_rehearsal() -> Result<()> {
    let mut installed = installation(User::Root, "", "")?;
    installed.write("farm.yaml", &farm(", kexec: true"))?;
    installed.write("machine.yaml", &machine("node-1", "bios", "10.10.0.21"))?;
    installed.up()?;
    let first = installed.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    let first = word(&first, "/status/node/image").to_owned();
    settles(&installed, &first, "Complete")?;
    let begun_by_firmware = power_ons(&installed);

    // A version that works, without firmware.
    let second = publish_variant(&images(&installed), "default/node", &["stokehold-version=2"])?;
    let done = settles(&installed, &second, "Complete")?;
    ensure!(word(&done, "/stable") == second, "{done}");
    ensure!(done.pointer("/nodes/0/reboots/Kexec") == Some(&1.into()), "{done}");
    ensure!(power_ons(&installed) == begun_by_firmware, "the firmware ran: {}", installed.console("node-1"));
    let running = arguments(&installed)?;
    ensure!(running.contains("stokehold-version=2") && running.contains("BOOTIF=01-"), "{running}");

    // One that does not: the machine starts over, fails again, and is given the one before.
    let third = publish_variant(&images(&installed), "default/node", &BROKEN)?;
    let stopped = settles(&installed, &second, "Stopped")?;
    ensure!(word(&stopped, "/target") == third && word(&stopped, "/nodes/0/phase") == "Returned", "{stopped}");
    let shown = installed.check(&["rollout", "status", "lab"])?;
    ensure!(shown.contains("Stopped") && shown.contains("boots with"), "{shown}");
    let wide = installed.check(&["get", "machines", "--output", "wide"])?;
    ensure!(wide.contains("WANTED"), "{wide}");

    // Taken back, twice: the version that was given up, then the one that runs.
    installed.check(&["rollout", "undo", "lab"])?;
    settles(&installed, &second, "Complete")?;
    installed.check(&["rollout", "undo", "lab"])?;
    let back = settles(&installed, &first, "Complete")?;
    ensure!(back.pointer("/refused").and_then(Value::as_array).is_some_and(|all| all.len() == 2), "{back}");
    ensure!(!arguments(&installed)?.contains("stokehold-version"), "{}", arguments(&installed)?);

    // A version that fails in a machine that is thrown away reaches no other.
    installed.write("farm.yaml", &farm(", kexec: true, rehearsal: {firmware: {bios: {}}}"))?;
    // The version must not be there before the farm knows that it is to be tried first.
    wait_for("the farm's new description", BOOT_LIMIT, || {
        let farm = installed.object("farm", "lab")?;
        Ok(farm.pointer("/spec/update/rehearsal").filter(|rehearsal| !rehearsal.is_null()).map(|_| ()))
    })?;
    let before = installed.object("machine", "node-1")?;
    let fourth =
        publish_variant(&images(&installed), "default/node", &[BROKEN.as_slice(), &["stokehold-version=4"]].concat())?;
    let stopped = settles(&installed, &first, "Stopped")?;
    ensure!(word(&stopped, "/target") == fourth && word(&stopped, "/rehearsal/phase") == "Failed", "{stopped}");
    let shown = installed.check(&["rollout", "status", "lab"])?;
    ensure!(shown.contains("rehearsal") && shown.contains("Kernel panic"), "{shown}");
    let after = installed.object("machine", "node-1")?;
    let began = |node: &Value| word(node, "/status/node/bootStarted").to_owned();
    ensure!(began(&before) == began(&after), "the node booted although the rehearsal failed");
    installed.down()
}
