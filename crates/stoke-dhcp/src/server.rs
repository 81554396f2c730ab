//! Who gets which address, and what is answered: RFC 2131 section 4.3 for a server that is the only one of its LAN.
//!
//! ```text
//!  DISCOVER                    choose an address, hold it for HOLD        -> OFFER
//!  REQUEST for our offer       lease it, if it is still the client's      -> ACK, else NAK
//!  REQUEST after a reboot      the address that `choose` gives is theirs  -> ACK, else NAK
//!  REQUEST to renew or rebind  the client keeps what it has if it may     -> ACK, else NAK
//!  DECLINE                     the address rests for DECLINED             -> nothing
//!  RELEASE                     the lease ends; the address is remembered  -> nothing
//!  INFORM                      options without an address                 -> ACK
//! ```
//!
//! A client that renews keeps its address even if an object now gives it another: machines that run from the network
//! would lose their root. It gets the new one when it boots.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use stoke_api::MacAddr;
use stoke_api::objects::Pool;

use crate::lease::{Lease, Leases, Record};
use crate::wire::{MessageType, Request};

/// How long an offered address waits for the client's request, in seconds.
const HOLD: u64 = 30;
/// How long an address rests that somebody unknown uses, in seconds.
const DECLINED: u64 = 600;
/// The shortest lease that a client can ask for, in seconds.
const SHORTEST_LEASE: u32 = 60;

/// What the server gives out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Subnets of the LAN; all on one segment.
    pub subnets: Vec<Subnet>,
    /// Clients that objects name.
    pub reservations: Vec<Reservation>,
    /// Domain of the LAN.
    pub domain: String,
    /// MTU of the LAN.
    pub mtu: u16,
    /// Length of a lease in seconds.
    pub lease_time: u32,
}

/// One subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Network and prefix length.
    pub cidr: Ipv4Net,
    /// The server's own address in it; it is router and DNS server too.
    pub server: Ipv4Addr,
    /// Whether the server is the way out.
    pub default_route: bool,
    /// Ranges for clients without an address of their own.
    pub pools: Vec<Pool>,
}

/// A client that an object names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Its interfaces.
    pub macs: Vec<MacAddr>,
    /// Its UUID, in the order of the text form.
    pub uuid: Option<[u8; 16]>,
    /// Its address, if it has one of its own.
    pub address: Option<Ipv4Addr>,
    /// Its name.
    pub hostname: String,
}

impl Reservation {
    /// Whether the request has this client's UUID. Firmware differs on the order of its first three fields, so either
    /// is taken.
    fn has_uuid(&self, request: &Request) -> bool {
        let same = |uuid: [u8; 16]| self.uuid == Some(uuid) || self.uuid == Some(swapped(uuid));
        self.uuid.is_some() && request.uuid().is_some_and(same)
    }
}

/// The UUID with its first three fields in the other byte order (SMBIOS 3.6, section 7.2.1).
fn swapped(mut uuid: [u8; 16]) -> [u8; 16] {
    for field in [0..4, 4..6, 6..8] {
        uuid.get_mut(field).unwrap_or_default().reverse();
    }
    uuid
}

/// What a booting client is told besides its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootOptions {
    /// The next server (`siaddr`).
    pub next_server: Option<Ipv4Addr>,
    /// The boot file in the header.
    pub file: Option<String>,
    /// Options by number.
    pub options: Vec<(u8, Vec<u8>)>,
}

/// Where a reply goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// To a relay's server port.
    Relay(Ipv4Addr),
    /// To the client's port by the routing table.
    Routed(Ipv4Addr),
    /// In a frame to this station, since nobody answers ARP for the address yet.
    Link {
        /// The station, or all.
        mac: MacAddr,
        /// The address, or all.
        address: Ipv4Addr,
    },
}

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// UDP payload.
    pub bytes: Vec<u8>,
    /// The server's own address that it comes from.
    pub from: Ipv4Addr,
    /// Where it goes.
    pub to: Destination,
}

/// What a request leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What kind of reply.
    pub kind: Option<MessageType>,
    /// The reply. Not before [`Self::record`] is on disk.
    pub reply: Option<Reply>,
    /// The change to write down; the table has it already.
    pub record: Option<Record>,
    /// The address that the reply is about.
    pub address: Option<Ipv4Addr>,
    /// Whether the client got none because none is left.
    pub exhausted: bool,
}

