//! Replies: what is in an ADVERTISE or REPLY.

use std::net::Ipv6Addr;

use crate::v6::server::{Answer, Boot, Server};
use crate::v6::wire::{Association, MessageType, Options, Packet, associations, option};

/// Status codes (RFC 8415 section 21.13).
const SUCCESS: u16 = 0;
const NO_ADDRESSES: u16 = 2;
const NOT_ON_LINK: u16 = 4;
const NO_PREFIXES: u16 = 6;

/// Clients need not wait for a better server (section 18.2.1: then the first ADVERTISE is taken at once).
const BEST: u8 = 255;
/// Seconds after which information without address is asked for anew (section 21.23: at least 600).
const REFRESH: u32 = 3600;
/// Enterprise number in the vendor class if the client sent none: Intel's, as firmware does.
const INTEL: [u8; 4] = [0, 0, 1, 87];

/// How long an address is good, in seconds.
pub(crate) struct Lifetimes {
    preferred: u32,
    pub(crate) valid: u32,
}

impl Lifetimes {
    /// An hour, as leases of IPv4; valid for twice that, since nobody else could get the address anyway.
    pub(crate) const OURS: Self = Self { preferred: 3600, valid: 7200 };
    const OVER: Self = Self { preferred: 0, valid: 0 };
}

impl Server {
    /// An ADVERTISE, or a REPLY with addresses.
    pub(crate) fn grant(
        &self,
        packet: &Packet,
        kind: MessageType,
        granted: &[(Association, Option<Ipv6Addr>)],
        boot: Option<&Boot>,
    ) -> Answer {
        let mut options = self.identifiers(packet);
        match kind {
            MessageType::Advertise => options.push(option::PREFERENCE, [BEST]),
            _ if packet.kind == MessageType::Solicit => options.push(option::RAPID_COMMIT, []),
            _ => {}
        }
        let renews = matches!(packet.kind, MessageType::Renew | MessageType::Rebind);
        for (association, address) in granted {
            options.push(option::IA_NA, association_reply(association, *address, renews));
        }
        refuse(packet, &mut options);
        self.network(packet, &mut options);
        boot_options(packet, boot, &mut options);
        let addresses = granted.iter().filter_map(|(_, address)| *address).collect();
        Answer { kind: Some(kind), reply: Some(packet.reply(kind, &options)), addresses }
    }

    /// A REPLY without addresses.
    pub(crate) fn inform(&self, packet: &Packet, boot: Option<&Boot>) -> Answer {
        let mut options = self.identifiers(packet);
        self.network(packet, &mut options);
        options.push(option::REFRESH_TIME, REFRESH.to_be_bytes());
        boot_options(packet, boot, &mut options);
        reply(packet, &options, Vec::new())
    }

    /// Whether the client's addresses are of this link; nothing if it names none (section 18.3.3).
    pub(crate) fn confirm(&self, packet: &Packet) -> Answer {
        let asked = associations(&packet.options).into_iter().flat_map(|association| association.addresses);
        let addresses = asked.collect::<Vec<_>>();
        if addresses.is_empty() {
            return Answer::default();
        }
        let here = addresses.iter().all(|address| self.config().prefix.contains(address));
        let mut options = self.identifiers(packet);
        let code = if here { SUCCESS } else { NOT_ON_LINK };
        options.push(option::STATUS, status(code, if here { "of this link" } else { "of another link" }));
        reply(packet, &options, addresses)
    }

    /// A REPLY that says that something was done.
    pub(crate) fn conclude(&self, packet: &Packet, words: &str) -> Answer {
        let mut options = self.identifiers(packet);
        options.push(option::STATUS, status(SUCCESS, words));
        reply(packet, &options, Vec::new())
    }

    fn identifiers(&self, packet: &Packet) -> Options {
        let mut options = Options::default();
        if let Some(client) = packet.options.get(option::CLIENT_ID) {
            options.push(option::CLIENT_ID, client);
        }
        options.push(option::SERVER_ID, self.config().duid.as_slice());
        options
    }

    fn network(&self, packet: &Packet, options: &mut Options) {
        if packet.wants(option::DNS_SERVERS) {
            options.push(option::DNS_SERVERS, self.config().server.octets());
        }
        if packet.wants(option::DOMAIN_LIST) {
            options.push(option::DOMAIN_LIST, encoded(&self.config().domain));
        }
    }
}

fn reply(packet: &Packet, options: &Options, addresses: Vec<Ipv6Addr>) -> Answer {
    let reply = Some(packet.reply(MessageType::Reply, options));
    Answer { kind: Some(MessageType::Reply), reply, addresses }
}

/// An association with its address, or why there is none. To one that renews, other addresses end (section 18.3.4).
fn association_reply(association: &Association, address: Option<Ipv6Addr>, renews: bool) -> Vec<u8> {
    let Lifetimes { preferred, .. } = Lifetimes::OURS;
    let mut inner = Options::default();
    match address {
        Some(address) => inner.push(option::IA_ADDRESS, lasting(address, &Lifetimes::OURS)),
        None => inner.push(option::STATUS, status(NO_ADDRESSES, "all of its addresses are in use by others")),
    }
    if renews {
        let others = association.addresses.iter().filter(|other| Some(**other) != address);
        others.for_each(|other| inner.push(option::IA_ADDRESS, lasting(*other, &Lifetimes::OVER)));
    }
    // T1 and T2 as section 21.4 recommends: half and four fifths.
    let times = [preferred / 2, preferred / 5 * 4].map(u32::to_be_bytes).concat();
    [association.id.as_slice(), &times, &inner.encode()].concat()
}

fn lasting(address: Ipv6Addr, lifetimes: &Lifetimes) -> Vec<u8> {
    let times = [lifetimes.preferred, lifetimes.valid].map(u32::to_be_bytes).concat();
    [address.octets().as_slice(), &times].concat()
}

/// Temporary addresses and prefixes are given to nobody; who asks is told so.
fn refuse(packet: &Packet, options: &mut Options) {
    let mut refuse = |code, fixed: usize, why: Vec<u8>| {
        let mut inner = Options::default();
        inner.push(option::STATUS, why);
        for asked in packet.options.all(code).take(1) {
            let mut data = asked.get(..4).unwrap_or_default().to_vec();
            data.resize(fixed, 0);
            options.push(code, [data, inner.encode()].concat());
        }
    };
    refuse(option::IA_TA, 4, status(NO_ADDRESSES, "no temporary addresses here"));
    refuse(option::IA_PD, 12, status(NO_PREFIXES, "no prefixes to delegate here"));
}

fn boot_options(packet: &Packet, boot: Option<&Boot>, options: &mut Options) {
    let Some(boot) = boot else { return };
    options.push(option::BOOT_FILE_URL, boot.url.as_bytes());
    if boot.http {
        const CLASS: &[u8] = b"\x00\x0aHTTPClient";
        let enterprise = packet.enterprise().unwrap_or(INTEL);
        options.push(option::VENDOR_CLASS, [enterprise.as_slice(), CLASS].concat());
    }
}

fn status(code: u16, words: &str) -> Vec<u8> {
    [code.to_be_bytes().as_slice(), words.as_bytes()].concat()
}

/// A name as DNS writes it (RFC 1035 section 3.1), never compressed. Labels that cannot be are left out.
fn encoded(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| (1..=63).contains(&label.len()));
    let label = |label: &str| [&[u8::try_from(label.len()).unwrap_or_default()], label.as_bytes()].concat();
    labels.flat_map(label).chain([0]).collect()
}
