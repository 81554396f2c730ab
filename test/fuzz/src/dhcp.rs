//! DHCP: the server in each of its modes, its journal, and the client in `stoke-init`.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use stoke_api::MacAddr;
use stoke_api::objects::Pool;
use stoke_dhcp::{BootOptions, Config, Mode, Request, Reservation, Server, Subnet, journal as file, v6};
use stoke_init::dhcp_wire::Message;

use crate::pieces::Pieces;

/// The largest UDP payload in an Ethernet frame.
const LONGEST_REPLY: usize = 1472;

fn config(mode: Mode) -> Config {
    let address = |last| Ipv4Addr::new(10, 10, 0, last);
    let subnet = Subnet {
        cidr: ipnet::Ipv4Net::new_assert(address(0), 24),
        gateway: address(1),
        default_route: true,
        relayed: false,
        pools: vec![Pool { first: address(100), last: address(107) }],
    };
    let named = Reservation {
        macs: vec![MacAddr([0x52, 0x54, 0, 0, 0, 1])],
        uuid: Some([7; 16]),
        address: Some(address(21)),
        hostname: "node-1".to_owned(),
        ..Reservation::default()
    };
    Config {
        mode,
        subnets: vec![subnet],
        reservations: vec![named],
        domain: "lab.internal".to_owned(),
        mtu: 1500,
        lease_time: 3600,
    }
}

fn boot() -> BootOptions {
    BootOptions {
        next_server: Some(Ipv4Addr::new(10, 10, 0, 1)),
        file: Some("snponly.efi".to_owned()),
        options: vec![(60, b"PXEClient".to_vec())],
    }
}

/// Packets behind their lengths, with some seconds before each: no address belongs to two clients, replies fit a frame,
/// and a server that reads what was written down has the same leases.
pub fn conversation(input: &[u8]) {
    let _ = Request::parse(input);
    for mode in [Mode::Authoritative, Mode::Reservations, Mode::Relayed, Mode::Proxy] {
        converse(input, mode);
    }
}

fn converse(input: &[u8], mode: Mode) {
    let mut pieces = Pieces(input);
    let mut server = Server::new(config(mode), []);
    let (mut now, mut records) = (1_000_000, Vec::new());
    while !pieces.is_empty() {
        now += u64::from(pieces.byte());
        let Ok(request) = Request::parse(pieces.packet()) else { continue };
        let boot = boot();
        for answer in [
            server.handle(&request, request.client, Some(&boot), now),
            server.handle_boot_request(&request, Some(&boot)),
        ] {
            records.extend(answer.record);
            if let Some(reply) = answer.reply {
                assert!(reply.bytes.len() <= LONGEST_REPLY, "a reply of {} bytes", reply.bytes.len());
                assert!(Message::decode(&reply.bytes).is_some(), "a reply that stoke-init cannot read");
            }
        }
    }
    let mut clients = BTreeSet::new();
    for lease in server.leases().current(now) {
        assert!(clients.insert(lease.mac), "{} has two leases", lease.mac);
        assert_eq!(server.leases().at(lease.address).map(|lease| lease.mac), Some(lease.mac));
    }
    let again = Server::new(config(mode), records);
    assert!(again.leases().current(now).eq(server.leases().current(now)), "the journal says something else");
}

/// DHCPv6 packets behind their lengths: an address is one client's, and is in the prefix.
pub fn conversation6(input: &[u8]) {
    let Ok(prefix) = "fd00:10::/64".parse::<ipnet::Ipv6Net>() else { return };
    let server = Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, 1);
    let config =
        v6::Config { duid: vec![0, 3, 0, 1, 2, 0, 0, 0, 0, 1], prefix, server, domain: "lab.internal".to_owned() };
    let mut server = v6::Server::new(config);
    let boot = v6::Boot { url: "tftp://[fd00:10::1]/snponly.efi".to_owned(), http: false };
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0xff, 0xfe00, 1);
    let mut pieces = Pieces(input);
    let mut now = 1_000_000;
    let _ = v6::Packet::parse(input);
    while !pieces.is_empty() {
        now += u64::from(pieces.byte());
        let Ok(packet) = v6::Packet::parse(pieces.packet()) else { continue };
        let client = v6::Identity::of(&packet, source);
        let _ = (packet.architectures(), packet.vendor_class(), packet.user_class(), packet.enterprise());
        assert!(packet.host_name().is_none_or(|name| !name.contains(char::is_control)));
        let answer = server.handle(&packet, &client, Some(&boot), now);
        assert!(answer.reply.is_none() || answer.kind.is_some());
    }
    assert!(server.bindings(now).all(|binding| prefix.contains(&binding.address)));
}

/// A file of leases, whole and behind a header: what is read can be written and read again.
pub fn journal(input: &[u8]) {
    for bytes in [input.to_vec(), [file::header(), input.to_vec()].concat()] {
        let Ok(replay) = file::replay(&bytes) else { continue };
        assert!(replay.end <= bytes.len() && replay.damaged <= bytes.len());
        let written: Vec<u8> = file::header().into_iter().chain(replay.records.iter().flat_map(file::encode)).collect();
        assert_eq!(file::replay(&written).map(|again| again.records), Ok(replay.records));
    }
}

/// A reply as `stoke-init` reads it.
pub fn client(input: &[u8]) {
    let Some(message) = Message::decode(input) else { return };
    for code in 0..=u8::MAX {
        let _ = (message.addresses(code), message.number(code), message.short(code));
        assert!(message.text(code).is_none_or(|text| !text.contains(char::is_control)));
    }
    let encoded = message.encode();
    assert_eq!(Message::decode(&encoded).map(|again| again.mac), Some(message.mac));
}
