//! The process whose namespaces are the host's: process 1, or where that may not be looked at, the kubelet.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// How the host is found.
#[derive(Clone, Debug)]
pub(super) struct Host {
    /// The kubelet's socket.
    pub(super) kubelet: Option<PathBuf>,
}

impl Host {
    /// The process; our own if no other can be looked at, as where there is no container.
    pub(super) fn process(&self) -> u32 {
        let first = mounts_of(1).map(|_| 1);
        let kubelet = || self.kubelet.as_deref().and_then(|socket| kubelet_process(socket).ok());
        let of_kubelet = || kubelet().filter(|process| mounts_of(*process).is_ok());
        first.ok().or_else(of_kubelet).unwrap_or_else(std::process::id)
    }

    /// Its mount namespace; `None` if it is our own, as far as can be known.
    pub(super) fn mounts(&self) -> Option<File> {
        let process = self.process();
        if process == std::process::id() {
            tracing::warn!(
                "the lans end with this container, if it is one: neither process 1 nor a kubelet can be seen"
            );
            return None;
        }
        mounts_of(process).ok()
    }
}

/// The mount namespace of a process.
fn mounts_of(process: u32) -> io::Result<File> {
    File::open(format!("/proc/{process}/ns/mnt"))
}

/// The process that listens on the kubelet's socket.
fn kubelet_process(socket: &Path) -> io::Result<u32> {
    let peer = rustix::net::sockopt::socket_peercred(UnixStream::connect(socket)?)?;
    u32::try_from(peer.pid.as_raw_nonzero().get()).map_err(io::Error::other)
}
