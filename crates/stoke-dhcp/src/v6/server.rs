//! Who gets which address, and what is answered: RFC 8415 section 18.3 for a server that is the only one of its LAN.
//!
//! ```text
//!  SOLICIT                  the address that follows from the client    -> ADVERTISE, or REPLY with rapid commit
//!  REQUEST, RENEW, REBIND   the same; other addresses end (lifetime 0)  -> REPLY
//!  CONFIRM                  whether its addresses are of this link      -> REPLY
//!  INFORMATION-REQUEST      everything but an address                   -> REPLY
//!  RELEASE                  the address is forgotten                    -> REPLY
//!  DECLINE                  the address rests for DECLINED              -> REPLY
//! ```

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use stoke_api::MacAddr;

use crate::v6::identity::Identity;
use crate::v6::reply::Lifetimes;
use crate::v6::wire::{Association, MessageType, Packet, associations, option};

/// How long an address rests that somebody unknown uses, in seconds.
const DECLINED_FOR: u64 = 3600;
/// Addresses that rest at a time.
const DECLINED: usize = 256;
/// Addresses in the row of one client.
const ATTEMPTS: u8 = 8;
/// Clients that are remembered.
const BINDINGS: usize = 4096;

/// What the server gives out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The server's own identifier (DUID), the same after a restart.
    pub duid: Vec<u8>,
    /// The prefix of the LAN, 64 bits long.
    pub prefix: Ipv6Net,
    /// The server's own address; it is the DNS server too.
    pub server: Ipv6Addr,
    /// Domain of the LAN.
    pub domain: String,
}

/// What a booting client is told besides its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// What it loads (option 59).
    pub url: String,
    /// Whether it loads by HTTP, and looks for an answer that says so in its vendor class (UEFI 2.10, section 24.7.3.1).
    pub http: bool,
}

/// A client that has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The address.
    pub address: Ipv6Addr,
    /// The client, if its link-layer address is known.
    pub mac: Option<MacAddr>,
    /// The client's own idea of its name.
    pub hostname: Option<String>,
    /// When it ends unless it is renewed, in seconds since 1970.
    pub expires: u64,
}

/// What a request leads to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// What kind of reply.
    pub kind: Option<MessageType>,
    /// The reply's bytes, for where the request came from.
    pub reply: Option<Vec<u8>>,
    /// The addresses that the reply is about.
    pub addresses: Vec<Ipv6Addr>,
}

/// The server.
#[derive(Debug)]
pub struct Server {
    config: Config,
    bindings: BTreeMap<Ipv6Addr, Binding>,
    /// By address, until when it rests.
    declined: BTreeMap<Ipv6Addr, u64>,
}

impl Server {
    /// A server. It needs to know nothing of the one before it.
    pub fn new(config: Config) -> Self {
        Self { config, bindings: BTreeMap::new(), declined: BTreeMap::new() }
    }

