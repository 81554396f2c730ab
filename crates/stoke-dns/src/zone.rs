//! The names of a LAN's machines: `HOSTNAME.DOMAIN`, `HOSTNAME` alone, and back from an address.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr as _;

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, NS, PTR, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::{IpNet, Ipv4Net};

/// Seconds that an answer may be kept: short, since machines come and go.
const TTL: u32 = 30;
/// Largest UDP answer that we take and give (RFC 9715 section 3).
const PAYLOAD: u16 = 1232;

/// What to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send this back.
    Answer(Vec<u8>),
    /// Ask somebody else.
    Forward,
    /// Nothing: it is no question.
    Ignore,
}

/// The names of one LAN.
#[derive(Clone, Debug)]
pub struct Zone {
    domain: Name,
    router: Name,
    subnets: Vec<Ipv4Net>,
    /// By label in lower case.
    addresses: BTreeMap<String, Vec<Ipv4Addr>>,
    names: BTreeMap<Ipv4Addr, String>,
    addresses6: BTreeMap<String, Vec<Ipv6Addr>>,
    names6: BTreeMap<Ipv6Addr, String>,
}

impl Zone {
    /// The label of the router itself.
    pub const ROUTER: &str = "router";

    /// A zone with the router's own name and addresses.
    ///
    /// # Errors
    /// If the domain is no name.
    pub fn new(domain: &str, subnets: &[(Ipv4Net, Ipv4Addr)]) -> Result<Self, ProtoError> {
        let mut domain = Name::from_str(domain)?.to_lowercase();
        domain.set_fqdn(true);
        let router = domain.prepend_label(Self::ROUTER)?;
        let (addresses, names, addresses6, names6) = Default::default();
        let cidrs = subnets.iter().map(|(cidr, _)| *cidr).collect();
        let mut zone = Self { domain, router, subnets: cidrs, addresses, names, addresses6, names6 };
        for (_, address) in subnets {
            zone.insert(Self::ROUTER, *address);
        }
        Ok(zone)
    }

    /// Gives a machine's name an address. An address keeps the first name that it was given.
    pub fn insert(&mut self, label: &str, address: Ipv4Addr) {
        let label = label.to_ascii_lowercase();
        let addresses = self.addresses.entry(label.clone()).or_default();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
        self.names.entry(address).or_insert(label);
    }

    /// The same with an IPv6 address.
    pub fn insert6(&mut self, label: &str, address: Ipv6Addr) {
        let label = label.to_ascii_lowercase();
        let addresses = self.addresses6.entry(label.clone()).or_default();
        if !addresses.contains(&address) {
            addresses.push(address);
        }
        self.names6.entry(address).or_insert(label);
    }

    /// Whether a machine has the name.
    pub fn contains(&self, label: &str) -> bool {
        let label = label.to_ascii_lowercase();
        self.addresses.contains_key(&label) || self.addresses6.contains_key(&label)
    }

    /// The name of the machine with the address.
    pub fn name_of(&self, address: Ipv4Addr) -> Option<&str> {
        self.names.get(&address).map(String::as_str)
    }

    /// What to do with a packet from a client.
    pub fn decide(&self, packet: &[u8]) -> Decision {
        let Ok(asked) = Message::from_vec(packet) else { return malformed(packet) };
        if asked.message_type == MessageType::Response {
            return Decision::Ignore;
        }
        match (asked.op_code, asked.queries.as_slice()) {
            (OpCode::Query, [query]) if asked.edns.as_ref().is_none_or(|edns| edns.version() == 0) => {
                match self.find(query) {
                    Some(found) => self.answer(&asked, query, found),
                    None => Decision::Forward,
                }
            }
            (OpCode::Query, [_]) => refusal(&asked, ResponseCode::BADVERS),
            (OpCode::Query, _) => refusal(&asked, ResponseCode::FormErr),
            _ => refusal(&asked, ResponseCode::NotImp),
        }
    }

