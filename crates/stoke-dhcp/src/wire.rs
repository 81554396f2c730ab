//! Packets: RFC 2131 section 2 for the fields, RFC 2132 for the options, RFC 3396 for options in several pieces.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use stoke_api::MacAddr;

/// Numbers of the options that the server reads or writes (RFC 2132 unless another is named).
#[expect(missing_docs, reason = "the names say it")]
pub mod option {
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS_SERVER: u8 = 6;
    pub const HOST_NAME: u8 = 12;
    pub const DOMAIN_NAME: u8 = 15;
    pub const INTERFACE_MTU: u8 = 26;
    pub const BROADCAST: u8 = 28;
    pub const VENDOR_SPECIFIC: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_TIME: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const MESSAGE_TYPE: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const PARAMETER_LIST: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const RENEWAL: u8 = 58;
    pub const REBINDING: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER: u8 = 66;
    pub const BOOT_FILE: u8 = 67;
    /// RFC 3004.
    pub const USER_CLASS: u8 = 77;
    /// RFC 4702.
    pub const CLIENT_FQDN: u8 = 81;
    /// RFC 3046.
    pub const RELAY_AGENT: u8 = 82;
    /// RFC 4578.
    pub const CLIENT_ARCHITECTURE: u8 = 93;
    /// RFC 3011.
    pub const SUBNET_SELECTION: u8 = 118;
    /// RFC 4578.
    pub const MACHINE_ID: u8 = 97;
    /// iPXE's own, an encapsulation (registered by Etherboot).
    pub const ETHERBOOT: u8 = 175;
}

/// Sub-options of the relay's option.
mod relay {
    /// RFC 3046.
    pub(super) const CIRCUIT_ID: u8 = 1;
    /// RFC 3527.
    pub(super) const LINK_SELECTION: u8 = 5;
    /// RFC 5107.
    pub(super) const SERVER_OVERRIDE: u8 = 11;
}

const PAD: u8 = 0;
const END: u8 = 255;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
const HEADER: usize = 236;
/// RFC 1542 section 2.1: clients and relays may drop what is shorter than BOOTP's fixed size.
const MINIMUM: usize = 300;
/// Ethernet (RFC 1700, hardware types).
const ETHERNET: u8 = 1;
const BOOT_REQUEST: u8 = 1;
const BOOT_REPLY: u8 = 2;
const BROADCAST_FLAG: u16 = 0x8000;
/// A request that came through more relays than this goes round in circles (RFC 1542 section 4.1.1).
const HOPS_LIMIT: u8 = 16;

/// Why a packet is no request that a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Shorter than the fixed part.
    #[error("packet of {0} bytes is shorter than DHCP's fixed part")]
    Short(usize),
    /// Something else on the port.
    #[error("packet has no DHCP cookie")]
    Cookie,
    /// A reply, or another operation.
    #[error("operation {0} is no request")]
    Operation(u8),
    /// Not from an Ethernet station.
    #[error("hardware type {0} with addresses of {1} bytes is not Ethernet")]
    Hardware(u8, u8),
    /// All zeroes, or a group.
    #[error("{0} is no address of a single station")]
    Group(MacAddr),
    /// Plain BOOTP, or a type for servers.
    #[error("message type {0:?} is not for servers")]
    MessageType(Option<u8>),
    /// In circles.
    #[error("packet came through {0} relays")]
    Hops(u8),
}

/// Type of a message (RFC 2131 section 3.1, option 53).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the RFC's names")]
pub enum MessageType {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
    Inform = 8,
}

impl MessageType {
    fn of_client(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Discover),
            3 => Some(Self::Request),
            4 => Some(Self::Decline),
            7 => Some(Self::Release),
            8 => Some(Self::Inform),
            _ => None,
        }
    }
}

