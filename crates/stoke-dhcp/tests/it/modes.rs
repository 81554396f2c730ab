//! The server beside others, behind relays, and with clients that are known by more than their interface.

use std::net::Ipv4Addr;

use dhcproto::v4::{DhcpOption, Message, MessageType as Type};
use dhcproto::{Decodable as _, Decoder, Encodable as _};
use stoke_api::MacAddr;
use stoke_dhcp::wire::Options;
use stoke_dhcp::{
    Answer, BootOptions, ClientId, Config, Destination, MessageType, Mode, Record, Request, Reservation, Server,
    Sighting, Subnet,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
const START: u64 = 1_000_000;
const UUID: [u8; 16] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];

fn mac(last: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, last])
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

fn subnet(third: u8, relayed: bool) -> Subnet {
    Subnet {
        cidr: format!("10.{third}.0.0/24").parse().unwrap(),
        gateway: Ipv4Addr::new(10, third, 0, 1),
        default_route: true,
        relayed,
        pools: vec![format!("10.{third}.0.100-10.{third}.0.103").parse().unwrap()],
    }
}

fn config(mode: Mode, reservations: Vec<Reservation>) -> Config {
    let subnets = vec![subnet(0, false), subnet(8, true), subnet(9, true)];
    Config { mode, subnets, reservations, domain: "lab.internal".into(), mtu: 1500, lease_time: 3600 }
}

fn server(mode: Mode) -> Server {
    Server::new(config(mode, vec![]), [])
}

/// A message of another implementation with options of ours: those that it would take apart, byte by byte.
#[derive(Clone, Debug)]
struct Asked {
    message: Message,
    options: Vec<(u8, Vec<u8>)>,
}

impl Asked {
    fn request(&self) -> Request {
        let mut bytes = self.message.to_vec().unwrap();
        let end = bytes.iter().rposition(|byte| *byte == 255).unwrap();
        let option = |(code, data): &(u8, Vec<u8>)| [&[*code, u8::try_from(data.len()).unwrap()], &data[..]].concat();
        let options = self.options.iter().flat_map(option).collect::<Vec<_>>();
        bytes.splice(end..end, options);
        Request::parse(&bytes).unwrap()
    }
}

fn message(mac: MacAddr, kind: Type) -> Asked {
    let mut message = Message::new(ANY, ANY, ANY, ANY, &mac.0);
    message.opts_mut().insert(DhcpOption::MessageType(kind));
    Asked { message, options: vec![] }
}

fn with(mut asked: Asked, code: u8, data: &[u8]) -> Asked {
    asked.options.push((code, data.to_vec()));
    asked
}

fn relayed(mac: MacAddr, kind: Type, agent: &[u8]) -> Asked {
    let mut message = message(mac, kind);
    message.message.set_giaddr(RELAY);
    if agent.is_empty() { message } else { with(message, 82, agent) }
}

fn ask_with(server: &mut Server, asked: &Asked, boot: Option<&BootOptions>) -> Answer {
    server.handle(&asked.request(), asked.message.ciaddr(), boot, START)
}

fn ask(server: &mut Server, asked: &Asked) -> Answer {
    ask_with(server, asked, None)
}

fn told(answer: &Answer) -> Message {
    Message::decode(&mut Decoder::new(&answer.reply.as_ref().expect("a reply").bytes)).unwrap()
}

/// An option of a reply as its bytes.
fn option(answer: &Answer, code: u8) -> Option<Vec<u8>> {
    let options = Options::parse(&answer.reply.as_ref().expect("a reply").bytes[240..]);
    options.get(code).map(<[u8]>::to_vec)
}

/// DISCOVER and REQUEST; the address.
fn lease(server: &mut Server, mac: MacAddr, more: &[(u8, &[u8])]) -> Option<Ipv4Addr> {
    let add = |asked| more.iter().fold(asked, |asked, (code, data)| with(asked, *code, data));
    let offered = ask(server, &add(message(mac, Type::Discover))).address?;
    let request = with(add(message(mac, Type::Request)), 50, &offered.octets());
    let answer = ask(server, &with(request, 54, &SERVER.octets()));
    assert_eq!((answer.kind, answer.address), (Some(MessageType::Ack), Some(offered)));
    Some(offered)
}

