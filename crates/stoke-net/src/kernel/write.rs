//! Changing the kernel's links.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    BridgeStpState, InfoBridge, InfoData, InfoKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use stoke_api::names::{LinkName, MacAddr};

use super::{KernelError, read};
use crate::label::{Home, Label, LinkRole};
use crate::netlink::Netlink;
use crate::observed::BridgeOptions;
use crate::step::Step;
use crate::wanted::TunnelPath;

/// Steps that change one link of the namespace.
pub(super) fn link_step(netlink: &mut Netlink, step: &Step) -> Result<(), KernelError> {
    match step {
        Step::CreateBridge { bridge, mac, mtu } => create_bridge(netlink, bridge, *mac, *mtu),
        Step::AddPeer { tunnel, peer } => add_peer(netlink, tunnel, *peer),
        Step::RemovePeer { tunnel, peer } => remove_peer(netlink, tunnel, *peer),
        Step::SetLabel { link, label } => set(netlink, link, LinkAttribute::IfAlias(label.alias())),
        Step::SetMac { link, mac } => set(netlink, link, LinkAttribute::Address(mac.0.to_vec())),
        Step::SetMtu { link, mtu } => set(netlink, link, LinkAttribute::Mtu(u32::from(*mtu))),
        Step::SetBridgeOptions { bridge } => set_bridge_options(netlink, bridge),
        Step::AddAddress { link, address } => add_address(netlink, link, *address),
        Step::RemoveAddress { link, address } => remove_address(netlink, link, *address),
        Step::Up { link } => index(netlink, link).and_then(|index| up(netlink, index)),
        Step::Attach { port, bridge } => {
            let bridge = index(netlink, bridge)?;
            set(netlink, port, LinkAttribute::Controller(bridge))
        }
        Step::AddGateway { link, gateway } => add_gateway(netlink, link, *gateway),
        Step::Delete { link } => delete(netlink, link),
        _ => Err(KernelError::Refused(io::ErrorKind::Unsupported.into())),
    }
}

/// The index of a link that may be missing.
pub(super) fn index_of(netlink: &mut Netlink, name: &str) -> Result<Option<u32>, KernelError> {
    let Ok(name) = name.parse::<LinkName>() else { return Ok(None) };
    match read::find(netlink, &name) {
        Ok(message) => Ok(Some(message.header.index)),
        Err(KernelError::NoLink(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sets a link up.
pub(super) fn up(netlink: &mut Netlink, index: u32) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    change(netlink, RouteNetlinkMessage::SetLink(message), 0)
}

/// Moves an interface from the host's namespace into `namespace`. The label comes first: an alias goes along, so that
/// the interface is known as ours wherever we die.
pub(super) fn take_uplink(
    host: &mut Netlink,
    interface: &LinkName,
    label: &Label,
    namespace: &OwnedFd,
) -> Result<(), KernelError> {
    let found = read::find(host, interface)?;
    let alias = read::alias(&found).unwrap_or_default();
    if Label::parse(alias).is_none_or(|there| there.installation != label.installation) {
        let home =
            Home { up: read::is_up(&found), addresses: read::own_addresses(host, &found)?, alias: alias.to_owned() };
        let role = LinkRole::Uplink { interface: interface.clone(), home };
        let label = Label { role, ..label.clone() };
        set(host, interface, LinkAttribute::IfAlias(label.alias()))?;
    }
    set(host, interface, LinkAttribute::NetNsFd(namespace.as_raw_fd()))
}

/// Moves an interface back to the host's namespace, under the name that it had there.
pub(super) fn return_uplink(
    netlink: &mut Netlink,
    link: &LinkName,
    interface: &LinkName,
    host: &OwnedFd,
) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.header.index = index(netlink, link)?;
    message.attributes.push(LinkAttribute::IfName(interface.to_string()));
    message.attributes.push(LinkAttribute::NetNsFd(host.as_raw_fd()));
    change(netlink, RouteNetlinkMessage::SetLink(message), 0)
}

/// Makes an interface that has returned to the host what it was there. The alias last: as long as it is our label, the
/// rest is tried again.
pub(super) fn settle(host: &mut Netlink, interface: &LinkName, home: &Home) -> Result<(), KernelError> {
    for address in &home.addresses {
        add_address(host, interface, *address)?;
    }
    if home.up {
        let index = index(host, interface)?;
        up(host, index)?;
    }
    set(host, interface, LinkAttribute::IfAlias(home.alias.clone()))
}

fn create_bridge(netlink: &mut Netlink, bridge: &LinkName, mac: MacAddr, mtu: u16) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(bridge.to_string()),
        LinkAttribute::Address(mac.0.to_vec()),
        // A bridge follows the MTU of its ports until its own has been changed once (`br_change_mtu` in Linux'
        // `br_device.c`); what it is made with does not count.
        LinkAttribute::Mtu(u32::from(mtu) - 1),
        LinkAttribute::LinkInfo(our_bridge()),
    ];
    change(netlink, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)?;
    set(netlink, bridge, LinkAttribute::Mtu(u32::from(mtu)))
}

