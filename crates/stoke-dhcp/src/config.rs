//! What the server gives out, to whom.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use stoke_api::MacAddr;
use stoke_api::objects::Pool;

use crate::wire::Request;

/// How the server behaves towards others that may be there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It is the only one: everybody gets an address, wrong addresses are refused.
    #[default]
    Authoritative,
    /// Only clients with an address of their own are answered.
    Reservations,
    /// Only what came through relays is answered, and clients behind them that renew.
    Relayed,
    /// Another one gives the addresses; this one adds what machines boot (PXE specification 2.1, section 2.2).
    Proxy,
}

/// What the server gives out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// How it behaves.
    pub mode: Mode,
    /// Subnets: of the LAN, all on one segment, and of others behind relays.
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

impl Config {
    /// The server's own addresses.
    pub fn own_addresses(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.subnets.iter().filter(|subnet| !subnet.relayed).map(|subnet| subnet.gateway)
    }
}

/// One subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// Network and prefix length.
    pub cidr: Ipv4Net,
    /// The server's own address in it; of a subnet behind a relay, that of its router.
    pub gateway: Ipv4Addr,
    /// Whether the gateway is the way out.
    pub default_route: bool,
    /// Whether it lies behind a relay.
    pub relayed: bool,
    /// Ranges for clients without an address of their own.
    pub pools: Vec<Pool>,
}

impl Subnet {
    /// Whether a machine can have the address. The pool of a subnet without broadcast (`/31`, RFC 3021) is all of it.
    pub(crate) fn is_host(&self, address: Ipv4Addr) -> bool {
        let whole = self.cidr.prefix_len() >= 31;
        let end = [self.cidr.network(), self.cidr.broadcast()].contains(&address);
        self.cidr.contains(&address) && address != self.gateway && (whole || !end)
    }

    /// Whether a client without an address of its own can have the address.
    pub(crate) fn pools(&self, address: Ipv4Addr) -> bool {
        self.is_host(address) && self.pools.iter().any(|pool| pool.contains(address))
    }
}

/// A client that an object names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservation {
    /// Its interfaces.
    pub macs: Vec<MacAddr>,
    /// Its UUID, in the order of the text form.
    pub uuid: Option<[u8; 16]>,
    /// What it calls itself (option 61).
    pub client_id: Option<ClientId>,
    /// The port of the switch or relay that it is behind (option 82).
    pub circuit_id: Option<Vec<u8>>,
    /// Whether all of these must be as they are here. Otherwise one is enough.
    pub all: bool,
    /// Its address, if it has one of its own.
    pub address: Option<Ipv4Addr>,
    /// Its name.
    pub hostname: String,
}

/// A client identifier as people write it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ClientId {
    /// The option's bytes.
    Bytes(Vec<u8>),
    /// Text, with or without the leading zero that says so (RFC 2132 section 9.14).
    Text(String),
}

impl ClientId {
    /// From `0x01525400…` or text.
    pub fn parse(text: &str) -> Self {
        bytes(text).map_or_else(|| Self::Text(text.to_owned()), Self::Bytes)
    }

    /// The option's bytes that it may be.
    pub(crate) fn forms(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Bytes(bytes) => vec![bytes.clone()],
            Self::Text(text) => vec![text.as_bytes().to_vec(), [&[0], text.as_bytes()].concat()],
        }
    }
}

/// The bytes of `0x…`; `None` if the text is none of these.
pub fn bytes(text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix("0x")?.as_bytes();
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok();
    // Numbers may have a sign; identifiers may not.
    let whole = rest.is_empty() && digits.iter().all(u8::is_ascii_hexdigit);
    whole.then(|| pairs.iter().map(byte).collect())?
}

impl Reservation {
    /// Whether the request is this client's.
    pub(crate) fn is_of(&self, request: &Request) -> bool {
        let mac = (!self.macs.is_empty()).then(|| self.macs.contains(&request.mac));
        let uuid = self.uuid.map(|_| self.has_uuid(request));
        let id = self
            .client_id
            .as_ref()
            .map(|id| request.client_id().is_some_and(|sent| id.forms().contains(&sent.to_vec())));
        let circuit = self.circuit_id.as_ref().map(|id| request.circuit_id().as_ref() == Some(id));
        let mut said = [mac, uuid, id, circuit].into_iter().flatten().peekable();
        if self.all { said.peek().is_some() && said.all(|same| same) } else { said.any(|same| same) }
    }

    /// Whether it is known by its interfaces alone.
    pub(crate) fn is_by_mac(&self) -> bool {
        self.uuid.is_none() && self.client_id.is_none() && self.circuit_id.is_none()
    }

    /// Firmware differs on the order of a UUID's first three fields, so either is taken.
    fn has_uuid(&self, request: &Request) -> bool {
        let same = |uuid: [u8; 16]| self.uuid == Some(uuid) || self.uuid == Some(swapped(uuid));
        self.uuid.is_some() && request.uuid().is_some_and(same)
    }
}

/// The UUID with its first three fields in the other byte order (SMBIOS 3.6, section 7.2.1).
pub(crate) fn swapped(mut uuid: [u8; 16]) -> [u8; 16] {
    for field in [0..4, 4..6, 6..8] {
        uuid.get_mut(field).unwrap_or_default().reverse();
    }
    uuid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_bytes_or_text() {
        assert_eq!(ClientId::parse("0x01Ff"), ClientId::Bytes(vec![1, 255]));
        for text in ["rack-7", "0x1", "0xzz", "0x+1"] {
            assert_eq!(ClientId::parse(text), ClientId::Text(text.to_owned()));
        }
        assert_eq!(ClientId::parse("a").forms(), [vec![b'a'], vec![0, b'a']]);
    }
}