#[derive(Clone, Copy, Debug)]
struct Offer {
    mac: MacAddr,
    until: u64,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    /// By address, the reservation that has it.
    reserved: BTreeMap<Ipv4Addr, usize>,
    /// By interface, the reservation that names it.
    by_mac: BTreeMap<MacAddr, usize>,
    leases: Leases,
    /// By address. Bounded by the pools: an address is offered to one client at a time.
    offers: BTreeMap<Ipv4Addr, Offer>,
}

impl Server {
    /// A server that goes on from these records.
    pub fn new(config: Config, records: impl IntoIterator<Item = Record>) -> Self {
        let mut leases = Leases::default();
        records.into_iter().for_each(|record| leases.apply(record));
        let (config_none, reserved, by_mac) = (Config::default(), BTreeMap::new(), BTreeMap::new());
        let mut server = Self { config: config_none, reserved, by_mac, leases, offers: BTreeMap::new() };
        server.configure(config);
        server
    }

    fn configure(&mut self, config: Config) {
        let addresses = config.reservations.iter().enumerate();
        self.reserved = addresses.filter_map(|(index, host)| host.address.map(|address| (address, index))).collect();
        let macs = config.reservations.iter().enumerate();
        self.by_mac = macs.flat_map(|(index, host)| host.macs.iter().map(move |mac| (*mac, index))).collect();
        self.config = config;
    }

