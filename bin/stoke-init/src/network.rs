//! The network: the interface that booted gets its link, its address by DHCP and its route.
//!
//! [`connect`] never gives up, because without network there is nothing to fall back to, but it says what it waits for.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use stoke_api::MacAddr;

use crate::dhcp::{Action, Client, Destination, Identity, Lease};
use crate::journal::Journal;
use crate::kernel_fs::attribute;
use crate::modules::Loader;
use crate::netlink::{CREATE, Message, REPLACE, Socket as Netlink};

/// How often links are looked at while none has answered.
const LOOK: Duration = Duration::from_millis(50);
/// How often the console is told what is missing.
const TELL: Duration = Duration::from_secs(10);
/// How long the interface named by `BOOTIF=` may take to appear before the others are tried as well.
const BOOT_INTERFACE_PATIENCE: Duration = Duration::from_secs(15);
const CLIENT_PORT: u16 = 68;
const SERVER_PORT: u16 = 67;

/// An Ethernet interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) index: u32,
    pub(crate) mac: MacAddr,
}

/// The interface that has an address, and which.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    pub(crate) interface: Interface,
    pub(crate) lease: Lease,
    /// When the lease began.
    pub(crate) since: Instant,
}

/// All Ethernet interfaces of the machine.
pub(crate) fn interfaces() -> Vec<Interface> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut found: Vec<_> = entries.filter_map(|entry| interface(&entry.file_name().to_string_lossy())).collect();
    found.sort_by_key(|interface| interface.index);
    found
}

/// None if it is none of Ethernet (`ARPHRD_ETHER`) with an address of its own.
fn interface(name: &str) -> Option<Interface> {
    let of = |file: &str| attribute(format!("/sys/class/net/{name}/{file}"));
    let mac: MacAddr = of("address").parse().ok().filter(|mac: &MacAddr| mac.is_unicast())?;
    let index = of("ifindex").parse().ok()?;
    (of("type") == "1").then(|| Interface { name: name.to_owned(), index, mac })
}

/// Brings an interface up and asks for an address until there is one.
pub(crate) fn connect(wanted: &Wanted, loader: &mut Loader, journal: &Journal) -> Result<Connected> {
    let mut netlink = Netlink::route()?;
    if let Ok(index) = attribute("/sys/class/net/lo/ifindex").parse() {
        set_up(&mut netlink, index).context("loopback")?;
    }
    let mut search = Search { wanted, talks: Vec::new(), up: Vec::new(), began: Instant::now(), told: Instant::now() };
    loop {
        search.look(&mut netlink, journal);
        if search.talks.is_empty() {
            // Some devices take their time to appear.
            loader.load_for_hardware();
        }
        if let Some((interface, lease)) = search.talk(journal) {
            configure(&mut netlink, &interface, &lease)?;
            return Ok(Connected { interface, lease, since: Instant::now() });
        }
    }
}

/// What is looked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The interface that the firmware booted from, if it is known.
    pub(crate) boot_interface: Option<MacAddr>,
    /// For DHCP.
    pub(crate) uuid: Option<[u8; 16]>,
    /// Whether a lease without a farm will do.
    pub(crate) any_offer: bool,
}

struct Search<'a> {
    wanted: &'a Wanted,
    talks: Vec<Talk>,
    up: Vec<u32>,
    began: Instant,
    told: Instant,
}

impl Search<'_> {
    /// Brings up what is new and starts to talk where there is a carrier.
    fn look(&mut self, netlink: &mut Netlink, journal: &Journal) {
        let candidates = self.candidates();
        for interface in &candidates {
            if !self.up.contains(&interface.index) {
                self.up.push(interface.index);
                if let Err(error) = set_up(netlink, interface.index) {
                    journal.say(&format!("network: could not bring {} up: {error:#}", interface.name));
                }
            }
            let talks = self.talks.iter().any(|talk| talk.interface.index == interface.index);
            if !talks && attribute(format!("/sys/class/net/{}/carrier", interface.name)) == "1" {
                match Talk::start(interface.clone(), self.wanted) {
                    Ok(talk) => self.talks.push(talk),
                    Err(error) => journal.say(&format!("network: {}: {error:#}", interface.name)),
                }
            }
        }
        if self.told.elapsed() > TELL {
            self.told = Instant::now();
            journal.say(&missing(&candidates, &self.talks, self.wanted, self.began.elapsed()));
        }
    }

    fn candidates(&self) -> Vec<Interface> {
        let all = interfaces();
        let booted: Vec<_> = all.iter().filter(|one| Some(one.mac) == self.wanted.boot_interface).cloned().collect();
        let patient = self.wanted.boot_interface.is_some() && self.began.elapsed() < BOOT_INTERFACE_PATIENCE;
        if booted.is_empty() && !patient { all } else { booted }
    }

    /// Lets every conversation go on until the next look.
    fn talk(&mut self, journal: &Journal) -> Option<(Interface, Lease)> {
        let mut wake = Instant::now() + LOOK;
        for talk in &mut self.talks {
            match talk.advance() {
                Ok(Step::Bound(lease)) => return Some((talk.interface.clone(), *lease)),
                Ok(Step::Lost) => (),
                Ok(Step::Wait(until)) => wake = wake.min(until),
                // For example a link that went down: the client repeats.
                Err(error) => journal.say(&format!("network: {}: {error:#}", talk.interface.name)),
            }
        }
        wait(self.talks.iter().map(|talk| &talk.socket), wake);
        None
    }
}

