//! Packets: RFC 8415 section 8 for the messages, section 9 for relays, section 21 for the options.

use std::net::Ipv6Addr;

/// Numbers of the options that the server reads or writes (RFC 8415 unless another is named).
#[expect(missing_docs, reason = "the names say it")]
pub mod option {
    pub const CLIENT_ID: u16 = 1;
    pub const SERVER_ID: u16 = 2;
    pub const IA_NA: u16 = 3;
    pub const IA_TA: u16 = 4;
    pub const IA_ADDRESS: u16 = 5;
    pub const REQUESTED: u16 = 6;
    pub const PREFERENCE: u16 = 7;
    pub const RELAY_MESSAGE: u16 = 9;
    pub const STATUS: u16 = 13;
    pub const RAPID_COMMIT: u16 = 14;
    pub const USER_CLASS: u16 = 15;
    pub const VENDOR_CLASS: u16 = 16;
    pub const VENDOR_OPTIONS: u16 = 17;
    pub const INTERFACE_ID: u16 = 18;
    /// RFC 3646.
    pub const DNS_SERVERS: u16 = 23;
    /// RFC 3646.
    pub const DOMAIN_LIST: u16 = 24;
    pub const IA_PD: u16 = 25;
    pub const REFRESH_TIME: u16 = 32;
    /// RFC 4704.
    pub const CLIENT_FQDN: u16 = 39;
    /// RFC 5970.
    pub const BOOT_FILE_URL: u16 = 59;
    /// RFC 5970.
    pub const BOOT_FILE_PARAMETERS: u16 = 60;
    /// RFC 5970.
    pub const CLIENT_ARCHITECTURE: u16 = 61;
    /// RFC 5970.
    pub const NETWORK_INTERFACE: u16 = 62;
    /// RFC 6939.
    pub const CLIENT_LINK_LAYER: u16 = 79;
}

const RELAY_FORWARD: u8 = 12;
const RELAY_REPLY: u8 = 13;
/// RFC 8415 section 7.6: a message that came through more relays goes round in circles.
const HOP_LIMIT: usize = 8;
/// Options of one message that are looked at. A client sends about ten.
const OPTIONS: usize = 128;

/// Why a packet is no request that a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Cut.
    #[error("packet ends within {0}")]
    Short(&'static str),
    /// A server's message, or an unknown one.
    #[error("message type {0} is not for servers")]
    MessageType(u8),
    /// More than anybody needs.
    #[error("packet has more than {OPTIONS} options")]
    Options,
    /// In circles.
    #[error("packet came through more than {HOP_LIMIT} relays")]
    Relays,
    /// A relay's envelope without content.
    #[error("relay sends no message")]
    Empty,
}

/// Type of a message (RFC 8415 section 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the RFC's names")]
pub enum MessageType {
    Solicit = 1,
    Advertise = 2,
    Request = 3,
    Confirm = 4,
    Renew = 5,
    Rebind = 6,
    Reply = 7,
    Release = 8,
    Decline = 9,
    InformationRequest = 11,
}

impl MessageType {
    fn of_client(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Solicit),
            3 => Some(Self::Request),
            4 => Some(Self::Confirm),
            5 => Some(Self::Renew),
            6 => Some(Self::Rebind),
            8 => Some(Self::Release),
            9 => Some(Self::Decline),
            11 => Some(Self::InformationRequest),
            _ => None,
        }
    }
}

/// Options in their order. One may be there several times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(Vec<(u16, Vec<u8>)>);

impl Options {
    /// Reads options.
    ///
    /// # Errors
    /// If one is cut, or there are too many.
    pub fn parse(mut bytes: &[u8]) -> Result<Self, WireError> {
        let mut options = Vec::new();
        while !bytes.is_empty() {
            let (code, rest) = number(bytes).ok_or(WireError::Short("an option"))?;
            let (data, rest) = counted(rest).ok_or(WireError::Short("an option"))?;
            if options.len() == OPTIONS {
                return Err(WireError::Options);
            }
            options.push((code, data.to_vec()));
            bytes = rest;
        }
        Ok(Self(options))
    }

    /// The first option of this number.
    pub fn get(&self, code: u16) -> Option<&[u8]> {
        self.all(code).next()
    }

    /// All options of this number.
    pub fn all(&self, code: u16) -> impl Iterator<Item = &[u8]> {
        self.0.iter().filter(move |(number, _)| *number == code).map(|(_, data)| data.as_slice())
    }

    /// Adds an option; one that is longer than options can be is left out.
    pub fn push(&mut self, code: u16, data: impl Into<Vec<u8>>) {
        let data = data.into();
        if u16::try_from(data.len()).is_ok() {
            self.0.push((code, data));
        }
    }

    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (code, data) in &self.0 {
            bytes.extend_from_slice(&code.to_be_bytes());
            bytes.extend_from_slice(&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes());
            bytes.extend_from_slice(data);
        }
        bytes
    }
}

/// A number of two bytes, and what follows it.
pub(crate) fn number(bytes: &[u8]) -> Option<(u16, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*number), rest))
}

/// Data behind its length in two bytes, and what follows it.
pub(crate) fn counted(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = number(bytes)?;
    rest.split_at_checked(length.into())
}

/// A relay that a message came through (section 9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// How many relays it had come through before.
    pub hops: u8,
    /// An address of the client's link, or unspecified.
    pub link: Ipv6Addr,
    /// Who the relay had it from.
    pub peer: Ipv6Addr,
    /// What the relay added.
    pub options: Options,
}

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it wants.
    pub kind: MessageType,
    /// Chosen by the client; goes back to it.
    pub xid: [u8; 3],
    /// The options.
    pub options: Options,
    /// The relays that it came through, the one next to the server first.
    pub relays: Vec<Relay>,
}

