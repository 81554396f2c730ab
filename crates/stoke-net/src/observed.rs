//! What was found on a host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use stoke_api::names::{LinkName, MacAddr};

use crate::firewall::Table;
use crate::label::{Installation, Label, LinkRole};
use crate::wanted::TunnelPath;

/// A network namespace, as far as it matters to LANs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// All links.
    pub links: BTreeMap<LinkName, Link>,
    /// Links of the host's namespace; `None` if we may not take any, being no root there.
    pub host: Option<BTreeMap<LinkName, HostLink>>,
    /// Whether packets are forwarded between links (IPv4).
    pub forwarding: bool,
    /// Whether the kernel speaks IPv6 here.
    pub ipv6: bool,
    /// The installation's own table.
    pub table: Option<Table>,
}

/// A link of the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it is.
    pub kind: LinkKind,
    /// Link-layer address.
    pub mac: MacAddr,
    /// MTU in bytes.
    pub mtu: u32,
    /// Whether it is set up.
    pub up: bool,
    /// What its alias says, if it is a label.
    pub label: Option<Label>,
    /// The bridge that it is a port of.
    pub master: Option<LinkName>,
    /// Addresses.
    pub addresses: BTreeSet<IpNet>,
    /// What the kernel does by itself on it.
    pub manners: Manners,
    /// Where a tunnel sends what is for nobody in particular.
    pub peers: BTreeSet<IpAddr>,
}

/// What the kernel does by itself on a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manners {
    /// Whether a new IPv6 address is used at once, without asking for duplicates first, and routers of others give none.
    pub trusts_addresses: bool,
    /// Whether the link has no IPv6 of its own.
    pub silent: bool,
}

/// What a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge.
    Bridge(BridgeOptions),
    /// A TAP device.
    Tap,
    /// A VXLAN.
    Tunnel(TunnelPath),
    /// One end of a pair of links.
    Veth,
    /// Anything else.
    Other,
}

/// How a bridge behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeOptions {
    /// Whether it speaks the spanning tree protocol.
    pub stp: bool,
    /// How long a new port only listens, in hundredths of a second.
    pub forward_delay: u32,
    /// Whether it sends multicast only where somebody asked for it.
    pub multicast_snooping: bool,
}

impl BridgeOptions {
    /// How ours behave: a port forwards at once. Snooping would hold back router solicitations and neighbour discovery
    /// of a guest that has just come up until it has joined its groups, and firmware never joins.
    pub const OURS: Self = Self { stp: false, forward_delay: 0, multicast_snooping: false };
}

/// A link of the host's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostLink {
    /// Whether the host's own way out is through it.
    pub default_route: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
}

impl Observed {
    /// Links that carry a label of the installation.
    pub fn labelled<'a>(
        &'a self,
        installation: &'a Installation,
    ) -> impl Iterator<Item = (&'a LinkName, &'a Link, &'a Label)> {
        let ours = move |(name, link): (&'a LinkName, &'a Link)| {
            let label = link.label.as_ref().filter(|label| label.installation == *installation)?;
            Some((name, link, label))
        };
        self.links.iter().filter_map(ours)
    }

    /// The link inside of the namespace that has this name on the host.
    pub fn uplink<'a>(
        &'a self,
        installation: &'a Installation,
        host_name: &LinkName,
    ) -> Option<(&'a LinkName, &'a Link, &'a Label)> {
        self.labelled(installation)
            .find(|(_, _, label)| matches!(&label.role, LinkRole::Uplink { interface, .. } if interface == host_name))
    }
}