/// Why there is no network yet, for the console.
fn missing(candidates: &[Interface], talks: &[Talk], wanted: &Wanted, since: Duration) -> String {
    let seconds = since.as_secs();
    if candidates.is_empty() {
        return match wanted.boot_interface {
            Some(mac) => {
                format!("network: no interface {mac} since {seconds} s (BOOTIF=; is its driver in the image?)")
            }
            None => format!("network: no interface since {seconds} s (is its driver in the image?)"),
        };
    }
    let state = |interface: &Interface| {
        let talks = talks.iter().any(|talk| talk.interface.index == interface.index);
        format!("{} {}", interface.name, if talks { "no DHCP answer" } else { "no carrier" })
    };
    format!("network: since {seconds} s: {}", candidates.iter().map(state).collect::<Vec<_>>().join(", "))
}

/// The conversation with DHCP servers on one interface.
#[derive(Debug)]
pub(crate) struct Talk {
    interface: Interface,
    socket: UdpSocket,
    client: Client,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Step {
    Bound(Box<Lease>),
    Lost,
    Wait(Instant),
}

impl Talk {
    fn start(interface: Interface, wanted: &Wanted) -> Result<Self> {
        let identity = Identity { mac: interface.mac, uuid: wanted.uuid };
        let client = Client::start(identity, transaction(), wanted.any_offer, Instant::now());
        Ok(Self { socket: socket(&interface.name)?, interface, client })
    }

    /// Goes on with a lease that there is.
    pub(crate) fn keep(interface: Interface, uuid: Option<[u8; 16]>, lease: Lease, since: Instant) -> Result<Self> {
        let identity = Identity { mac: interface.mac, uuid };
        let client = Client::with_lease(identity, transaction(), lease, since);
        Ok(Self { socket: socket(&interface.name)?, interface, client })
    }

    /// Hears what came and says what is due. Does not wait.
    pub(crate) fn advance(&mut self) -> Result<Step> {
        let mut buffer = [0; 1500];
        while let Some(length) = received(self.socket.recv(&mut buffer))? {
            self.client.heard(buffer.get(..length).unwrap_or_default(), Instant::now());
        }
        loop {
            match self.client.poll(Instant::now()) {
                Action::Send(packet, to) => self.send(&packet, to)?,
                Action::Bound(lease) => return Ok(Step::Bound(lease)),
                Action::Lost => return Ok(Step::Lost),
                Action::WaitUntil(until) => return Ok(Step::Wait(until)),
            }
        }
    }

    /// Waits for a packet, at most until then.
    pub(crate) fn wait(&self, until: Instant) {
        wait(std::iter::once(&self.socket), until);
    }

    fn send(&self, packet: &[u8], to: Destination) -> Result<()> {
        let address = match to {
            Destination::Broadcast => Ipv4Addr::BROADCAST,
            Destination::Server(server) => server,
        };
        self.socket.send_to(packet, (address, SERVER_PORT)).context("could not send to DHCP servers")?;
        Ok(())
    }
}

/// None if nothing is there to be read.
fn received(result: io::Result<usize>) -> Result<Option<usize>> {
    match result {
        Ok(length) => Ok(Some(length)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error).context("could not hear DHCP servers"),
    }
}

/// A UDP socket that hears broadcasts on this interface before it has an address.
fn socket(interface: &str) -> Result<UdpSocket> {
    let open = || -> io::Result<UdpSocket> {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_reuse_address(true)?;
        socket.set_broadcast(true)?;
        socket.bind_device(Some(interface.as_bytes()))?;
        socket.bind(&SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, CLIENT_PORT).into())?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    open().context("could not open a socket for DHCP")
}

fn wait<'a>(sockets: impl Iterator<Item = &'a UdpSocket>, until: Instant) {
    let mut ready: Vec<_> = sockets.map(|socket| PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)).collect();
    let timeout = Timespec::try_from(until.saturating_duration_since(Instant::now())).ok();
    // Interrupted or not: the caller looks at what is there.
    let _ = poll(&mut ready, timeout.as_ref());
}

