//! What a process in the container is given by descriptors: our program in sealed memory, its plan, a filter.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;

use crate::error::{Context as _, Result};
use crate::spec::{Process, Seccomp};
use crate::state::MEMORY_NAME;

/// How often a copy is sealed that is busy: the kernel itself waits each time, about 150 ms, for whoever holds a page of it
/// (`memfd_wait_for_pins` in its `mm/memfd.c`).
const SEAL_TRIES: usize = 20;

/// A copy of our program that nobody can write to: what runs in a container must not lead to the host's file (CVE-2019-5736).
pub(super) fn program() -> Result<OwnedFd> {
    let what = || "cannot copy this program into memory".to_owned();
    let mut own = std::fs::File::open("/proc/self/exe").context(what)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 know no `MFD_EXEC`, and need none.
    let memory = rustix::fs::memfd_create(MEMORY_NAME, flags | MemfdFlags::EXEC);
    let memory = memory.or_else(|_| rustix::fs::memfd_create(MEMORY_NAME, flags)).context(what)?;
    let mut memory = std::fs::File::from(memory);
    io::copy(&mut own, &mut memory).context(what)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    let mut sealed = rustix::fs::fcntl_add_seals(&memory, seals);
    for _ in 1..SEAL_TRIES {
        if sealed != Err(Errno::BUSY) {
            break;
        }
        sealed = rustix::fs::fcntl_add_seals(&memory, seals);
    }
    sealed.context(what)?;
    Ok(memory.into())
}

/// Bytes in memory, for a process that reads them.
pub(super) fn bytes(name: &str, content: &[u8]) -> Result<OwnedFd> {
    let what = || format!("cannot put the {name} into memory");
    let mut memory = std::fs::File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).context(what)?);
    io::Write::write_all(&mut memory, content).context(what)?;
    Ok(memory.into())
}

/// A plan in memory.
pub(super) fn plan(plan: &impl serde::Serialize) -> Result<OwnedFd> {
    bytes("plan", &serde_json::to_vec(plan).unwrap_or_default())
}

/// The filter's program in memory, if there is a filter.
pub(super) fn filter(seccomp: Option<&Seccomp>) -> Result<Option<OwnedFd>> {
    let Some(seccomp) = seccomp.filter(|seccomp| !seccomp.default_action.is_empty()) else { return Ok(None) };
    crate::seccomp::flags(seccomp)?;
    bytes("filter", &crate::seccomp::compile(seccomp)?).map(Some)
}

/// The socket that takes the terminal, if the process wants one.
pub(super) fn console(process: Option<&Process>, socket: Option<&std::path::Path>) -> Result<Option<OwnedFd>> {
    use crate::error::Error;
    let wants = process.is_some_and(|process| process.terminal);
    match (wants, socket) {
        (true, Some(path)) => crate::wire::connect(path, rustix::net::SocketType::STREAM).map(Some),
        (true, None) => Err(Error::Input("process.terminal needs --console-socket".to_owned())),
        (false, Some(_)) => Err(Error::Input("--console-socket is for processes with process.terminal".to_owned())),
        (false, None) => Ok(None),
    }
}

/// The number of a descriptor, which the other process has under the same one.
pub(super) fn number(descriptor: &OwnedFd) -> i32 {
    descriptor.as_raw_fd()
}
