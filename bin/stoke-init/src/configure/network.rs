//! Interfaces, as files of systemd-networkd (systemd.network(5), systemd.netdev(5)).
//!
//! networkd takes the first file whose match fits, in the order of names: what is made comes first, known by its name; then
//! the interface that boots; then the others. The one that boots has its address from the initramfs and its root behind
//! it: networkd leaves it alone, or, if it is given something more, keeps what it has (`KeepConfiguration=`).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail};
use stoke_api::MacAddr;
use stoke_api::objects::{BondMode, InterfaceSpec};

use super::Remarks;
use super::root::Root;
use super::units::{UNITS, unmask};

const FOLDER: &str = "etc/systemd/network";
const PROGRAMS: [&str; 2] = ["usr/lib/systemd/systemd-networkd", "lib/systemd/systemd-networkd"];
/// What starts networkd: the unit, and what wants it (as `systemctl enable` links it).
const WANTED: [(&str, &str); 3] = [
    ("systemd-networkd.service", "multi-user.target.wants"),
    ("systemd-networkd.socket", "sockets.target.wants"),
    ("systemd-networkd-wait-online.service", "network-online.target.wants"),
];
/// An interface without a cable must not hold up the boot for the two minutes that are the default.
const WAIT: &str = "[Service]\nExecStart=\nExecStart=/lib/systemd/systemd-networkd-wait-online --any --timeout=30\n";

/// The interface that boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootLink {
    /// Its name.
    pub(crate) name: String,
    /// Its address.
    pub(crate) mac: MacAddr,
}

/// Writes all interfaces and lets networkd start.
///
/// # Errors
/// If the interface that boots would lose its address, or a file cannot be written.
pub(super) fn write(
    root: Root<'_>,
    interfaces: &[InterfaceSpec],
    boot: &BootLink,
    remarks: &mut Remarks,
) -> Result<()> {
    if interfaces.is_empty() {
        return Ok(());
    }
    let files = files(interfaces, boot)?;
    if root.first(&PROGRAMS).is_none() {
        remarks.add("interfaces: the image has no systemd-networkd");
        return Ok(());
    }
    for (name, text) in files {
        root.write(&format!("{FOLDER}/{name}"), text, 0o644)?;
    }
    root.write(&format!("{UNITS}/systemd-networkd-wait-online.service.d/50-stokehold.conf"), WAIT, 0o644)?;
    for (unit, wants) in WANTED {
        unmask(root, unit)?;
        root.link(&format!("{UNITS}/{wants}/{unit}"), &format!("/lib/systemd/system/{unit}"))?;
    }
    Ok(())
}

/// What one interface has, out of all that the configuration says of it: its own entry, the bond or bridge that it is a
/// part of, the VLANs that it carries.
#[derive(Default)]
struct Link<'a> {
    spec: Option<&'a InterfaceSpec>,
    part_of: Option<String>,
    vlans: Vec<String>,
}

/// All files by name.
fn files(interfaces: &[InterfaceSpec], boot: &BootLink) -> Result<BTreeMap<String, String>> {
    let is_boot = |spec: &InterfaceSpec| {
        !spec.is_virtual()
            && (spec.mac == Some(boot.mac) || spec.interface.as_ref().is_some_and(|name| name.as_str() == boot.name))
    };
    let mut links: BTreeMap<String, Link<'_>> = BTreeMap::new();
    let boot_key = |key: String| if key == boot.name { boot.mac.to_string() } else { key };
    for spec in interfaces {
        let key = if is_boot(spec) { boot.mac.to_string() } else { spec.key() };
        links.entry(key).or_default().spec = Some(spec);
        let kind = if spec.bond.is_some() { "Bond" } else { "Bridge" };
        for member in spec.members() {
            if member.as_str() == boot.name {
                bail!("interfaces: {member} boots this node and cannot become a part of {}", spec.key());
            }
            links.entry(member.to_string()).or_default().part_of = Some(format!("{kind}={}\n", spec.key()));
        }
        if let Some(vlan) = &spec.vlan {
            links.entry(boot_key(vlan.parent.to_string())).or_default().vlans.push(spec.key());
        }
    }
    links.entry(boot.mac.to_string()).or_default();
    let mut files = BTreeMap::new();
    for (key, link) in &links {
        let (name, text) = match link.spec {
            _ if *key == boot.mac.to_string() => ("20-stokehold-boot.network".to_owned(), boot_network(link, boot)),
            Some(spec) if spec.is_virtual() => {
                files.insert(format!("10-stokehold-{key}.netdev"), netdev(spec));
                (format!("10-stokehold-{key}.network"), network(&format!("Name={key}"), link))
            }
            Some(InterfaceSpec { mac: Some(mac), .. }) => {
                let name = format!("30-stokehold-{}.network", key.replace(':', ""));
                (name, network(&format!("MACAddress={mac}\nType=ether"), link))
            }
            _ => (format!("30-stokehold-{key}.network"), network(&format!("Name={key}"), link)),
        };
        files.insert(name, text);
    }
    Ok(files)
}

