//! Names, addresses and folders that follow from an object's name: the same after every restart, on every host.

use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv6Net;
use sha2::{Digest as _, Sha256};
use stoke_api::objects::{Nic, Rehearsal};
use stoke_api::{LinkName, MacAddr, ObjectRef};
use uuid::Uuid;

/// Name space of the SMBIOS UUIDs that are made of names (RFC 9562, section 5.5).
const MACHINES: Uuid = Uuid::from_u128(0x8b1f_6c9a_2c1e_4a53_9d0b_5704_57ed_a11c);

fn hash(parts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        // A separator that no name contains: ("a", "bc") and ("ab", "c") differ.
        hasher.update([0]);
    }
    hasher.finalize().into()
}

/// `NAMESPACE/NAME`, the key of farms and images among their kind; the name alone for a cluster-scoped object.
pub fn key(reference: &ObjectRef) -> String {
    match &reference.namespace {
        Some(namespace) => format!("{namespace}/{}", reference.name),
        None => reference.name.to_string(),
    }
}

/// `NAMESPACE.NAME`, a file name. No namespace contains a dot, so that no two objects share one.
pub fn file_name(reference: &ObjectRef) -> String {
    key(reference).replace('/', ".")
}

/// Eight hexadecimal digits that stand for a state folder.
pub fn installation(state: &Path) -> String {
    hex8(&hash(&["installation", &state.to_string_lossy()]))
}

fn hex8(hash: &[u8; 32]) -> String {
    hash.iter().take(4).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

/// The bridge of a LAN.
pub fn bridge(installation: &str, lan: &ObjectRef) -> Option<LinkName> {
    format!("st{}", hex8(&hash(&["lan", installation, &key(lan)]))).parse().ok()
}

/// The link-layer address of a LAN's bridge: locally administered (IEEE 802, section 8.2.2).
pub fn bridge_mac(installation: &str, lan: &ObjectRef) -> MacAddr {
    let mut octets = [0x02; 6];
    let hash = hash(&["lan", installation, &key(lan)]);
    octets.iter_mut().skip(1).zip(hash.iter().skip(4)).for_each(|(octet, byte)| *octet = *byte);
    MacAddr(octets)
}

/// The same of one node of a cluster: two bridges of one segment have not one address.
pub fn node_bridge_mac(installation: &str, lan: &ObjectRef, node: &str) -> MacAddr {
    local_mac(hash(&["bridge", installation, &key(lan), node]))
}

/// The link-layer address of a role's own interface.
pub fn port_mac(installation: &str, workload: &str) -> MacAddr {
    local_mac(hash(&["port", installation, workload]))
}

/// A locally administered address (IEEE 802, section 8.2.2).
fn local_mac(hash: [u8; 32]) -> MacAddr {
    let mut octets = [0x02; 6];
    octets.iter_mut().skip(1).zip(hash).for_each(|(octet, byte)| *octet = byte);
    MacAddr(octets)
}

/// What a LAN's network identifier is made from.
pub(crate) fn vni(lan: &ObjectRef) -> u32 {
    let [a, b, c, ..] = hash(&["vni", &key(lan)]);
    u32::from_be_bytes([0, a, b, c])
}

/// What the port is made from at which a router's pod passes on to a machine's.
pub(crate) fn forward(machine: &ObjectRef, port: &str) -> u16 {
    let [a, b, ..] = hash(&["forward", &key(machine), port]);
    u16::from_be_bytes([a, b])
}

/// The address that an interface makes of a prefix by itself (RFC 4291, appendix A).
pub(crate) fn eui64(prefix: Ipv6Net, mac: MacAddr) -> Ipv6Addr {
    let [first, second, third, fourth, fifth, sixth] = mac.0;
    let host = u64::from_be_bytes([first ^ 2, second, third, 0xff, 0xfe, fourth, fifth, sixth]);
    Ipv6Addr::from(u128::from(prefix.network()) | u128::from(host))
}

/// The address of a machine's interface: its own, else one made from the machine's name in QEMU's range.
pub fn nic_mac(machine: &ObjectRef, nic: &Nic) -> MacAddr {
    let [a, b, c, ..] = hash(&["nic", &key(machine), nic.name.as_str()]);
    nic.mac.unwrap_or(MacAddr([0x52, 0x54, 0x00, a, b, c]))
}

/// The address of the machine in which a farm tries versions.
pub fn rehearsal_mac(farm: &ObjectRef) -> MacAddr {
    let [a, b, c, ..] = hash(&["rehearsal", &key(farm)]);
    MacAddr([0x52, 0x54, 0x00, a, b, c])
}

/// SMBIOS UUID of that machine, which is another one in each rehearsal.
pub fn rehearsal_uuid(farm: &ObjectRef, rehearsal: &Rehearsal) -> String {
    let name = format!("rehearsal {} {} {}", key(farm), rehearsal.number, rehearsal.began_ms);
    Uuid::new_v5(&MACHINES, name.as_bytes()).to_string()
}

/// SMBIOS UUID of a virtual machine: of its uid if the store gave it one, else of its name.
pub fn machine_uuid(machine: &ObjectRef, uid: Option<&str>) -> String {
    let name = uid.map_or_else(|| key(machine), str::to_owned);
    Uuid::new_v5(&MACHINES, name.as_bytes()).to_string()
}

/// The folder of a farm: certificate, key, sessions.
pub fn farm_folder(state: &Path, farm: &ObjectRef) -> PathBuf {
    state.join("farms").join(file_name(farm))
}

/// The folder of a machine: firmware variables, console history.
pub fn machine_folder(state: &Path, machine: &ObjectRef) -> PathBuf {
    state.join("machines").join(file_name(machine))
}

/// The folder of a workload's configuration and sockets.
pub fn workload_folder(run: &Path, workload: &str) -> PathBuf {
    run.join("workloads").join(workload)
}