#[test]
fn a_relays_client_gets_an_address_of_its_network_and_the_relay_its_option_back() {
    let mut server = server(Mode::Authoritative);
    let agent = [1, 4, b'p', b'o', b'r', b't', 2, 1, 9];
    let offer = ask(&mut server, &relayed(mac(1), Type::Discover, &agent));
    let reply = offer.reply.as_ref().unwrap();
    assert_eq!((reply.to, reply.from), (Destination::Relay(RELAY), SERVER));
    assert!(offer.address.unwrap().to_string().starts_with("10.8.0.10"), "{offer:?}");
    assert_eq!(option(&offer, 82), Some(agent.to_vec()));
    assert_eq!((option(&offer, 3), option(&offer, 54)), (Some(vec![10, 8, 0, 1]), Some(SERVER.octets().to_vec())));
    assert_eq!(told(&offer).giaddr(), RELAY);
    // RFC 3046 section 2.2: it is the last option.
    let bytes = &reply.bytes;
    let at = bytes.windows(2).rposition(|pair| pair == [82, 9]).unwrap();
    assert_eq!(bytes[at + 11], 255);
}

#[test]
fn link_selection_goes_before_subnet_selection_and_that_before_the_relay() {
    let mut server = server(Mode::Authoritative);
    let network = |answer: &Answer| answer.address.map(|address| address.octets()[1]);
    let selected = relayed(mac(1), Type::Discover, &[5, 4, 10, 9, 0, 0]);
    assert_eq!(network(&ask(&mut server, &selected)), Some(9));
    let both = with(selected, 118, &[10, 0, 0, 0]);
    assert_eq!(network(&ask(&mut server, &both)), Some(9));
    let subnet = with(relayed(mac(2), Type::Discover, &[]), 118, &[10, 9, 0, 0]);
    let answer = ask(&mut server, &subnet);
    assert_eq!((network(&answer), option(&answer, 118)), (Some(9), Some(vec![10, 9, 0, 0])));
    let unknown = relayed(mac(3), Type::Discover, &[5, 4, 10, 77, 0, 0]);
    assert_eq!(ask(&mut server, &unknown), Answer::default());
}

#[test]
fn a_relay_can_be_taken_for_the_server() {
    let mut server = server(Mode::Relayed);
    let agent = [11, 4, 10, 8, 0, 1];
    let offer = ask(&mut server, &relayed(mac(1), Type::Discover, &agent));
    assert_eq!(option(&offer, 54), Some(RELAY.octets().to_vec()));
    let address = offer.address.unwrap();
    let request = with(relayed(mac(1), Type::Request, &agent), 50, &address.octets());
    let answer = ask(&mut server, &with(request.clone(), 54, &RELAY.octets()));
    assert_eq!((answer.kind, option(&answer, 54)), (Some(MessageType::Ack), Some(RELAY.octets().to_vec())));
    // Without the option the address of the relay is that of some other server.
    let request = with(with(relayed(mac(1), Type::Request, &[]), 50, &address.octets()), 54, &RELAY.octets());
    assert_eq!(ask(&mut server, &request).kind, None);
}

#[test]
fn relayed_mode_leaves_the_segment_alone_and_knows_clients_that_renew_directly() {
    let mut server = server(Mode::Relayed);
    assert_eq!(server.capacity(), 8);
    assert_eq!(ask(&mut server, &message(mac(1), Type::Discover)), Answer::default());
    let offered = ask(&mut server, &relayed(mac(1), Type::Discover, &[])).address.unwrap();
    let request = with(with(relayed(mac(1), Type::Request, &[]), 50, &offered.octets()), 54, &SERVER.octets());
    assert_eq!(ask(&mut server, &request).kind, Some(MessageType::Ack));
    let mut renewal = message(mac(1), Type::Request);
    renewal.message.set_ciaddr(offered);
    let answer = ask(&mut server, &renewal);
    assert_eq!(answer.kind, Some(MessageType::Ack));
    assert_eq!(answer.reply.unwrap().to, Destination::Routed(offered));
    // Not so on the segment.
    renewal.message.set_ciaddr(address(100));
    assert_eq!(ask(&mut server, &renewal), Answer::default());
}

#[test]
fn the_segment_never_gets_addresses_of_networks_behind_relays() {
    let mut server = server(Mode::Authoritative);
    let given = (1..=5).map(|last| lease(&mut server, mac(last), &[])).collect::<Vec<_>>();
    assert!(given[..4].iter().flatten().all(|address| address.octets()[1] == 0), "{given:?}");
    assert_eq!(given[4], None);
}

fn reserved(address: Ipv4Addr) -> Reservation {
    Reservation { address: Some(address), hostname: "x".into(), all: true, ..Reservation::default() }
}

