use super::*;
use crate::v6::wire::{Options, Relay, WireError};
use proptest::prelude::*;

const MAC: MacAddr = MacAddr([0x52, 0x54, 0, 0x77, 0, 1]);
const SOURCE: &str = "fe80::5054:ff:fe77:1";
const NOW: u64 = 1_000_000;

fn config() -> Config {
    Config {
        duid: vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 1],
        prefix: "fd00:10::/64".parse().unwrap(),
        server: "fd00:10::1".parse().unwrap(),
        domain: "lab.internal".into(),
    }
}

fn association(id: u8, addresses: &[Ipv6Addr]) -> Vec<u8> {
    let mut inner = Options::default();
    for address in addresses {
        inner.push(option::IA_ADDRESS, [address.octets().as_slice(), &[0; 8]].concat());
    }
    [[id; 4].as_slice(), &[0; 8], &inner.encode()].concat()
}

/// A message as a client with a DUID of its vendor's sends it.
fn packet(kind: MessageType, more: &[(u16, Vec<u8>)]) -> Packet {
    let mut options = Options::default();
    options.push(option::CLIENT_ID, [0, 2, 0, 0, 0xab, 0x11, 9, 9]);
    options.push(option::REQUESTED, [0, 23, 0, 24]);
    for (code, data) in more {
        options.push(*code, data.clone());
    }
    Packet { kind, xid: [1, 2, 3], options, relays: vec![] }
}

fn ours() -> (u16, Vec<u8>) {
    (option::SERVER_ID, config().duid)
}

fn asks(addresses: &[Ipv6Addr]) -> (u16, Vec<u8>) {
    (option::IA_NA, association(7, addresses))
}

fn handle(server: &mut Server, packet: &Packet, boot: Option<&Boot>) -> Answer {
    let client = Identity::of(packet, SOURCE.parse().unwrap());
    server.handle(packet, &client, boot, NOW)
}

/// The options of a reply, which must be to the transaction.
fn told(answer: &Answer) -> Options {
    let reply = answer.reply.as_ref().expect("a reply");
    assert_eq!(reply[0], answer.kind.unwrap() as u8);
    assert_eq!(reply[1..4], [1, 2, 3]);
    Options::parse(&reply[4..]).unwrap()
}

/// Addresses of the first association in a reply, with their valid lifetimes.
fn given(options: &Options) -> Vec<(Ipv6Addr, u32)> {
    let inner = Options::parse(&options.get(option::IA_NA).unwrap()[12..]).unwrap();
    let address = |data: &[u8]| {
        let address = Ipv6Addr::from(*data.first_chunk::<16>().unwrap());
        (address, u32::from_be_bytes(data[20..24].try_into().unwrap()))
    };
    inner.all(option::IA_ADDRESS).map(address).collect()
}

fn own() -> Ipv6Addr {
    let mut server = Server::new(config());
    let answer = handle(&mut server, &packet(MessageType::Solicit, &[asks(&[])]), None);
    given(&told(&answer))[0].0
}

#[test]
fn a_client_is_offered_its_address_and_then_has_it() {
    let mut server = Server::new(config());
    let offered = handle(&mut server, &packet(MessageType::Solicit, &[asks(&[])]), None);
    assert_eq!(offered.kind, Some(MessageType::Advertise));
    let options = told(&offered);
    assert_eq!(options.get(option::PREFERENCE), Some([255].as_slice()));
    assert_eq!(options.get(option::SERVER_ID), Some(config().duid.as_slice()));
    assert_eq!(options.get(option::DNS_SERVERS), Some(config().server.octets().as_slice()));
    assert_eq!(options.get(option::DOMAIN_LIST), Some(b"\x03lab\x08internal\x00".as_slice()));
    assert_eq!(server.bindings(NOW).count(), 0, "an offer binds nothing");
    let address = given(&options)[0].0;
    assert!(config().prefix.contains(&address) && address != config().server);

    let answer = handle(&mut server, &packet(MessageType::Request, &[ours(), asks(&[address])]), None);
    assert_eq!(answer.kind, Some(MessageType::Reply));
    assert_eq!(given(&told(&answer)), [(address, 7200)]);
    let bound: Vec<_> = server.bindings(NOW).map(|binding| (binding.address, binding.mac)).collect();
    assert_eq!(bound, [(address, Some(MAC))]);
    assert_eq!(server.bindings(NOW + 7200).count(), 0);
}

