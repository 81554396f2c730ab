//! A root that is not the one that was built is refused, with a clear report.

use std::time::Duration;

use anyhow::ensure;
use e2e::{BOOT_LIMIT, installation, machine};
use testbed::{User, wait_for};

#[test]
fn a_corrupted_root_over_nbd_is_refused_and_reported() -> anyhow::Result<()> {
    refused_and_reported("Nbd")
}

#[test]
fn a_corrupted_root_in_memory_is_refused_and_reported() -> anyhow::Result<()> {
    refused_and_reported("Ram")
}

fn refused_and_reported(root: &str) -> anyhow::Result<()> {
    let mut farm = installation(User::Root, "", &format!("  boot: {{root: {root}}}\n"))?;
    farm.up()?;
    let image = farm.wait_condition("farm", "lab", "Ready", Duration::from_mins(1))?;
    ensure!(image.pointer("/status/image").is_some(), "{image}");
    corrupt_largest_blob(&farm.state().join("images/blobs/sha256"))?;
    farm.write("machine.yaml", &machine("node-1", "uefi", "10.10.0.21"))?;
    let failure = wait_for("a report of the failure", BOOT_LIMIT, || {
        let Ok(node) = farm.object("machine", "node-1") else { return Ok(None) };
        Ok(node.pointer("/status/node/failure").and_then(|text| text.as_str()).map(str::to_owned))
    })?;
    ensure!(failure.contains("verity") || failure.contains("digest"), "{failure}");
    farm.down()
}

/// The root is the largest blob. Its first block is changed in a copy: other tests share the original by a link.
fn corrupt_largest_blob(folder: &std::path::Path) -> anyhow::Result<()> {
    let mut blobs: Vec<_> = fs_err::read_dir(folder)?.collect::<Result<_, _>>()?;
    blobs.sort_by_key(|blob| blob.metadata().map(|metadata| metadata.len()).unwrap_or_default());
    let path = blobs.pop().map(|blob| blob.path()).ok_or_else(|| anyhow::anyhow!("no blobs"))?;
    let mut content = fs_err::read(&path)?;
    for byte in content.iter_mut().take(4096) {
        *byte ^= 0x55;
    }
    fs_err::remove_file(&path)?;
    Ok(fs_err::write(&path, content)?)
}
