//! Hands over to the system: the resident is started, the new root becomes `/`, its init takes our place.

use std::convert::Infallible;
use std::fs;
use std::io::{PipeWriter, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::mount::mount_move;

use crate::handoff::Handoff;
use crate::kernel_fs;
use crate::layers::NEW_ROOT;

/// Our own program in the initramfs.
const OWN_PROGRAM: &str = "/init";
/// A first argument that begins so is spared when systemd ends all processes (systemd's ROOT_STORAGE_DAEMONS.md).
pub(crate) const RESIDENT: &str = "@stoke-init";
/// Where a system's init may be.
const INITS: [&str; 3] = ["/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd"];

/// A resident that waits for what it has to know.
#[derive(Debug)]
pub(crate) struct Waiting {
    pipe: PipeWriter,
}

/// Starts the resident. It runs from the initramfs' memory, works in the new root, and waits for [`Waiting::release`].
pub(crate) fn start_resident(descriptors: &[OwnedFd]) -> Result<Waiting> {
    let (reader, pipe) = std::io::pipe().context("could not make a pipe")?;
    for descriptor in descriptors {
        fcntl_setfd(descriptor, FdFlags::empty())?;
    }
    let started = Command::new(OWN_PROGRAM)
        .arg0(RESIDENT)
        .current_dir(NEW_ROOT)
        .stdin(reader)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    // The init that takes our place must not have them.
    for descriptor in descriptors {
        fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
    }
    // It is never waited for here: whoever is PID 1 then collects it.
    started.map(|_| Waiting { pipe }).context("could not start the resident")
}

impl Waiting {
    /// Tells it what it has to know; from then on it works.
    pub(crate) fn release(mut self, handoff: &Handoff) -> Result<()> {
        let text = serde_json::to_vec(handoff).context("could not encode what the resident has to know")?;
        self.pipe.write_all(&text).context("the resident does not listen")
    }
}

/// Numbers by which an inheriting process finds the descriptors.
pub(crate) fn numbers(descriptors: &[OwnedFd]) -> Vec<i32> {
    descriptors.iter().map(|descriptor| descriptor.as_fd().as_raw_fd()).collect()
}

/// The init of the new root.
///
/// # Errors
/// If it has none.
pub(crate) fn find_init() -> Result<&'static str> {
    let there = |init: &&&str| Path::new(NEW_ROOT).join(init.trim_start_matches('/')).symlink_metadata().is_ok();
    match INITS.iter().find(there) {
        Some(init) => Ok(init),
        None => bail!("the image has no init ({})", INITS.join(", ")),
    }
}

/// Moves the kernel's file systems into the new root.
pub(crate) fn move_kernel_fs() -> Result<()> {
    for place in kernel_fs::places() {
        let target = format!("{NEW_ROOT}{place}");
        fs::create_dir_all(&target).with_context(|| format!("could not make {target}"))?;
        mount_move(place, &target).with_context(|| format!("could not move {place}"))?;
    }
    Ok(())
}

/// Frees the initramfs, makes the new root `/` and becomes its init. Returns only if that fails.
pub(crate) fn switch(init: &str) -> Result<Infallible> {
    std::env::set_current_dir(NEW_ROOT).context("could not enter the new root")?;
    free_initramfs();
    mount_move(".", "/").context("could not move the new root")?;
    rustix::process::chroot(".").context("could not enter the new root")?;
    std::env::set_current_dir("/").context("could not enter the new root")?;
    let error = Command::new(init).exec();
    Err(error).with_context(|| format!("could not start {init}"))
}

/// Removes all files of the initramfs and nothing of what is mounted in it. What remains takes memory, no more.
fn free_initramfs() {
    if let Ok(root) = fs::symlink_metadata("/") {
        remove_below(Path::new("/"), root.dev());
    }
}

fn remove_below(folder: &Path, device: u64) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(about) = fs::symlink_metadata(&path) else { continue };
        if about.dev() != device {
            continue;
        }
        if about.is_dir() {
            remove_below(&path, device);
            let _ = fs::remove_dir(&path);
        } else {
            let _ = fs::remove_file(&path);
        }
    }
}