/// Options by number; what came in several pieces is one again (RFC 3396).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// Reads options until their end; of one that is cut, what is there is ignored.
    pub fn parse(bytes: &[u8]) -> Self {
        let mut options = Self::default();
        options.read(bytes);
        options
    }

    fn read(&mut self, mut bytes: &[u8]) {
        while let Some((&code, rest)) = bytes.split_first() {
            match code {
                END => return,
                PAD => bytes = rest,
                _ => {
                    let Some((&length, rest)) = rest.split_first() else { return };
                    let Some((data, rest)) = rest.split_at_checked(length.into()) else { return };
                    self.0.entry(code).or_default().extend_from_slice(data);
                    bytes = rest;
                }
            }
        }
    }

    /// The option's bytes.
    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    fn address(&self, code: u8) -> Option<Ipv4Addr> {
        self.get(code).and_then(address_of)
    }
}

fn address_of(data: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(data).ok().map(Ipv4Addr::from)
}

/// A client's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it wants.
    pub kind: MessageType,
    /// Chosen by the client; goes back to it.
    pub xid: u32,
    /// Whether the client cannot take unicasts before it has an address.
    pub broadcast: bool,
    /// The address that the client uses.
    pub client: Ipv4Addr,
    /// The relay that it came through, else unspecified.
    pub relay: Ipv4Addr,
    /// The client.
    pub mac: MacAddr,
    /// The options.
    pub options: Options,
    flags: u16,
    hops: u8,
}

impl Request {
    /// Reads a packet.
    ///
    /// # Errors
    /// If it is none that a server answers.
    pub fn parse(packet: &[u8]) -> Result<Self, WireError> {
        let short = || WireError::Short(packet.len());
        let (header, rest) = packet.split_first_chunk::<HEADER>().ok_or_else(short)?;
        let options = rest.strip_prefix(&MAGIC).ok_or(WireError::Cookie)?;
        let [op, htype, hlen, hops, ..] = *header;
        if op != BOOT_REQUEST {
            return Err(WireError::Operation(op));
        }
        if (htype, hlen) != (ETHERNET, 6) {
            return Err(WireError::Hardware(htype, hlen));
        }
        if hops > HOPS_LIMIT {
            return Err(WireError::Hops(hops));
        }
        let mac = MacAddr(field(header, 28));
        if !mac.is_unicast() {
            return Err(WireError::Group(mac));
        }
        let options = with_overloaded(header, Options::parse(options));
        let number = options.get(option::MESSAGE_TYPE).and_then(|data| data.first().copied());
        let kind = number.and_then(MessageType::of_client).ok_or(WireError::MessageType(number))?;
        let flags = u16::from_be_bytes(field(header, 10));
        Ok(Self {
            kind,
            xid: u32::from_be_bytes(field(header, 4)),
            broadcast: flags & BROADCAST_FLAG != 0,
            client: Ipv4Addr::from(field::<4>(header, 12)),
            relay: Ipv4Addr::from(field::<4>(header, 24)),
            mac,
            options,
            flags,
            hops,
        })
    }

    /// The address that the client asks for (option 50).
    pub fn requested(&self) -> Option<Ipv4Addr> {
        self.options.address(option::REQUESTED_ADDRESS)
    }

    /// The server that the client has chosen (option 54).
    pub fn server(&self) -> Option<Ipv4Addr> {
        self.options.address(option::SERVER_ID)
    }

    /// The subnet that the client is in, as far as relays and agents say: link selection (RFC 3527) before subnet
    /// selection (RFC 3011) before the relay's address (RFC 3527 section 2).
    pub fn link(&self) -> Option<Ipv4Addr> {
        let selected = self.relayed(relay::LINK_SELECTION).and_then(|data| address_of(&data));
        let selected = selected.or_else(|| self.options.address(option::SUBNET_SELECTION));
        selected.or_else(|| self.is_relayed().then_some(self.relay))
    }

    /// Whether it came through a relay.
    pub fn is_relayed(&self) -> bool {
        !self.relay.is_unspecified()
    }