/// A bond, VLAN or bridge.
fn netdev(spec: &InterfaceSpec) -> String {
    let kind = match spec {
        InterfaceSpec { bond: Some(_), .. } => "bond",
        InterfaceSpec { vlan: Some(_), .. } => "vlan",
        _ => "bridge",
    };
    let mut text = format!("[NetDev]\nName={}\nKind={kind}\n", spec.key());
    if let Some(mac) = spec.mac {
        let _ = writeln!(text, "MACAddress={mac}");
    }
    if let Some(mtu) = spec.mtu {
        let _ = writeln!(text, "MTUBytes={mtu}");
    }
    if let Some(bond) = &spec.bond {
        // Without looking at the carrier a bond does not see that an interface is gone.
        let _ = write!(text, "\n[Bond]\nMode={}\nMIIMonitorSec=100ms\n", mode(bond.mode));
    }
    if let Some(vlan) = &spec.vlan {
        let _ = write!(text, "\n[VLAN]\nId={}\n", vlan.id);
    }
    text
}

fn mode(mode: BondMode) -> &'static str {
    match mode {
        BondMode::ActiveBackup => "active-backup",
        BondMode::Lacp => "802.3ad",
        BondMode::BalanceRr => "balance-rr",
        BondMode::BalanceXor => "balance-xor",
        BondMode::Broadcast => "broadcast",
        BondMode::BalanceTlb => "balance-tlb",
        BondMode::BalanceAlb => "balance-alb",
    }
}

fn network(matches: &str, link: &Link<'_>) -> String {
    let mut text = format!("[Match]\n{matches}\n");
    if let Some(mtu) = link.spec.and_then(|spec| spec.mtu) {
        let _ = write!(text, "\n[Link]\nMTUBytes={mtu}\n");
    }
    text.push_str("\n[Network]\n");
    if let Some(part_of) = &link.part_of {
        text.push_str(part_of);
        text.push_str("LinkLocalAddressing=no\n");
    }
    if link.spec.is_none_or(|spec| !spec.dhcp) {
        text.push_str("DHCP=no\n");
    } else {
        text.push_str("DHCP=yes\n");
    }
    text + &addresses(link)
}

/// The interface that boots. Its lease is renewed by the resident.
fn boot_network(link: &Link<'_>, boot: &BootLink) -> String {
    let matches = format!("[Match]\nMACAddress={}\nType=ether\n", boot.mac);
    if link.spec.is_none() && link.vlans.is_empty() {
        return format!("{matches}\n[Link]\nUnmanaged=yes\n");
    }
    let mtu = link.spec.and_then(|spec| spec.mtu).map(|mtu| format!("\n[Link]\nMTUBytes={mtu}\n")).unwrap_or_default();
    format!("{matches}{mtu}\n[Network]\nKeepConfiguration=yes\nDHCP=no\nIgnoreCarrierLoss=yes\n{}", addresses(link))
}