    /// Goes over to another configuration. Leases stay; only one that rested on a reservation which is gone, on an
    /// address which is now another's, ends at once: the operator has said whose it is. What to write down.
    pub fn reconfigure(&mut self, config: Config, now: u64) -> Vec<Record> {
        self.configure(config);
        let displaced = |lease: &&Lease| {
            let other = self.reserved_by(lease.address).is_some_and(|host| !host.macs.contains(&lease.mac));
            lease.reserved && other
        };
        let forgotten = |lease: &Lease| Record::Forgotten(lease.address);
        let records = self.leases.current(now).filter(displaced).map(forgotten).collect::<Vec<_>>();
        records.iter().cloned().for_each(|record| self.leases.apply(record));
        records
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The table.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Number of addresses that could be given out.
    pub fn capacity(&self) -> u32 {
        let pools = || self.config.subnets.iter().flat_map(|subnet| &subnet.pools);
        let outside = self.reserved.keys().filter(|address| !pools().any(|pool| pool.contains(**address))).count();
        pools().map(Pool::size).fold(u32::try_from(outside).unwrap_or(u32::MAX), u32::saturating_add)
    }

    /// The reservation of the client, if an object names it.
    pub fn reservation(&self, request: &Request) -> Option<&Reservation> {
        self.reservation_index(request).and_then(|index| self.config.reservations.get(index))
    }

    /// Its index in [`Config::reservations`]. By link-layer address before UUID: there are boards that all have the same.
    pub fn reservation_index(&self, request: &Request) -> Option<usize> {
        let by_uuid = || self.config.reservations.iter().position(|host| host.has_uuid(request));
        self.by_mac.get(&request.mac).copied().or_else(by_uuid)
    }

    /// Answers a request that came from `source` at `now`, in seconds since 1970.
    pub fn handle(&mut self, request: &Request, source: Ipv4Addr, boot: Option<&BootOptions>, now: u64) -> Answer {
        if self.subnets_of(request).next().is_none() {
            return Answer::default();
        }
        match request.kind {
            MessageType::Discover => self.discover(request, boot, now),
            MessageType::Request => self.request(request, source, boot, now),
            MessageType::Decline => self.decline(request, now),
            MessageType::Release => self.release(request, now),
            MessageType::Inform => self.inform(request, source, boot),
            MessageType::Offer | MessageType::Ack | MessageType::Nak => Answer::default(),
        }
    }

    fn discover(&mut self, request: &Request, boot: Option<&BootOptions>, now: u64) -> Answer {
        let Some(address) = self.choose(request, now) else {
            return Answer { exhausted: true, ..Answer::default() };
        };
        self.offers.retain(|_, offer| offer.mac != request.mac && offer.until > now);
        self.offers.insert(address, Offer { mac: request.mac, until: now + HOLD });
        let reply = self.grant(request, MessageType::Offer, address, Ipv4Addr::UNSPECIFIED, boot);
        Answer { kind: Some(MessageType::Offer), reply, address: Some(address), ..Answer::default() }
    }

    fn request(&mut self, request: &Request, source: Ipv4Addr, boot: Option<&BootOptions>, now: u64) -> Answer {
        if let Some(chosen) = request.server() {
            if !self.config.subnets.iter().any(|subnet| subnet.server == chosen) {
                // It took another server's offer (RFC 2131 section 3.1, step 4).
                self.offers.retain(|_, offer| offer.mac != request.mac);
                return Answer::default();
            }
            let wanted = request.requested().unwrap_or(request.client);
            let theirs = self.grantable(request, wanted, now);
            return self.conclude(request, wanted, theirs, source, boot, now);
        }
        if request.client.is_unspecified() {
            // INIT-REBOOT. The reserved address goes before the remembered one.
            let wanted = request.requested().unwrap_or(Ipv4Addr::UNSPECIFIED);
            let own = self.reserved_address(request).filter(|own| self.grantable(request, *own, now));
            let theirs = own.is_none_or(|own| own == wanted) && self.grantable(request, wanted, now);
            return self.conclude(request, wanted, theirs, source, boot, now);
        }
        let theirs = self.keeps(request, request.client, now) || self.grantable(request, request.client, now);
        self.conclude(request, request.client, theirs, source, boot, now)
    }

    fn conclude(
        &mut self,
        request: &Request,
        address: Ipv4Addr,
        theirs: bool,
        source: Ipv4Addr,
        boot: Option<&BootOptions>,
        now: u64,
    ) -> Answer {
        if !theirs {
            let reply = self.refuse(request, address);
            return Answer { kind: Some(MessageType::Nak), reply, address: Some(address), ..Answer::default() };
        }
        self.offers.retain(|_, offer| offer.mac != request.mac);
        let lease = Lease {
            address,
            mac: request.mac,
            expires: now + u64::from(self.lease_time(request)),
            reserved: self.reserved_address(request) == Some(address),
            hostname: request.host_name(),
        };
        let record = Record::Leased(lease);
        self.leases.apply(record.clone());
        let reply = self.grant(request, MessageType::Ack, address, source, boot);
        Answer { kind: Some(MessageType::Ack), reply, record: Some(record), address: Some(address), exhausted: false }
    }

    fn decline(&mut self, request: &Request, now: u64) -> Answer {
        let address = request.requested().filter(|address| {
            let offered = self.offers.get(address).is_some_and(|offer| offer.mac == request.mac);
            offered || self.leases.at(*address).is_some_and(|lease| lease.mac == request.mac)
        });
        let Some(address) = address else { return Answer::default() };
        self.offers.remove(&address);
        self.record(Record::Declined { address, until: now + DECLINED })
    }

    fn release(&mut self, request: &Request, now: u64) -> Answer {
        match self.leases.at(request.client) {
            Some(lease) if lease.mac == request.mac && lease.expires > now => {
                let record = Record::Leased(Lease { expires: now, ..lease.clone() });
                self.record(record)
            }
            _ => Answer::default(),
        }
    }

    fn record(&mut self, record: Record) -> Answer {
        self.leases.apply(record.clone());
        Answer { record: Some(record), ..Answer::default() }
    }

    fn inform(&self, request: &Request, source: Ipv4Addr, boot: Option<&BootOptions>) -> Answer {
        if request.client.is_unspecified() {
            return Answer::default();
        }
        let reply = self.grant(request, MessageType::Ack, request.client, source, boot);
        Answer { kind: Some(MessageType::Ack), reply, address: Some(request.client), ..Answer::default() }
    }

    /// The address for a client: its own by an object, its last one, the one it asks for, any.
    fn choose(&self, request: &Request, now: u64) -> Option<Ipv4Addr> {
        let own = self.reserved_address(request);
        let last = self.leases.of(request.mac).map(|lease| lease.address);
        let known = [own, last, request.requested()].into_iter().flatten();
        let known = known.into_iter().find(|address| self.grantable(request, *address, now));
        known.or_else(|| self.unused(request, now))
    }

    /// An address of the pools that nobody ever had, the search beginning where the client's hash says, so that it
    /// mostly gets the same one even from a server without memory; else the one whose lease is over longest.
    fn unused(&self, request: &Request, now: u64) -> Option<Ipv4Addr> {
        let pools = || self.subnets_of(request).flat_map(|subnet| &subnet.pools);
        let size = pools().map(Pool::size).fold(0, u32::saturating_add);
        let mut hasher = DefaultHasher::new();
        request.mac.hash(&mut hasher);
        let start = u32::try_from(hasher.finish() % u64::from(size.max(1))).unwrap_or(0);
        let candidates = (start..size).chain(0..start).filter_map(|index| nth(pools(), index));
        let free = candidates.filter(|address| self.grantable(request, *address, now));
        let mut oldest: Option<(u64, Ipv4Addr)> = None;
        for address in free {
            let Some(lease) = self.leases.at(address) else { return Some(address) };
            if oldest.is_none_or(|(expires, _)| lease.expires < expires) {
                oldest = Some((lease.expires, address));
            }
        }
        oldest.map(|(_, address)| address)
    }

    /// Whether the client can be given the address.
    fn grantable(&self, request: &Request, address: Ipv4Addr, now: u64) -> bool {
        let own = self.reserved_address(request) == Some(address);
        let subnet = self.subnets_of(request).find(|subnet| is_host(subnet, address));
        let pooled = subnet.is_some_and(|subnet| subnet.pools.iter().any(|pool| pool.contains(address)));
        let of_other = !own && self.reserved.contains_key(&address);
        (pooled || (own && subnet.is_some())) && !of_other && self.is_free(request.mac, address, now)
    }

    /// Whether the client has the address and may go on with it.
    fn keeps(&self, request: &Request, address: Ipv4Addr, now: u64) -> bool {
        let has = self.leases.at(address).is_some_and(|lease| lease.mac == request.mac && lease.expires > now);
        let of_other = self.reserved_address(request) != Some(address) && self.reserved.contains_key(&address);
        has && !of_other && self.subnets_of(request).any(|subnet| is_host(subnet, address))
    }

    fn is_free(&self, mac: MacAddr, address: Ipv4Addr, now: u64) -> bool {
        let leased = self.leases.at(address).is_some_and(|lease| lease.mac != mac && lease.expires > now);
        let offered = self.offers.get(&address).is_some_and(|offer| offer.mac != mac && offer.until > now);
        !leased && !offered && !self.leases.is_declined(address, now)
    }

    fn reserved_by(&self, address: Ipv4Addr) -> Option<&Reservation> {
        self.reserved.get(&address).and_then(|index| self.config.reservations.get(*index))
    }

    fn reserved_address(&self, request: &Request) -> Option<Ipv4Addr> {
        self.reservation(request).and_then(|host| host.address)
    }

    /// The subnets that a client can be in: that of its relay, or all of the segment.
    pub(crate) fn subnets_of(&self, request: &Request) -> impl Iterator<Item = &Subnet> {
        let link = request.link();
        self.config.subnets.iter().filter(move |subnet| link.is_none_or(|link| subnet.cidr.contains(&link)))
    }

    pub(crate) fn lease_time(&self, request: &Request) -> u32 {
        let wanted = request.lease_time().unwrap_or(self.config.lease_time);
        wanted.max(SHORTEST_LEASE).min(self.config.lease_time)
    }
}

/// Whether a machine can have the address in the subnet. The pool of a subnet without broadcast (`/31`, RFC 3021) is
/// all of it.
fn is_host(subnet: &Subnet, address: Ipv4Addr) -> bool {
    let whole = subnet.cidr.prefix_len() >= 31;
    let end = [subnet.cidr.network(), subnet.cidr.broadcast()].contains(&address);
    subnet.cidr.contains(&address) && address != subnet.server && (whole || !end)
}

/// The address at an index of several pools in a row.
fn nth<'a>(pools: impl Iterator<Item = &'a Pool>, mut index: u32) -> Option<Ipv4Addr> {
    for pool in pools {
        if index < pool.size() {
            return Some(Ipv4Addr::from(u32::from(pool.first) + index));
        }
        index -= pool.size();
    }
    None
}