    /// The port of the switch or relay that the client is behind (RFC 3046 section 3.1).
    pub fn circuit_id(&self) -> Option<Vec<u8>> {
        self.relayed(relay::CIRCUIT_ID)
    }

    /// The address that the relay wants to be taken for the server, so that renewals go through it, too (RFC 5107).
    pub fn server_override(&self) -> Option<Ipv4Addr> {
        self.relayed(relay::SERVER_OVERRIDE).and_then(|data| address_of(&data))
    }

    /// A sub-option of the relay's option. Its numbers have no padding and no end (RFC 3046 section 2.0), but 0 and 255
    /// are none of those that are read here.
    fn relayed(&self, code: u8) -> Option<Vec<u8>> {
        let inner = Options::parse(self.options.get(option::RELAY_AGENT)?);
        inner.get(code).map(<[u8]>::to_vec)
    }

    /// What the client calls itself (option 61).
    pub fn client_id(&self) -> Option<&[u8]> {
        self.options.get(option::CLIENT_ID)
    }

    /// Whether the client asks for the option.
    pub fn wants(&self, code: u8) -> bool {
        self.options.get(option::PARAMETER_LIST).is_some_and(|list| list.contains(&code))
    }

    /// Lease time that the client asks for.
    pub fn lease_time(&self) -> Option<u32> {
        self.options.get(option::LEASE_TIME).and_then(|data| data.try_into().ok()).map(u32::from_be_bytes)
    }

    /// SMBIOS UUID in the order of its text form (RFC 4578 section 2.3: type 0, then sixteen bytes).
    pub fn uuid(&self) -> Option<[u8; 16]> {
        let (kind, uuid) = self.options.get(option::MACHINE_ID)?.split_first()?;
        let uuid = <[u8; 16]>::try_from(uuid).ok()?;
        (*kind == 0 && uuid != [0; 16] && uuid != [0xff; 16]).then_some(uuid)
    }

    /// The client's own idea of its name: a label, in lower case.
    pub fn host_name(&self) -> Option<String> {
        let name = self.options.get(option::HOST_NAME).map(|data| String::from_utf8_lossy(data).into_owned());
        let name = name.or_else(|| self.options.get(option::CLIENT_FQDN).and_then(fqdn))?;
        let label = name.split(['.', '\0']).next().unwrap_or_default().to_ascii_lowercase();
        label.parse::<stoke_api::ObjectName>().is_ok().then_some(label)
    }

    /// Architectures that the client can boot (RFC 4578 section 2.1), best first.
    pub fn architectures(&self) -> Vec<u16> {
        let data = self.options.get(option::CLIENT_ARCHITECTURE).unwrap_or_default();
        data.as_chunks::<2>().0.iter().map(|pair| u16::from_be_bytes(*pair)).collect()
    }
}

/// Text of a name in option 81: canonical wire format if the E bit is set, else plain text (RFC 4702 section 2.1).
fn fqdn(data: &[u8]) -> Option<String> {
    const ENCODED: u8 = 0b100;
    let (fixed, name) = data.split_first_chunk::<3>()?;
    let [flags, ..] = *fixed;
    if flags & ENCODED == 0 {
        return Some(String::from_utf8_lossy(name).into_owned());
    }
    let (length, label) = name.split_first()?;
    label.get(..usize::from(*length)).map(|label| String::from_utf8_lossy(label).into_owned())
}

/// Options may go on in `file` and `sname` (RFC 2131 section 4.1, option 52).
fn with_overloaded(header: &[u8; HEADER], mut options: Options) -> Options {
    let overload = options.get(option::OVERLOAD).and_then(|data| data.first().copied()).unwrap_or(0);
    if overload & 1 != 0 {
        options.read(header.get(108..236).unwrap_or_default());
    }
    if overload & 2 != 0 {
        options.read(header.get(44..108).unwrap_or_default());
    }
    options
}

