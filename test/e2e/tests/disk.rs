//! A node that keeps its root on its disk: what it has it does not fetch again, an update fetches what is new, and it boots
//! without its farm if it may.

use std::process::Command;

use anyhow::{Context as _, ensure};
use e2e::{BOOT_LIMIT, installation, machine};
use serde_json::Value;
use testbed::{Installation, User, wait_for};

const FARM: &str = "  boot: {root: Disk, disk: {label: root, offline: true}}\n";

fn with_disk(machine: &str) -> String {
    machine.replace("vm: {", "vm: {disks: [{name: root, size: 1Gi}], ")
}

/// The last line of the console with this word.
fn said(farm: &Installation, word: &str) -> Option<String> {
    farm.console("node-1").lines().rfind(|line| line.contains(word)).map(|line| line.trim().to_owned())
}

/// Waits until the machine is up in a boot that is not this one.
fn next_boot(farm: &Installation, before: &Value) -> anyhow::Result<Value> {
    wait_for("the next boot", BOOT_LIMIT, || {
        let Ok(node) = farm.object("machine", "node-1") else { return Ok(None) };
        let ready = node.pointer("/status/node/ready") == Some(&true.into());
        let began = node.pointer("/status/node/bootStarted") != before.pointer("/status/node/bootStarted");
        Ok((ready && began).then_some(node))
    })
}

/// Programs of the host in the namespace that has the LAN.
fn in_namespace(farm: &Installation, arguments: &[&str]) -> anyhow::Result<()> {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", farm.state().join("run/ns/net").display())).arg("--").args(arguments);
    ensure!(farm.world().command("true").status()?.success() && command.status()?.success(), "{command:?} failed");
    Ok(())
}

/// Bytes that the last boot has fetched.
fn fetched(farm: &Installation) -> anyhow::Result<u64> {
    let line = said(farm, " fetched").context("no slot was filled")?;
    let words = line.rsplit_once('(').and_then(|(_, rest)| rest.split_once(" bytes")).with_context(|| line.clone())?;
    Ok(words.0.parse()?)
}

#[test]
fn a_slot_is_filled_used_again_updated_and_booted_without_the_farm() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", FARM)?;
    farm.write("machine.yaml", &with_disk(&machine("node-1", "uefi", "10.10.0.21")))?;
    farm.up()?;
    let first = farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    ensure!(first.pointer("/status/node/root") == Some(&"disk".into()), "{first:#}");
    let all = fetched(&farm)?;
    ensure!(said(&farm, "slot A: 0 MiB were there").is_some() && all > 1 << 20, "{all} bytes");
    // It is the slot that is read, and the disk has a name inside.
    let inside =
        farm.check(&["ssh", "node-1", "--", "cat /sys/block/dm-*/slaves/*/serial; echo; ls /dev/disk/by-id"])?;
    ensure!(inside.lines().any(|line| line == "root") && inside.contains("virtio-root"), "{inside}");

    // Another version, most of which is the same.
    let recipe = include_str!("../../../examples/netboot/image.yaml");
    farm.write(
        "image.yaml",
        &recipe.replace("root: {format: Squashfs}", "root: {format: Squashfs, exclude: [/usr/share/doc]}"),
    )?;
    let before = first.pointer("/status/node/image").cloned();
    wait_for("the other version", BOOT_LIMIT, || {
        let lab = farm.object("farm", "lab")?;
        Ok((lab.pointer("/status/image").is_some() && lab.pointer("/status/image") != before.as_ref()).then_some(()))
    })?;
    farm.check(&["reboot", "node-1"])?;
    let second = next_boot(&farm, &first)?;
    ensure!(second.pointer("/status/node/image") != before.as_ref(), "{second:#}");
    let new = fetched(&farm)?;
    eprintln!("an update has fetched {new} bytes of {all}");
    ensure!(said(&farm, "slot B: ").is_some() && new < all, "{new} of {all} bytes were fetched");

    // No node API: a TCP reset for everybody who asks.
    in_namespace(&farm, &["nft", "add", "table", "inet", "absent"])?;
    in_namespace(&farm, &["nft", "add", "chain", "inet", "absent", "in", "{ type filter hook input priority -10; }"])?;
    in_namespace(
        &farm,
        &["nft", "add", "rule", "inet", "absent", "in", "tcp", "dport", "8443", "reject", "with", "tcp", "reset"],
    )?;
    farm.check(&["reboot", "node-1"])?;
    let alone = wait_for("a boot without the farm", BOOT_LIMIT, || Ok(said(&farm, "no farm answers")))?;
    ensure!(alone.contains("node-1 as the disk has it"), "{alone}");
    wait_for("the slot to be used", BOOT_LIMIT, || Ok(said(&farm, "slot B has this root")))?;
    in_namespace(&farm, &["nft", "delete", "table", "inet", "absent"])?;
    // The resident finds its farm again.
    let third = next_boot(&farm, &second)?;
    ensure!(third.pointer("/status/node/image") == second.pointer("/status/node/image"), "{third:#}");
    let keys = [&first, &second, &third].map(|node| node.pointer("/status/node/sshHostKeys").cloned());
    ensure!(keys[0] == keys[1] && keys[1] == keys[2], "the host key is not the same in every boot: {keys:?}");
    farm.check(&["ssh", "node-1", "--", "true"])?;
    farm.down()
}

#[test]
fn a_disk_with_anything_on_it_is_left_as_it_is() -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", FARM)?;
    let folder = farm.state().join("machines/default.node-1");
    fs_err::create_dir_all(&folder)?;
    let disk = folder.join("disk-root.raw");
    fs_err::File::create(&disk)?.set_len(1 << 30)?;
    ensure!(
        Command::new("mkfs.ext4").args(["-q", "-L", "precious"]).arg(&disk).status()?.success(),
        "mkfs.ext4 failed"
    );
    let before = fs_err::read(&disk)?;
    farm.write("machine.yaml", &with_disk(&machine("node-1", "uefi", "10.10.0.21")))?;
    farm.up()?;
    let failure = wait_for("a report of the failure", BOOT_LIMIT, || {
        let Ok(node) = farm.object("machine", "node-1") else { return Ok(None) };
        Ok(node.pointer("/status/node/failure").and_then(Value::as_str).map(str::to_owned))
    })?;
    ensure!(failure.contains("neither blank nor ours") && failure.contains("/dev/vda"), "{failure}");
    ensure!(fs_err::read(&disk)? == before, "the disk was written to");
    farm.down()
}
