//! Whether `/dev/kvm` of the node runs a guest, and who may open that and other devices, found out from inside of a container
//! that may not open them.
//!
//! A container gets no device that it was not given, and we cannot ask for one that we have yet to offer. So a child of
//! ours leaves the container's control group for the outermost one, looks at the host's `/dev`, tries, says what it found
//! and ends. A child that hangs is killed: whatever KVM does, the agent goes on.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use serde::{Deserialize, Serialize};
use stoke_vmm::probe::{self, Unusable};
use tokio::process::Command;
use tokio::time::timeout;

use crate::cluster::host::Host;

/// In the environment of the child: the process whose namespaces are the host's.
const VARIABLE: &str = "STOKEHOLD_PROBE_KVM";
/// What is looked at.
const DEVICES: [&str; 4] = [KVM, TUN, VHOST_NET, VHOST_VSOCK];
pub(super) const KVM: &str = "/dev/kvm";
pub(super) const TUN: &str = "/dev/net/tun";
pub(super) const VHOST_NET: &str = "/dev/vhost-net";
pub(super) const VHOST_VSOCK: &str = "/dev/vhost-vsock";
/// How long the child may take; the probe itself takes a tenth of a second.
const LIMIT: Duration = Duration::from_secs(5);

/// What a child found out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    /// Why KVM cannot be used, if it cannot.
    pub(super) kvm: Option<Unusable>,
    /// The device files that there are, by their paths.
    pub(super) files: BTreeMap<String, DeviceFile>,
}

/// A device file of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DeviceFile {
    /// Why it does not open, if it does not: `errno`.
    pub(super) refused: Option<i32>,
    /// Its permissions.
    pub(super) mode: u32,
    /// Its group.
    pub(super) group: u32,
}

impl DeviceFile {
    fn look(path: &str) -> Option<Self> {
        let found = std::fs::metadata(path).ok()?;
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let refused = opened.err().map(|error| error.raw_os_error().unwrap_or_default());
        Some(Self { refused, mode: found.mode() & 0o777, group: found.gid() })
    }

    fn for_all(&self) -> bool {
        self.mode & 0o006 == 0o006
    }

    /// The group that may open it, if it is neither root's nor everybody's.
    pub(super) fn needed_group(&self) -> Option<u32> {
        (!self.for_all() && self.mode & 0o060 == 0o060 && self.group != 0).then_some(self.group)
    }

    /// Whether only root may open it: a runtime gives it to containers with the host's owner and permissions.
    pub(super) fn is_roots_alone(&self) -> bool {
        !self.for_all() && self.needed_group().is_none()
    }
}

/// Has a child look.
///
/// # Errors
/// If there is no child, or it said nothing in time.
pub(super) async fn probe(host: &Host) -> anyhow::Result<Seen> {
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).env(VARIABLE, host.process().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
    let child = command.spawn().context("cannot start the probe of /dev/kvm")?;
    let output = timeout(LIMIT, child.wait_with_output()).await.context("the probe of /dev/kvm hangs")??;
    serde_json::from_slice(&output.stdout).context("the probe of /dev/kvm said nothing")
}

/// Whether this process is such a child; it has said what it found then.
///
/// # Errors
/// If it cannot be said.
pub(super) fn was_probe() -> anyhow::Result<bool> {
    let Ok(process) = std::env::var(VARIABLE) else { return Ok(false) };
    let seen = std::thread::spawn(move || {
        // As far as it gets: where there is no container there is nothing to leave.
        if let Err(error) = leave(&process) {
            tracing::debug!("probing /dev/kvm from inside: {error:#}");
        }
        let files = DEVICES.into_iter().filter_map(|path| Some((path.to_owned(), DeviceFile::look(path)?)));
        Seen { files: files.collect(), kvm: probe::probe().err() }
    });
    let crashed = |_| Seen { kvm: Some(Unusable::Deadline), ..Seen::default() };
    let mut out = std::io::stdout();
    out.write_all(&serde_json::to_vec(&seen.join().unwrap_or_else(crashed))?)?;
    out.flush()?;
    Ok(true)
}

fn leave(process: &str) -> anyhow::Result<()> {
    let namespace = |name: &str| fs_err::File::open(format!("/proc/{process}/ns/{name}")).map(File::from);
    let (groups, mounts) = (namespace("cgroup")?, namespace("mnt")?);
    let root = PathBuf::from(format!("/proc/{process}/root/sys/fs/cgroup"));
    // Groups can only be left for those that are seen (`cgroup_procs_write_permission`).
    enter(&groups, LinkNameSpaceType::ControlGroup)?;
    for hierarchy in [root.join("devices"), root] {
        leave_group(&hierarchy);
    }
    stoke_sys::namespace::unshare_file_system()?;
    enter(&mounts, LinkNameSpaceType::Mount)
}

fn leave_group(hierarchy: &Path) {
    let members = hierarchy.join("cgroup.procs");
    if members.exists()
        && let Err(error) = std::fs::write(&members, std::process::id().to_string())
    {
        tracing::debug!("cannot leave the control group by {}: {error}", members.display());
    }
}

fn enter(namespace: &File, kind: LinkNameSpaceType) -> anyhow::Result<()> {
    Ok(move_into_link_name_space(std::os::fd::AsFd::as_fd(namespace), Some(kind))?)
}