    /// What is known of a name that is ours. `None`: it is not ours.
    fn find(&self, query: &Query) -> Option<Found> {
        let name = query.name().to_lowercase();
        if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return self.domain.zone_of(&name).then_some(Found::Nothing);
        }
        if let Some(found) = self.find_reverse(&name) {
            return Some(found);
        }
        if name.num_labels() == 1 {
            return self.find_single(&name, query.query_type());
        }
        if !self.domain.zone_of(&name) {
            return None;
        }
        if name == self.domain {
            return Some(Found::Records(vec![RData::SOA(self.soa()), RData::NS(NS(self.router.clone()))]));
        }
        let child = (name.num_labels() == self.domain.num_labels() + 1).then(|| first_label(&name));
        Some(child.map_or(Found::Nothing, |label| self.find_label(&label)))
    }

    /// A name without dots is a machine's; one that no machine has is nobody's, and not the business of other servers.
    /// Questions about top-level domains (`NS`, `DS`) have such names too and are theirs.
    fn find_single(&self, name: &Name, kind: RecordType) -> Option<Found> {
        let label = first_label(name);
        if label == "localhost" {
            let (v4, v6) = (A(Ipv4Addr::LOCALHOST), AAAA(Ipv6Addr::LOCALHOST));
            return Some(Found::Records(vec![RData::A(v4), RData::AAAA(v6)]));
        }
        let of_machine = matches!(kind, RecordType::A | RecordType::AAAA) || self.contains(&label);
        of_machine.then(|| self.find_label(&label))
    }

    fn find_label(&self, label: &str) -> Found {
        let v4 = self.addresses.get(label).into_iter().flatten().map(|address| RData::A(A(*address)));
        let v6 = self.addresses6.get(label).into_iter().flatten().map(|address| RData::AAAA(AAAA(*address)));
        let records: Vec<_> = v4.chain(v6).collect();
        if records.is_empty() { Found::Nothing } else { Found::Records(records) }
    }

    /// Addresses of our subnets, and IPv6 addresses of our machines; all others are somebody else's.
    fn find_reverse(&self, name: &Name) -> Option<Found> {
        let net = match name.parse_arpa_name() {
            Ok(IpNet::V4(net)) => net,
            Ok(IpNet::V6(net)) if net.prefix_len() == 128 => {
                let name = self.domain.prepend_label(self.names6.get(&net.addr())?.as_str()).ok()?;
                return Some(Found::Records(vec![RData::PTR(PTR(name))]));
            }
            _ => return None,
        };
        if net.prefix_len() != 32 || !self.subnets.iter().any(|subnet| subnet.contains(&net.addr())) {
            return None;
        }
        let name = self.name_of(net.addr()).and_then(|label| self.domain.prepend_label(label).ok());
        Some(name.map_or(Found::Nothing, |name| Found::Records(vec![RData::PTR(PTR(name))])))
    }

    fn answer(&self, asked: &Message, query: &Query, found: Found) -> Decision {
        let mut message = reply_to(asked, ResponseCode::NoError);
        message.metadata.authoritative = true;
        if let Found::Records(records) = found {
            let kind = query.query_type();
            let wanted = |data: &RData| kind == RecordType::ANY || data.record_type() == kind;
            let record = |data| Record::from_rdata(query.name().clone(), TTL, data);
            message.add_answers(records.into_iter().filter(wanted).map(record));
        } else {
            message.metadata.response_code = ResponseCode::NXDomain;
        }
        if message.answers.is_empty() {
            // RFC 2308 section 3: how long "no" may be kept.
            message.add_authority(Record::from_rdata(self.domain.clone(), TTL, RData::SOA(self.soa())));
        }
        encode(&message)
    }

    /// RFC 2308 section 4: the last field is how long "no" may be kept. Nobody transfers the zone, so the serial number
    /// means nothing.
    fn soa(&self) -> SOA {
        let mailbox = self.domain.prepend_label("hostmaster").unwrap_or_else(|_| self.domain.clone());
        SOA::new(self.router.clone(), mailbox, 1, 3600, 600, 86400, TTL)
    }
}

enum Found {
    /// Records of the name, of any type.
    Records(Vec<RData>),
    /// There is no such name.
    Nothing,
}

fn first_label(name: &Name) -> String {
    name.iter().next().map(|label| String::from_utf8_lossy(label).into_owned()).unwrap_or_default()
}

fn reply_to(asked: &Message, code: ResponseCode) -> Message {
    let mut message = Message::error_msg(asked.id, asked.op_code, code);
    message.metadata.recursion_desired = asked.recursion_desired;
    message.metadata.recursion_available = true;
    message.add_queries(asked.queries.clone());
    if asked.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD).set_rcode_high(code.high());
        message.set_edns(edns);
    }
    message
}

fn refusal(asked: &Message, code: ResponseCode) -> Decision {
    let mut message = reply_to(asked, code);
    if asked.queries.len() != 1 {
        // Names that were compressed would come back longer than they came: to whoever the sender says it is.
        message.queries.clear();
    }
    encode(&message)
}

fn encode(message: &Message) -> Decision {
    message.to_vec().map_or(Decision::Ignore, Decision::Answer)
}

