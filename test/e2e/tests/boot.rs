//! A machine without a disk boots over the network, reports itself and can be entered.

use e2e::{BOOT_LIMIT, installation, machine};
use testbed::User;

#[test]
fn uefi_http_boot_with_its_root_over_nbd() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", "  boot: {root: Nbd}\n")?;
    farm.write("machine.yaml", &machine("node-1", "uefi", "10.10.0.21"))?;
    farm.up()?;
    let node = farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    assert_eq!(node.pointer("/status/node/address"), Some(&"10.10.0.21".into()));
    assert_eq!(node.pointer("/status/node/root"), Some(&"nbd".into()));
    let image = farm.object("image", "node")?;
    assert_eq!(node.pointer("/status/node/image"), image.pointer("/status/digest"));

    // The host key is the one that the node reported, and names work inside.
    let entered =
        farm.check(&["ssh", "node-1", "--", "hostname; findmnt -n -o FSTYPE /; getent hosts node-1.lab.internal"])?;
    assert_eq!(entered.lines().collect::<Vec<_>>()[..2], ["node-1", "overlay"], "{entered}");
    assert!(entered.contains("10.10.0.21"), "{entered}");

    // The console has all of it, whoever comes late.
    let console = farm.console("node-1");
    assert!(console.contains("stoke-init"), "{console}");
    farm.down()
}

#[test]
fn two_machines_at_once_one_with_a_bios_and_its_root_in_memory() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", "  boot: {root: Ram}\n")?;
    farm.write("one.yaml", &machine("node-1", "bios", "10.10.0.21"))?;
    farm.write("two.yaml", &machine("node-2", "uefi", "10.10.0.22"))?;
    farm.up()?;
    for name in ["node-1", "node-2"] {
        let node = farm.wait_condition("machine", name, "Ready", BOOT_LIMIT * 2)?;
        assert_eq!(node.pointer("/status/node/root"), Some(&"ram".into()));
    }
    let keys = |name: &str| farm.object("machine", name).map(|node| node.pointer("/status/node/sshHostKeys").cloned());
    assert_ne!(keys("node-1")?, keys("node-2")?, "host keys are each node's own");
    // From one to the other, by name.
    let reached = farm.check(&["ssh", "node-1", "--", "ping -c 1 -W 5 node-2 || ping -c 1 -W 5 node-2"])?;
    assert!(reached.contains("10.10.0.22"), "{reached}");
    farm.down()
}

#[test]
fn a_root_of_erofs() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", "  boot: {root: Nbd}\n")?;
    let recipe = include_str!("../../../examples/netboot/image.yaml");
    farm.write("image.yaml", &recipe.replace("root: {format: Squashfs}", "root: {format: Erofs}"))?;
    // Before the farm is there: it would hand out the example's version until this one is built.
    farm.check(&["image", "build", &format!("{}/image.yaml", farm.objects())])?;
    farm.write("machine.yaml", &machine("node-1", "bios", "10.10.0.21"))?;
    farm.up()?;
    farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    // Mounted below what is seen: the module's use says so.
    let uses = farm.check(&["ssh", "node-1", "--", "awk '$1 == \"erofs\" { print ($3 > 0) }' /proc/modules"])?;
    assert_eq!(uses.trim(), "1", "{uses}");
    farm.down()
}
