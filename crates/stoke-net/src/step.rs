//! One change of a host's network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use stoke_api::names::{LinkName, MacAddr};

use crate::firewall::Table;
use crate::label::{Home, Label};
use crate::wanted::TunnelPath;

/// One change. Prints as a line of `stoke plan`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the printed form says it")]
pub enum Step {
    CreateBridge { bridge: LinkName, mac: MacAddr, mtu: u16 },
    CreateTunnel { tunnel: LinkName, path: TunnelPath, mtu: u16 },
    AddPeer { tunnel: LinkName, peer: IpAddr },
    RemovePeer { tunnel: LinkName, peer: IpAddr },
    SetLabel { link: LinkName, label: Label },
    SetMac { link: LinkName, mac: MacAddr },
    SetMtu { link: LinkName, mtu: u16 },
    SetBridgeOptions { bridge: LinkName },
    TrustAddresses { link: LinkName },
    AddAddress { link: LinkName, address: IpNet },
    RemoveAddress { link: LinkName, address: IpNet },
    Up { link: LinkName },
    AddGateway { link: LinkName, gateway: Ipv4Addr },
    Silence { link: LinkName },
    Attach { port: LinkName, bridge: LinkName },
    TakeUplink { interface: LinkName, label: Label },
    ReturnUplink { link: LinkName, interface: LinkName, home: Home },
    Delete { link: LinkName },
    LoadTable { table: Table },
    DeleteTable { name: String },
    Forward,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBridge { bridge, mac, mtu } => write!(f, "create bridge {bridge} ({mac}, mtu {mtu})"),
            Self::CreateTunnel { tunnel, path: TunnelPath { vni, port, local }, mtu } => {
                write!(f, "create vxlan {tunnel} (vni {vni}, udp port {port}, mtu {mtu}")?;
                local.iter().try_for_each(|local| write!(f, ", from {local}"))?;
                f.write_str(")")
            }
            Self::AddPeer { tunnel, peer } => write!(f, "let {tunnel} reach {peer}"),
            Self::RemovePeer { tunnel, peer } => write!(f, "let {tunnel} no longer reach {peer}"),
            Self::SetLabel { link, label } => write!(f, "label {link} as {label}"),
            Self::SetMac { link, mac } => write!(f, "set mac of {link} to {mac}"),
            Self::SetMtu { link, mtu } => write!(f, "set mtu of {link} to {mtu}"),
            Self::SetBridgeOptions { bridge } => write!(f, "let {bridge} forward at once: no stp, delay or snooping"),
            Self::TrustAddresses { link } => {
                write!(f, "use addresses of {link} without duplicate detection, and none that others advertise")
            }
            Self::AddAddress { link, address } => write!(f, "add {address} to {link}"),
            Self::RemoveAddress { link, address } => write!(f, "remove {address} from {link}"),
            Self::Up { link } => write!(f, "set {link} up"),
            Self::AddGateway { link, gateway } => {
                write!(f, "reach others through {gateway} on {link}, if nothing else does")
            }
            Self::Silence { link } => write!(f, "give {link} no IPv6 of its own"),
            Self::Attach { port, bridge } => write!(f, "attach {port} to {bridge}"),
            Self::TakeUplink { interface, label } => write!(f, "take {interface} from the host for lan {}", label.lan),
            Self::ReturnUplink { link, interface, home } => {
                write!(f, "return {link} to the host as {interface}")?;
                home.addresses.iter().try_for_each(|address| write!(f, " with {address}"))
            }
            Self::Delete { link } => write!(f, "delete {link}"),
            Self::LoadTable { table } => write!(f, "load {table}"),
            Self::DeleteTable { name } => write!(f, "delete nftables table {name}"),
            Self::Forward => f.write_str("forward packets between the namespace's links"),
        }
    }
}