/// Makes a tunnel in `namespace` whose packets are the host's: the kernel takes the namespace of the socket that asks for
/// the one in which the tunnel's own socket is (`rtnl_newlink` in Linux' `rtnetlink.c`), and the device is never seen on
/// the host.
pub(super) fn create_tunnel(
    host: &mut Netlink,
    tunnel: &LinkName,
    path: TunnelPath,
    mtu: u16,
    namespace: &OwnedFd,
) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(tunnel.to_string()),
        LinkAttribute::Mtu(u32::from(mtu)),
        LinkAttribute::NetNsFd(namespace.as_raw_fd()),
        LinkAttribute::LinkInfo(our_tunnel(path)),
    ];
    let made = host.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL);
    made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => KernelError::TunnelTaken { vni: path.vni, port: path.port },
        _ => KernelError::Refused(error),
    })
}

/// Peers are only those that we name. Behind which of them a station is, the kernel learns from its frames: without that,
/// every frame would go to all peers.
fn our_tunnel(TunnelPath { vni, port, local }: TunnelPath) -> Vec<LinkInfo> {
    let local = local.map(|address| match address {
        IpAddr::V4(address) => InfoVxlan::Local(address),
        IpAddr::V6(address) => InfoVxlan::Local6(address),
    });
    let mut data = vec![InfoVxlan::Id(vni), InfoVxlan::Port(port), InfoVxlan::Learning(true)];
    data.extend(local);
    vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))]
}

fn add_peer(netlink: &mut Netlink, tunnel: &LinkName, peer: IpAddr) -> Result<(), KernelError> {
    let message = peer_message(netlink, tunnel, peer)?;
    change(netlink, RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_APPEND)
}

fn remove_peer(netlink: &mut Netlink, tunnel: &LinkName, peer: IpAddr) -> Result<(), KernelError> {
    let message = peer_message(netlink, tunnel, peer)?;
    change(netlink, RouteNetlinkMessage::DelNeighbour(message), 0)
}

/// An entry of the tunnel's own forwarding table for the address of all zeroes: everyone (`vxlan_fdb_add`).
fn peer_message(netlink: &mut Netlink, tunnel: &LinkName, peer: IpAddr) -> Result<NeighbourMessage, KernelError> {
    /// `NUD_NOARP | NUD_PERMANENT`
    const STATE: u16 = 0x40 | 0x80;
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index(netlink, tunnel)?;
    message.header.state = NeighbourState::Other(STATE);
    message.header.flags = NeighbourFlags::Own;
    let destination = match peer {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.attributes =
        vec![NeighbourAttribute::LinkLayerAddress(vec![0; 6]), NeighbourAttribute::Destination(destination)];
    Ok(message)
}

/// A pair of links: `port` here, `far` in the namespace of a pod.
pub(super) fn create_pair(
    netlink: &mut Netlink,
    port: &LinkName,
    far: &LinkName,
    mac: MacAddr,
    mtu: u16,
    pod: BorrowedFd<'_>,
) -> Result<(), KernelError> {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(far.to_string()),
        LinkAttribute::Address(mac.0.to_vec()),
        LinkAttribute::Mtu(u32::from(mtu)),
        LinkAttribute::NetNsFd(pod.as_raw_fd()),
    ];
    let data = InfoData::Veth(InfoVeth::Peer(peer));
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(port.to_string()),
        LinkAttribute::Mtu(u32::from(mtu)),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), LinkInfo::Data(data)]),
    ];
    change(netlink, RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn set_bridge_options(netlink: &mut Netlink, bridge: &LinkName) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.header.index = index(netlink, bridge)?;
    message.attributes = vec![LinkAttribute::LinkInfo(our_bridge())];
    // RTM_SETLINK does not look at IFLA_INFO_DATA; RTM_NEWLINK of an existing link does (`rtnl_changelink`).
    change(netlink, RouteNetlinkMessage::NewLink(message), 0)
}

