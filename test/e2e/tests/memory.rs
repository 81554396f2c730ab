//! A node of 1 GiB with an image of 600 MB by NBD: it boots, its full writable layer is said and no hang, a local disk is
//! mounted, and what goes down goes down at once and cleanly.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use e2e::{BOOT_LIMIT, cache, installation, machine};
use serde_json::Value;
use testbed::{Installation, User, lock_cache, programs, wait_for};

/// How long a guest may take to go down: far less than the time after which it would be cut off.
const DOWN_LIMIT: Duration = Duration::from_secs(25);
const IMAGE: u64 = 600 << 20;

/// The example with so much that cannot be compressed that it is as large as a real one.
fn large_recipe() -> String {
    let recipe = include_str!("../../../examples/netboot/image.yaml").replace("name: node", "name: large");
    let ballast = "- dd if=/dev/urandom of=/usr/lib/ballast bs=1M count=560 status=none";
    recipe.replace("- systemctl set-default", &format!("{ballast}\n        - systemctl set-default"))
}

/// Its store, built on first use and kept in the cache.
fn large_images() -> anyhow::Result<PathBuf> {
    let state = cache().join("e2e-large");
    let _one_at_a_time = lock_cache()?;
    fs_err::create_dir_all(&state)?;
    let recipe = state.join("image.yaml");
    fs_err::write(&recipe, large_recipe())?;
    let mut build = Command::new(programs()?.join("stoke"));
    let status = build.arg("--state").arg(&state).args(["image", "build"]).arg(&recipe).status()?;
    if !status.success() {
        bail!("the large image cannot be built");
    }
    Ok(state.join("images"))
}

fn large_farm() -> anyhow::Result<Installation> {
    let images = large_images()?;
    let farm = installation(User::Root, "", FARM)?;
    // Instead of the example's store.
    fs_err::remove_dir_all(farm.state().join("images"))?;
    let copied = Command::new("cp").arg("-al").arg(images).arg(farm.state().join("images")).status()?;
    ensure!(copied.success(), "the store cannot be linked");
    farm.write("image.yaml", &large_recipe())?;
    let yaml = fs_err::read_to_string(PathBuf::from(farm.objects()).join("farm.yaml"))?;
    farm.write("farm.yaml", &yaml.replace("image: node", "image: large"))?;
    Ok(farm)
}

const FARM: &str = "  boot: {root: Nbd}\n  config:\n    overlaySize: 96Mi\n    \
    mounts: [{path: /srv, device: LABEL=data, type: ext4, options: [nofail]}]\n";

/// Waits until the machine says of its writable layer what is expected.
fn layer_is(farm: &Installation, status: &str) -> anyhow::Result<String> {
    wait_for("word of the writable layer", Duration::from_mins(2), || {
        let node = farm.object("machine", "node-1")?;
        let conditions = node.pointer("/status/conditions").and_then(Value::as_array).cloned().unwrap_or_default();
        let layer = conditions.into_iter().find(|one| one.pointer("/type") == Some(&"WritableLayer".into()));
        let layer = layer.filter(|one| one.pointer("/status") == Some(&status.into()));
        Ok(layer.and_then(|one| Some(one.pointer("/message")?.as_str()?.to_owned())))
    })
}

fn ssh(farm: &Installation, command: &str) -> anyhow::Result<String> {
    farm.check(&["ssh", "node-1", "--", command])
}

fn goes_off(farm: &Installation) -> anyhow::Result<()> {
    wait_for("the guest's end", DOWN_LIMIT, || {
        let off = farm.object("machine", "node-1")?.pointer("/status/power") == Some(&"Off".into());
        Ok(off.then_some(()))
    })
}

#[test]
fn a_large_image_a_full_layer_and_a_clean_end() -> anyhow::Result<()> {
    let mut farm = large_farm()?;
    let node = machine("node-1", "uefi", "10.10.0.21").replace("vm: {", "vm: {disks: [{name: data, size: 256Mi}], ");
    farm.write("machine.yaml", &node)?;
    farm.up()?;
    let node = farm.wait_condition("machine", "node-1", "Ready", BOOT_LIMIT)?;
    ensure!(node.pointer("/status/node/root") == Some(&"nbd".into()), "{node:#}");
    let size: u64 = ssh(&farm, "cat /sys/block/nbd0/size")?.trim().parse()?;
    ensure!(size * 512 >= IMAGE, "the root has {size} sectors");

    // The disk is not there yet as a file system, and the node is up all the same.
    // It is mounted as soon as it is one: by systemd, or by this command if that is first.
    ssh(&farm, "mkfs.ext4 -q -L data /dev/disk/by-id/virtio-data && { mount LABEL=data /srv || findmnt /srv; }")?;
    ssh(&farm, "echo kept > /srv/file")?;

    let full = ssh(&farm, "dd if=/dev/zero of=/fill bs=1M 2>&1; rm -f /other; echo x > /other; sync; echo still here")?;
    ensure!(full.contains("No space left on device") && full.contains("still here"), "{full}");
    let said = layer_is(&farm, "False")?;
    ensure!(said.contains("96 MiB is full") && said.contains("overlaySize"), "{said}");
    ssh(&farm, "rm /fill")?;
    layer_is(&farm, "True")?;

    let before = node.pointer("/status/node/bootStarted").cloned();
    farm.check(&["reboot", "node-1"])?;
    wait_for("the next boot", BOOT_LIMIT, || {
        let Ok(node) = farm.object("machine", "node-1") else { return Ok(None) };
        let ready = node.pointer("/status/node/ready") == Some(&true.into());
        Ok((ready && node.pointer("/status/node/bootStarted") != before.as_ref()).then_some(()))
    })?;
    let again = ssh(&farm, "findmnt -n -o SOURCE /srv && cat /srv/file")?;
    ensure!(again.contains("kept"), "{again}");
    // Within its limits; on a machine that hardly runs, parts of the root may be left read-only.
    let last_words = ["the root is unmounted", "read-only from now on"];
    ensure!(last_words.iter().any(|words| farm.console("node-1").contains(words)), "{}", farm.console("node-1"));

    farm.check(&["stop", "node-1"])?;
    goes_off(&farm)?;
    let disk = farm.state().join("machines/default.node-1/disk-data.raw");
    // A file system that was not unmounted has its journal to replay: then this program says so and fails.
    let clean = Command::new("e2fsck").args(["-n"]).arg(&disk).output().context("no e2fsck")?;
    let words = String::from_utf8_lossy(&clean.stdout).into_owned();
    ensure!(clean.status.success() && words.contains("clean"), "{words}");
    farm.down()
}