#[test]
fn reservations_hold_for_all_that_they_say() {
    let all = vec![
        Reservation { client_id: Some(ClientId::parse("tray")), ..reserved(address(31)) },
        Reservation { client_id: Some(ClientId::parse("0x0102")), ..reserved(address(32)) },
        Reservation { uuid: Some(UUID), ..reserved(address(33)) },
        Reservation { circuit_id: Some(b"ge-0/1".to_vec()), ..reserved(Ipv4Addr::new(10, 8, 0, 34)) },
        Reservation { macs: vec![mac(5)], client_id: Some(ClientId::parse("x")), ..reserved(address(35)) },
    ];
    let mut server = Server::new(config(Mode::Reservations, all), []);
    assert_eq!(server.capacity(), 5);
    let uuid = [&[0], &UUID[..]].concat();
    assert_eq!(lease(&mut server, mac(1), &[(61, b"tray")]), Some(address(31)));
    assert_eq!(lease(&mut server, mac(1), &[(61, b"\0tray")]), Some(address(31)));
    assert_eq!(lease(&mut server, mac(2), &[(61, &[1, 2])]), Some(address(32)));
    assert_eq!(lease(&mut server, mac(3), &[(97, &uuid)]), Some(address(33)));
    let port = relayed(mac(4), Type::Discover, &[&[1, 6][..], b"ge-0/1"].concat());
    assert_eq!(ask(&mut server, &port).address, Some(Ipv4Addr::new(10, 8, 0, 34)));
    assert_eq!(lease(&mut server, mac(5), &[(61, b"x")]), Some(address(35)));
    for (client, id) in [(5, &b"y"[..]), (6, b"x"), (7, b"")] {
        assert_eq!(lease(&mut server, mac(client), &[(61, id)]), None, "{client}");
    }
    // Whoever it does not know, it does not refuse either.
    let wrong = with(message(mac(7), Type::Request), 50, &[10, 77, 0, 1]);
    assert_eq!(ask(&mut server, &wrong), Answer::default());
}

#[test]
fn a_client_that_is_known_by_its_uuid_takes_its_address_to_another_interface() {
    let host = Reservation { uuid: Some(UUID), macs: vec![mac(1), mac(2)], all: false, ..reserved(address(21)) };
    let mut server = Server::new(config(Mode::Authoritative, vec![host]), []);
    let uuid: &[(u8, &[u8])] = &[(97, &[&[0], &UUID[..]].concat())];
    assert_eq!(lease(&mut server, mac(9), uuid), Some(address(21)));
    assert_eq!(lease(&mut server, mac(1), uuid), Some(address(21)), "from a docking station to its own interface");
    // But not between two that it has at once.
    let second = lease(&mut server, mac(2), uuid).unwrap();
    assert!(second != address(21), "{second}");
}

#[test]
fn a_reservation_without_interfaces_survives_a_new_configuration() {
    let host = Reservation { client_id: Some(ClientId::parse("tray")), ..reserved(address(31)) };
    let mut server = Server::new(config(Mode::Authoritative, vec![host.clone()]), []);
    lease(&mut server, mac(1), &[(61, b"tray")]);
    assert_eq!(server.reconfigure(config(Mode::Authoritative, vec![host]), START), []);
    assert!(server.leases().at(address(31)).is_some());
}

fn boot() -> BootOptions {
    let options = vec![(60, b"PXEClient".to_vec()), (67, b"x.efi".to_vec())];
    BootOptions { next_server: Some(SERVER), file: Some("x.efi".into()), options }
}

#[test]
fn a_proxy_adds_the_boot_and_nothing_else() {
    let mut server = server(Mode::Proxy);
    assert_eq!((server.capacity(), ask(&mut server, &message(mac(1), Type::Discover))), (0, Answer::default()));
    let asked = with(message(mac(1), Type::Discover), 97, &[&[0], &UUID[..]].concat());
    let offer = ask_with(&mut server, &asked, Some(&boot()));
    let reply = told(&offer);
    assert_eq!((offer.kind, reply.yiaddr(), reply.siaddr()), (Some(MessageType::Offer), ANY, SERVER));
    assert_eq!((option(&offer, 60), option(&offer, 67)), (Some(b"PXEClient".to_vec()), Some(b"x.efi".to_vec())));
    assert_eq!(option(&offer, 97), Some([&[0], &UUID[..]].concat()));
    for absent in [1, 3, 6, 51, 58, 59] {
        assert_eq!(option(&offer, absent), None, "option {absent}");
    }
    assert_eq!((offer.record, server.leases().len()), (None, 0));
    let all = Destination::Link { mac: MacAddr([0xff; 6]), address: Ipv4Addr::BROADCAST };
    assert_eq!(offer.reply.unwrap().to, all);
    // What belongs to the other server is left to it.
    for (kind, server_id) in
        [(Type::Request, [10, 0, 0, 9]), (Type::Decline, SERVER.octets()), (Type::Release, SERVER.octets())]
    {
        let asked = with(message(mac(1), kind), 54, &server_id);
        assert_eq!(ask_with(&mut server, &asked, Some(&boot())), Answer::default(), "{kind:?}");
    }
    let ours = with(message(mac(1), Type::Request), 54, &SERVER.octets());
    assert_eq!(ask_with(&mut server, &ours, Some(&boot())).kind, Some(MessageType::Ack));
    let via = relayed(mac(1), Type::Discover, &[1, 1, 7]);
    let offer = ask_with(&mut server, &via, Some(&boot()));
    assert_eq!((option(&offer, 82), offer.reply.unwrap().to), (Some(vec![1, 1, 7]), Destination::Relay(RELAY)));
}

