//! Whatever is killed and started again finds what runs.

use std::time::Duration;

use anyhow::ensure;
use e2e::{BOOT_LIMIT, installation, machine};
use testbed::{Installation, User, wait_for};

/// Waits until the boot has come to a line on the console.
fn console_shows(farm: &Installation, machine: &str, text: &str) -> anyhow::Result<()> {
    wait_for(text, BOOT_LIMIT, || Ok(farm.console(machine).contains(text).then_some(())))
}

#[test]
fn everything_is_killed_while_a_guest_boots_and_the_boot_completes() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", "  boot: {root: Nbd}\n")?;
    farm.write("machine.yaml", &machine("node-1", "bios", "10.10.0.21"))?;
    farm.up()?;
    // From the boot script on: the firmware before it does not try again.
    console_shows(&farm, "node-1", "boots image")?;
    let qemu = qemu(&farm)?;
    farm.kill_up();
    for workload in ["farm-default-lab", "router-default-lab", "vm-default-node-1"] {
        farm.kill(workload)?;
    }
    farm.up()?;
    console_shows(&farm, "node-1", "stoke-init")?;
    farm.kill("farm-default-lab")?;
    farm.kill("router-default-lab")?;
    farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    ensure!(self::qemu(&farm)? == qemu, "the guest was started a second time");
    farm.check(&["ssh", "node-1", "--", "true"])?;

    // A running node outlives its farm, and a second start has nothing to do.
    farm.kill("farm-default-lab")?;
    let read = "dd if=/dev/nbd0 of=/dev/null bs=1M count=8 iflag=direct 2>&1";
    let again = wait_for("a read of the root after the farm's restart", Duration::from_mins(1), || {
        Ok(farm.check(&["ssh", "node-1", "--", read]).ok())
    })?;
    ensure!(again.contains("8+0 records in"), "{again}");
    let bridge = farm.object("lan", "lab")?.pointer("/status/bridge").cloned();
    farm.kill_up();
    farm.kill("node")?;
    farm.up()?;
    farm.wait_condition("lan", "lab", "Ready", Duration::from_secs(30))?;
    farm.wait_condition("machine", "node-1", "Ready", Duration::from_secs(30))?;
    ensure!(farm.object("lan", "lab")?.pointer("/status/bridge").cloned() == bridge, "the LAN was laid anew");
    ensure!(self::qemu(&farm)? == qemu, "the guest was started a second time");
    let objects = farm.world().folder().join("objects");
    let plan = farm.check(&["plan", &objects.to_string_lossy()])?;
    ensure!(plan.contains("nothing to do"), "{plan}");
    farm.down()
}

/// Process id of the guest's hypervisor.
fn qemu(farm: &Installation) -> anyhow::Result<String> {
    Ok(fs_err::read_to_string(farm.state().join("machines/default.node-1/qemu.pid"))?.trim().to_owned())
}