/// FORMERR for what has a header of a question and cannot be read; two broken servers must not answer each other, so
/// nothing that says it is a response.
fn malformed(packet: &[u8]) -> Decision {
    match packet {
        [high, low, flags, _, _, _, _, _, _, _, _, _, ..] if flags & 0x80 == 0 => {
            let id = u16::from_be_bytes([*high, *low]);
            encode(&Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
        }
        _ => Decision::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn zone() -> Zone {
        let subnet = ("10.10.0.0/24".parse().unwrap(), Ipv4Addr::new(10, 10, 0, 1));
        let mut zone = Zone::new("lab.internal", &[subnet]).unwrap();
        zone.insert("Node-1", Ipv4Addr::new(10, 10, 0, 21));
        zone.insert6("node-2", "fd00::22".parse().unwrap());
        zone
    }

    fn ask(name: &str, kind: RecordType) -> Decision {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        zone().decide(&message.to_vec().unwrap())
    }

    fn told(name: &str, kind: RecordType) -> (ResponseCode, Vec<String>) {
        let Decision::Answer(bytes) = ask(name, kind) else { panic!("{name} was not answered") };
        let message = Message::from_vec(&bytes).unwrap();
        assert_eq!(message.answers.is_empty(), !message.authorities.is_empty(), "SOA exactly with nothing: {name}");
        (message.response_code, message.answers.iter().map(|record| record.data.to_string()).collect())
    }

    fn found(data: &str) -> (ResponseCode, Vec<String>) {
        (ResponseCode::NoError, vec![data.to_owned()])
    }

    #[test]
    fn machines_have_names_and_addresses_have_machines() {
        assert_eq!(told("node-1.lab.internal.", RecordType::A), found("10.10.0.21"));
        assert_eq!(told("NODE-1.LAB.internal.", RecordType::A), found("10.10.0.21"));
        assert_eq!(told("node-1.", RecordType::A), found("10.10.0.21"));
        assert_eq!(told("router.lab.internal.", RecordType::A), found("10.10.0.1"));
        assert_eq!(told("21.0.10.10.in-addr.arpa.", RecordType::PTR), found("node-1.lab.internal."));
        assert_eq!(told("1.0.10.10.in-addr.arpa.", RecordType::PTR), found("router.lab.internal."));
        assert_eq!(told("lab.internal.", RecordType::NS), found("router.lab.internal."));
        assert_eq!(told("localhost.", RecordType::AAAA), found("::1"));
        assert_eq!(told("node-2.lab.internal.", RecordType::AAAA), found("fd00::22"));
        assert_eq!(told("node-2.lab.internal.", RecordType::A), (ResponseCode::NoError, vec![]));
        let reverse = |last: &str| format!("{last}.{}0.0.d.f.ip6.arpa.", "0.".repeat(26));
        assert_eq!(told(&reverse("2.2"), RecordType::PTR), found("node-2.lab.internal."));
        assert_eq!(ask(&reverse("3.2"), RecordType::PTR), Decision::Forward);
    }

    #[test]
    fn what_is_not_there_is_said_with_the_right_kind_of_no() {
        assert_eq!(told("node-1.lab.internal.", RecordType::AAAA), (ResponseCode::NoError, vec![]));
        for name in ["other.lab.internal.", "a.node-1.lab.internal.", "other.", "22.0.10.10.in-addr.arpa."] {
            assert_eq!(told(name, RecordType::A), (ResponseCode::NXDomain, vec![]), "{name}");
        }
    }

    #[test]
    fn names_of_others_are_asked_of_others() {
        for name in ["example.org.", "internal.example.", "notlab.internal.", "1.0.20.10.in-addr.arpa."] {
            assert_eq!(ask(name, RecordType::A), Decision::Forward, "{name}");
        }
        assert_eq!(ask("org.", RecordType::NS), Decision::Forward);
        assert_eq!(ask(".", RecordType::NS), Decision::Forward);
    }

    #[test]
    fn a_client_with_edns_gets_edns() {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii("node-1.").unwrap(), RecordType::A));
        message.set_edns(Edns::new());
        let Decision::Answer(bytes) = zone().decide(&message.to_vec().unwrap()) else { panic!("not answered") };
        assert_eq!(Message::from_vec(&bytes).unwrap().edns.unwrap().max_payload(), PAYLOAD);
    }

    #[test]
    fn garbage_is_refused_and_responses_are_ignored() {
        let garbage = [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xff];
        let Decision::Answer(bytes) = zone().decide(&garbage) else { panic!("not answered") };
        let told = Message::from_vec(&bytes).unwrap();
        assert_eq!((told.id, told.response_code), (9, ResponseCode::FormErr));
        assert_eq!(zone().decide(&bytes), Decision::Ignore);
        assert_eq!(zone().decide(&[0; 5]), Decision::Ignore);
    }

    proptest! {
        #[test]
        fn no_packet_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = zone().decide(&bytes);
        }
    }
}