#[test]
fn the_boot_server_answers_where_it_was_asked() {
    let server = server(Mode::Proxy);
    let mut asked = message(mac(1), Type::Request);
    asked.message.set_ciaddr(address(150));
    let request = asked.request();
    let answer = server.handle_boot_request(&request, Some(&boot()));
    assert_eq!((answer.kind, answer.reply.as_ref().unwrap().to), (Some(MessageType::Ack), Destination::Back));
    assert_eq!((told(&answer).ciaddr(), told(&answer).yiaddr()), (address(150), ANY));
    assert_eq!(server.handle_boot_request(&request, None), Answer::default());
    let discover = message(mac(1), Type::Discover).request();
    assert_eq!(server.handle_boot_request(&discover, Some(&boot())), Answer::default());
}

#[test]
fn a_station_with_an_address_that_nobody_got_keeps_it_from_others() {
    let mut server =
        Server::new(config(Mode::Authoritative, vec![Reservation { macs: vec![mac(7)], ..reserved(address(21)) }]), []);
    let got = lease(&mut server, mac(1), &[]).unwrap();
    let free = (100..=103).map(address).find(|free| *free != got).unwrap();
    for (seen, by) in [(got, mac(1)), (got, mac(9)), (address(21), mac(7)), (address(5), mac(9)), (SERVER, mac(9))] {
        assert_eq!(server.sighted(seen, by, START), Sighting::Expected, "{seen} {by}");
    }
    assert_eq!(server.sighted(address(21), mac(9), START), Sighting::Foreign(None));
    let record = Record::Declined { address: free, until: START + 600 };
    assert_eq!(server.sighted(free, mac(9), START), Sighting::Foreign(Some(record)));
    assert_eq!(server.sighted(free, mac(9), START + 1), Sighting::Foreign(None), "it is written down already");
    assert!(matches!(server.sighted(free, mac(9), START + 301), Sighting::Foreign(Some(_))), "and again in time");
    let given = (2..=5).filter_map(|last| lease(&mut server, mac(last), &[])).collect::<Vec<_>>();
    assert_eq!(given.len(), 2, "{given:?}");
    assert!(!given.contains(&free));
}

#[test]
fn a_former_client_may_be_seen_until_somebody_else_is_offered_its_address() {
    let mut server = server(Mode::Authoritative);
    assert_eq!((1..=4).filter_map(|last| lease(&mut server, mac(last), &[])).count(), 4);
    let over = START + 3601;
    let request = message(mac(9), Type::Discover).request();
    let lowest = address(100);
    let former = server.leases().at(lowest).unwrap().mac;
    assert_eq!(server.sighted(lowest, former, over), Sighting::Expected);
    assert_eq!(server.handle(&request, ANY, None, over).address, Some(lowest), "all ended at once");
    assert!(matches!(server.sighted(lowest, former, over), Sighting::Foreign(Some(_))));
    let wanted = with(with(message(mac(9), Type::Request), 50, &lowest.octets()), 54, &SERVER.octets());
    let request = wanted.request();
    assert_eq!(server.handle(&request, ANY, None, over).kind, Some(MessageType::Nak));
}

#[test]
fn idle_addresses_are_those_of_the_segment_that_nobody_has() {
    let mut server = server(Mode::Authoritative);
    let got = lease(&mut server, mac(1), &[]).unwrap();
    let idle = (0..server.pooled_addresses()).filter_map(|index| server.idle_address(index, START)).collect::<Vec<_>>();
    let expected = (100..=103).map(address).filter(|address| *address != got).collect::<Vec<_>>();
    assert_eq!(idle, expected);
}
