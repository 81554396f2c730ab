//! What the kernel has.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use stoke_api::names::{LinkName, MacAddr};

use super::KernelError;
use crate::label::Label;
use crate::netlink::Netlink;
use crate::observed::{BridgeOptions, HostLink, Link, LinkKind, Manners};
use crate::sysctl;
use crate::wanted::TunnelPath;

/// Links by name, with addresses and labels.
pub(super) fn links(netlink: &mut Netlink) -> Result<BTreeMap<LinkName, Link>, KernelError> {
    let messages = link_messages(netlink)?;
    let names: BTreeMap<u32, LinkName> = messages.iter().filter_map(|m| Some((m.header.index, name(m)?))).collect();
    let mut addresses = addresses(netlink)?;
    let mut peers = peers(netlink)?;
    let mut links = BTreeMap::new();
    for message in &messages {
        // A name that is none by our rules cannot be one of ours.
        let Some(name) = names.get(&message.header.index) else { continue };
        let addresses = addresses.remove(&message.header.index).unwrap_or_default();
        let manners = manners(name).map_err(|error| KernelError::Read("switches", error))?;
        let mut link = link(message, &names, addresses, manners);
        link.peers = peers.remove(&message.header.index).unwrap_or_default();
        links.insert(name.clone(), link);
    }
    Ok(links)
}

/// Links as a host shows them to who wants to take one.
pub(super) fn host_links(netlink: &mut Netlink) -> Result<BTreeMap<LinkName, HostLink>, KernelError> {
    let default_routes = default_routes(netlink)?;
    let describe = |message: &LinkMessage| {
        let default_route = default_routes.contains(&message.header.index);
        let loopback = message.header.flags.contains(LinkFlags::Loopback);
        Some((name(message)?, HostLink { default_route, loopback }))
    };
    Ok(link_messages(netlink)?.iter().filter_map(describe).collect())
}

fn link_messages(netlink: &mut Netlink) -> Result<Vec<LinkMessage>, KernelError> {
    let answers = netlink.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()));
    let answers = answers.map_err(|error| KernelError::Read("links", error))?;
    let link = |answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(message),
        _ => None,
    };
    Ok(answers.into_iter().filter_map(link).collect())
}

/// Where tunnels send what is for nobody in particular: their entries for the address of all zeroes.
fn peers(netlink: &mut Netlink) -> Result<BTreeMap<u32, BTreeSet<IpAddr>>, KernelError> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    let answers = netlink.dump(&RouteNetlinkMessage::GetNeighbour(message));
    let answers = answers.map_err(|error| KernelError::Read("forwarding tables", error))?;
    let mut peers: BTreeMap<u32, BTreeSet<IpAddr>> = BTreeMap::new();
    for answer in answers {
        if let RouteNetlinkMessage::NewNeighbour(message) = answer
            && let Some(peer) = peer(&message)
        {
            peers.entry(message.header.ifindex).or_default().insert(peer);
        }
    }
    Ok(peers)
}

fn peer(message: &NeighbourMessage) -> Option<IpAddr> {
    let everyone = NeighbourAttribute::LinkLayerAddress(vec![0; 6]);
    if !message.header.flags.contains(NeighbourFlags::Own) || !message.attributes.contains(&everyone) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => address_of(bytes),
        _ => None,
    })
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    v4.or_else(|| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from))
}

fn addresses(netlink: &mut Netlink) -> Result<BTreeMap<u32, BTreeSet<IpNet>>, KernelError> {
    let answers = netlink.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()));
    let answers = answers.map_err(|error| KernelError::Read("addresses", error))?;
    let mut addresses: BTreeMap<u32, BTreeSet<IpNet>> = BTreeMap::new();
    for answer in answers {
        if let RouteNetlinkMessage::NewAddress(message) = answer
            && let Some(address) = address(&message)
        {
            addresses.entry(message.header.index).or_default().insert(address);
        }
    }
    Ok(addresses)
}

/// The address of the link itself: `IFA_LOCAL`, which IPv6 does not have.
fn address(message: &AddressMessage) -> Option<IpNet> {
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let own = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    IpNet::new(local.or(own)?, message.header.prefix_len).ok()
}

/// Links that default routes of either family lead through.
fn default_routes(netlink: &mut Netlink) -> Result<BTreeSet<u32>, KernelError> {
    let mut links = BTreeSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let answers = netlink.dump(&RouteNetlinkMessage::GetRoute(message));
        let answers = answers.map_err(|error| KernelError::Read("routes", error))?;
        let routes = answers.iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(route) => Some(route),
            _ => None,
        });
        links.extend(routes.filter(|route| is_default(route)).flat_map(outgoing));
    }
    Ok(links)
}

fn is_default(route: &RouteMessage) -> bool {
    let RouteHeader { destination_prefix_length, kind, table, .. } = route.header;
    destination_prefix_length == 0 && kind == RouteType::Unicast && table == RouteHeader::RT_TABLE_MAIN
}

