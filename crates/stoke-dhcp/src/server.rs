//! Who gets which address, and what is answered: RFC 2131 section 4.3, in each of the [modes](crate::Mode).
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
//!
//! With [`Mode::Proxy`] none of this holds: see `proxy`.

use std::net::Ipv4Addr;

use stoke_api::MacAddr;
use stoke_api::objects::Pool;

use crate::config::{Config, Mode, Reservation, Subnet};
use crate::lease::{Lease, Leases, Record};
use crate::offers::Offers;
use crate::reserved::Index;
use crate::wire::{MessageType, Request};

/// How long an offered address waits for the client's request, in seconds.
const HOLD: u64 = 30;
/// How long an address rests that somebody unknown uses, in seconds.
pub(crate) const DECLINED: u64 = 600;
/// The shortest lease that a client can ask for, in seconds.
const SHORTEST_LEASE: u32 = 60;

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
    /// Back to the address and port that the request came from.
    Back,
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

/// The server.
#[derive(Debug)]
pub struct Server {
    pub(crate) config: Config,
    pub(crate) reserved: Index,
    pub(crate) leases: Leases,
    pub(crate) offers: Offers,
    /// Where and when a search for a free address found none, so that others do not look there in the same second.
    pub(crate) full: Option<(Option<Ipv4Addr>, u64)>,
}

impl Server {
    /// A server that goes on from these records.
    pub fn new(config: Config, records: impl IntoIterator<Item = Record>) -> Self {
        let mut leases = Leases::default();
        records.into_iter().for_each(|record| leases.apply(record));
        let reserved = Index::new(&config.reservations);
        Self { config, reserved, leases, offers: Offers::default(), full: None }
    }

    /// Goes over to another configuration. Leases stay; only one that rested on a reservation which is gone, on an
    /// address which is now another's, ends at once: the operator has said whose it is. What to write down.
    pub fn reconfigure(&mut self, config: Config, now: u64) -> Vec<Record> {
        self.reserved = Index::new(&config.reservations);
        self.config = config;
        self.full = None;
        // Who is known without its interfaces may come by any.
        let other = |host: &Reservation, lease: &Lease| !host.macs.is_empty() && !host.macs.contains(&lease.mac);
        let displaced =
            |lease: &&Lease| lease.reserved && self.reserved_by(lease.address).is_some_and(|host| other(host, lease));
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
        let pooling = |subnet: &&Subnet| match self.config.mode {
            Mode::Authoritative => true,
            Mode::Relayed => subnet.relayed,
            Mode::Reservations | Mode::Proxy => false,
        };
        let pools = || self.config.subnets.iter().filter(pooling).flat_map(|subnet| &subnet.pools);
        let outside = self.reserved.addresses().filter(|address| !pools().any(|pool| pool.contains(*address))).count();
        let outside = if self.config.mode == Mode::Proxy { 0 } else { u32::try_from(outside).unwrap_or(u32::MAX) };
        pools().map(Pool::size).fold(outside, u32::saturating_add)
    }

    /// The reservation of the client, if an object names it.
    pub fn reservation(&self, request: &Request) -> Option<&Reservation> {
        self.reservation_index(request).and_then(|index| self.config.reservations.get(index))
    }

    /// Its index in [`Config::reservations`].
    pub fn reservation_index(&self, request: &Request) -> Option<usize> {
        self.reserved.find(&self.config.reservations, request)
    }

    /// Answers a request that came from `source` at `now`, in seconds since 1970.
    pub fn handle(&mut self, request: &Request, source: Ipv4Addr, boot: Option<&BootOptions>, now: u64) -> Answer {
        if self.config.mode == Mode::Proxy {
            return self.assist(request, boot);
        }
        if !self.serves(request) {
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

    /// Whether the client is one that this server has to do with.
    fn serves(&self, request: &Request) -> bool {
        let behind_relay = |subnet: &Subnet| subnet.relayed && subnet.cidr.contains(&request.client);
        let ours = match self.config.mode {
            Mode::Authoritative => true,
            Mode::Reservations => self.reserved_address(request).is_some(),
            Mode::Relayed => request.is_relayed() || self.config.subnets.iter().any(behind_relay),
            Mode::Proxy => false,
        };
        ours && self.subnets_of(request).next().is_some()
    }

    fn discover(&mut self, request: &Request, boot: Option<&BootOptions>, now: u64) -> Answer {
        let Some(address) = self.choose(request, now) else {
            return Answer { exhausted: true, ..Answer::default() };
        };
        self.offers.hold(address, request.mac, now + HOLD);
        let reply = self.grant(request, MessageType::Offer, address, Ipv4Addr::UNSPECIFIED, boot);
        Answer { kind: Some(MessageType::Offer), reply, address: Some(address), ..Answer::default() }
    }

    fn request(&mut self, request: &Request, source: Ipv4Addr, boot: Option<&BootOptions>, now: u64) -> Answer {
        if let Some(chosen) = request.server() {
            if !self.is_own(request, chosen) {
                // It took another server's offer (RFC 2131 section 3.1, step 4).
                self.offers.take_back(request.mac);
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

    /// Whether a server identifier means this server.
    pub(crate) fn is_own(&self, request: &Request, server: Ipv4Addr) -> bool {
        request.server_override() == Some(server) || self.config.own_addresses().any(|own| own == server)
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
        self.offers.take_back(request.mac);
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
            let offered = self.offers.holder(*address, now) == Some(request.mac);
            offered || self.leases.at(*address).is_some_and(|lease| lease.mac == request.mac)
        });
        let Some(address) = address else { return Answer::default() };
        self.offers.take_back(request.mac);
        let record = self.record(Record::Declined { address, until: now + DECLINED });
        Answer { address: Some(address), ..record }
    }

    fn release(&mut self, request: &Request, now: u64) -> Answer {
        match self.leases.at(request.client) {
            Some(lease) if lease.mac == request.mac && lease.expires > now => {
                let record = Record::Leased(Lease { expires: now, ..lease.clone() });
                self.full = None;
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

    pub(crate) fn lease_time(&self, request: &Request) -> u32 {
        let wanted = request.lease_time().unwrap_or(self.config.lease_time);
        wanted.max(SHORTEST_LEASE).min(self.config.lease_time)
    }
}
