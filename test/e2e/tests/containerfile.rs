//! An image of a Containerfile boots like any other: by NBD, in memory and from a disk.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use e2e::{BOOT_LIMIT, container_images, machine, object};
use testbed::{Installation, User, World, wait_for};

const LAN: &str =
    "  subnets: [{name: v4, cidr: 10.10.0.0/24, pools: [10.10.0.100-10.10.0.199]}]\n  dhcp: {mode: Authoritative}\n";
const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");

/// A store with the example's image and its base, built on first use.
fn store(files: &[&str]) -> Result<PathBuf> {
    let files: Vec<_> = files.iter().map(|file| Path::new(EXAMPLES).join(file)).collect();
    container_images(&files)
}

fn farm(image: &str, root: &str) -> String {
    object("Farm", "lab", &format!("  lan: lab\n  image: {image}\n  boot: {{root: {root}}}\n"))
}

/// Waits until the machine runs with its root attached this way, and says what it greets with.
fn greets(installed: &Installation, root: &str) -> Result<String> {
    wait_for(&format!("node-1 with its root by {root}"), BOOT_LIMIT * 2, || {
        // Nobody answers yet just after the start.
        let Ok(node) = installed.object("machine", "node-1") else { return Ok(None) };
        let there = node.pointer("/status/node/root") == Some(&root.into())
            && node.pointer("/status/node/ready") == Some(&true.into());
        Ok(there.then_some(()))
    })?;
    let script = "systemctl is-active --quiet greet.service && test ! -e /usr/sbin/policy-rc.d && greet";
    // The unit is one of many that start; and a guest that does all of that at once may leave a visitor waiting too long.
    wait_for("the greeting", BOOT_LIMIT, || Ok(installed.check(&["ssh", "node-1", "--", script]).ok()))
}

/// The example's image in this file, a farm of it and a machine.
fn installation(file: &str, containerfile: &str, image: &str) -> Result<Installation> {
    let named = format!("containerfile/{file}");
    let installed = Installation::new(World::new()?, User::Root, Some(&store(&["netboot/image.yaml", &named])?))?;
    let examples = Path::new(EXAMPLES).canonicalize()?;
    installed.write("node.yaml", &fs_err::read_to_string(examples.join("netboot/image.yaml"))?)?;
    installed.write("lan.yaml", &object("Lan", "lab", LAN))?;
    // A file names its Containerfile as seen from itself; here the file lies somewhere else.
    let there = examples.join("containerfile").join(containerfile);
    let text = fs_err::read_to_string(examples.join(&named))?;
    installed.write("image.yaml", &text.replace(containerfile, &there.to_string_lossy()))?;
    installed.write("farm.yaml", &farm(image, "Nbd"))?;
    let machine = machine("node-1", "bios", "10.10.0.21").replace("vm: {", "vm: {disks: [{name: root, size: 1Gi}], ");
    installed.write("machine.yaml", &machine)?;
    Ok(installed)
}

#[test]
fn an_image_of_a_containerfile_boots_by_nbd_in_memory_and_from_a_disk() -> Result<()> {
    let mut installed = installation("image.yaml", "node/Containerfile", "greeter")?;
    installed.up()?;
    let said = greets(&installed, "nbd")?;
    ensure!(said.contains("hello from a Containerfile"), "{said}");
    let (node, image) = (installed.object("machine", "node-1")?, installed.object("image", "greeter")?);
    ensure!(node.pointer("/status/node/image") == image.pointer("/status/digest"), "another image runs");

    for (root, more) in [("Ram", ""), ("Disk", ", disk: {label: root}")] {
        installed.write("farm.yaml", &farm("greeter", &format!("{root}{more}")))?;
        wait_for("the changed farm", BOOT_LIMIT, || {
            let farm = installed.object("farm", "lab")?;
            Ok((farm.pointer("/spec/boot/root") == Some(&root.into())).then_some(()))
        })?;
        installed.check(&["reboot", "node-1"])?;
        let said = greets(&installed, &root.to_lowercase())?;
        ensure!(said.contains("hello from a Containerfile"), "{said}");
    }
    installed.down()
}

#[test]
fn a_module_that_is_not_in_the_kernels_tree_loads_on_the_node() -> Result<()> {
    let mut installed = installation("module.yaml", "module/Containerfile", "with-module")?;
    installed.up()?;
    installed.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT * 2)?;
    let script = "modprobe hello && dmesg | grep hello: && (ls -d /src /out || true)";
    let said = wait_for("the module", BOOT_LIMIT, || Ok(installed.check(&["ssh", "node-1", "--", script]).ok()))?;
    ensure!(said.contains("built out of the kernel's tree") && !said.contains("/src\n"), "{said}");
    installed.down()
}