/// Our way of a bridge. The order counts: the delay may be zero only without spanning tree.
fn our_bridge() -> Vec<LinkInfo> {
    let BridgeOptions { stp, forward_delay, multicast_snooping } = BridgeOptions::OURS;
    let stp = if stp { BridgeStpState::KernelStp } else { BridgeStpState::Disabled };
    let data = vec![
        InfoBridge::StpState(stp),
        InfoBridge::ForwardDelay(forward_delay),
        InfoBridge::MulticastSnooping(multicast_snooping),
    ];
    vec![LinkInfo::Kind(InfoKind::Bridge), LinkInfo::Data(InfoData::Bridge(data))]
}

fn add_address(netlink: &mut Netlink, link: &LinkName, address: IpNet) -> Result<(), KernelError> {
    let mut message = address_message(netlink, link, address)?;
    if let IpNet::V4(network) = address {
        message.attributes.push(AddressAttribute::Broadcast(network.broadcast()));
    }
    // Without duplicate detection the address serves at once, even before the bridge has a port.
    message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Permanent));
    change(netlink, RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_REPLACE)
}

fn remove_address(netlink: &mut Netlink, link: &LinkName, address: IpNet) -> Result<(), KernelError> {
    let message = address_message(netlink, link, address)?;
    change(netlink, RouteNetlinkMessage::DelAddress(message), 0)
}

fn address_message(netlink: &mut Netlink, link: &LinkName, address: IpNet) -> Result<AddressMessage, KernelError> {
    let mut message = AddressMessage::default();
    message.header.index = index(netlink, link)?;
    message.header.prefix_len = address.prefix_len();
    (message.header.family, message.header.scope) = match address.addr() {
        IpAddr::V4(_) => (AddressFamily::Inet, AddressScope::Universe),
        IpAddr::V6(_) => (AddressFamily::Inet6, AddressScope::Link),
    };
    message.attributes = vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    Ok(message)
}

/// A default route that gives way to any other.
fn add_gateway(netlink: &mut Netlink, link: &LinkName, gateway: Ipv4Addr) -> Result<(), KernelError> {
    const LAST: u32 = 1 << 20;
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Gateway(RouteAddress::Inet(gateway)),
        RouteAttribute::Oif(index(netlink, link)?),
        RouteAttribute::Priority(LAST),
    ];
    change(netlink, RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
}

fn delete(netlink: &mut Netlink, link: &LinkName) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.header.index = index(netlink, link)?;
    change(netlink, RouteNetlinkMessage::DelLink(message), 0)
}

fn set(netlink: &mut Netlink, link: &LinkName, attribute: LinkAttribute) -> Result<(), KernelError> {
    let mut message = LinkMessage::default();
    message.header.index = index(netlink, link)?;
    message.attributes.push(attribute);
    change(netlink, RouteNetlinkMessage::SetLink(message), 0)
}

fn index(netlink: &mut Netlink, link: &LinkName) -> Result<u32, KernelError> {
    read::find(netlink, link).map(|message| message.header.index)
}

fn change(netlink: &mut Netlink, message: RouteNetlinkMessage, flags: u16) -> Result<(), KernelError> {
    netlink.change(message, flags).map_err(KernelError::Refused)
}
