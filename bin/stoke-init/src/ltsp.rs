//! What nodes of LTSP have, so that scripts which were written for them find it here.
//!
//! | there | what |
//! |---|---|
//! | `/run/initramfs/rofs`, `/rofs` | the root as it was built |
//! | `/run/initramfs/cow` | the layer in memory that takes what is written, in `upper` |
//! | `/run/net-INTERFACE.conf`, `/run/ltsp/net-INTERFACE.conf` | what DHCP said, as variables of a shell |
//! | `/run/ltsp/node.conf` | who and where the node is, and its server |
//! | `/run/ltsp/cmdline.conf` | `ltsp.KEY=VALUE` of the kernel's command line |
//!
//! Scripts in `/run/ltsp` are read by the node's script of LTSP ([`stoke_boot::lts`]) before all else, `cmdline.conf` first.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use stoke_api::objects::{Compatibility, NodeConfig};
use stoke_boot::config::{Scope, Source, merged};
use stoke_boot::lts::translate::Generation;
use stoke_boot::lts::{self, Conf};

use crate::dhcp::Lease;
use crate::layers::{LOWER, WRITABLE};
use crate::network::Interface;

/// Where LTSP has the parts of its root: systemd leaves mounts there alone to the end.
const ROOT_PARTS: [(&str, &str); 2] = [(LOWER, "/run/initramfs/rofs"), (WRITABLE, "/run/initramfs/cow")];
/// The folder of variables.
const VARIABLES: &str = "ltsp";

/// A node, as its scripts ask for it.
#[derive(Debug)]
pub(crate) struct Node<'a> {
    pub(crate) hostname: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) interface: &'a Interface,
    pub(crate) lease: &'a Lease,
    /// The farm's address.
    pub(crate) server: IpAddr,
    /// The kernel's command line.
    pub(crate) cmdline: &'a str,
}

/// The configuration with that of the image's own `lts.conf` under it, if it shall be there.
pub(crate) fn with_own_file(root: &Path, config: &NodeConfig, node: &Node<'_>) -> NodeConfig {
    if config.compatibility != Some(Compatibility::LtspOfImage) {
        return config.clone();
    }
    let text = fs::read_to_string(root.join("etc/lts.conf")).unwrap_or_default();
    if text.trim().is_empty() {
        return config.clone();
    }
    let source = lts::Source { name: "/etc/lts.conf", text: &text, included: &std::collections::BTreeMap::new() };
    let (macs, address) = ([node.interface.mac], Some(node.lease.address));
    let server = Some(node.server);
    let machine = lts::Machine { macs: &macs, address, hostname: node.hostname, server };
    let own = Conf::parse(Generation::Five, source).translate(&machine).config;
    merged(&[
        Scope { source: Source::named("lts.conf of the image"), config: &own },
        Scope { source: Source::named("farm"), config },
    ])
}

/// Makes all of it, for a node whose root is at `root`.
pub(crate) fn furnish(root: &Path, node: &Node<'_>) -> Result<()> {
    for (part, place) in ROOT_PARTS {
        // A root by NFS has other parts.
        if is_mount_point(part) {
            fs::create_dir_all(place).with_context(|| format!("could not make {place}"))?;
            mount_bind(part, place).with_context(|| format!("could not show {part} at {place}"))?;
        }
    }
    let link = root.join("rofs");
    if link.symlink_metadata().is_err() {
        symlink("/run/initramfs/rofs", &link).context("could not link /rofs")?;
    }
    write_variables(Path::new("/run"), node)
}

/// Takes away what [`furnish`] mounted: another attempt at the root follows, or it is given back at the end, when what was
/// in `/run/initramfs` is at the root.
pub(crate) fn take_apart() {
    for (_, place) in ROOT_PARTS {
        let at_the_end = place.strip_prefix("/run/initramfs").unwrap_or(place);
        for place in [place, at_the_end] {
            // What is not mounted is not missed.
            let _ = unmount(place, UnmountFlags::DETACH);
        }
    }
}

fn is_mount_point(path: &str) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

