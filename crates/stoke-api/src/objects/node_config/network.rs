//! Names, addresses and interfaces of a node.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::check::{At, host_name};
use crate::names::{LinkName, MacAddr};

/// A line of `/etc/hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostEntry {
    /// The address.
    pub address: IpAddr,
    /// Its names, the full one first.
    pub names: Vec<String>,
}

/// How names are looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DnsClient {
    /// Name servers; those of the DHCP lease if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<IpAddr>,
    /// Domains in which short names are looked up; that of the LAN if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
}

impl DnsClient {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A network interface: one that is there, by its name or its MAC address, or a bond, VLAN or bridge that is made.
///
/// The interface that boots stays up with the address that it has, since the root may come over it: it can be given more
/// addresses and VLANs, and it cannot become part of a bond or bridge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InterfaceSpec {
    /// Its name; of a bond, VLAN or bridge the one that it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<LinkName>,
    /// Its address, in place of its name; of a bond or bridge the one that it gets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Largest packet in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 68, max = 65535))]
    pub mtu: Option<u32>,
    /// Whether it gets an address by DHCP; it does not if absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub dhcp: bool,
    /// Its addresses, each with its prefix: `10.20.0.7/24`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<InterfaceAddress>")]
    pub addresses: Vec<IpNet>,
    /// Where packets to everywhere else go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
    /// It is a bond of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bond: Option<BondSpec>,
    /// It is a VLAN of another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<VlanSpec>,
    /// It is a bridge of others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<BridgeSpec>,
}

/// Stands for an address with its prefix in the schema.
struct InterfaceAddress;

impl JsonSchema for InterfaceAddress {
    fn schema_name() -> Cow<'static, str> {
        "InterfaceAddress".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "description": "An address with its prefix such as 10.20.0.7/24." })
    }
}

/// Several interfaces as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BondSpec {
    /// How packets are spread.
    #[serde(default)]
    pub mode: BondMode,
    /// Its interfaces.
    pub members: Vec<LinkName>,
}

/// How a bond spreads packets (Linux' `Documentation/networking/bonding.rst`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BondMode {
    /// One interface works, the others wait.
    #[default]
    ActiveBackup,
    /// All work, as the switch agrees by LACP.
    Lacp,
    /// In turn.
    BalanceRr,
    /// By a hash of the addresses.
    BalanceXor,
    /// Everything over all.
    Broadcast,
    /// Sent by load.
    BalanceTlb,
    /// Sent and received by load.
    BalanceAlb,
}

/// A VLAN of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VlanSpec {
    /// Its tag.
    #[schemars(range(min = 1, max = 4094))]
    pub id: u16,
    /// The interface that carries it.
    pub parent: LinkName,
}

/// Several interfaces on one segment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BridgeSpec {
    /// Its interfaces.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<LinkName>,
}

impl InterfaceSpec {
    /// What names it: its name, else its address.
    pub fn key(&self) -> String {
        let name = self.interface.as_ref().map(ToString::to_string);
        name.or_else(|| self.mac.map(|mac| mac.to_string())).unwrap_or_default()
    }

    /// Whether it is made and not there by itself.
    pub fn is_virtual(&self) -> bool {
        self.bond.is_some() || self.vlan.is_some() || self.bridge.is_some()
    }

    /// The interfaces that it takes: those of a bond or bridge.
    pub fn members(&self) -> &[LinkName] {
        let bridge = self.bridge.as_ref().map(|bridge| bridge.members.as_slice());
        self.bond.as_ref().map(|bond| bond.members.as_slice()).or(bridge).unwrap_or_default()
    }
}

impl HostEntry {
    pub(super) fn check(&self, at: &mut At<'_>) {
        if self.names.is_empty() {
            at.problem("names", "name at least one name of this address");
        }
        for (index, name) in self.names.iter().enumerate().filter(|(_, name)| !host_name(name)) {
            at.problem(format!("names[{index}]"), format!("{name:?} is no host name"));
        }
    }
}

impl DnsClient {
    pub(super) fn check(&self, at: &mut At<'_>) {
        for (index, domain) in self.search.iter().enumerate().filter(|(_, domain)| !host_name(domain)) {
            at.problem(format!("search[{index}]"), format!("{domain:?} is no domain"));
        }
    }
}

impl InterfaceSpec {
    pub(super) fn check(&self, at: &mut At<'_>) {
        let kinds = [self.bond.is_some(), self.vlan.is_some(), self.bridge.is_some()];
        match (&self.interface, self.mac) {
            (None, None) => at.problem("", "say which: interface: NAME, or mac: ADDRESS"),
            (None, Some(_)) if self.is_virtual() => at.problem("interface", "name the interface that is made"),
            (Some(_), Some(_)) if !self.is_virtual() => {
                at.problem("mac", "an interface that is there is known by its name or by its address, not by both");
            }
            _ => {}
        }
        if kinds.into_iter().filter(|kind| *kind).count() > 1 {
            at.problem("", "it is one of bond, vlan and bridge");
        }
        if self.bond.as_ref().is_some_and(|bond| bond.members.is_empty()) {
            at.problem("bond.members", "name at least one interface");
        }
        self.check_values(at);
    }

    fn check_values(&self, at: &mut At<'_>) {
        if let Some(mtu) = self.mtu.filter(|mtu| !(68..=65535).contains(mtu)) {
            at.problem("mtu", format!("{mtu} is not between 68 and 65535"));
        }
        if let Some(vlan) = self.vlan.as_ref().filter(|vlan| !(1..=4094).contains(&vlan.id)) {
            at.problem("vlan.id", format!("{} is not between 1 and 4094", vlan.id));
        }
        if let Some(mac) = self.mac.filter(|mac| !mac.is_unicast()) {
            at.problem("mac", format!("{mac} is no address of one interface (it is a group's, or all zeroes)"));
        }
        if let Some(gateway) = self.gateway.filter(|gateway| !self.addresses.iter().any(|net| net.contains(gateway))) {
            at.problem("gateway", format!("{gateway} is in no network of this interface's addresses"));
        }
        let list = if self.bond.is_some() { "bond.members" } else { "bridge.members" };
        at.unique(list, "", self.members().iter().map(ToString::to_string));
        if self.members().iter().any(|member| Some(member) == self.interface.as_ref()) {
            at.problem(list, "it is a part of itself");
        }
    }
}