/// A number that another conversation is unlikely to have.
fn transaction() -> u32 {
    let mut bytes = [0; 4];
    // Without entropy yet the clock has to do: the MAC address is compared as well.
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(4) => u32::from_ne_bytes(bytes),
        _ => u32::try_from(crate::journal::uptime_ms() & 0xffff_ffff).unwrap_or_default(),
    }
}

/// Gives an interface what the lease says.
pub(crate) fn configure(netlink: &mut Netlink, interface: &Interface, lease: &Lease) -> Result<()> {
    let context = || format!("could not configure {}", interface.name);
    if let Some(mtu) = lease.mtu {
        netlink.request(&mtu_message(interface.index, mtu)).with_context(context)?;
    }
    netlink.request(&address_message(NEW_ADDRESS, interface.index, lease)).with_context(context)?;
    if let Some(router) = lease.router {
        netlink.request(&route_message(interface.index, router)).with_context(context)?;
    }
    Ok(())
}

/// Takes an address away that a new lease does not have any more.
pub(crate) fn remove(netlink: &mut Netlink, interface: &Interface, lease: &Lease) -> Result<()> {
    netlink.request(&address_message(DELETE_ADDRESS, interface.index, lease)).map(drop)
}

/// `RTM_NEWLINK`, `RTM_NEWADDR`, `RTM_DELADDR`, `RTM_NEWROUTE` of Linux' `rtnetlink.h`.
const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const NEW_ROUTE: u16 = 24;
/// `AF_INET`.
const INET: u8 = 2;

fn set_up(netlink: &mut Netlink, index: u32) -> Result<()> {
    // `struct ifinfomsg`: IFF_UP in flags and in the mask of what changes.
    netlink.request(&Message::new(NEW_LINK, 0, &link_body(index, 1))).map(drop)
}

fn mtu_message(index: u32, mtu: u16) -> Message {
    // IFLA_MTU
    Message::new(NEW_LINK, 0, &link_body(index, 0)).with(4, &u32::from(mtu).to_ne_bytes())
}

fn link_body(index: u32, flags: u32) -> Vec<u8> {
    [&[0; 4][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &flags.to_ne_bytes()].concat()
}

fn address_message(kind: u16, index: u32, lease: &Lease) -> Message {
    let fixed = [&[INET, lease.prefix, 0, 0][..], &index.to_ne_bytes()].concat();
    let (address, broadcast) = (lease.address.octets(), broadcast(lease.address, lease.prefix).octets());
    let flags = if kind == NEW_ADDRESS { REPLACE | CREATE } else { 0 };
    // IFA_LOCAL, IFA_ADDRESS, IFA_BROADCAST
    Message::new(kind, flags, &fixed).with(2, &address).with(1, &address).with(4, &broadcast)
}

fn broadcast(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let hosts = u32::MAX.checked_shr(prefix.into()).unwrap_or_default();
    Ipv4Addr::from(u32::from(address) | hosts)
}

/// The default route. RTNH_F_ONLINK, because some networks give a router outside of the address's own prefix.
fn route_message(index: u32, router: Ipv4Addr) -> Message {
    // `struct rtmsg`: RT_TABLE_MAIN, RTPROT_DHCP, RT_SCOPE_UNIVERSE, RTN_UNICAST, flags.
    let fixed = [&[INET, 0, 0, 0, 254, 16, 0, 1][..], &4_u32.to_ne_bytes()].concat();
    // RTA_GATEWAY, RTA_OIF
    let message = Message::new(NEW_ROUTE, REPLACE | CREATE, &fixed);
    message.with(5, &router.octets()).with(4, &index.to_ne_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcast_addresses_of_wide_and_narrow_networks() {
        let address = Ipv4Addr::new(10, 10, 1, 21);
        assert_eq!(broadcast(address, 22), Ipv4Addr::new(10, 10, 3, 255));
        assert_eq!(broadcast(address, 32), address);
        assert_eq!(broadcast(address, 0), Ipv4Addr::BROADCAST);
    }

    #[test]
    fn what_is_missing_is_said() {
        let eth0 = Interface { name: "eth0".into(), index: 2, mac: MacAddr([2, 0, 0, 0, 0, 1]) };
        let wanted = Wanted { boot_interface: None, uuid: None, any_offer: true };
        let since = Duration::from_secs(20);
        assert_eq!(missing(&[eth0], &[], &wanted, since), "network: since 20 s: eth0 no carrier");
        let named = Wanted { boot_interface: Some(MacAddr([2, 0, 0, 0, 0, 9])), ..wanted };
        assert!(missing(&[], &[], &named, since).contains("no interface 02:00:00:00:00:09"));
    }
}