fn write_variables(run: &Path, node: &Node<'_>) -> Result<()> {
    let folder = run.join(VARIABLES);
    fs::create_dir_all(&folder).with_context(|| format!("could not make {}", folder.display()))?;
    let network = format!("net-{}.conf", node.interface.name);
    let files = [
        (run.join(&network), of_network(node)),
        (folder.join(&network), of_network(node)),
        (folder.join("node.conf"), of_node(node)),
        (folder.join("cmdline.conf"), of_cmdline(node.cmdline)),
    ];
    for (path, variables) in files {
        fs::write(&path, as_shell(&variables)).with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

type Variables = Vec<(String, String)>;

/// What klibc's `ipconfig` and LTSP's udhcpc script write down.
fn of_network(node: &Node<'_>) -> Variables {
    let lease = node.lease;
    let mask = u32::MAX.checked_shl(32 - u32::from(lease.prefix)).unwrap_or_default();
    let dns = |index: usize| lease.dns.get(index).copied().unwrap_or(Ipv4Addr::UNSPECIFIED).to_string();
    let servers: Vec<_> = lease.dns.iter().map(ToString::to_string).collect();
    let values = [
        ("DEVICE", node.interface.name.clone()),
        ("PROTO", "dhcp".to_owned()),
        ("IPV4ADDR", lease.address.to_string()),
        ("IPV4BROADCAST", Ipv4Addr::from(u32::from(lease.address) | !mask).to_string()),
        ("IPV4NETMASK", Ipv4Addr::from(mask).to_string()),
        ("IPV4GATEWAY", lease.router.unwrap_or(Ipv4Addr::UNSPECIFIED).to_string()),
        ("IPV4DNS0", dns(0)),
        ("IPV4DNS1", dns(1)),
        ("HOSTNAME", node.hostname.to_owned()),
        ("DNSDOMAIN", node.domain.to_owned()),
        ("ROOTSERVER", node.server.to_string()),
        ("ROOTPATH", lease.root_path.clone().unwrap_or_default()),
        ("DNS_SERVER", servers.join(" ")),
        ("SEARCH_DOMAIN", node.domain.to_owned()),
    ];
    owned(values)
}

fn of_node(node: &Node<'_>) -> Variables {
    let (address, mac) = (node.lease.address.to_string(), node.interface.mac.to_string());
    let values = [
        ("SERVER", node.server.to_string()),
        ("IP_ADDRESS", address),
        ("MAC_ADDRESS", mac),
        ("LTSP_FATCLIENT", "True".to_owned()),
    ];
    owned(values)
}

fn owned<const N: usize>(values: [(&str, String); N]) -> Variables {
    values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// `ltsp.KEY=VALUE`; names in upper case.
fn of_cmdline(cmdline: &str) -> Variables {
    let variable = |word: &str| {
        let (key, value) = word.strip_prefix("ltsp.")?.split_once('=')?;
        let key = key.to_uppercase().replace('-', "_");
        let is_name = key.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
            && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        is_name.then(|| (key, value.to_owned()))
    };
    cmdline.split_whitespace().filter_map(variable).collect()
}

/// As a shell reads it. What DHCP said may be anything.
fn as_shell(variables: &Variables) -> String {
    let mut text = String::new();
    for (name, value) in variables {
        let _ = writeln!(text, "export {name}='{}'", value.replace('\'', r"'\''"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use stoke_api::MacAddr;

    const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn lease() -> Lease {
        Lease {
            address: Ipv4Addr::new(10, 0, 1, 9),
            prefix: 23,
            server: Ipv4Addr::new(10, 0, 0, 1),
            router: None,
            dns: vec![Ipv4Addr::new(10, 0, 0, 2)],
            domain: None,
            hostname: None,
            mtu: None,
            farm: None,
            root_path: Some("it's".to_owned()),
            seconds: 60,
            renew: 30,
            rebind: 45,
        }
    }

    fn interface() -> Interface {
        Interface { name: "eth0".to_owned(), index: 2, mac: MacAddr([2, 0, 0, 0, 0, 1]) }
    }

    #[test]
    fn variables_are_where_scripts_look() {
        let run = tempfile::tempdir().unwrap();
        let (lease, interface) = (lease(), interface());
        let cmdline = "quiet ltsp.my-key=a=b ltsp.1x=2 ltsp.image=x";
        let node = Node {
            hostname: "pc01",
            domain: "lab.internal",
            interface: &interface,
            lease: &lease,
            server: SERVER,
            cmdline,
        };
        write_variables(run.path(), &node).unwrap();
        let read = |name: &str| fs::read_to_string(run.path().join(name)).unwrap();
        assert_eq!(read("net-eth0.conf"), read("ltsp/net-eth0.conf"));
        for line in
            ["DEVICE='eth0'", "IPV4NETMASK='255.255.254.0'", "IPV4BROADCAST='10.0.1.255'", r"ROOTPATH='it'\''s'"]
        {
            assert!(read("net-eth0.conf").contains(&format!("export {line}\n")), "{line}");
        }
        assert!(read("ltsp/node.conf").contains("SERVER='10.0.0.1'"));
        assert_eq!(read("ltsp/cmdline.conf"), "export MY_KEY='a=b'\nexport IMAGE='x'\n");
    }

    #[test]
    fn the_images_own_file_holds_where_the_farms_is_empty() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        fs::write(root.path().join("etc/lts.conf"), "[default]\nTIMEZONE=Europe/Prague\nDNS_SERVER=10.0.0.7\n")
            .unwrap();
        let (lease, interface) = (lease(), interface());
        let node =
            Node { hostname: "pc01", domain: "", interface: &interface, lease: &lease, server: SERVER, cmdline: "" };
        let mut config = NodeConfig { timezone: Some("Etc/UTC".to_owned()), ..NodeConfig::default() };
        assert_eq!(with_own_file(root.path(), &config, &node), config);
        config.compatibility = Some(Compatibility::LtspOfImage);
        let whole = with_own_file(root.path(), &config, &node);
        // The farm's own words go over it.
        assert_eq!(whole.timezone.as_deref(), Some("Etc/UTC"));
        assert_eq!(whole.dns.servers, [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7))]);
    }
}