/// The value is written down: another one would move every machine at an update.
#[test]
fn the_address_of_a_machine_stays_the_same_for_ever() {
    assert_eq!(own(), "fd00:10::dc60:8a47:8876:de4a".parse::<Ipv6Addr>().unwrap());
}

#[test]
fn rapid_commit_is_one_round() {
    let mut server = Server::new(config());
    let rapid = packet(MessageType::Solicit, &[asks(&[]), (option::RAPID_COMMIT, vec![])]);
    let answer = handle(&mut server, &rapid, None);
    assert_eq!(answer.kind, Some(MessageType::Reply));
    assert!(told(&answer).get(option::RAPID_COMMIT).is_some());
    assert_eq!(server.bindings(NOW).count(), 1);
}

#[test]
fn who_renews_an_address_of_another_prefix_gets_the_new_one_and_the_old_one_ends() {
    let mut server = Server::new(config());
    let old = "fd00:99::5".parse().unwrap();
    for (kind, server_id) in [(MessageType::Renew, Some(ours())), (MessageType::Rebind, None)] {
        let more: Vec<_> = server_id.into_iter().chain([asks(&[old])]).collect();
        let answer = handle(&mut server, &packet(kind, &more), None);
        assert_eq!(given(&told(&answer)), [(own(), 7200), (old, 0)]);
    }
}

#[test]
fn a_declined_address_rests_and_the_next_of_the_row_is_given() {
    let mut server = Server::new(config());
    let first = own();
    let answer = handle(&mut server, &packet(MessageType::Decline, &[ours(), asks(&[first])]), None);
    assert_eq!(&told(&answer).get(option::STATUS).unwrap()[..2], [0, 0]);
    let again = handle(&mut server, &packet(MessageType::Solicit, &[asks(&[])]), None);
    let second = given(&told(&again))[0].0;
    assert_ne!(second, first);
    // What is not theirs, clients cannot decline.
    handle(&mut server, &packet(MessageType::Decline, &[ours(), asks(&[config().server])]), None);
    assert_eq!(server.declined.len(), 1);
    for _ in 1..ATTEMPTS {
        let offer = handle(&mut server, &packet(MessageType::Solicit, &[asks(&[])]), None);
        let address = given(&told(&offer))[0].0;
        handle(&mut server, &packet(MessageType::Decline, &[ours(), asks(&[address])]), None);
    }
    let none = told(&handle(&mut server, &packet(MessageType::Solicit, &[asks(&[])]), None));
    assert_eq!(given(&none), []);
    let inner = Options::parse(&none.get(option::IA_NA).unwrap()[12..]).unwrap();
    assert_eq!(&inner.get(option::STATUS).unwrap()[..2], [0, 2]);
}

#[test]
fn a_released_address_is_forgotten_and_is_the_clients_again() {
    let mut server = Server::new(config());
    handle(&mut server, &packet(MessageType::Request, &[ours(), asks(&[])]), None);
    handle(&mut server, &packet(MessageType::Release, &[ours(), asks(&[own()])]), None);
    assert_eq!(server.bindings(NOW).count(), 0);
    let answer = handle(&mut server, &packet(MessageType::Request, &[ours(), asks(&[])]), None);
    assert_eq!(answer.addresses, [own()]);
}

#[test]
fn addresses_are_confirmed_by_their_prefix() {
    let mut server = Server::new(config());
    let mut status = |address: &str| {
        let answer = handle(&mut server, &packet(MessageType::Confirm, &[asks(&[address.parse().unwrap()])]), None);
        told(&answer).get(option::STATUS).unwrap()[1]
    };
    assert_eq!((status("fd00:10::5"), status("fd00:99::5")), (0, 4));
    assert_eq!(handle(&mut server, &packet(MessageType::Confirm, &[]), None), Answer::default());
}

