//! `Lan`: a layer-2 segment with its subnets, DHCP, DNS and way out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{Ipv4Net, Ipv6Net};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{Access, Problem};
use crate::Condition;
use crate::names::{LinkName, MacAddr};

/// A layer-2 segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LanSpec {
    /// Subnets; keyed by `name`.
    pub subnets: Vec<Subnet>,
    /// Who gives addresses.
    #[serde(default)]
    pub dhcp: DhcpSpec,
    /// Names.
    #[serde(default)]
    pub dns: DnsSpec,
    /// The way out.
    #[serde(default)]
    pub egress: Egress,
    /// Network interfaces of the host that join the segment; keyed by `interface`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uplinks: Vec<Uplink>,
    /// IPv6 on the segment; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Spec>,
    /// Maximum transmission unit in bytes.
    #[serde(default = "mtu_1500")]
    #[schemars(range(min = 1280, max = 9216))]
    pub mtu: u16,
    /// How its parts on the nodes of a cluster are one segment.
    #[serde(default, skip_serializing_if = "OverlaySpec::is_default")]
    pub overlay: OverlaySpec,
    /// Whether the segment is somebody else's and is only described here, so that a farm can serve it: no bridge is laid, no
    /// router runs, no machine of ours is on it. Its own DHCP server says where the farm is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub external: bool,
    /// Who may be on it.
    #[serde(default, skip_serializing_if = "Access::is_default")]
    pub access: Access,
}

/// How a segment's parts on the nodes of a cluster are one: a VXLAN between all of them. On one host it says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OverlaySpec {
    /// Its network identifier, which no other segment of the cluster has; one that is free if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 16_777_215))]
    pub vni: Option<u32>,
}

impl OverlaySpec {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn mtu_1500() -> u16 {
    1500
}

/// IPv6 on the segment: an advertised prefix, and DHCPv6 for what machines boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ipv6Spec {
    /// The prefix, 64 bits long, for example `fd00:10::/64`. Its first address is the router's own.
    #[schemars(with = "String", extend("format" = "cidr6"))]
    pub prefix: Ipv6Net,
}

impl Ipv6Spec {
    /// The router's own address.
    pub fn gateway(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.prefix.network()) + 1)
    }
}

/// One IPv4 subnet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subnet {
    /// Its name in this LAN.
    pub name: String,
    /// Network and prefix length, for example `10.10.0.0/24`.
    #[schemars(with = "String", extend("format" = "cidr"))]
    pub cidr: Ipv4Net,
    /// The router's own address; the first one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Ipv4Addr>,
    /// Ranges given to machines that have no address of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pools: Vec<Pool>,
    /// Whether it lies behind a DHCP relay agent. `gateway` is then the address of its own router, not one of ours.
    #[serde(default)]
    pub relayed: bool,
}

impl Subnet {
    /// The router's own address.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway.or_else(|| self.cidr.hosts().next()).unwrap_or(self.cidr.addr())
    }
}

/// A range of addresses, both ends included: `10.10.0.100-10.10.0.199`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pool {
    /// First address.
    pub first: Ipv4Addr,
    /// Last address.
    pub last: Ipv4Addr,
}

impl Pool {
    /// Whether the address is in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }

    /// Number of addresses.
    pub fn size(&self) -> u32 {
        u32::from(self.last) - u32::from(self.first) + 1
    }
}

impl FromStr for Pool {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is not a range of addresses such as 10.10.0.100-10.10.0.199");
        let (first, last) = text.split_once('-').ok_or_else(error)?;
        let parse = |part: &str| part.trim().parse::<Ipv4Addr>().map_err(|_| error());
        let (first, last) = (parse(first)?, parse(last)?);
        if first <= last { Ok(Self { first, last }) } else { Err(format!("{text:?} ends before it begins")) }
    }
}

