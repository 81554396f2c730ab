//! The network namespace of the calling thread, by netlink, sysctl and `nft`.

mod nft;
mod read;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use ipnet::IpNet;
use stoke_api::names::LinkName;

use crate::apply::Links;
use crate::firewall::Table;
use crate::label::{Installation, Label};
use crate::netlink::Netlink;
use crate::observed::{HostLink, Observed};
use crate::step::Step;
use crate::sysctl;
use crate::wanted::Lan;

/// Why the kernel's network could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The kernel refused.
    #[error("the kernel refused")]
    Refused(#[source] io::Error),
    /// What is there could not be read.
    #[error("cannot read the kernel's {0}")]
    Read(&'static str, #[source] io::Error),
    /// A switch could not be set.
    #[error("cannot write {0}")]
    Switch(PathBuf, #[source] io::Error),
    /// The link is not there.
    #[error("there is no link {0}")]
    NoLink(LinkName),
    /// The program that loads packet filters is missing.
    #[error("nft is not installed; install the package nftables")]
    NoNft,
    /// It could not be run.
    #[error("cannot run nft")]
    NftProcess(#[source] io::Error),
    /// It refused.
    #[error("nft refused: {0}")]
    Nft(String),
    /// No free name was found for a port.
    #[error("cannot create a TAP device for {0}")]
    Tap(String, #[source] io::Error),
    /// The device of all TAPs is closed to us.
    #[error("cannot open /dev/net/tun; on other hosts udev opens it to all users: as root, chmod 0666 /dev/net/tun")]
    TapClosed(#[source] io::Error),
    /// Somebody else on the host has a tunnel of the same number.
    #[error(
        "the host has another vxlan with vni {vni} on udp port {port}: give the lan another vni, or the overlay another port"
    )]
    TunnelTaken {
        /// Network identifier.
        vni: u32,
        /// UDP port.
        port: u16,
    },
    /// Uplinks cannot be moved.
    #[error("the host's interfaces cannot be moved, and no tunnel made: its namespace is not at hand")]
    NoHost,
}

/// The host's network namespace, as a process sees that was in it before it joined ours.
#[derive(Debug)]
pub struct HostNamespace {
    netlink: Netlink,
    namespace: OwnedFd,
}

impl HostNamespace {
    /// Holds on to the network namespace that this thread is in.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn of_this_thread() -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()?, namespace: this_namespace()? })
    }
}

/// The namespace's links, addresses, switches and packet filter.
#[derive(Debug)]
pub struct KernelLinks {
    netlink: Netlink,
    namespace: OwnedFd,
    host: Option<HostNamespace>,
}

impl KernelLinks {
    /// The namespace of the calling thread. Uplinks come from `host`, if we may take any.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn open(host: Option<HostNamespace>) -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()?, namespace: this_namespace()?, host })
    }

    /// Sets a link up that is not ours but the namespace's own: loopback.
    ///
    /// # Errors
    /// With the kernel's reason.
    pub fn loopback_up(&mut self) -> Result<(), KernelError> {
        let index = write::index_of(&mut self.netlink, "lo")?.ok_or(io::ErrorKind::NotFound);
        let index = index.map_err(|kind| KernelError::Refused(kind.into()))?;
        write::up(&mut self.netlink, index)
    }

    /// Makes a pair of links: a port here, labelled and not yet attached, and its other end in the namespace of a pod.
    ///
    /// # Errors
    /// With the kernel's reason.
    pub(crate) fn create_pair(
        &mut self,
        port: &LinkName,
        label: &Label,
        far: &Lan,
        pod: BorrowedFd<'_>,
    ) -> Result<(), KernelError> {
        write::create_pair(&mut self.netlink, port, &far.bridge, far.mac, far.mtu, pod)?;
        self.execute(&Step::SetLabel { link: port.clone(), label: label.clone() })
    }

    /// The link that a default route leads through, other than this one.
    ///
    /// # Errors
    /// If the routes cannot be read.
    pub fn way_out(&mut self, other_than: &LinkName) -> Result<Option<LinkName>, KernelError> {
        let links = read::host_links(&mut self.netlink)?;
        Ok(links.into_iter().find(|(name, link)| link.default_route && name != other_than).map(|(name, _)| name))
    }

    /// Whether the namespace has an IPv4 default route through this link.
    ///
    /// # Errors
    /// If the routes cannot be read.
    pub fn leads_out(&mut self, link: &LinkName) -> Result<bool, KernelError> {
        let links = read::host_links(&mut self.netlink)?;
        Ok(links.get(link).is_some_and(|link| link.default_route))
    }
}

/// The interfaces of the calling thread's namespace, as what could become uplinks. Needs no right.
///
/// # Errors
/// If the system refuses.
pub fn host_interfaces() -> Result<BTreeMap<LinkName, HostLink>, KernelError> {
    let netlink = Netlink::open().map_err(|error| KernelError::Read("links", error));
    read::host_links(&mut netlink?)
}

/// The addresses of a link of the calling thread's namespace. Needs no right.
///
/// # Errors
/// If there is no such link, or the system refuses.
pub fn addresses(link: &LinkName) -> Result<Vec<IpNet>, KernelError> {
    let mut netlink = Netlink::open().map_err(|error| KernelError::Read("addresses", error))?;
    let link = read::find(&mut netlink, link)?;
    read::own_addresses(&mut netlink, &link)
}

/// What a frame may hold for it to go whole through an overlay whose packets come from this address of the calling thread's
/// namespace: that link's MTU without what VXLAN puts around a frame (RFC 7348, section 5). `None` if no link has the address.
/// Needs no right.
///
/// # Errors
/// If the system refuses.
pub fn overlay_mtu(address: IpAddr) -> Result<Option<u16>, KernelError> {
    let mut netlink = Netlink::open().map_err(|error| KernelError::Read("addresses", error))?;
    let mtu = read::mtu_of(&mut netlink, address)?;
    // Ethernet 14, VXLAN 8, UDP 8, and the outer packet's header.
    let around = 14 + 8 + 8 + if address.is_ipv4() { 20 } else { 40 };
    Ok(mtu.map(|mtu| u16::try_from(mtu.saturating_sub(around)).unwrap_or(u16::MAX)))
}

fn this_namespace() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

impl Links for KernelLinks {
    type Error = KernelError;

    fn observe(&mut self, installation: &Installation) -> Result<Observed, KernelError> {
        let switch = |error| KernelError::Read("switches", error);
        let host = self.host.as_mut().map(|host| read::host_links(&mut host.netlink)).transpose()?;
        Ok(Observed {
            links: read::links(&mut self.netlink)?,
            host,
            forwarding: sysctl::is(sysctl::FORWARD, "1").map_err(switch)?.unwrap_or(false),
            ipv6: sysctl::ipv6().map_err(switch)?,
            table: nft::list()?.and_then(|listing| Table::find(&Table::name(installation), &listing)),
        })
    }

    fn execute(&mut self, step: &Step) -> Result<(), KernelError> {
        match step {
            Step::LoadTable { table } => nft::load(&table.load()),
            Step::DeleteTable { name } => nft::load(&Table::delete(name)),
            Step::Forward => set(sysctl::FORWARD, "1"),
            Step::TrustAddresses { link } => {
                set(&sysctl::of_link(link, "accept_dad"), "0")?;
                set(&sysctl::of_link(link, "accept_ra"), "0")
            }
            Step::Silence { link } => set(&sysctl::of_link(link, "disable_ipv6"), "1"),
            Step::TakeUplink { interface, label } => {
                let host = self.host.as_mut().ok_or(KernelError::NoHost)?;
                write::take_uplink(&mut host.netlink, interface, label, &self.namespace)
            }
            Step::CreateTunnel { tunnel, path, mtu } => {
                let host = self.host.as_mut().ok_or(KernelError::NoHost)?;
                write::create_tunnel(&mut host.netlink, tunnel, *path, *mtu, &self.namespace)
            }
            Step::ReturnUplink { link, interface, home } => {
                let host = self.host.as_mut().ok_or(KernelError::NoHost)?;
                write::return_uplink(&mut self.netlink, link, interface, &host.namespace)?;
                write::settle(&mut host.netlink, interface, home)
            }
            step => write::link_step(&mut self.netlink, step),
        }
    }
}

fn set(switch: &str, value: &str) -> Result<(), KernelError> {
    sysctl::set(switch, value).map_err(|error| KernelError::Switch(sysctl::path(switch), error))
}