#[test]
fn firmware_is_told_what_it_boots_and_http_firmware_that_it_is_meant() {
    let mut server = Server::new(config());
    let url = "http://[fd00:10::1]/v1/blob/sha256/ab.efi".to_owned();
    let class = b"\x00\x00\x01\x57\x00\x0aHTTPClient".to_vec();
    for http in [true, false] {
        let boot = Boot { url: url.clone(), http };
        for (kind, more) in [
            (MessageType::Solicit, vec![asks(&[])]),
            (MessageType::Request, vec![ours(), asks(&[])]),
            (MessageType::InformationRequest, vec![]),
        ] {
            let options = told(&handle(&mut server, &packet(kind, &more), Some(&boot)));
            assert_eq!(options.get(option::BOOT_FILE_URL), Some(url.as_bytes()));
            assert_eq!(options.get(option::VENDOR_CLASS), http.then_some(class.as_slice()));
            assert_eq!(options.get(option::IA_NA).is_some(), kind != MessageType::InformationRequest);
        }
    }
}

#[test]
fn messages_that_section_16_discards_are_not_answered() {
    let mut server = Server::new(config());
    let other = (option::SERVER_ID, vec![0, 3, 0, 1, 9, 9, 9, 9, 9, 9]);
    for (kind, more) in [
        (MessageType::Solicit, vec![ours(), asks(&[])]),
        (MessageType::Rebind, vec![ours(), asks(&[])]),
        (MessageType::Request, vec![asks(&[])]),
        (MessageType::Request, vec![other.clone(), asks(&[])]),
        (MessageType::Release, vec![other.clone(), asks(&[])]),
        (MessageType::InformationRequest, vec![other, asks(&[])]),
        (MessageType::InformationRequest, vec![asks(&[])]),
        (MessageType::Advertise, vec![]),
    ] {
        assert_eq!(handle(&mut server, &packet(kind, &more), None), Answer::default(), "{kind:?}");
    }
    let nobody = Packet { options: Options::default(), ..packet(MessageType::Solicit, &[]) };
    assert_eq!(handle(&mut server, &nobody, None), Answer::default());
}

#[test]
fn prefixes_and_temporary_addresses_are_refused_by_name() {
    let mut server = Server::new(config());
    let more = [(option::IA_PD, vec![1; 12]), (option::IA_TA, vec![2; 4])];
    let options = told(&handle(&mut server, &packet(MessageType::Solicit, &more), None));
    let status = |code, fixed: usize| Options::parse(&options.get(code).unwrap()[fixed..]).unwrap();
    assert_eq!(status(option::IA_PD, 12).get(option::STATUS).unwrap()[1], 6);
    assert_eq!(status(option::IA_TA, 4).get(option::STATUS).unwrap()[1], 2);
}

#[test]
fn what_came_through_relays_goes_back_the_same_way() {
    let mut server = Server::new(config());
    let mut request = packet(MessageType::Solicit, &[asks(&[])]);
    let mut options = Options::default();
    options.push(option::INTERFACE_ID, *b"port 7");
    let peer: Ipv6Addr = SOURCE.parse().unwrap();
    let outer = Relay { hops: 1, link: Ipv6Addr::UNSPECIFIED, peer: "fe80::9".parse().unwrap(), options };
    let inner = Relay { hops: 0, link: "fd00:10::9".parse().unwrap(), peer, options: Options::default() };
    request.relays = vec![outer, inner];
    let client = Identity::of(&request, "fe80::99".parse().unwrap());
    let reply = server.handle(&request, &client, None, NOW).reply.unwrap();
    assert_eq!((reply[0], reply[1]), (13, 1));
    let options = Options::parse(&reply[34..]).unwrap();
    assert_eq!(options.get(option::INTERFACE_ID), Some(b"port 7".as_slice()));
    let inner = options.get(option::RELAY_MESSAGE).unwrap();
    assert_eq!((inner[0], &inner[18..34]), (13, peer.octets().as_slice()));
    let message = Options::parse(&inner[34..]).unwrap().get(option::RELAY_MESSAGE).unwrap().to_vec();
    assert_eq!(message[0], MessageType::Advertise as u8);
    assert_eq!(given(&Options::parse(&message[4..]).unwrap())[0].0, own());

    request.relays[1].link = "fd00:99::1".parse().unwrap();
    assert_eq!(server.handle(&request, &client, None, NOW), Answer::default(), "a link that is not ours");
}