impl fmt::Display for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl JsonSchema for Pool {
    fn schema_name() -> Cow<'static, str> {
        "Pool".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A range of addresses, both ends included: `10.10.0.100-10.10.0.199`.",
            "pattern": "^[0-9.]+ *- *[0-9.]+$"
        })
    }
}

impl Serialize for Pool {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pool {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Who gives addresses on the LAN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DhcpSpec {
    /// How our server behaves; `Authoritative` if absent, on a LAN with uplinks `Proxy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<DhcpMode>,
    /// Clients that get an address of their own without being a `Server` or a `Machine`; keyed by `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reservations: Vec<Reservation>,
}

/// A client with an address of its own. Whatever of `mac`, `clientId`, `uuid` and `circuitId` is there must match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Reservation {
    /// Its name, in DNS too.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its link-layer address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddr>,
    /// Its client identifier (DHCP option 61): text, or bytes as `0x01525400…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Its SMBIOS UUID (option 97).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// The port of the switch or relay that it is behind (option 82, sub-option 1): text, or bytes as `0x…`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_id: Option<String>,
}

/// How the DHCP server of a LAN behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DhcpMode {
    /// Ours is the only server: it gives addresses from reservations and pools, and boot answers.
    #[default]
    Authoritative,
    /// Another server gives the addresses; ours adds what machines boot (ProxyDHCP).
    Proxy,
    /// Only clients with an address of their own are answered, whatever other servers do.
    Reservations,
    /// Only what relay agents send is answered.
    Relayed,
    /// None of ours.
    Off,
}

/// Names on the LAN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DnsSpec {
    /// Domain of the machines' names; `NAME.internal` with the LAN's name if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Servers that know all other names; the host's own if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub upstreams: Vec<IpAddr>,
}

/// The way out of a LAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Egress {
    /// Behind the router's own address.
    #[default]
    Masquerade,
    /// None: the LAN is alone.
    None,
}

/// A network interface of the host that joins the segment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Uplink {
    /// Its name on the host.
    pub interface: LinkName,
    /// In a cluster, labels of the nodes whose interface it is; all nodes if empty. Two nodes that are on one wire with it make
    /// a loop of that and the overlay.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
}

/// What is known of a LAN.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LanStatus {
    /// Conditions: `Ready`, `AddressesExhausted`, `AddressConflict`, `RogueServer`, `NoBootProgram`.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// The generation that the status is about.
    #[serde(default)]
    pub observed_generation: u64,
    /// The bridge.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub bridge: String,
    /// Addresses given out and not expired.
    #[serde(default)]
    pub leases: u32,
    /// Addresses that pools and reservations could give out.
    #[serde(default)]
    pub capacity: u32,
    /// The network identifier of its overlay, in a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
}

impl LanSpec {
    /// How our DHCP server behaves: beside a server that the uplinks may lead to, unless it is said.
    pub fn dhcp_mode(&self) -> DhcpMode {
        let default = match self.uplinks.is_empty() {
            _ if self.external => DhcpMode::Off,
            true => DhcpMode::Authoritative,
            false => DhcpMode::Proxy,
        };
        self.dhcp.mode.unwrap_or(default)
    }