/// The links of a route: one, or those of its next hops.
fn outgoing(route: &RouteMessage) -> Vec<u32> {
    let links = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => vec![*index],
        RouteAttribute::MultiPath(hops) => hops.iter().map(|hop| hop.interface_index).collect(),
        _ => Vec::new(),
    };
    route.attributes.iter().flat_map(links).collect()
}

pub(super) fn name(message: &LinkMessage) -> Option<LinkName> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => name.parse().ok(),
        _ => None,
    })
}

pub(super) fn alias(message: &LinkMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias.as_str()),
        _ => None,
    })
}

pub(super) fn is_up(message: &LinkMessage) -> bool {
    message.header.flags.contains(LinkFlags::Up)
}

/// Addresses that were given to the link. Link-local ones the kernel makes itself.
pub(super) fn own_addresses(netlink: &mut Netlink, link: &LinkMessage) -> Result<Vec<IpNet>, KernelError> {
    let all = addresses(netlink)?.remove(&link.header.index).unwrap_or_default();
    let given = |address: &IpNet| !matches!(address, IpNet::V6(network) if network.addr().is_unicast_link_local());
    Ok(all.into_iter().filter(given).collect())
}

/// The MTU of the link that has an address.
pub(super) fn mtu_of(netlink: &mut Netlink, address: IpAddr) -> Result<Option<u32>, KernelError> {
    let has = |(_, addresses): &(u32, BTreeSet<IpNet>)| addresses.iter().any(|own| own.addr() == address);
    let Some((index, _)) = addresses(netlink)?.into_iter().find(has) else { return Ok(None) };
    let links = link_messages(netlink)?;
    let link = links.iter().find(|message| message.header.index == index);
    Ok(link.into_iter().flat_map(|message| &message.attributes).find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    }))
}

/// A link by name.
pub(super) fn find(netlink: &mut Netlink, wanted: &LinkName) -> Result<LinkMessage, KernelError> {
    let links = link_messages(netlink)?;
    let found = links.into_iter().find(|message| name(message).as_ref() == Some(wanted));
    found.ok_or_else(|| KernelError::NoLink(wanted.clone()))
}

fn link(message: &LinkMessage, names: &BTreeMap<u32, LinkName>, addresses: BTreeSet<IpNet>, manners: Manners) -> Link {
    let mut link = Link {
        kind: kind(message),
        mac: MacAddr([0; 6]),
        mtu: 0,
        up: is_up(message),
        label: alias(message).and_then(Label::parse),
        master: None,
        addresses,
        manners,
        peers: BTreeSet::new(),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::Address(octets) => {
                link.mac = MacAddr(octets.as_slice().try_into().unwrap_or_default());
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.master = names.get(index).cloned(),
            _ => {}
        }
    }
    link
}

fn kind(message: &LinkMessage) -> LinkKind {
    let infos = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos.as_slice()),
        _ => None,
    });
    let infos = infos.unwrap_or_default();
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    match kind {
        Some(InfoKind::Bridge) => LinkKind::Bridge(bridge_options(infos)),
        Some(InfoKind::Tun) => LinkKind::Tap,
        Some(InfoKind::Vxlan) => LinkKind::Tunnel(tunnel_path(infos)),
        Some(InfoKind::Veth) => LinkKind::Veth,
        _ => LinkKind::Other,
    }
}

fn tunnel_path(infos: &[LinkInfo]) -> TunnelPath {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data.as_slice()),
        _ => None,
    });
    let mut path = TunnelPath { vni: 0, port: 0, local: None };
    for option in data.unwrap_or_default() {
        match option {
            InfoVxlan::Id(vni) => path.vni = *vni,
            InfoVxlan::Port(port) => path.port = *port,
            InfoVxlan::Local(address) => path.local = Some(IpAddr::V4(*address)),
            InfoVxlan::Local6(address) => path.local = Some(IpAddr::V6(*address)),
            _ => {}
        }
    }
    path
}

fn bridge_options(infos: &[LinkInfo]) -> BridgeOptions {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Bridge(data)) => Some(data.as_slice()),
        _ => None,
    });
    let mut options = BridgeOptions::default();
    for option in data.unwrap_or_default() {
        match option {
            InfoBridge::StpState(state) => options.stp = *state != BridgeStpState::Disabled,
            InfoBridge::ForwardDelay(delay) => options.forward_delay = *delay,
            InfoBridge::MulticastSnooping(on) => options.multicast_snooping = *on,
            _ => {}
        }
    }
    options
}

/// A switch that is missing means a link without IPv6: there is nothing to switch off.
fn manners(link: &LinkName) -> io::Result<Manners> {
    let is = |switch, value| sysctl::is(&sysctl::of_link(link, switch), value).map(|is| is.unwrap_or(true));
    Ok(Manners { trusts_addresses: is("accept_dad", "0")? && is("accept_ra", "0")?, silent: is("disable_ipv6", "1")? })
}
