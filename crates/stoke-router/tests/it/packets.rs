//! A DHCP client of the tests' own, which sends what it is told to and shows all that is answered.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use stoke_api::MacAddr;
use stoke_dhcp::wire::{Options, option};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_mins(1);

pub(crate) const DISCOVER: u8 = 1;
pub(crate) const OFFER: u8 = 2;
pub(crate) const REQUEST: u8 = 3;
pub(crate) const ACK: u8 = 5;
pub(crate) const NAK: u8 = 6;

/// A message to a server.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) kind: u8,
    pub(crate) mac: MacAddr,
    pub(crate) xid: u32,
    pub(crate) client: Ipv4Addr,
    pub(crate) relay: Ipv4Addr,
    pub(crate) options: Vec<(u8, Vec<u8>)>,
}

impl Message {
    pub(crate) fn new(kind: u8, mac: MacAddr, xid: u32) -> Self {
        let any = Ipv4Addr::UNSPECIFIED;
        Self { kind, mac, xid, client: any, relay: any, options: Vec::new() }
    }

    pub(crate) fn with(mut self, code: u8, data: &[u8]) -> Self {
        self.options.push((code, data.to_vec()));
        self
    }

    /// With the class and architecture of firmware.
    pub(crate) fn firmware(self, class: &str, architecture: u16) -> Self {
        let architecture = architecture.to_be_bytes();
        self.with(option::VENDOR_CLASS, class.as_bytes()).with(option::CLIENT_ARCHITECTURE, &architecture)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![1, 1, 6, 0];
        bytes.extend(self.xid.to_be_bytes());
        // Seconds, and the flag for broadcast answers.
        bytes.extend([0, 0, 0x80, 0]);
        bytes.extend(self.client.octets());
        bytes.extend([0; 8]);
        bytes.extend(self.relay.octets());
        bytes.extend(self.mac.0);
        bytes.resize(236, 0);
        bytes.extend([99, 130, 83, 99, option::MESSAGE_TYPE, 1, self.kind]);
        for (code, data) in &self.options {
            bytes.extend([*code, u8::try_from(data.len()).unwrap()]);
            bytes.extend(data);
        }
        bytes.push(255);
        bytes
    }
}

/// What a server said.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) kind: u8,
    pub(crate) xid: u32,
    pub(crate) mac: MacAddr,
    pub(crate) yours: Ipv4Addr,
    pub(crate) next_server: Ipv4Addr,
    pub(crate) file: String,
    pub(crate) options: Options,
}

impl Reply {
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let address = |at: usize| Some(Ipv4Addr::from(*bytes.get(at..)?.first_chunk::<4>()?));
        let options = Options::parse(bytes.get(240..)?);
        let file = bytes.get(108..236)?.split(|byte| *byte == 0).next()?;
        Some(Self {
            kind: *options.get(option::MESSAGE_TYPE)?.first()?,
            xid: u32::from_be_bytes(*bytes.get(4..)?.first_chunk()?),
            mac: MacAddr(*bytes.get(28..)?.first_chunk()?),
            yours: address(16)?,
            next_server: address(20)?,
            file: String::from_utf8_lossy(file).into_owned(),
            options,
        })
    }

    pub(crate) fn server(&self) -> Option<Ipv4Addr> {
        Some(Ipv4Addr::from(<[u8; 4]>::try_from(self.options.get(option::SERVER_ID)?).ok()?))
    }

    pub(crate) fn text(&self, code: u8) -> Option<String> {
        self.options.get(code).map(|data| String::from_utf8_lossy(data).into_owned())
    }
}

/// Sends the message now and again until there is an answer to it that will do.
pub(crate) fn ask(
    socket: &UdpSocket,
    to: (Ipv4Addr, u16),
    message: &Message,
    mut suits: impl FnMut(&Reply) -> bool,
) -> Reply {
    let begin = Instant::now();
    let mut heard = Vec::new();
    while begin.elapsed() < LIMIT {
        socket.send_to(&message.bytes(), to).unwrap();
        let sent = Instant::now();
        while sent.elapsed() < Duration::from_secs(1) {
            if let Some(reply) = receive(socket).filter(|reply| reply.xid == message.xid && reply.mac == message.mac) {
                if suits(&reply) {
                    return reply;
                }
                heard.push(reply);
            }
        }
    }
    panic!("no answer that will do to {message:?} within {LIMIT:?}, but {heard:?}");
}

/// The next message of a server; none if none comes for a while.
pub(crate) fn receive(socket: &UdpSocket) -> Option<Reply> {
    let mut buffer = [0; 2048];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Reply::parse(&buffer[..length])
}