    /// What is well-formed and still wrong.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = self.access.check();
        if self.overlay.vni.is_some_and(|vni| !(1..1 << 24).contains(&vni)) {
            problems.push(Problem::new("spec.overlay.vni", "a network identifier is between 1 and 16777215"));
        }
        if self.subnets.is_empty() {
            problems.push(Problem::new("spec.subnets", "name at least one subnet: {name: v4, cidr: 10.10.0.0/24}"));
        }
        if !self.subnets.is_empty() && self.subnets.iter().all(|subnet| subnet.relayed) {
            let message = "every subnet is behind a relay: name the one that the LAN itself has, too";
            problems.push(Problem::new("spec.subnets", message));
        }
        if self.external && !self.uplinks.is_empty() {
            let message = "an external LAN is not laid, so nothing joins it: remove the uplinks, or external";
            problems.push(Problem::new("spec.uplinks", message));
        }
        if self.external && self.dhcp_mode() != DhcpMode::Off {
            let message = "an external LAN has its own DHCP server, which names the farm; for one of ours, make the LAN \
                           with uplinks";
            problems.push(Problem::new("spec.dhcp.mode", message));
        }
        for (index, subnet) in self.subnets.iter().enumerate() {
            let earlier = self.subnets.iter().take(index);
            subnet.check(&format!("spec.subnets[{index}]"), earlier, &mut problems);
        }
        if self
            .ipv6
            .as_ref()
            .is_some_and(|ipv6| ipv6.prefix.prefix_len() != 64 || ipv6.prefix.addr() != ipv6.prefix.network())
        {
            problems.push(Problem::new("spec.ipv6.prefix", "the prefix is 64 bits long, for example fd00:10::/64"));
        }
        for (index, reservation) in self.dhcp.reservations.iter().enumerate() {
            let earlier = self.dhcp.reservations.iter().take(index);
            reservation.check(&format!("spec.dhcp.reservations[{index}]"), &self.subnets, earlier, &mut problems);
        }
        problems
    }
}

impl Reservation {
    fn check<'a>(
        &self,
        at: &str,
        subnets: &[Subnet],
        mut earlier: impl Iterator<Item = &'a Self>,
        problems: &mut Vec<Problem>,
    ) {
        if self.mac.is_none() && self.client_id.is_none() && self.uuid.is_none() && self.circuit_id.is_none() {
            problems.push(Problem::new(at, "say whose it is: mac, clientId, uuid or circuitId"));
        }
        if self.uuid.as_ref().is_some_and(|uuid| uuid::Uuid::parse_str(uuid).is_err()) {
            problems.push(Problem::new(format!("{at}.uuid"), "this is no UUID"));
        }
        if !subnets.iter().any(|subnet| subnet.cidr.contains(&self.address)) {
            problems.push(Problem::new(format!("{at}.address"), format!("{} is in no subnet", self.address)));
        }
        if let Some(other) = earlier.find(|other| other.name == self.name || other.address == self.address) {
            let message = format!("{:?} already has this name or address", other.name);
            problems.push(Problem::new(format!("{at}.name"), message));
        }
    }
}

impl Subnet {
    fn check<'a>(&self, at: &str, earlier: impl Iterator<Item = &'a Self>, problems: &mut Vec<Problem>) {
        let mut problem = |field: &str, message: String| problems.push(Problem::new(format!("{at}{field}"), message));
        if self.cidr.addr() != self.cidr.network() {
            problem(".cidr", format!("{} has host bits set; the network is {}", self.cidr, self.cidr.trunc()));
        }
        if self.cidr.prefix_len() > 30 {
            problem(".cidr", format!("{} has no room for machines; a prefix of 30 or less has", self.cidr));
        }
        if !self.cidr.contains(&self.gateway()) {
            problem(".gateway", format!("{} is outside of {}", self.gateway(), self.cidr));
        }
        for (index, pool) in self.pools.iter().enumerate() {
            let inside = self.cidr.contains(&pool.first) && self.cidr.contains(&pool.last);
            if !inside {
                problem(&format!(".pools[{index}]"), format!("{pool} is outside of {}", self.cidr));
            } else if pool.contains(self.gateway()) {
                problem(&format!(".pools[{index}]"), format!("{pool} contains the gateway {}", self.gateway()));
            }
        }
        for other in earlier {
            if other.name == self.name {
                problem(".name", format!("{:?} is already the name of another subnet", self.name));
            }
            if other.cidr.contains(&self.cidr) || self.cidr.contains(&other.cidr) {
                problem(".cidr", format!("{} overlaps {} of subnet {:?}", self.cidr, other.cidr, other.name));
            }
        }
    }
}