    /// Goes over to another configuration. Clients keep their addresses if the prefix is the same; else the next renewal
    /// ends the old ones.
    pub fn reconfigure(&mut self, config: Config) {
        self.bindings.retain(|address, _| config.prefix.contains(address));
        self.config = config;
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Clients that have an address.
    pub fn bindings(&self, now: u64) -> impl Iterator<Item = &Binding> {
        self.bindings.values().filter(move |binding| binding.expires > now)
    }

    /// Answers a request of `client` at `now`, in seconds since 1970.
    pub fn handle(&mut self, packet: &Packet, client: &Identity, boot: Option<&Boot>, now: u64) -> Answer {
        let elsewhere = packet.link().is_some_and(|link| !self.config.prefix.contains(&link));
        if elsewhere || !self.is_valid(packet, client) {
            return Answer::default();
        }
        match packet.kind {
            MessageType::Solicit if packet.options.get(option::RAPID_COMMIT).is_none() => {
                let granted = self.choose(packet, client, now);
                self.grant(packet, MessageType::Advertise, &granted, boot)
            }
            MessageType::Solicit | MessageType::Request | MessageType::Renew | MessageType::Rebind => {
                let granted = self.choose(packet, client, now);
                self.bind(packet, client, &granted, now);
                self.grant(packet, MessageType::Reply, &granted, boot)
            }
            MessageType::InformationRequest => self.inform(packet, boot),
            MessageType::Confirm => self.confirm(packet),
            MessageType::Release => {
                self.theirs(packet, client, now).iter().for_each(|address| drop(self.bindings.remove(address)));
                self.conclude(packet, "released")
            }
            MessageType::Decline => {
                self.theirs(packet, client, now).into_iter().for_each(|address| self.decline(address, now));
                self.conclude(packet, "it rests")
            }
            MessageType::Advertise | MessageType::Reply => Answer::default(),
        }
    }

    /// Section 16: which identifiers a message must have and must not have.
    fn is_valid(&self, packet: &Packet, client: &Identity) -> bool {
        let server = packet.options.get(option::SERVER_ID);
        let ours = server == Some(self.config.duid.as_slice());
        match packet.kind {
            MessageType::Solicit | MessageType::Confirm | MessageType::Rebind => {
                !client.duid.is_empty() && server.is_none()
            }
            MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline => {
                !client.duid.is_empty() && ours
            }
            MessageType::InformationRequest => {
                (server.is_none() || ours) && packet.options.get(option::IA_NA).is_none()
            }
            MessageType::Advertise | MessageType::Reply => false,
        }
    }

    /// The associations of a message with the address of each; none if all of its row rest.
    fn choose(&self, packet: &Packet, client: &Identity, now: u64) -> Vec<(Association, Option<Ipv6Addr>)> {
        let associations = associations(&packet.options).into_iter().enumerate();
        let with_address = |(index, association): (usize, Association)| {
            let key = client.key(index, association.id);
            let free = |address: &Ipv6Addr| self.declined.get(address).is_none_or(|until| *until <= now);
            let address = (0..ATTEMPTS).map(|attempt| derive(self.config.prefix, &key, attempt)).find(free);
            (association, address)
        };
        associations.map(with_address).collect()
    }

    fn bind(&mut self, packet: &Packet, client: &Identity, granted: &[(Association, Option<Ipv6Addr>)], now: u64) {
        for address in granted.iter().filter_map(|(_, address)| *address) {
            let expires = now + u64::from(Lifetimes::OURS.valid);
            let binding = Binding { address, mac: client.mac, hostname: packet.host_name(), expires };
            self.bindings.insert(address, binding);
        }
        if self.bindings.len() > BINDINGS {
            self.bindings.retain(|_, binding| binding.expires > now);
        }
        while self.bindings.len() > BINDINGS {
            let soonest = self.bindings.values().min_by_key(|binding| binding.expires).map(|binding| binding.address);
            soonest.and_then(|address| self.bindings.remove(&address));
        }
    }

    /// The addresses of a message that are the client's.
    fn theirs(&self, packet: &Packet, client: &Identity, now: u64) -> Vec<Ipv6Addr> {
        let chosen = self.choose(packet, client, now).into_iter();
        chosen.filter_map(|(asked, own)| own.filter(|own| asked.addresses.contains(own))).collect()
    }

    fn decline(&mut self, address: Ipv6Addr, now: u64) {
        self.bindings.remove(&address);
        self.declined.retain(|_, until| *until > now);
        if self.declined.len() < DECLINED {
            self.declined.insert(address, now + DECLINED_FOR);
        }
    }
}

/// The address that follows from a key: the `attempt`-th of its row.
fn derive(prefix: Ipv6Net, key: &[u8], attempt: u8) -> Ipv6Addr {
    /// The universal/local and group bits: an identifier that was made of no link-layer address has neither (RFC 4291
    /// section 2.5.1).
    const FLAGS: u64 = 0x0300_0000_0000_0000;
    let hash = spread(
        key.iter()
            .chain([&attempt])
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)),
    );
    // The first ones are for people: the router's own is one of them.
    let interface = match hash & !FLAGS {
        low @ 0..=0xffff => low | 1 << 32,
        other => other,
    };
    Ipv6Addr::from(u128::from(prefix.network()) | u128::from(interface))
}

/// FNV-1a leaves its high bits alike for keys that are; the finalizer of `SplitMix64` does not. The result must stay the same
/// for ever, or machines would change their addresses: hashers of the standard library do not promise that.
fn spread(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests;
