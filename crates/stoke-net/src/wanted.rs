//! What a host should have: LANs, each with its bridge, addresses and uplinks.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use stoke_api::agent::{AgentLan, Overlay};
use stoke_api::names::{LinkName, MacAddr};
use stoke_api::workload::LanPlan;

use crate::label::{Installation, Label, LanKey, LinkRole};
use crate::names;

/// All LANs of an installation on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whose they are.
    pub installation: Installation,
    /// The LANs.
    pub lans: Vec<Lan>,
    /// The interface that leads out of the namespace.
    pub way_out: LinkName,
}

/// One LAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lan {
    /// Its name.
    pub key: LanKey,
    /// Its bridge.
    pub bridge: LinkName,
    /// Link-layer address of the bridge: fixed, or it would follow the ports.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u16,
    /// The router's addresses.
    pub addresses: BTreeSet<Ipv4Net>,
    /// The router's IPv6 address, if the LAN has any beside link-local ones.
    pub address6: Option<Ipv6Net>,
    /// Whether what goes out is masqueraded; if not, nothing goes out.
    pub masquerade: bool,
    /// Interfaces of the host that join, by their names there.
    pub uplinks: BTreeSet<LinkName>,
    /// What joins it with its bridges on other nodes.
    pub overlay: Option<Tunnel>,
    /// Whether the namespace itself is a station of the LAN, the router's. On one node of several it is not: its bridge
    /// has no address of any kind, and passes frames on.
    pub hosted: bool,
}

/// A VXLAN to the same LAN on other nodes (RFC 7348).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// What cannot be changed once it is there.
    pub path: TunnelPath,
    /// The other nodes.
    pub peers: BTreeSet<IpAddr>,
}

/// Where a tunnel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelPath {
    /// Network identifier.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// This node's own address, if one was asked for.
    pub local: Option<IpAddr>,
}

impl From<&Overlay> for Tunnel {
    fn from(overlay: &Overlay) -> Self {
        let Overlay { vni, port, local, peers } = overlay;
        let path = TunnelPath { vni: *vni, port: *port, local: Some(*local) };
        // A node that is told to be its own peer would hear its own frames again.
        Self { path, peers: peers.iter().copied().filter(|peer| peer != local).collect() }
    }
}

impl Lan {
    /// The bridge's label.
    pub fn label(&self, installation: &Installation) -> Label {
        Label { installation: installation.clone(), lan: self.key.clone(), role: LinkRole::Bridge }
    }

    /// The name of its tunnel: `sx-` and a hash of its label.
    pub fn tunnel_name(&self, installation: &Installation) -> LinkName {
        names::hashed("sx-", &self.tunnel_label(installation).to_string())
    }

    /// The tunnel's label.
    pub fn tunnel_label(&self, installation: &Installation) -> Label {
        Label { installation: installation.clone(), lan: self.key.clone(), role: LinkRole::Overlay }
    }

    /// The LAN on the node of this name, one of several. Its bridge has a link-layer address of its own: the router's,
    /// which a plan for one host has, is that of a station elsewhere.
    pub fn on_node(lan: &AgentLan, node: &str) -> Self {
        let mut of_plan = Self::from(&lan.plan);
        of_plan.mac = names::station(&format!("bridge {} {node}", of_plan.key));
        Self {
            overlay: lan.overlay.as_ref().map(Tunnel::from),
            hosted: false,
            addresses: BTreeSet::new(),
            address6: None,
            masquerade: false,
            ..of_plan
        }
    }

    /// Every address of the bridge: the router's, and the link-local one that router advertisements come from.
    pub fn bridge_addresses(&self, ipv6: bool) -> BTreeSet<IpNet> {
        if !self.hosted {
            return BTreeSet::new();
        }
        let mut addresses: BTreeSet<IpNet> = self.addresses.iter().copied().map(IpNet::V4).collect();
        addresses.extend(ipv6.then(|| link_local(self.mac)));
        addresses.extend(self.address6.filter(|_| ipv6).map(IpNet::V6));
        addresses
    }
}

impl From<&LanPlan> for Lan {
    fn from(plan: &LanPlan) -> Self {
        Self {
            key: LanKey::of(&plan.lan),
            bridge: plan.bridge.clone(),
            mac: plan.mac,
            mtu: plan.mtu,
            addresses: plan.addresses.iter().copied().collect(),
            address6: plan.address6,
            masquerade: plan.masquerade,
            uplinks: plan.uplinks.iter().cloned().collect(),
            overlay: None,
            hosted: true,
        }
    }
}

/// The link-local address that the kernel makes from a MAC (RFC 4291, appendix A), so that both are the same one.
fn link_local(mac: MacAddr) -> IpNet {
    let mac = mac.0.iter().fold(0_u64, |mac, octet| mac << 8 | u64::from(*octet));
    let (organisation, device) = (mac >> 24, mac & 0xff_ffff);
    let interface = organisation << 40 | 0xff_fe00_0000 | device;
    // The universal/local bit is turned over.
    let interface = interface ^ 0x0200_0000_0000_0000;
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from(0xfe80_u128 << 112 | u128::from(interface)), 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_local_address_is_the_kernels() {
        assert_eq!(link_local(MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56])).to_string(), "fe80::5054:ff:fe12:3456/64");
    }
}
