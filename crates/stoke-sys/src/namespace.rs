//! Leaving the namespaces that a thread was born in.

use std::io;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Gives the calling thread a network namespace of its own. Threads that it starts later are born there.
///
/// # Errors
/// If the system refuses: it needs `CAP_SYS_ADMIN`.
pub fn unshare_network() -> io::Result<()> {
    unshare(UnshareFlags::NEWNET)
}

/// Gives the calling thread a root and a current folder of its own, so that it alone can join a mount namespace (setns(2)).
///
/// # Errors
/// If the system refuses.
pub fn unshare_file_system() -> io::Result<()> {
    unshare(UnshareFlags::FS)
}

/// Gives the calling thread a mount namespace of its own, a copy.
///
/// # Errors
/// If the system refuses: it needs `CAP_SYS_ADMIN`.
pub fn unshare_mounts() -> io::Result<()> {
    unshare(UnshareFlags::FS | UnshareFlags::NEWNS)
}

/// Gives the process a user namespace and a network namespace that belongs to it. An ordinary user may do this.
///
/// # Errors
/// If the process has more than one thread, or the system forbids user namespaces.
pub fn unshare_user_and_network() -> io::Result<()> {
    unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET)
}

/// Gives children of the process, not itself, a time namespace of their own, whose clocks can be set until one is born there.
///
/// # Errors
/// If the system refuses: it needs `CAP_SYS_ADMIN`.
pub fn unshare_time_of_children() -> io::Result<()> {
    unshare(UnshareFlags::NEWTIME)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // JUSTIFICATION: rustix marks the call unsafe because of `CLONE_FILES`, which hides descriptors from other threads.
    // SAFETY: the flags of this module's callers do not contain `CLONE_FILES`.
    unsafe { unshare_unsafe(flags) }?;
    Ok(())
}

/// Which kind of namespace a descriptor refers to, as the flag of clone(2) (ioctl_ns(2), `NS_GET_NSTYPE`).
///
/// # Errors
/// `ENOTTY` if it refers to no namespace.
pub fn kind(namespace: impl std::os::fd::AsFd) -> io::Result<u32> {
    const GET_KIND: libc::c_ulong = 0xb703;
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&namespace.as_fd());
    // JUSTIFICATION: rustix has no ioctl for namespaces.
    // SAFETY: this ioctl takes no argument and answers a number.
    let answer = unsafe { libc::ioctl(descriptor, GET_KIND) };
    u32::try_from(answer).map_err(|_| io::Error::last_os_error())
}
