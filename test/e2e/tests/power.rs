//! Switching off, on and around again takes seconds, whatever the guest makes of its power button.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use e2e::{BOOT_LIMIT, installation, machine};
use serde_json::Value;
use testbed::{Installation, User, wait_for};

/// How long a guest may take to go down: far less than the time after which it would be cut off.
const DOWN_LIMIT: Duration = Duration::from_secs(25);

/// When the boot began that the machine shows, if it shows one that is up.
fn ready_boot(node: &Value) -> Option<String> {
    let conditions = node.pointer("/status/conditions")?.as_array()?;
    let ready = conditions.iter().find(|one| one.pointer("/type") == Some(&"Ready".into()))?;
    let up = ready.pointer("/status") == Some(&"True".into());
    let began = node.pointer("/status/node/bootStarted")?.as_str()?;
    up.then(|| began.to_owned())
}

/// Waits for a boot other than `before`. Until then the machine is at no time said to be ready.
fn next_boot(farm: &Installation, before: &str) -> anyhow::Result<String> {
    wait_for("the next boot", BOOT_LIMIT, || {
        let boot = ready_boot(&farm.object("machine", "node-1")?);
        ensure!(boot.as_deref() != Some(before), "the boot before is said to be ready");
        Ok(boot)
    })
}

/// Waits until the machine shows that it goes down.
fn goes_down(farm: &Installation) -> anyhow::Result<()> {
    wait_for("the machine to say that it goes down", Duration::from_secs(10), || {
        Ok(ready_boot(&farm.object("machine", "node-1")?).is_none().then_some(()))
    })
}

/// How often the guest was reset or started: each time stoke-init says hello on the console.
fn boots(farm: &Installation) -> usize {
    farm.console("node-1").matches("] init image").count()
}

fn switched_off_and_on_and_rebooted(firmware: &str) -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", "  boot: {root: Nbd}\n")?;
    farm.write("machine.yaml", &machine("node-1", firmware, "10.10.0.21"))?;
    farm.up()?;
    let first = ready_boot(&farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?).context("no boot")?;

    farm.check(&["stop", "node-1"])?;
    goes_down(&farm)?;
    wait_for("the guest's end", DOWN_LIMIT, || {
        let off = farm.object("machine", "node-1")?.pointer("/status/power") == Some(&"Off".into());
        Ok(off.then_some(()))
    })?;
    let stopped = farm.object("machine", "node-1")?;
    ensure!(
        stopped.pointer("/status/node").is_none_or(Value::is_null),
        "a machine that is off shows a boot: {stopped}"
    );
    let said = farm.check(&["get", "machines"])?;
    ensure!(!said.contains("Ready "), "{said}");

    farm.check(&["start", "node-1"])?;
    let second = next_boot(&farm, &first)?;

    farm.check(&["reboot", "node-1"])?;
    goes_down(&farm)?;
    next_boot(&farm, &second)?;
    ensure!(boots(&farm) == 3, "{} boots instead of 3", boots(&farm));
    farm.check(&["ssh", "node-1", "--", "true"])?;

    let begin = Instant::now();
    farm.down()?;
    ensure!(begin.elapsed() < DOWN_LIMIT, "stoke down took {:?}", begin.elapsed());
    Ok(())
}

#[test]
fn a_bios_guest_goes_down_and_comes_back() -> anyhow::Result<()> {
    switched_off_and_on_and_rebooted("bios")
}

#[test]
fn a_uefi_guest_goes_down_and_comes_back() -> anyhow::Result<()> {
    switched_off_and_on_and_rebooted("uefi")
}