/// `N` bytes of the header. `at` is one of the constants of this file, all within it.
fn field<const N: usize>(header: &[u8; HEADER], at: usize) -> [u8; N] {
    header.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// Type and server identifier of a server's message.
pub(crate) fn server_message(packet: &[u8]) -> Option<(MessageType, Ipv4Addr)> {
    let (header, rest) = packet.split_first_chunk::<HEADER>()?;
    let options = with_overloaded(header, Options::parse(rest.strip_prefix(&MAGIC)?));
    let [BOOT_REPLY, ..] = *header else { return None };
    let kind = match options.get(option::MESSAGE_TYPE)?.first()? {
        2 => MessageType::Offer,
        5 => MessageType::Ack,
        6 => MessageType::Nak,
        _ => return None,
    };
    Some((kind, options.address(option::SERVER_ID)?))
}

/// A message, before it is bytes.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    kind: MessageType,
    header: [u8; HEADER],
    options: Vec<(u8, Vec<u8>)>,
}

impl Message {
    /// A reply to `request` without any address.
    pub(crate) fn reply(request: &Request, kind: MessageType) -> Self {
        let mut message = Self { kind, header: [0; HEADER], options: Vec::new() };
        message.put(0, &[BOOT_REPLY, ETHERNET, 6, request.hops]);
        message.put(4, &request.xid.to_be_bytes());
        message.put(10, &request.flags.to_be_bytes());
        message.put(24, &request.relay.octets());
        message.put(28, &request.mac.0);
        message
    }

    /// A client's DISCOVER that asks for a broadcast answer.
    pub(crate) fn discover(mac: MacAddr, xid: u32) -> Self {
        let mut message = Self { kind: MessageType::Discover, header: [0; HEADER], options: Vec::new() };
        message.put(0, &[BOOT_REQUEST, ETHERNET, 6]);
        message.put(4, &xid.to_be_bytes());
        message.put(28, &mac.0);
        message.broadcast();
        message
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(target) = self.header.get_mut(at..at + bytes.len()) {
            target.copy_from_slice(bytes);
        }
    }

    /// `ciaddr`.
    pub(crate) fn client(&mut self, address: Ipv4Addr) {
        self.put(12, &address.octets());
    }

    /// `yiaddr`.
    pub(crate) fn yours(&mut self, address: Ipv4Addr) {
        self.put(16, &address.octets());
    }

    /// `siaddr`: where the boot program is (RFC 2131 section 2: the next server in bootstrap).
    pub(crate) fn next_server(&mut self, address: Ipv4Addr) {
        self.put(20, &address.octets());
    }

    /// `file`; one that does not fit with its zero goes by option 67 alone.
    pub(crate) fn file(&mut self, name: &str) {
        if name.len() < 128 {
            self.put(108, name.as_bytes());
        }
    }

    /// The flag that makes a relay broadcast (RFC 2131 section 4.3.2: a refusal must reach a client without address).
    pub(crate) fn broadcast(&mut self) {
        self.put(10, &BROADCAST_FLAG.to_be_bytes());
    }

    /// Adds an option; without content it is left out.
    pub(crate) fn option(&mut self, code: u8, data: impl AsRef<[u8]>) {
        if !data.as_ref().is_empty() {
            self.options.push((code, data.as_ref().to_vec()));
        }
    }

    /// The bytes, padded to BOOTP's size.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.header.to_vec();
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[option::MESSAGE_TYPE, 1, self.kind as u8]);
        for (code, data) in &self.options {
            for piece in data.chunks(usize::from(u8::MAX)) {
                bytes.push(*code);
                bytes.push(u8::try_from(piece.len()).unwrap_or(u8::MAX));
                bytes.extend_from_slice(piece);
            }
        }
        bytes.push(END);
        bytes.resize(bytes.len().max(MINIMUM), PAD);
        bytes
    }
}
