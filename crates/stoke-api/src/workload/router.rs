//! What the router of one LAN is told.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{Architecture, FarmBoot};
use crate::meta::ObjectRef;
use crate::names::{LinkName, MacAddr};
use crate::objects::{DhcpMode, Pool, Reservation};

/// Configuration of `stoke serve router`: one LAN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterConfig {
    /// The `Lan`.
    pub lan: ObjectRef,
    /// Interface that it serves on.
    pub interface: LinkName,
    /// MTU in bytes.
    pub mtu: u16,
    /// Subnets.
    pub subnets: Vec<RouterSubnet>,
    /// How it answers DHCP.
    pub dhcp: DhcpMode,
    /// Clients with addresses of their own that are no machines of ours.
    #[serde(default)]
    pub reservations: Vec<Reservation>,
    /// IPv6 on the LAN.
    #[serde(default)]
    pub ipv6: Option<RouterIpv6>,
    /// Domain of the machines' names.
    pub domain: String,
    /// Servers that know all other names; empty if there are none.
    pub upstreams: Vec<IpAddr>,
    /// Machines that objects name.
    pub hosts: Vec<RouterHost>,
    /// Farms on this LAN, by `NAMESPACE/NAME`.
    pub farms: BTreeMap<String, FarmBoot>,
    /// Journal of leases.
    pub leases: PathBuf,
    /// Ports of machines that it passes on to, in a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// A copy of a journal that a new one begins with, if it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<PathBuf>,
}

/// A port of a machine that a router's pod passes on to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Forward {
    /// The machine.
    pub owner: ObjectRef,
    /// What the machine calls the port.
    pub name: String,
    /// TCP port that the router listens on, outside of the LAN.
    pub listen: u16,
    /// The machine's interface: its address is the host's own, or that of its lease.
    pub mac: MacAddr,
    /// The machine's TCP port.
    pub port: u16,
}

/// Where [`Forward::listen`] lies: no port that clients are given by Linux (`ip_local_port_range`), and none of ours.
pub const FORWARDS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

/// IPv6 as the router needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterIpv6 {
    /// The prefix that it advertises.
    pub prefix: Ipv6Net,
    /// Its own address.
    pub address: Ipv6Addr,
}

/// One subnet as the router needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterSubnet {
    /// The subnet.
    pub cidr: Ipv4Net,
    /// The router's own address in it.
    pub gateway: Ipv4Addr,
    /// Whether machines may use the router as their way out (option 3).
    pub default_route: bool,
    /// Ranges for machines without an address of their own.
    pub pools: Vec<Pool>,
    /// Whether it lies behind a relay agent: `gateway` is then not the router's own address.
    #[serde(default)]
    pub relayed: bool,
}

/// A machine that an object names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterHost {
    /// The object.
    pub owner: ObjectRef,
    /// Its name in DNS, without domain.
    pub hostname: String,
    /// Its interfaces on this LAN.
    pub macs: Vec<MacAddr>,
    /// Its SMBIOS UUID, for clients that change their MAC.
    pub uuid: Option<String>,
    /// Its DHCP client identifier, if it is known by that too: text, or bytes as `0x…`.
    #[serde(default)]
    pub client_id: Option<String>,
    /// Its address, if it has one of its own.
    pub address: Option<Ipv4Addr>,
    /// The farm that feeds it: key of [`RouterConfig::farms`].
    pub farm: Option<String>,
    /// Unified kernel images of the version that it boots, as [`FarmBoot::kernels`]; the farm's if empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kernels: BTreeMap<Architecture, String>,
}
