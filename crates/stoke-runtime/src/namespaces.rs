//! Kinds of namespaces: what the specification, liblxc, `/proc` and clone(2) call them.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::error::{Context as _, Error, Result};

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// In `config.json`.
    pub spec: &'static str,
    /// In liblxc's configuration and in `/proc/PID/ns`.
    pub short: &'static str,
    /// Of clone(2).
    pub flag: u32,
}

const fn kind(spec: &'static str, short: &'static str, flag: u32) -> Kind {
    Kind { spec, short, flag }
}

/// All kinds, in the order in which a process can join them: the user namespace first, whose rights the others need.
pub const KINDS: [Kind; 8] = [
    kind("user", "user", 0x1000_0000),
    kind("cgroup", "cgroup", 0x0200_0000),
    kind("ipc", "ipc", 0x0800_0000),
    kind("uts", "uts", 0x0400_0000),
    kind("network", "net", 0x4000_0000),
    kind("pid", "pid", 0x2000_0000),
    kind("mount", "mnt", 0x0002_0000),
    kind("time", "time", 0x0000_0080),
];

/// The kind of this name in `config.json`.
pub fn named(spec: &str) -> Option<Kind> {
    KINDS.into_iter().find(|kind| kind.spec == spec)
}

/// Opens a namespace to join, and checks that it is of the kind that it is said to be.
pub fn open(kind: Kind, path: &Path) -> Result<OwnedFd> {
    let field = || format!("linux.namespaces: {} namespace {}", kind.spec, path.display());
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(field)?;
    match stoke_sys::namespace::kind(&file) {
        Ok(flag) if flag == kind.flag => Ok(file),
        Ok(_) => Err(Error::field(field(), "is of another kind")),
        Err(_) => Err(Error::field(field(), "is no namespace")),
    }
}
