//! The way out of the namespace: `pasta` (package `passt`), run from outside by who supervises it.
//!
//! It puts the interface [`INTERFACE`] into the namespace and carries TCP, UDP and echo requests with the host's own
//! sockets: nothing on the host changes, and no right is needed. It does not forward anything into the namespace.
//!
//! The namespace gets an address of its own, out of the block that RFC 7335 sets aside for translation inside of one host,
//! and not a copy of the host's (pasta's default): so the host itself can be reached by all of its addresses but loopback.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

/// The interface in the namespace that leads out.
pub const INTERFACE: &str = "out";
/// Its address.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 2);
/// Where it leads; pasta answers for it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 1);
/// Asked for a name here, pasta asks the host's own resolver (UDP).
pub const DNS: Ipv4Addr = Ipv4Addr::new(192, 0, 0, 3);
/// Name of pasta's process id file in the run folder.
pub const PID_FILE: &str = "pasta.pid";

/// Bits of the block that [`ADDRESS`], [`GATEWAY`] and [`DNS`] are in.
const PREFIX: &str = "29";

/// The command that runs `pasta` for the namespaces in `dir` (`RUN/ns`), in the foreground, writing its process id to
/// `pid_file`. It ends when it is killed, and must be started again if it ends: connections through it break then, and
/// nothing else.
///
/// # Errors
/// If the namespaces are gone or not ours.
pub fn pasta_command(dir: &Path, pid_file: &Path) -> std::io::Result<Command> {
    // By descriptor: pasta gives up the rights to look at another process' namespaces before it opens them.
    let network = File::open(dir.join("net"))?;
    let mut command = Command::new("pasta");
    command.stdin(network).args(["--netns", "/proc/self/fd/0", "--no-netns-quit", "--foreground", "--quiet"]);
    if rustix::process::geteuid().is_root() {
        // Its default, nobody, may not enter a namespace of root's. It drops all capabilities that it does not need,
        // and changes to an empty root directory.
        command.args(["--runas", "0:0"]);
    } else {
        command.arg("--userns").arg(dir.canonicalize()?.join("user"));
    }
    command.args(["--config-net", "--ns-ifname", INTERFACE]);
    command.args(["--address", &ADDRESS.to_string(), "--netmask", PREFIX, "--gateway", &GATEWAY.to_string()]);
    // Guests shall not reach what listens on the host's loopback.
    command.args(["--no-map-gw", "--dns-forward", &DNS.to_string()]);
    command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
    command.arg("--pid").arg(pid_file);
    Ok(command)
}

/// DNS servers that can be asked from inside, by the text of the host's `resolv.conf`(5): its own, but one on the host's
/// loopback only by way of pasta.
pub fn upstreams(resolv_conf: &str) -> Vec<IpAddr> {
    let words = resolv_conf.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let servers = words.filter_map(|words| match words.as_slice() {
        ["nameserver", server, ..] => server.parse::<IpAddr>().ok(),
        _ => None,
    });
    let mut upstreams = Vec::new();
    for server in servers {
        let reachable = if server.is_loopback() || server.is_unspecified() { IpAddr::V4(DNS) } else { server };
        if !upstreams.contains(&reachable) {
            upstreams.push(reachable);
        }
    }
    upstreams
}

/// Why there is no way out, given whether the interface is there and leads somewhere.
pub(crate) fn failure(leads_out: bool) -> Option<String> {
    let why = "the way out is not there: pasta does not run or found no default route on the host; is the package \
               passt installed?";
    (!leads_out).then(|| why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_on_loopback_is_asked_by_way_of_pasta() {
        let text =
            "# by systemd-resolved\nnameserver 127.0.0.53\nnameserver ::1\noptions edns0\nnameserver 192.0.2.53\n";
        assert_eq!(upstreams(text), [IpAddr::V4(DNS), IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53))]);
    }

    #[test]
    fn nonsense_in_resolv_conf_is_passed_over() {
        assert_eq!(upstreams("nameserver\nnameserver fe80::1%eth0\nsearch x\n"), [] as [IpAddr; 0]);
    }

    #[test]
    fn namespaces_that_are_gone_are_an_error() {
        assert!(pasta_command(Path::new("/nonexistent"), Path::new("/tmp/pid")).is_err());
    }
}