impl Packet {
    /// Reads a packet.
    ///
    /// # Errors
    /// If it is none that a server answers.
    pub fn parse(packet: &[u8]) -> Result<Self, WireError> {
        let (mut relays, mut bytes) = (Vec::new(), packet.to_vec());
        loop {
            let (kind, rest) = bytes.split_first().ok_or(WireError::Short("the message type"))?;
            if *kind != RELAY_FORWARD {
                let kind = MessageType::of_client(*kind).ok_or(WireError::MessageType(*kind))?;
                let (xid, options) = rest.split_first_chunk::<3>().ok_or(WireError::Short("the transaction id"))?;
                return Ok(Self { kind, xid: *xid, options: Options::parse(options)?, relays });
            }
            if relays.len() == HOP_LIMIT {
                return Err(WireError::Relays);
            }
            let relay = relay(rest)?;
            bytes = relay.options.get(option::RELAY_MESSAGE).ok_or(WireError::Empty)?.to_vec();
            relays.push(relay);
        }
    }

    /// Who sent it, if it came from `source`.
    pub fn peer(&self, source: Ipv6Addr) -> Ipv6Addr {
        self.relays.last().map_or(source, |relay| relay.peer)
    }

    /// An address of the client's link, as far as relays say (section 13.1).
    pub fn link(&self) -> Option<Ipv6Addr> {
        self.relays.iter().rev().map(|relay| relay.link).find(|link| !link.is_unspecified())
    }

    /// Whether the client asks for the option.
    pub fn wants(&self, code: u16) -> bool {
        let list = self.options.get(option::REQUESTED).unwrap_or_default();
        list.as_chunks::<2>().0.iter().any(|pair| u16::from_be_bytes(*pair) == code)
    }

    /// Architectures that the client can boot (RFC 5970 section 3.3), best first.
    pub fn architectures(&self) -> Vec<u16> {
        let data = self.options.get(option::CLIENT_ARCHITECTURE).unwrap_or_default();
        data.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect()
    }

    /// The first vendor class, without its enterprise number (section 21.16).
    pub fn vendor_class(&self) -> Option<&[u8]> {
        let (_enterprise, classes) = self.options.get(option::VENDOR_CLASS)?.split_first_chunk::<4>()?;
        counted(classes).map(|(class, _)| class)
    }

    /// The enterprise number of the vendor class.
    pub fn enterprise(&self) -> Option<[u8; 4]> {
        self.options.get(option::VENDOR_CLASS)?.first_chunk::<4>().copied()
    }

    /// The first user class (section 21.15).
    pub fn user_class(&self) -> Option<&[u8]> {
        counted(self.options.get(option::USER_CLASS)?).map(|(class, _)| class)
    }

    /// The client's own idea of its name: its first label, in lower case (RFC 4704 section 4).
    pub fn host_name(&self) -> Option<String> {
        let (_flags, name) = self.options.get(option::CLIENT_FQDN)?.split_first()?;
        let (length, rest) = name.split_first()?;
        let label = String::from_utf8_lossy(rest.get(..usize::from(*length))?).to_ascii_lowercase();
        label.parse::<stoke_api::ObjectName>().is_ok().then_some(label)
    }

    /// A reply's bytes, in the envelopes of the relays that the request came through (section 19.3).
    pub fn reply(&self, kind: MessageType, options: &Options) -> Vec<u8> {
        let message = [&[kind as u8], self.xid.as_slice(), &options.encode()].concat();
        self.relays.iter().rev().fold(message, |message, relay| envelope(relay, message))
    }
}

fn relay(bytes: &[u8]) -> Result<Relay, WireError> {
    let short = || WireError::Short("a relay's envelope");
    let (hops, rest) = bytes.split_first().ok_or_else(short)?;
    let (link, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
    let (peer, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
    Ok(Relay { hops: *hops, link: (*link).into(), peer: (*peer).into(), options: Options::parse(rest)? })
}

fn envelope(relay: &Relay, message: Vec<u8>) -> Vec<u8> {
    let mut options = Options::default();
    for data in relay.options.all(option::INTERFACE_ID) {
        options.push(option::INTERFACE_ID, data);
    }
    options.push(option::RELAY_MESSAGE, message);
    [[RELAY_REPLY, relay.hops].as_slice(), &relay.link.octets(), &relay.peer.octets(), &options.encode()].concat()
}

/// An identity association for addresses that a client asks for (section 21.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Association {
    /// Chosen by the client.
    pub id: [u8; 4],
    /// The addresses that the client has or would like.
    pub addresses: Vec<Ipv6Addr>,
}

/// Associations of one message that are answered. Each client here has one.
const ASSOCIATIONS: usize = 8;

/// The associations of a message; those that are cut are left out.
pub fn associations(options: &Options) -> Vec<Association> {
    let association = |data: &[u8]| {
        let (id, rest) = data.split_first_chunk::<4>()?;
        // T1 and T2 are the server's to choose.
        let inner = Options::parse(rest.get(8..)?).ok()?;
        let address = |data: &[u8]| data.first_chunk::<16>().map(|address| Ipv6Addr::from(*address));
        let addresses = inner.all(option::IA_ADDRESS).filter_map(address).collect();
        Some(Association { id: *id, addresses })
    };
    options.all(option::IA_NA).filter_map(association).take(ASSOCIATIONS).collect()
}