fn addresses(link: &Link<'_>) -> String {
    let mut text = String::new();
    if let Some(spec) = link.spec {
        for address in &spec.addresses {
            let _ = writeln!(text, "Address={address}");
        }
        if let Some(gateway) = spec.gateway {
            let _ = writeln!(text, "Gateway={gateway}");
        }
    }
    for vlan in &link.vlans {
        let _ = writeln!(text, "VLAN={vlan}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn boot() -> BootLink {
        BootLink { name: "eth0".into(), mac: "52:54:00:00:00:01".parse().unwrap() }
    }

    fn made(text: &str) -> BTreeMap<String, String> {
        let interfaces: Vec<InterfaceSpec> = serde_json::from_str(text).unwrap();
        files(&interfaces, &boot()).unwrap()
    }

    #[test]
    fn an_interface_by_its_address() {
        let files = made(
            r#"[{"mac":"52:54:00:00:00:02","mtu":9000,"addresses":["10.20.0.7/24","fd00::7/64"],"gateway":"10.20.0.1"}]"#,
        );
        assert_eq!(
            files["30-stokehold-525400000002.network"],
            "[Match]\nMACAddress=52:54:00:00:00:02\nType=ether\n\n[Link]\nMTUBytes=9000\n\n[Network]\nDHCP=no\n\
             Address=10.20.0.7/24\nAddress=fd00::7/64\nGateway=10.20.0.1\n"
        );
        assert!(files["20-stokehold-boot.network"].contains("Unmanaged=yes"));
    }

    #[test]
    fn a_bridge_on_a_vlan_on_a_bond() {
        let files = made(
            r#"[{"interface":"bond0","bond":{"mode":"Lacp","members":["eth1","eth2"]}},
                {"interface":"vlan30","vlan":{"id":30,"parent":"bond0"}},
                {"interface":"br0","mac":"52:54:00:00:00:99","bridge":{"members":["vlan30"]},"dhcp":true}]"#,
        );
        assert_eq!(
            files["10-stokehold-bond0.netdev"],
            "[NetDev]\nName=bond0\nKind=bond\n\n[Bond]\nMode=802.3ad\nMIIMonitorSec=100ms\n"
        );
        assert_eq!(files["10-stokehold-bond0.network"], "[Match]\nName=bond0\n\n[Network]\nDHCP=no\nVLAN=vlan30\n");
        assert_eq!(files["10-stokehold-vlan30.netdev"], "[NetDev]\nName=vlan30\nKind=vlan\n\n[VLAN]\nId=30\n");
        let part = "[Network]\nBridge=br0\nLinkLocalAddressing=no\nDHCP=no\n";
        assert_eq!(files["10-stokehold-vlan30.network"], format!("[Match]\nName=vlan30\n\n{part}"));
        assert!(files["10-stokehold-br0.netdev"].contains("MACAddress=52:54:00:00:00:99"));
        assert!(files["10-stokehold-br0.network"].contains("DHCP=yes"));
        assert!(files["30-stokehold-eth1.network"].contains("Bond=bond0"));
        assert_eq!(files.len(), 9);
    }

    #[test]
    fn the_interface_that_boots_keeps_what_it_has() {
        for name in [r#""interface":"eth0""#, r#""mac":"52:54:00:00:00:01""#] {
            let files = made(&format!(
                r#"[{{{name},"addresses":["10.99.0.7/24"]}},{{"interface":"vlan5","vlan":{{"id":5,"parent":"eth0"}}}}]"#
            ));
            let text = &files["20-stokehold-boot.network"];
            assert!(text.contains("KeepConfiguration=yes\nDHCP=no\n"), "{text}");
            assert!(text.ends_with("Address=10.99.0.7/24\nVLAN=vlan5\n"), "{text}");
            assert_eq!(files.len(), 3);
        }
    }

    #[test]
    fn the_interface_that_boots_becomes_no_part_of_another() {
        let interfaces: Vec<InterfaceSpec> =
            serde_json::from_str(r#"[{"interface":"br0","bridge":{"members":["eth0"]}}]"#).unwrap();
        let error = files(&interfaces, &boot()).unwrap_err().to_string();
        assert!(error.contains("eth0 boots this node"), "{error}");
    }
}
