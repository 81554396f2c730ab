//! Switches under `/proc/sys/net`. What is there belongs to the network namespace of the thread that opens it.

use std::io;
use std::path::PathBuf;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use stoke_api::names::LinkName;

/// Forwarding of IPv4 between links.
pub(crate) const FORWARD: &str = "ipv4/ip_forward";

/// A switch of one link's IPv6.
pub(crate) fn of_link(link: &LinkName, switch: &str) -> String {
    format!("ipv6/conf/{link}/{switch}")
}

/// The file of a switch.
pub(crate) fn path(switch: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(switch)
}

/// Whether the switch has this value; `None` if the kernel has no such switch.
pub(crate) fn is(switch: &str, value: &str) -> io::Result<Option<bool>> {
    match std::fs::read_to_string(path(switch)) {
        Ok(text) => Ok(Some(text.trim() == value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets the switch. In a container `/proc/sys` is closed to writers, whatever their rights; a new look at it is not.
pub(crate) fn set(switch: &str, value: &str) -> io::Result<()> {
    match std::fs::write(path(switch), value) {
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => set_by_a_new_look(switch, value),
        written => written,
    }
}

/// By a thread that has a mount namespace of its own, but the network namespace of this one.
fn set_by_a_new_look(switch: &str, value: &str) -> io::Result<()> {
    let look = || -> io::Result<()> {
        stoke_sys::namespace::unshare_mounts()?;
        // What is mounted here must not be seen elsewhere.
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)?;
        std::fs::write(path(switch), value)
    };
    std::thread::scope(|scope| scope.spawn(look).join())
        .unwrap_or_else(|_| Err(io::Error::other("a thread has crashed")))
}

/// Whether new links get IPv6.
pub(crate) fn ipv6() -> io::Result<bool> {
    let on = |switch| is(switch, "0").map(|is| is.unwrap_or(false));
    Ok(on("ipv6/conf/all/disable_ipv6")? && on("ipv6/conf/default/disable_ipv6")?)
}
