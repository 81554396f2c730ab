//! Switches under `/proc/sys/net`. What is there belongs to the network namespace of the thread that opens it.

use std::io;
use std::path::PathBuf;

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

/// Sets the switch.
pub(crate) fn set(switch: &str, value: &str) -> io::Result<()> {
    std::fs::write(path(switch), value)
}

/// Whether new links get IPv6.
pub(crate) fn ipv6() -> io::Result<bool> {
    let on = |switch| is(switch, "0").map(|is| is.unwrap_or(false));
    Ok(on("ipv6/conf/all/disable_ipv6")? && on("ipv6/conf/default/disable_ipv6")?)
}