#[test]
fn clients_that_come_and_go_are_remembered_up_to_a_bound() {
    let mut server = Server::new(config());
    for number in 0..BINDINGS as u64 + 100 {
        let mut request = packet(MessageType::Request, &[ours(), asks(&[])]);
        request.options = Options::default();
        request.options.push(option::CLIENT_ID, [[0, 2].as_slice(), &number.to_be_bytes()].concat());
        request.options.push(option::SERVER_ID, config().duid);
        request.options.push(option::IA_NA, association(1, &[]));
        let client = Identity::of(&request, "fe80::1".parse().unwrap());
        server.handle(&request, &client, None, NOW + number);
    }
    assert_eq!(server.bindings.len(), BINDINGS);
}

#[test]
fn packets_that_are_none_are_named() {
    assert_eq!(Packet::parse(&[]), Err(WireError::Short("the message type")));
    assert_eq!(Packet::parse(&[1, 0]), Err(WireError::Short("the transaction id")));
    assert_eq!(Packet::parse(&[2, 0, 0, 0]), Err(WireError::MessageType(2)));
    assert_eq!(Packet::parse(&[1, 0, 0, 0, 0, 1, 0, 9, 9]), Err(WireError::Short("an option")));
    assert_eq!(Packet::parse(&[12; 33]), Err(WireError::Short("a relay's envelope")));
    let nothing = [&[12, 0], [0_u8; 32].as_slice()].concat();
    assert_eq!(Packet::parse(&nothing), Err(WireError::Empty));
    let many = [[1_u8, 0, 0, 0].as_slice(), &[0, 8, 0, 0].repeat(200)].concat();
    assert_eq!(Packet::parse(&many), Err(WireError::Options));
    let nested = (0..9).fold(vec![1, 0, 0, 0], |message, _| {
        let mut options = Options::default();
        options.push(option::RELAY_MESSAGE, message);
        [&[12, 0], [0_u8; 32].as_slice(), &options.encode()].concat()
    });
    assert_eq!(Packet::parse(&nested), Err(WireError::Relays));
}

proptest! {
    #[test]
    fn no_packet_panics(kind in 0..16_u8, bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let packet = [&[kind], bytes.as_slice()].concat();
        if let Ok(packet) = Packet::parse(&packet) {
            let client = Identity::of(&packet, SOURCE.parse().unwrap());
            let boot = Boot { url: "tftp://[fd00:10::1]/a".into(), http: true };
            Server::new(config()).handle(&packet, &client, Some(&boot), NOW);
        }
    }

    #[test]
    fn options_that_were_written_are_read(
        options in proptest::collection::vec((any::<u16>(), proptest::collection::vec(any::<u8>(), 0..50)), 0..20),
    ) {
        let mut written = Options::default();
        for (code, data) in options {
            written.push(code, data);
        }
        prop_assert_eq!(Options::parse(&written.encode()), Ok(written));
    }

    #[test]
    fn what_is_said_is_what_dhcproto_reads(mac in any::<[u8; 6]>()) {
        use dhcproto::{Decodable as _, v6};
        let mac = MacAddr([mac[0] & 0xfe | 2, mac[1], mac[2], mac[3], mac[4], mac[5]]);
        let mut request = packet(MessageType::Request, &[ours()]);
        request.options = Options::default();
        request.options.push(option::CLIENT_ID, [[0, 3, 0, 1].as_slice(), &mac.0].concat());
        request.options.push(option::SERVER_ID, config().duid);
        request.options.push(option::IA_NA, association(1, &[]));
        let mut server = Server::new(config());
        let answer = handle(&mut server, &request, None);
        let message = v6::Message::from_bytes(&answer.reply.unwrap()).unwrap();
        prop_assert_eq!(message.msg_type(), v6::MessageType::Reply);
        let Some(v6::DhcpOption::IANA(association)) = message.opts().get(v6::OptionCode::IANA) else { panic!("no IA_NA") };
        prop_assert_eq!((association.id, association.t1, association.t2), (0x0101_0101, 1800, 2880));
        let Some(v6::DhcpOption::IAAddr(address)) = association.opts.get(v6::OptionCode::IAAddr) else { panic!("none") };
        prop_assert_eq!(vec![address.addr], answer.addresses);
        prop_assert_eq!((address.preferred_life, address.valid_life), (3600, 7200));
    }
}
